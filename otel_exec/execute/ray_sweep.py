"""Ending what a Ray worker that died has left behind: Ray ends the worker's process alone, not what that had started.

What comes in: the pid of a worker that is gone. What goes out: SIGKILL to the process group that it led. Runs as a Ray task on the worker's node.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time

__all__ = ["sweep_task"]

_WAIT_S = 5.0


def sweep_task(pid: int) -> None:
    """End the process group of a worker once the worker itself is gone: while its group has members, no other process gets its pid."""
    deadline = time.monotonic() + _WAIT_S
    while _alive(pid):
        if time.monotonic() > deadline:
            return
        time.sleep(0.05)
    with contextlib.suppress(OSError):
        os.killpg(pid, signal.SIGKILL)


def _alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
