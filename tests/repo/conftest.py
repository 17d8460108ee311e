"""What the tests about the repository itself share: its root and the files that belong to it."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def root():
    return ROOT


@pytest.fixture(scope="session")
def tracked():
    """Every file that git knows or would take, as paths relative to the root; without git (an unpacked archive) all files outside hidden and made folders."""
    try:
        listed = subprocess.run(
            ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=ROOT, capture_output=True, check=True, text=True
        ).stdout.split("\0")
        return sorted(Path(name) for name in listed if name and (ROOT / name).is_file())
    except (OSError, subprocess.CalledProcessError):
        made = {"outputs", "build", "dist", "__pycache__"}
        return sorted(
            path.relative_to(ROOT)
            for path in ROOT.rglob("*")
            if path.is_file() and not any(part in made or (part.startswith(".") and part != ".ci") for part in path.relative_to(ROOT).parent.parts)
        )


@pytest.fixture(scope="session")
def texts(tracked):
    """The tracked files that are text, path to content."""
    found = {}
    for path in tracked:
        try:
            found[path] = (ROOT / path).read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
    return found
