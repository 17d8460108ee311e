"""The recorder: spans made, written, handed on."""

from __future__ import annotations

import asyncio
import logging
import os
import random

import pytest

from otel_exec.semconv import Outcome
from otel_exec.spans.failure import outcome_of
from otel_exec.spans.ids import IdGenerator
from otel_exec.spans.recorder import Recorder
from otel_exec.spans.spool import SpoolWriter, read_spool


def make_recorder(**options):
    return Recorder(exec_id="exec_1", trace_id="ab" * 16, clock=None, **options)


@pytest.mark.parametrize(
    ("outcome", "status"),
    [("success", 0), ("skip", 0), (None, 0), ("failure", 2), ("timeout", 2), ("error", 2), ("cancellation", 2), (Outcome.FAILURE, 2), (Outcome.SKIP, 0)],
)
def test_the_outcome_decides_the_status(outcome, status):
    """Success and skip leave the status unset, every other outcome is an error; messages stand on errors alone."""
    span = make_recorder().make("task", "task f", 1, 2, outcome=outcome, message="why")
    assert span.status == status
    assert span.status_message == ("why" if status else "")
    assert span.attributes.get("exec.outcome") == outcome
    assert type(span.attributes.get("exec.outcome", "")) is str


def test_every_span_carries_its_run_and_its_error_type():
    """`exec.id`, the given attributes, and `error.type` are on the span; ids are new unless given."""
    recorder = make_recorder(sampled=False)
    span = recorder.make("task", "task f", 5, 3, parent="cd" * 8, attributes={"node.id": "n"}, outcome="failure", error_type="ValueError", remote=True)
    assert span.attributes == {"exec.id": "exec_1", "node.id": "n", "exec.outcome": "failure", "error.type": "ValueError"}
    assert (span.trace_id, span.parent_span_id, span.flags) == ("ab" * 16, "cd" * 8, 0x200)
    assert (span.start_ns, span.end_ns) == (5, 5)
    assert recorder.make("task", "t", 0, 1, span_id="12" * 8).span_id == "12" * 8


def test_what_can_not_be_sent_is_cleaned_when_a_span_is_made():
    """A span made of unclean parts can be pickled, packed and written."""
    span = make_recorder().make("step", "a\ud800", 0, 1, attributes={"n": 2**70, "x": "\udfff"}, outcome="failure", message="\ud800")
    assert (span.name, span.attributes["n"], span.attributes["x"], span.status_message) == ("a\ufffd", str(2**70), "\ufffd", "\ufffd")


def test_finished_spans_are_written_before_the_sink_sees_them(tmp_path):
    """When the sink is called the spans are in the file already."""
    seen = []
    recorder = make_recorder(
        spool=SpoolWriter(str(tmp_path), "w", {}),
        sink=lambda records: seen.append((list(records), list(read_spool(str(tmp_path))))),
    )
    spans = [recorder.make("phase", "p", 0, 1), recorder.make("phase", "q", 1, 2)]
    recorder.finish(spans)
    assert seen == [(spans, spans)]


def test_a_sink_that_raises_is_logged_once_and_counted(caplog):
    """Telemetry's own failures change nothing: the first is logged, all are counted."""

    def broken(records):
        raise RuntimeError("sink")

    recorder = make_recorder(sink=broken)
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            recorder.finish([recorder.make("phase", "p", 0, 1)])
    assert recorder.warnings == {"telemetry_failed": 3}
    assert len(caplog.records) == 1


def test_lost_spans_are_counted_as_a_warning(tmp_path):
    """What the spool could not write stands in the recorder's warnings."""
    writer = SpoolWriter(str(tmp_path), "w", {})
    writer.close()
    recorder = make_recorder(spool=writer)
    recorder.finish([recorder.make("phase", "p", 0, 1)] * 2)
    assert recorder.warnings == {"spans_lost": 2}


def test_warnings_are_taken_once_each_with_the_first_reason(tmp_path, caplog):
    """What is taken home is counted anew; the sentence keeps the first one's reason, and the log has it once."""
    recorder = make_recorder()
    for number in range(3):
        recorder.warn("telemetry_failed", ValueError(f"reason {number}"), 2)
    assert recorder.take_warnings() == [("telemetry_failed", "spans could not be made or handed on: reason 0", 6)]
    assert recorder.take_warnings() == []
    recorder.warn("telemetry_failed", ValueError("another"))
    assert recorder.take_warnings() == [("telemetry_failed", "spans could not be made or handed on: reason 0", 1)]
    assert len(caplog.records) == 1


def test_ids_do_not_hang_on_the_users_seed():
    """`random.seed(0)` in a step makes no id repeat."""
    ids = IdGenerator()
    random.seed(0)
    first = ids.span_id(), ids.trace_id()
    random.seed(0)
    second = ids.span_id(), ids.trace_id()
    assert first != second
    assert [len(text) for text in first] == [16, 32]


def test_ids_after_a_fork_differ_from_the_parents():
    """A forked child draws other ids than its parent."""
    ids = IdGenerator()
    read, write = os.pipe()
    pid = os.fork()
    if not pid:
        os.write(write, ids.trace_id().encode())
        os._exit(0)
    os.waitpid(pid, 0)
    assert os.read(read, 64).decode() != ids.trace_id()
    os.close(read)
    os.close(write)


@pytest.mark.parametrize(
    ("error", "outcome", "error_type"),
    [
        (ValueError("bad"), "failure", "ValueError"),
        (SystemExit(2), "failure", "SystemExit"),
        (KeyboardInterrupt(), "cancellation", "cancelled"),
        (asyncio.CancelledError(), "cancellation", "cancelled"),
        (GeneratorExit(), "success", ""),
    ],
)
def test_an_exception_has_one_outcome(error, outcome, error_type):
    """Failures carry the exception's qualified name, cancellations one word, a closed generator nothing."""
    assert outcome_of(error)[:2] == (outcome, error_type)


def test_an_exception_whose_text_raises_still_has_an_outcome():
    """A hostile `__str__` does not raise in us."""

    class Hostile(Exception):
        def __str__(self):
            raise RuntimeError

    assert outcome_of(Hostile())[2] == "<Hostile>"
