"""One clock for a whole run: the wall clock read once, monotonic deltas added to it.

Wall clocks step and slew; a run's numbers must not. Each run takes one anchor, and every instant in it, in whichever local process,
is that anchor plus a monotonic delta: so children lie inside their parents to the nanosecond, and a span, the JSON and the command line
show the same number. `time.perf_counter_ns` is the host's monotonic clock, shared by its processes (CLOCK_MONOTONIC on Linux,
mach_absolute_time on macOS), so local workers take over the driver's anchor.

The user's code may patch `time` (freezegun, a test's `monkeypatch`) in the process that is measured: the system's own clocks are kept from when this module was imported.
They are kept in a class, since freezegun replaces them in whatever module has them.

Units: instants are integer nanoseconds since the Unix epoch (`*_ns`, `at_ns`), durations integer nanoseconds.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import Final, Protocol

__all__ = ["AnchoredClock", "Clock", "System", "from_iso", "to_iso"]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Clock(Protocol):
    """Anything that tells the time in nanoseconds since the Unix epoch and never goes back. May be called from any thread."""

    def now_ns(self) -> int:
        """Return the present instant, nanoseconds since the Unix epoch."""
        ...


class System:
    """The system's own clocks, nanoseconds: `tick` never goes back and has no epoch, `wall` counts since the Unix epoch, the others count CPU time."""

    tick: Final = staticmethod(time.perf_counter_ns)
    wall: Final = staticmethod(time.time_ns)
    cpu_of_process: Final = staticmethod(time.process_time_ns)
    cpu_of_thread: Final = staticmethod(time.thread_time_ns)


class AnchoredClock:
    """The clock of a run on one host: `offset_ns` is the wall clock minus the monotonic clock at the anchor."""

    __slots__ = ("offset_ns",)

    def __init__(self, offset_ns: int | None = None) -> None:
        if offset_ns is None:
            offset_ns = System.wall() - System.tick()
        self.offset_ns = offset_ns

    def now_ns(self) -> int:
        """Return the present instant, nanoseconds since the Unix epoch."""
        return self.offset_ns + System.tick()


def to_iso(at_ns: int | None) -> str | None:
    """Return an instant as ISO 8601 UTC with microseconds (`2026-11-23T14:41:14.000001+00:00`); `None` stays `None`, and what no calendar holds (a damaged file) becomes it."""
    if at_ns is None:
        return None
    try:
        return (_EPOCH + timedelta(microseconds=at_ns // 1000)).isoformat(timespec="microseconds")
    except OverflowError:
        return None


def from_iso(text: str | None) -> int | None:
    """Return the nanoseconds since the Unix epoch of an ISO 8601 text (naive ones are UTC); `None` for `None` or no instant."""
    if not text:
        return None
    try:
        instant = datetime.fromisoformat(text)
    except ValueError:
        return None
    if instant.tzinfo is None:
        instant = instant.replace(tzinfo=UTC)
    delta = instant - _EPOCH
    return (delta.days * 86_400_000_000 + delta.seconds * 1_000_000 + delta.microseconds) * 1000
