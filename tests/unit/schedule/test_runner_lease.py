"""The locks of steps in hand: when they count as lost."""

from __future__ import annotations

import pytest
from support.scheduling import plan_of

from otel_exec.errors import RecordError
from otel_exec.execute.base import RunSettings
from otel_exec.record import locks
from otel_exec.schedule import status_writer
from otel_exec.schedule.attempts import Attempts, Kept
from otel_exec.schedule.driver_spans import DriverSpans
from otel_exec.schedule.instructions import Submit
from otel_exec.schedule.status_writer import StatusWriter
from otel_exec.testing import SteppingClock, memory_recorder

S = 1_000_000_000


class Warned:
    """Keeps the warnings that it is told."""

    def __init__(self):
        self.codes = []

    def warn(self, code, message, count=1):
        self.codes.append(code)


@pytest.fixture
def lease(monkeypatch):
    """A writer under a fake clock, and what the next heartbeats come to: `True`, `False` or an error."""
    answers = []

    def heartbeat(output_path, holder):
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(status_writer.locks, "heartbeat", heartbeat)
    clock, warned = SteppingClock(), Warned()
    settings = RunSettings("exec_1", "ab" * 16, "cd" * 8, "/p", "/p/run", "demo", "me", 0)
    (step,) = plan_of({"a": ""}).steps
    writer = StatusWriter(settings, clock, warned)
    began_ns = clock.now_ns()
    return clock, warned, answers, lambda: writer.renew(step, began_ns)


def test_a_lock_of_somebody_else_is_lost(lease):
    """A heartbeat that finds another holder means that the lease is lost."""
    _, warned, answers, renew = lease
    answers += [True, False]
    assert renew()
    assert not renew()
    assert warned.codes == []


def test_a_lock_that_cannot_be_reached_is_ours_until_it_is_stale(lease):
    """Failing heartbeats are warnings at first; past the time after which anybody may take the lock, it counts as lost."""
    clock, warned, answers, renew = lease
    answers += [RecordError("/p/a", "no")] * 3
    clock.advance(30 * S)
    assert renew()
    clock.advance(int(locks.STALE_S * S) - 30 * S)
    assert renew()
    clock.advance(1)
    assert not renew()
    assert warned.codes == ["lock_not_renewed"] * 3


def test_a_heartbeat_that_succeeds_begins_the_time_anew(lease):
    """The lease counts from the last success, not from when the lock was taken."""
    clock, _, answers, renew = lease
    refused = RecordError("/p/a", "no")
    answers += [True, refused, refused]
    clock.advance(80 * S)
    assert renew()
    clock.advance(80 * S)
    assert renew()
    clock.advance(20 * S)
    assert not renew()


def test_a_lock_lost_between_attempts_is_asked_for_again():
    """An attempt never runs on a lock that was lost while its step backed off: its worker has to take it anew."""
    plan = plan_of({"a": ""}, retries={"a": 1})
    handed = []

    class Executor:
        def submit(self, envelope, packed):
            handed.append(envelope)

    class Lost:
        def renew(self, step, locked_ns):
            return False

    recorder, _ = memory_recorder()
    spans = DriverSpans(recorder, plan, root_span_id="ab" * 8, parent_span_id="", start_ns=0)
    spans.open_step(0, 0)
    nothing = lambda *_: None
    attempts = Attempts(
        plan=plan,
        decisions=[type("Decision", (), {"forced": False})()],
        executor=Executor(),
        spans=spans,
        aggregator=Warned(),
        status=Lost(),
        clock=SteppingClock(),
        listener=None,
        spool_folder="",
        packed={0: None},
        info_of=lambda step: b"{}",
        look_up=nothing,
        write=nothing,
        flush=nothing,
        set_timer=nothing,
    )
    attempts.kept[0] = Kept(locked=True)
    attempts.submit(Submit(0, 1, 0, False, False))
    attempts.running.clear()
    assert handed[-1].locked
    assert attempts.heartbeat() == []
    attempts.submit(Submit(0, 2, 5, True, True))
    assert not handed[-1].locked
