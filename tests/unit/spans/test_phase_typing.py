"""Decorated functions keep their signatures, for both type checkers that people use."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
FILE = str(ROOT / "tests" / "typing" / "phases.py")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("module", "command"),
    [
        ("mypy", ["mypy", "--strict", "--warn-unused-ignores", "--no-error-summary", FILE]),
        ("basedpyright", ["basedpyright", "--level", "error", "--pythonpath", sys.executable, FILE]),
    ],
)
def test_decorated_functions_keep_their_signatures(module, command):
    """Calls with the right arguments pass and have the function's own type; wrong ones are still errors."""
    pytest.importorskip(module)
    done = subprocess.run([sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
