"""Where the wall time of a run went: a partition of it that adds up to the nanosecond.

What comes in: a record's intervals. What goes out: `Wall`. Pure.

Each instant of the run counts for the first of these that holds anywhere: executing, verifying, storing, loading, a gate, worker start-up,
queued, waiting on another run, back-off; what is left is the driver itself. Gates come after loading, before all waiting: they are work, though not a step's,
and nothing of the run goes on beside one but other gates and workers that start.

Worker start-up is that of the executor, a cluster say, and that of worker processes.

The record has lengths where it has no instants: verification is taken to begin when the function has ended, storing after it;
an attempt that is still open counts as executing from when a worker took it; a wait for another run's lock to lie at the end of what passed before the claim (the lock is asked for when a worker is free).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from otel_exec.clock import from_iso
from otel_exec.record.model import EXECUTION, Wall

if TYPE_CHECKING:
    from collections.abc import Sequence

    from otel_exec.record.model import AttemptRecord, RunRecord

__all__ = ["PARTS", "union", "wall"]

PARTS = ("executing", "verifying", "storing", "loading", "gates", "worker_startup", "queued", "waiting", "backoff", "driver")
"""The parts in their order of precedence; each is a field `<part>_ns` of `Wall`."""

_Intervals = list[tuple[int, int]]


def wall(record: RunRecord, *, until_ns: int | None = None) -> Wall:
    """Return where the wall time went.

    Args:
        record: the run; `wall` in it is not looked at.
        until_ns: where the run ends, for one that goes on; default its `duration_ns`, without which all parts are 0.

    Cost: O(n log n) in the number of attempts.
    """
    end_ns = record.duration_ns if until_ns is None else until_ns
    if not end_ns or end_ns < 0:
        return Wall()
    intervals: dict[str, _Intervals] = {part: [] for part in PARTS[:-1]}
    if record.executor.kind == EXECUTION:
        intervals["executing"].append((0, end_ns))
    for step in record.steps:
        previous: AttemptRecord | None = None
        for attempt in step.attempts:
            _attempt(attempt, intervals, end_ns)
            if previous is not None and previous.settled_ns is not None and attempt.created_ns is not None:
                intervals["backoff"].append((previous.settled_ns, attempt.created_ns))
            previous = attempt
    intervals["gates"] = [(gate.start_ns, gate.end_ns) for gate in record.gates]
    intervals["worker_startup"] = _startups(record, end_ns)
    parts: dict[str, int] = {}
    covered: _Intervals = []
    covered_ns = 0
    for part, own in intervals.items():
        if own:
            covered = union(covered, own, end_ns)
            together_ns = sum(end - start for start, end in covered)
            parts[f"{part}_ns"] = together_ns - covered_ns
            covered_ns = together_ns
    return Wall(driver_ns=end_ns - covered_ns, **parts)


def _attempt(attempt: AttemptRecord, intervals: dict[str, _Intervals], run_end_ns: int) -> None:
    """Add what is known of one attempt; one that has not ended goes on until the run's end."""
    created, claimed, start, end = attempt.created_ns, attempt.claimed_ns, attempt.start_ns, attempt.end_ns
    still_open = end is None and attempt.outcome is None
    settled = run_end_ns if still_open or attempt.settled_ns is None else attempt.settled_ns
    if created is not None:
        taken = settled if claimed is None else claimed
        waited_from = max(created, taken - (attempt.wait_ns or 0))
        intervals["queued"].append((created, waited_from))
        intervals["waiting"].append((waited_from, taken))
    if claimed is not None and start is None and still_open:
        # A worker tells of loading and executing when both are over: the time since it took the step is, but for moments, the function's.
        intervals["executing"].append((claimed, settled))
        return
    if claimed is not None:
        intervals["loading"].append((claimed, settled if start is None else start))
    if start is None:
        return
    intervals["executing"].append((start, settled if end is None else end))
    if end is not None:
        verified = min(settled, end + (attempt.verification_ns or 0))
        intervals["verifying"].append((end, verified))
        intervals["storing"].append((verified, min(settled, verified + (attempt.store_ns or 0))))


def _startups(record: RunRecord, run_end_ns: int) -> _Intervals:
    origin_ns = int(record.start_time_unix_nano)
    intervals = [(0, record.executor.startup_ns or 0)]
    for worker in record.workers:
        started = from_iso(worker.started_at)
        if started is None:
            continue
        ready = from_iso(worker.ready_at) or from_iso(worker.stopped_at)
        intervals.append((started - origin_ns, run_end_ns if ready is None else ready - origin_ns))
    return intervals


def union(covered: Sequence[tuple[int, int]], more: Sequence[tuple[int, int]], end_ns: int) -> _Intervals:
    """Return the union of both as disjoint intervals in order, within 0 and `end_ns`; empty and reversed ones count for nothing."""
    union: _Intervals = []
    low = high = 0
    for start, end in sorted([*covered, *more]):
        if end <= high or end <= start:
            continue
        if start > high:
            if high > low:
                union.append((low, high))
            if start >= end_ns:
                return union
            low = start
        high = min(end, end_ns)
    if high > low:
        union.append((low, high))
    return union
