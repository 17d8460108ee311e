"""How an attempt ended that can't say so itself."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from otel_exec.execute.envelope import ErrorInfo
from otel_exec.record.step_files import StatusEvent, error_said, error_text
from otel_exec.schedule.left_behind import how_it_ended
from otel_exec.spans.span_record import SpanRecord

STEP, TASK = "1" * 16, "2" * 16


def ended(last, **attributes):
    """Return how an attempt ended whose task span has these attributes and whose worker wrote this event."""
    message = attributes.pop("status_message", "")
    task = SpanRecord("ab" * 16, TASK, STEP, "task fn", "task", 1, 2, {"exec.attempt": 1, **attributes}, status_message=message)
    return how_it_ended([task], SimpleNamespace(attempt=1, span_id=TASK), STEP, last)


@pytest.mark.parametrize("message", ["boom", "two: parts", "two\nlines", ""])
@pytest.mark.parametrize("error_type", ["ValueError", "package.module.Outer.Error", "worker_died"])
def test_an_events_error_is_split_as_it_was_put_together(error_type, message):
    """Type and message come out as they went in."""
    assert error_said(error_text(error_type, message)) == (error_type, message)


@pytest.mark.parametrize(("text", "said"), [(None, ("", "")), ("", ("", "")), ("somebody else: wrote this", ("", "somebody else: wrote this"))])
def test_what_somebody_else_wrote_is_a_message(text, said):
    """An event without an error of ours has no type."""
    assert error_said(text) == said


def test_the_type_is_said_once():
    """The span's own message goes first; where it has none, the event's is taken without its type."""
    last = StatusEvent(date="", status="FAILED", message="ValueError: boom")
    assert ended(last, **{"error.type": "ValueError", "status_message": "boom"}) == ("failure", ErrorInfo("ValueError", "boom"))
    assert ended(last) == ("failure", ErrorInfo("ValueError", "boom"))
    assert ended(StatusEvent(date="", status="FAILED", message=None)) == ("failure", ErrorInfo("worker_died", ""))
