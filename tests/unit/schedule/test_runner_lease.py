"""The locks of steps in hand: when they count as lost."""

from __future__ import annotations

import pytest
from support.scheduling import plan_of

from otel_exec.errors import RecordError
from otel_exec.execute.base import RunSettings
from otel_exec.record import locks
from otel_exec.schedule import status_writer
from otel_exec.schedule.status_writer import StatusWriter
from otel_exec.testing import SteppingClock

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
