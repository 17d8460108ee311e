"""Experiments and commands in processes of their own, as a user starts them: no `OTEL_*` variable but those that a test gives."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

EXAMPLES = Path(__file__).parents[2] / "examples"


def clean_environment(**variables: str) -> dict[str, str]:
    """Return this process's environment without `OTEL_*`, with `variables`."""
    return {key: value for key, value in os.environ.items() if not key.startswith(("OTEL_", "TRACE"))} | variables


def run_script(script: str | Path, *flags: str, cwd: Path, timeout_s: float = 120.0, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a Python file and return how it ended; `variables` are set in its environment."""
    return subprocess.run(
        [sys.executable, str(script), *flags],
        cwd=cwd,
        env=clean_environment(**variables),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=timeout_s,
    )


def otel_exec(*argv: str, cwd: Path, timeout_s: float = 60.0, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run an `otel-exec` command and return how it ended."""
    return subprocess.run(
        [sys.executable, "-m", "otel_exec", *argv],
        cwd=cwd,
        env=clean_environment(**variables),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=timeout_s,
    )
