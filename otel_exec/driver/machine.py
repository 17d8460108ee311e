"""What this machine has beside CPUs (`cpus.py`): GPUs that this process may see, memory that it may use.

What comes in: the system's word. What goes out: numbers; `None` where the system does not tell.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["usable_memory_bytes", "visible_gpus"]


def visible_gpus(environ: Mapping[str, str] | None = None, nvidia: str = "/proc/driver/nvidia/gpus") -> float:
    """Return how many GPUs this process may see: those that `CUDA_VISIBLE_DEVICES` names, else what the driver lists (0 without one)."""
    named = (os.environ if environ is None else environ).get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        # The list ends at the first device that does not exist. Source: CUDA C++ Programming Guide, environment variables.
        devices = [word.strip() for word in named.split(",")]
        return float(next((index for index, word in enumerate(devices) if word in {"", "-1", "NoDevFiles", "none", "void"}), len(devices)))
    try:
        return float(len(os.listdir(nvidia)))
    except OSError:
        return 0.0


def usable_memory_bytes(limits: tuple[str, ...] = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")) -> int | None:
    """Return the memory that this process may use: the machine's, or its container's limit where that is less; `None` where the system does not tell."""
    try:
        usable = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError):
        return None
    for path in limits:
        try:
            with open(path, encoding="ascii") as file:
                usable = min(usable, int(file.read()))
        except (OSError, ValueError):  # no such file, or "max"
            continue
    return usable
