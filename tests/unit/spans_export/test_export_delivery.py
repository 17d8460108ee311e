"""Delivery to one endpoint, against a transport that follows a script: no network, no waiting."""

from __future__ import annotations

import json

import pytest
from support.spool_lines import line, span, write_spool

from otel_exec.config import Endpoint
from otel_exec.spans import spool_follower
from otel_exec.spans.cursor import Cursor, read_export
from otel_exec.spans.delivery import Delivery
from otel_exec.spans.otlp_json import merge
from otel_exec.spans.transport import Answer

ENDPOINT = Endpoint("http://h:4318/v1/traces", "http/json")
OK = Answer("accepted")


class Scripted:
    """Answers by a function of the numbers of the spans sent; remembers them."""

    def __init__(self, answer):
        self.answer = answer
        self.sent = []
        self.closed = False

    def send(self, lines):
        numbers = [int(each["spanId"], 16) - 1 for r in json.loads(merge(lines))["resourceSpans"] for s in r["scopeSpans"] for each in s["spans"]]
        self.sent.append(numbers)
        return self.answer(numbers)

    def close(self):
        self.closed = True


def deliver(run_folder, answer):
    """Deliver what is there and stop; returns the transport and the endpoint's entry in export.json."""
    transport = Scripted(answer)
    delivery = Delivery(str(run_folder), ENDPOINT, Cursor(str(run_folder)), lambda: None, transport)
    delivery.end()
    delivery.run()
    state = read_export(str(run_folder))
    return transport, state.endpoints[ENDPOINT.shown] if state else None


def bad(*numbers):
    return lambda sent: Answer("content", "bad span") if set(sent) & set(numbers) else OK


@pytest.fixture
def small_batches(monkeypatch):
    """Batches of about ten lines."""
    monkeypatch.setattr(spool_follower, "MAX_BATCH_BYTES", len(line(span(0))) * 10)


def test_all_in_order_and_once(run_folder, small_batches):
    """Each file's spans go out in order, in several requests, each once; a second delivery sends nothing."""
    write_spool(run_folder, "a", range(100))
    write_spool(run_folder, "b", range(100, 150))
    transport, entry = deliver(run_folder, lambda _: OK)
    sent = [number for request in transport.sent for number in request]
    assert sorted(sent) == list(range(150))
    assert [number for number in sent if number < 100] == list(range(100))
    assert 15 <= len(transport.sent) <= 25
    assert transport.closed
    assert (entry.acknowledged, entry.files["spans/a.jsonl"].acknowledged, entry.files["spans/b.jsonl"].acknowledged) == (150, 100, 50)
    assert deliver(run_folder, lambda _: OK)[0].sent == []


def test_every_file_gets_its_turn(run_folder, small_batches):
    """A file that is far ahead does not keep the others waiting."""
    write_spool(run_folder, "a", range(1000))
    write_spool(run_folder, "b", range(1000, 1005))
    transport, _ = deliver(run_folder, lambda _: OK)
    assert any(number >= 1000 for request in transport.sent[:3] for number in request)


@pytest.mark.parametrize("wrong", [{50}, {0, 1}, {99}, {10, 20, 30, 40}, {98, 99}])
def test_bad_spans_are_set_aside(run_folder, wrong):
    """Whichever spans a receiver can't take, exactly those are rejected, wherever they stand, and all others are acknowledged."""
    write_spool(run_folder, "a", range(100))
    transport, entry = deliver(run_folder, bad(*wrong))
    assert (entry.acknowledged, entry.rejected) == (100 - len(wrong), len(wrong))
    assert (entry.last_error, entry.last_rejection) == (None, "bad span")
    accepted = [number for request in transport.sent if not set(request) & wrong for number in request]
    assert sorted(accepted) == sorted(set(range(100)) - wrong)
    assert len(transport.sent) < 16 * len(wrong)
    assert deliver(run_folder, lambda _: OK)[0].sent == []


def test_a_receiver_that_never_accepted_rejects_nothing(run_folder):
    """Where nothing was ever accepted no span is given up: the fault may be the receiver's."""
    write_spool(run_folder, "a", range(3))
    _, entry = deliver(run_folder, lambda _: Answer("content", "no"))
    assert (entry.acknowledged, entry.rejected, entry.last_error) == (0, 0, "no")
    transport, entry = deliver(run_folder, bad(1))
    assert (entry.acknowledged, entry.rejected, entry.last_error) == (2, 1, None)
    assert sorted({number for request in transport.sent for number in request}) == [0, 1, 2]


def test_many_lines_that_are_not_otlp_block_nothing(run_folder):
    """However many lines at the front no message could hold, they are rejected and the spans behind them go out."""
    (run_folder / "spans" / "a.jsonl").write_text("".join(line(span(number, traceId="bad")) for number in range(30)) + line(span(30)))
    _, entry = deliver(run_folder, bad(*range(30)))
    assert (entry.acknowledged, entry.rejected) == (1, 30)


def test_a_refusal_ends_it(run_folder, small_batches):
    """A refusal ends the delivery where it is; what was acknowledged before stays so, the rest is sent the next time."""
    write_spool(run_folder, "a", range(40))
    transport, entry = deliver(run_folder, lambda sent: Answer("refused", "go away") if 20 in sent else OK)
    assert entry.last_error == "go away"
    acknowledged = entry.acknowledged
    assert 0 < acknowledged <= 20
    assert transport.sent[-1][0] == acknowledged
    transport, entry = deliver(run_folder, lambda _: OK)
    assert [number for request in transport.sent for number in request] == list(range(acknowledged, 40))
    assert entry.last_error is None


def test_partial_success(run_folder):
    """Spans that the receiver says it dropped are rejected, not acknowledged, and not sent again."""
    write_spool(run_folder, "a", range(10))
    _, entry = deliver(run_folder, lambda _: Answer("accepted", "too old", rejected=4))
    assert (entry.acknowledged, entry.rejected, entry.last_rejection) == (6, 4, "too old")
    assert deliver(run_folder, lambda _: OK)[0].sent == []


def test_skipped_lines_are_counted_once(run_folder, small_batches):
    """Foreign lines between, before and after spans are counted, each once, however the batches fall."""
    path = run_folder / "spans" / "a.jsonl"
    path.write_text("".join(f"foreign {number}\r\n{line(span(number))}" for number in range(50)) + "tail\nmore\n")
    _, entry = deliver(run_folder, lambda _: OK)
    assert (entry.acknowledged, entry.lines_skipped) == (50, 52)
    assert entry.files["spans/a.jsonl"].bytes == path.stat().st_size
    _, entry = deliver(run_folder, lambda _: OK)
    assert entry.lines_skipped == 52


def test_a_torn_line_waits_for_its_end(run_folder):
    """A line is sent when its newline is there, not before."""
    path = run_folder / "spans" / "a.jsonl"
    path.write_text(line(span(0)) + line(span(1))[:-10])
    assert deliver(run_folder, lambda _: OK)[0].sent == [[0]]
    path.write_text(line(span(0)) + line(span(1)))
    assert deliver(run_folder, lambda _: OK)[0].sent == [[1]]


def test_a_line_longer_than_a_batch_goes_alone(run_folder, small_batches):
    """A line that is longer than a batch is sent whole; one that no receiver would take is skipped."""
    long = span(1, attributes=[{"key": "text", "value": {"stringValue": "x" * 1_000_000}}])
    (run_folder / "spans" / "a.jsonl").write_text(line(span(0)) + line(long) + "y" * 9_000_000 + "\n" + line(span(2)))
    transport, entry = deliver(run_folder, lambda _: OK)
    assert sorted(number for request in transport.sent for number in request) == [0, 1, 2]
    assert (entry.acknowledged, entry.lines_skipped) == (3, 1)


def test_a_file_that_shrank_is_left_alone(run_folder):
    """A file that is shorter than its cursor sends nothing and breaks nothing."""
    write_spool(run_folder, "a", range(10))
    deliver(run_folder, lambda _: OK)
    (run_folder / "spans" / "a.jsonl").write_text(line(span(0)))
    assert deliver(run_folder, lambda _: OK)[0].sent == []


def test_a_transport_that_breaks_is_noted(run_folder):
    """An exception of the transport's own ends the delivery with a sentence in the cursor; nothing is lost."""
    write_spool(run_folder, "a", range(3))

    def explode(_):
        raise RuntimeError("broken transport")

    _, entry = deliver(run_folder, explode)
    assert "broken transport" in entry.last_error
    assert deliver(run_folder, lambda _: OK)[1].acknowledged == 3


def test_a_receiver_cannot_reject_more_than_it_was_sent(run_folder):
    """However many a partial success names, as many are rejected as the request held, and what was acknowledged is never negative."""
    write_spool(run_folder, "a", range(5))
    _, entry = deliver(run_folder, lambda _: Answer("accepted", "no", 9_999_999))
    assert (entry.acknowledged, entry.rejected) == (0, 5)
    assert (entry.files["spans/a.jsonl"].acknowledged, entry.files["spans/a.jsonl"].rejected) == (0, 5)
