"""Frames and messages arrive whole, in order, each once."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from otel_exec.aggregate.folds import ItemsFold, NodeFold, PhaseFold, TaskSums
from otel_exec.execute import wire
from otel_exec.execute.envelope import ErrorInfo, TaskEnvelope, TaskReport
from otel_exec.execute.wire import Frames, Message, TaskQueue, frame, read_message, sequence_of
from otel_exec.spans.span_record import SpanLink, SpanRecord


@given(st.lists(st.tuples(st.integers(0, 255), st.binary(max_size=50))), st.lists(st.integers(1, 20)))
def test_frames_survive_any_cut(sent, cuts):
    """However the stream is cut, the same frames come out."""
    data = b"".join(frame(kind, payload) for kind, payload in sent)
    frames, got, at = Frames(), [], 0
    for cut in [*cuts, len(data) + 1]:
        got += list(frames.feed(data[at : at + cut]))
        at += cut
    assert got == sent


@pytest.fixture
def queue(tmp_path):
    made = TaskQueue(str(tmp_path))
    yield made
    made.close()


def test_messages_come_in_order_and_can_be_taken_back(queue):
    """What was not received is taken back in order; what was received is not."""
    for number in range(1, 6):
        queue.put(number, Message.STEP, b"body%d" % number)
    data = queue.receive.recv(65536)
    assert sequence_of(data) == 1
    assert read_message(data) == (1, Message.STEP, b"body1")
    assert queue.drain() == [2, 3, 4, 5]
    assert queue.drain() == []


def test_long_messages_go_through_a_file(queue, tmp_path):
    """A long message arrives whole and leaves no file, received or taken back."""
    queue.put(1, Message.ITEM, b"x" * 1_000_000)
    queue.put(2, Message.STEP, b"y" * 1_000_000)
    assert read_message(queue.receive.recv(65536)) == (1, Message.ITEM, b"x" * 1_000_000)
    assert queue.drain() == [2]
    assert list(tmp_path.iterdir()) == []


def test_a_full_socket_keeps_the_rest_here(queue):
    """More than the socket holds waits in the driver, in order, and nothing blocks."""
    for number in range(1, 201):
        queue.put(number, Message.STEP, b"z" * 50_000)
    assert queue.full
    got = [sequence_of(queue.receive.recv(65536)) for _ in range(5)]
    queue.flush()
    assert got == [1, 2, 3, 4, 5]
    assert queue.drain() == list(range(6, 201))
    assert not queue.full


def test_the_end_comes_after_what_was_sent(queue):
    """Workers see the end only when the queue is empty."""
    queue.put(1, Message.STEP, b"last")
    queue.end(1)
    assert sequence_of(queue.receive.recv(65536)) == 1
    rest = queue.receive.recv(65536)
    assert not rest or rest[8] == Message.STOP


def test_a_forked_child_says_nothing(monkeypatch):
    """A link used in a process that did not make it is silent."""
    import socket

    ours, theirs = socket.socketpair()
    link = wire.Link(theirs)
    link.pid += 1
    link.send(b"x")
    ours.setblocking(False)
    with pytest.raises(BlockingIOError):
        ours.recv(1)
    ours.close()
    theirs.close()


def test_envelopes_and_reports_cross_processes():
    """What crosses processes comes back equal from msgpack."""
    envelope = TaskEnvelope("n-1", "n", "n/{x}", "f", None, 2, True, True, "p" * 16, "s" * 16, 1, 2, "/out", b"{}", timeout_s=1.5, force=True)
    span = SpanRecord("t" * 32, "s" * 16, "p" * 16, "task f", "task", 1, 2, {"a": 1, "b": ["x"]}, (SpanLink("t" * 32, "q" * 16, "retry"),), 2, "m")
    fold = PhaseFold(count=1, total_ns=5, min_ns=5, max_ns=5)
    fold.samples.add(5)
    report = TaskReport(
        "n-1",
        2,
        "0",
        "failure",
        1,
        9,
        [span],
        TaskSums(7, {"p": fold}, {"tokens": 3}, {"other": NodeFold({"p": fold}, {"tokens": 2})}),
        ItemsFold(count=3, helped_ns={"1": 4}),
        ErrorInfo("a.B", "m", "f:1", "tb", b"x"),
        warnings=[("code", "text")],
    )
    for value in (envelope, report):
        assert msgspec.msgpack.decode(msgspec.msgpack.encode(value), type=type(value)) == value
