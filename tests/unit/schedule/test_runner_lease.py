"""The locks of steps in hand: when they count as lost."""

from __future__ import annotations

from dataclasses import replace

import pytest
from support.scheduling import plan_of

from otel_exec.errors import RecordError
from otel_exec.execute.base import RunSettings
from otel_exec.execute.envelope import ErrorInfo
from otel_exec.record import locks
from otel_exec.record.step_files import StatusEvent
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


class Executor:
    """Keeps what it was handed, and whom it was told to end."""

    can_kill = True
    kind = "processes"

    def __init__(self):
        self.handed, self.killed = [], []

    def submit(self, envelope, packed):
        self.handed.append(envelope)

    def open_spans(self, node_id, attempt):
        return ()

    def log_tail(self, node_id, attempt):
        return ""

    def kill(self, node_id, attempt):
        self.killed.append((node_id, attempt))


class Lost:
    """Every lock is lost. `said`: the last words of workers."""

    def __init__(self, said=None):
        self.said = said

    def renew(self, step, locked_ns):
        return False

    def last_word(self, step, span_id):
        return self.said

    def lost_to(self, step):
        return "its lock was taken over by them"


def attempts_of(plan, status, timers=None):
    """Attempts at the steps of a plan, the first of which is open."""
    recorder, _ = memory_recorder()
    spans = DriverSpans(recorder, plan, root_span_id="ab" * 8, parent_span_id="", start_ns=0)
    spans.open_step(0, 0)
    nothing = lambda *_: None
    return Attempts(
        plan=plan,
        decisions=[type("Decision", (), {"forced": False})()],
        executor=Executor(),
        spans=spans,
        aggregator=Warned(),
        status=status,
        clock=SteppingClock(),
        listener=None,
        spool_folder="",
        packed={0: None},
        info_of=lambda step: b"{}",
        look_up=nothing,
        write=nothing,
        flush=nothing,
        set_timer=nothing if timers is None else lambda *timer: timers.append(timer),
    )


def test_a_lock_lost_between_attempts_is_asked_for_again():
    """An attempt never runs on a lock that was lost while its step backed off: its worker has to take it anew."""
    attempts = attempts_of(plan_of({"a": ""}, retries={"a": 1}), Lost())
    attempts.kept[0] = Kept(locked=True)
    attempts.submit(Submit(0, 1, 0, False, False))
    attempts.running.clear()
    assert attempts.executor.handed[-1].locked
    assert attempts.heartbeat() == []
    attempts.submit(Submit(0, 2, 5, True, True))
    assert not attempts.executor.handed[-1].locked


def test_a_lock_that_its_worker_let_go_is_not_lost():
    """A step whose worker has said how it ended, and whose report is on its way, is not ended for the lock that it gave back; nor for its timeout, at first."""
    plan, timers = plan_of({"a": ""}), []
    plan = replace(plan, steps=[replace(plan.steps[0], timeout_s=1.0)])
    attempts = attempts_of(plan, Lost(said=StatusEvent(date="", status="SUCCESS", task_id="a")), timers)
    attempts.kept[0] = Kept(locked=True)
    attempts.submit(Submit(0, 1, 0, True, False))
    assert attempts.heartbeat() == []
    assert attempts.time_out(0, 1) == ()
    assert attempts.executor.killed == []
    ((_, index, attempt),) = timers
    (ended,) = attempts.time_out(index, attempt)  # it never came
    assert ended.outcome == "timeout"
    assert attempts.executor.killed == [("a-000000", 1)]


def test_an_attempt_whose_lock_was_taken_over_is_ended():
    """The error says who has the lock now."""
    attempts = attempts_of(plan_of({"a": ""}), Lost())
    attempts.kept[0] = Kept(locked=True)
    attempts.submit(Submit(0, 1, 0, True, False))
    (ended,) = attempts.heartbeat()
    assert ended.outcome == "error"
    assert attempts.kept[0].error == ErrorInfo("lease_lost", "its lock was taken over by them")
    assert attempts.executor.killed == [("a-000000", 1)]
