"""Workers that start beside what the wall time counts before their start-up: what fan-outs wait for, and no part of the wall says.

What comes in: a record. What goes out: one sentence, or "". Pure.
"""

from __future__ import annotations

from otel_exec.report.breakdown_record import AnyBreakdown
from otel_exec.report.durations import duration_text
from otel_exec.report.summary_record import AnyRecord
from otel_exec.report.wall import union

__all__ = ["started_beside"]

# A smaller share of the run is not worth a sentence.
_WORTH_SAYING = 0.01


def started_beside(record: AnyRecord | AnyBreakdown) -> str:
    """Return for how long workers were starting beside that, of a run with fan-outs and an end."""
    wall_ns = record.duration_ns or 0
    if record.wall is None or not any(step.items is not None and step.items.count for step in record.steps):
        return ""
    starts = [(each.start_ns, each.ready_ns) for each in record.workers if each.start_ns is not None and each.ready_ns is not None]
    together_ns = sum(end - start for start, end in union([(0, record.executor.startup_ns or 0)], starts, wall_ns))
    beside_ns = together_ns - record.wall.worker_startup_ns
    if beside_ns <= wall_ns * _WORTH_SAYING:
        return ""
    return f"Workers were starting for another {duration_text(beside_ns)}, beside what counts before that: fan-outs waited for them, or went on with fewer."
