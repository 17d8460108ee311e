from __future__ import annotations

from itertools import pairwise

import pytest
import sample_record
from hypothesis import given
from hypothesis import strategies as st

from otel_exec.clock import from_iso, to_iso
from otel_exec.record.model import AttemptRecord, GateRecord, StepRecord, WorkerRecord
from otel_exec.report.wall import PARTS, wall

MS = sample_record.MS


def parts_of(result) -> dict[str, int]:
    return {part: getattr(result, f"{part}_ns") for part in PARTS}


def by_instants(record) -> dict[str, int]:
    """The same by brute force: cut the run at every instant that the record names and ask of each piece what holds in it."""
    end = record.duration_ns
    held: list[tuple[int, int, int]] = []
    for step in record.steps:
        for before, after in pairwise(step.attempts):
            if before.settled_ns is not None and after.created_ns is not None:
                held.append((before.settled_ns, after.created_ns, PARTS.index("backoff")))
        for a in step.attempts:
            still_open = a.outcome is None and a.end_ns is None
            settled = end if still_open or a.settled_ns is None else a.settled_ns
            if a.created_ns is not None:
                taken = settled if a.claimed_ns is None else a.claimed_ns
                asked = max(a.created_ns, taken - (a.wait_ns or 0))
                held += [(a.created_ns, asked, PARTS.index("queued")), (asked, taken, PARTS.index("waiting"))]
            if a.claimed_ns is not None and a.start_ns is None and still_open:
                held.append((a.claimed_ns, end, PARTS.index("executing")))
            elif a.claimed_ns is not None:
                held.append((a.claimed_ns, settled if a.start_ns is None else a.start_ns, PARTS.index("loading")))
            if a.start_ns is not None:
                held.append((a.start_ns, settled if a.end_ns is None else a.end_ns, PARTS.index("executing")))
                if a.end_ns is not None:
                    verified = min(settled, a.end_ns + (a.verification_ns or 0))
                    held += [(a.end_ns, verified, PARTS.index("verifying")), (verified, min(settled, verified + (a.store_ns or 0)), PARTS.index("storing"))]
    held += [(gate.start_ns, gate.end_ns, PARTS.index("gates")) for gate in record.gates]
    origin = int(record.start_time_unix_nano)
    for worker in record.workers:
        if from_iso(worker.started_at) is not None:
            ready = from_iso(worker.ready_at) or from_iso(worker.stopped_at)
            held.append((from_iso(worker.started_at) - origin, end if ready is None else ready - origin, PARTS.index("worker_startup")))
    cuts = sorted({0, end, *(min(max(instant, 0), end) for start, stop, _ in held for instant in (start, stop))})
    result = dict.fromkeys(PARTS, 0)
    for low, high in pairwise(cuts):
        first = min((rank for start, stop, rank in held if start <= low and high <= stop), default=len(PARTS) - 1)
        result[PARTS[first]] += high - low
    return result


@pytest.mark.parametrize("name", ["twelve_steps", "interrupted", "all_cached", "empty"])
def test_the_wall_of_the_samples_is_what_stands_in_them(name):
    """The parts worked out by hand and by brute force are those computed, and they add up to the nanosecond."""
    record = getattr(sample_record, name)()
    found = wall(record)
    assert found == record.wall
    assert parts_of(found) == by_instants(record)
    assert sum(parts_of(found).values()) == record.duration_ns


def test_executing_comes_before_everything_and_the_driver_last():
    """While one step executes, another's loading, queueing and waiting count for nothing; where nothing holds it is the driver."""
    record = sample_record.empty()
    record.duration_ns = 100
    record.steps = [
        StepRecord("a-1", "a", attempts=[AttemptRecord(1, created_ns=0, claimed_ns=10, start_ns=20, end_ns=50, settled_ns=60, verification_ns=4, store_ns=5)]),
        StepRecord("b-1", "b", attempts=[AttemptRecord(1, created_ns=0, claimed_ns=55, start_ns=70, end_ns=80, settled_ns=80, wait_ns=5)]),
    ]
    assert parts_of(wall(record)) == {
        **dict.fromkeys(PARTS, 0),
        "queued": 10,
        "loading": 10 + 11,
        "executing": 30 + 10,
        "verifying": 4,
        "storing": 5,
        "driver": 20,
    }


def test_gates_come_after_loading_and_before_what_waits():
    """A gate counts while a worker starts and a step is queued, and not while one loads."""
    record = sample_record.empty()
    record.duration_ns = 100
    record.gates = [GateRecord("g", 1, "success", 0, 90)]
    record.workers = [WorkerRecord("0", started_at=record.start_time, ready_at=to_iso(sample_record.START_NS + 1_000_000))]
    record.steps = [StepRecord("a-1", "a", attempts=[AttemptRecord(1, created_ns=0, claimed_ns=30, start_ns=40, end_ns=50, settled_ns=50)])]
    assert parts_of(wall(record)) == {**dict.fromkeys(PARTS, 0), "loading": 10, "executing": 10, "gates": 70, "worker_startup": 10}


def test_the_start_of_an_executor_is_worker_startup():
    """What waits for a cluster is not queued: until that takes attempts, its start is what the time goes for."""
    record = sample_record.empty()
    record.duration_ns, record.executor.startup_ns = 100, 60
    record.workers = [WorkerRecord("0", started_at=record.start_time, ready_at=record.start_time)]
    record.steps = [StepRecord("a-1", "a", attempts=[AttemptRecord(1, created_ns=0, claimed_ns=70, start_ns=75, end_ns=100, settled_ns=100)])]
    assert parts_of(wall(record)) == {**dict.fromkeys(PARTS, 0), "worker_startup": 60, "queued": 10, "loading": 5, "executing": 25}


def test_a_run_without_an_end_has_no_wall_unless_it_is_given_one():
    """A running record gives zeros; with an instant to count to, what is open goes on until then."""
    record = sample_record.running()
    assert sum(parts_of(wall(record)).values()) == 0
    until = wall(record, until_ns=2_000 * MS)
    assert sum(parts_of(until).values()) == 2_000 * MS
    assert until.executing_ns == 1_000 * MS + 950 * MS


def test_a_step_that_was_open_when_the_run_was_killed_was_executing():
    """Its queue's end is the last that its spans tell of; from then on a worker had it, so the time is not the driver's."""
    record = sample_record.running()
    record.steps[1].attempts[0].settled_ns = 1_050 * MS
    assert wall(record, until_ns=5_000 * MS).executing_ns == 1_000 * MS + 3_950 * MS


instants = st.integers(-5, 60)


@st.composite
def attempts(draw):
    points = sorted(draw(st.lists(instants, min_size=5, max_size=5)))
    some = draw(st.integers(1, 5))
    created, claimed, start, end, settled = (point if i < some else None for i, point in enumerate(points))
    return AttemptRecord(
        1,
        created_ns=created,
        claimed_ns=claimed,
        start_ns=start,
        end_ns=end,
        settled_ns=settled,
        outcome=draw(st.sampled_from([None, "success", "error"])),
        wait_ns=draw(st.integers(0, 9)),
        verification_ns=draw(st.integers(0, 9)),
        store_ns=draw(st.integers(0, 9)),
    )


@given(st.lists(st.lists(attempts(), max_size=3), max_size=6), st.lists(st.tuples(instants, instants), max_size=3), st.integers(1, 50))
def test_any_record_is_partitioned_as_brute_force_does(steps, gates, duration_ns):
    """Whatever overlaps, is missing, reversed or outside the run: the parts are those of each instant, and they add up."""
    record = sample_record.empty()
    record.duration_ns = duration_ns
    record.steps = [StepRecord(f"{i}", f"{i}", attempts=tries) for i, tries in enumerate(steps)]
    record.gates = [GateRecord("g", 1, "success", start, end) for start, end in gates]
    found = parts_of(wall(record))
    assert found == by_instants(record)
    assert sum(found.values()) == duration_ns
