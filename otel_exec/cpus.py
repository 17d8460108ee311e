"""How many CPUs this process may use: affinity, then the container's quota.

What comes in: the system's word. What goes out: one integer, at least 1. Never touches anything.
"""

from __future__ import annotations

import math
import os

__all__ = ["quota_of", "usable_cpus"]


def usable_cpus(cgroup_root: str = "/sys/fs/cgroup", own_cgroup: str = "/proc/self/cgroup") -> int:
    """Return the CPUs that this process may use: the smaller of its affinity and its cgroup's quota (rounded up), at least 1."""
    try:
        allowed = len(os.sched_getaffinity(0))
    except (AttributeError, OSError):  # no such call on macOS
        allowed = os.cpu_count() or 1
    quota = quota_of(cgroup_root, own_cgroup)
    if quota is not None:
        allowed = min(allowed, math.ceil(quota))
    return max(allowed, 1)


def quota_of(cgroup_root: str, own_cgroup: str) -> float | None:
    """Return the CPU quota of the cgroup that this process is in, in CPUs; `None` where there is none.

    Every group above counts too: a container's limit stands on its parent. Version 2 keeps `cpu.max` ("max 100000" or "150000 100000"),
    version 1 `cpu.cfs_quota_us` (-1: none) and `cpu.cfs_period_us`.
    Source: Linux, Documentation/admin-guide/cgroup-v2.rst and scheduler/sched-bwc.rst.
    """
    smallest: float | None = None
    for folder in _folders(cgroup_root, own_cgroup):
        words = _words(f"{folder}/cpu.max") or (_words(f"{folder}/cpu.cfs_quota_us") + _words(f"{folder}/cpu.cfs_period_us"))
        try:
            quota, period = float(words[0]), float(words[1])
        except (IndexError, ValueError):
            continue
        if quota > 0 and period > 0:
            smallest = quota / period if smallest is None else min(smallest, quota / period)
    return smallest


def _folders(cgroup_root: str, own_cgroup: str) -> list[str]:
    folders = [cgroup_root, f"{cgroup_root}/cpu"]
    try:
        with open(own_cgroup, encoding="utf-8") as file:
            lines = file.read().splitlines()
    except OSError:
        return folders
    for line in lines:
        _, controllers, path = [*line.split(":", 2), "", ""][:3]
        if not controllers:
            base = cgroup_root
        elif "cpu" in controllers.split(","):
            base = f"{cgroup_root}/{controllers}"
        else:
            continue
        below = ""
        for part in path.strip("/").split("/"):
            if part:
                below = f"{below}/{part}"
                folders.append(base + below)
    return folders


def _words(path: str) -> list[str]:
    try:
        with open(path, encoding="utf-8") as file:
            return file.read().split()
    except OSError:
        return []
