"""The parts of a run's wall time as people read them: their names and percentages, one way for every report.

What comes in: a record. What goes out: the parts in their order of precedence. Pure.
"""

from __future__ import annotations

import msgspec

from otel_exec.report.durations import shares_of_whole
from otel_exec.report.summary_record import AnyRecord
from otel_exec.report.wall import PARTS

__all__ = ["WallPart", "wall_parts"]

_TITLES = {
    "executing": "executing",
    "verifying": "verifying",
    "storing": "storing",
    "loading": "loading",
    "gates": "gates",
    "worker_startup": "worker start-up",
    "queued": "queued",
    "waiting": "waiting on another run",
    "backoff": "back-off",
    "driver": "the driver itself",
}


class WallPart(msgspec.Struct, frozen=True):
    """One part. `share` is the exact ratio of the wall time, `percent` what is printed: rounded so that all parts together make 100 %."""

    part: str
    title: str
    duration_ns: int
    share: float
    percent: str


def wall_parts(record: AnyRecord) -> list[WallPart]:
    """Return every part of the wall time, those of no length included; [] while the run has no end."""
    wall = record.wall
    if wall is None or not record.duration_ns:
        return []
    lengths_ns = [getattr(wall, f"{part}_ns") for part in PARTS]
    return [
        WallPart(part, _TITLES[part], own_ns, own_ns / record.duration_ns, _percent(own_ns, tenths))
        for part, own_ns, tenths in zip(PARTS, lengths_ns, shares_of_whole(lengths_ns), strict=True)
    ]


def _percent(own_ns: int, tenths: int) -> str:
    if not own_ns:
        return "0%"
    return f"{tenths // 10}.{tenths % 10}%" if tenths else "<0.1%"
