"""Ending a run at once: what has ended by itself before is not ended by the runner."""

from __future__ import annotations

from types import SimpleNamespace

from otel_exec.execute.base import AttemptLost
from otel_exec.schedule.attempts import Attempts
from otel_exec.schedule.runner import Runner
from otel_exec.semconv import ERROR_CANCELLED, ERROR_WORKER_SETUP, Outcome


def test_what_has_ended_by_itself_is_taken_in_before_the_rest_is_ended():
    """A report that came while attempts were called back counts: its step has written that it succeeded."""
    story = []
    runner = object.__new__(Runner)
    runner._gate_round = None
    runner.parts = SimpleNamespace(executor=SimpleNamespace(poll=lambda timeout_s: [f"reported, asked for with {timeout_s:g} s"]))
    runner.attempts = SimpleNamespace(end_all=lambda: story.append("all others ended") or [])
    runner._take = story.append
    runner._tell = story.append
    runner._end_all()
    assert story == ["reported, asked for with 0 s", "all others ended", []]


class Losing(Attempts):
    """Says what it would settle."""

    def __init__(self, running):
        self.running, self.cancelling = running, "interrupt"

    def _lose(self, running, opened, at_ns, outcome, error_type, message, **_):
        return running, outcome, error_type, message

    def _why_cancelled(self):
        return "interrupted"


def test_what_is_called_back_too_late_is_cancelled_all_the_same():
    """An attempt that was called back and came when nobody waited for it any more has not failed; another loss is what it was."""
    attempts = Losing({("a", 1): "a's", ("b", 1): "b's", ("c", 1): "c's"})
    assert attempts.take(AttemptLost("a", 1, 5, ERROR_CANCELLED, "by Ray")) == (("a's", Outcome.CANCELLATION, ERROR_CANCELLED, "interrupted"),)
    assert attempts.take(AttemptLost("b", 1, 5, ERROR_WORKER_SETUP, "no")) == (("b's", Outcome.ERROR, ERROR_WORKER_SETUP, "no"),)
    attempts.cancelling = None
    assert attempts.take(AttemptLost("c", 1, 5, ERROR_CANCELLED, "by Ray")) == (("c's", Outcome.ERROR, ERROR_CANCELLED, "by Ray"),)
