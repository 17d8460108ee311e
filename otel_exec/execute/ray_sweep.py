"""Ending on its node what a Ray worker that died has left behind, or a worker that nothing else ends.

What comes in: the pid of a worker, and its node. What goes out: SIGKILL to the process group that it leads. Runs as a Ray task there. Ray does so by itself where it was not told otherwise (measured: Ray 2.60).
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

__all__ = ["Sweeper", "sweep_task"]

_WAIT_S = 5.0


class Sweeper:
    """Ends process groups, and knows which it has been asked for."""

    def __init__(self) -> None:
        self._asked: list[Any] = []
        self._task: Any = None

    def sweep(self, pid: int, node: str, *, alive: bool = False) -> None:
        """Have the process group of a worker ended: of one that is gone or will be at once, or (`alive`) of one that does not obey."""
        if not node:  # it died before it could say who it is
            return
        with contextlib.suppress(Exception):
            if self._task is None:
                self._task = ray.remote(num_cpus=0, max_retries=0)(sweep_task)
            there = NodeAffinitySchedulingStrategy(node, soft=False)
            self._asked.append(self._task.options(scheduling_strategy=there).remote(pid, alive))

    def wait(self, timeout_s: float) -> None:
        """Wait until that is done: with its driver these tasks would end as well."""
        asked, self._asked = self._asked, []
        with contextlib.suppress(Exception):
            if asked:
                ray.wait(asked, num_returns=len(asked), timeout=timeout_s)


def sweep_task(pid: int, alive: bool) -> None:
    """End the process group of a worker, once the worker itself is gone unless it is `alive`: while its group has members, no other process gets its pid."""
    deadline = time.monotonic() + _WAIT_S
    while not alive and _alive(pid):
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
