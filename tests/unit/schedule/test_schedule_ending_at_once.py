"""Ending a run at once: what has ended by itself before is not ended by the runner."""

from __future__ import annotations

from types import SimpleNamespace

from otel_exec.schedule.runner import Runner


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
