"""The lock of a step's output: `<output>/.executor_status.lock` (requirement A).

What comes in: an output path and who asks. What goes out: the lock, or the word on who has it. Stale after 90 s without a heartbeat,
taken over at once from a holder that is provably dead on this host. Safe among any number of processes on one local disk.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["HEARTBEAT_S", "STALE_S", "LockState", "acquire", "driver_id", "heartbeat", "holder_dead", "release"]

HEARTBEAT_S = 30.0
STALE_S = 90.0


@dataclass(frozen=True, slots=True)
class LockState:
    """What came of asking for a lock. `taken`: it is ours; `taken_over_from`: from whom, when it was stale; else `holder` has it since `since_s` (Unix seconds)."""

    taken: bool
    holder: str = ""
    since_s: float | None = None
    taken_over_from: str = ""


def driver_id() -> str:
    """Return this process's `worker_id` in lock files: `host:boot id:pid:process start`."""
    raise NotImplementedError


def holder_dead(holder: str) -> bool:
    """Whether the holder is provably dead: of this host and boot, and its process is gone (or another has its pid)."""
    raise NotImplementedError


def acquire(output_path: str, worker_id: str) -> LockState:
    """Take the lock if it is free, ours, stale or its holder provably dead; never waits."""
    raise NotImplementedError


def heartbeat(output_path: str, worker_id: str) -> bool:
    """Renew the lock's timestamp; `False` when it is no longer ours (the lease is lost)."""
    raise NotImplementedError


def release(output_path: str, worker_id: str) -> None:
    """Remove the lock if it is ours; never raises for a lock that is gone."""
    raise NotImplementedError


def peek(output_path: str) -> str:
    """Return the live holder's id, "" when there is none (no lock, stale, dead)."""
    raise NotImplementedError
