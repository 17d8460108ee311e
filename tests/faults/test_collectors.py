"""Whole runs against collectors that fail in every way: the run ends as its work ends, says so once, and a replay to the same address, healthy by then, brings every span."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time

import pytest
from support.otlp_receiver import OtlpReceiver, Reply
from support.rotel_agent import free_port
from support.run_checks import check_run

from otel_exec import deferred, output, phase, run, step, versioned
from otel_exec.cli.main import main as otel_exec
from otel_exec.testing import recorded_spans

EXIT_TIMEOUT_S = 0.5
# Beside the exit timeout: a request that is under way is let go, the record is written. A bound against hanging, no measure of speed.
BOUND_S = 20.0


def _work(number, out):
    with phase("write"), open(os.path.join(out, "out"), "w", encoding="utf-8") as file:
        file.write(str(number))


work = deferred(_work)


@step("work/{number}")
def one(number):
    """A step."""
    return work(number=versioned(number), out=output())


class Silent:
    """Takes connections; `drip` answers one byte a second, else nothing at all."""

    def __init__(self, port, *, drip):
        self._server = socket.create_server(("127.0.0.1", port))
        self._drip = drip
        self._over = threading.Event()
        self._taken = []
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self):
        answer = iter(b"HTTP/1.1 200 OK\r\n" * 1000)
        with contextlib.suppress(OSError):
            while not self._over.is_set():
                self._server.settimeout(0.05)
                with contextlib.suppress(TimeoutError):
                    self._taken.append(self._server.accept()[0])
                for taken in self._taken if self._drip else ():
                    with contextlib.suppress(OSError):
                        taken.send(bytes([next(answer)]))
                self._over.wait(1.0 if self._drip else 0.05)

    def close(self):
        """Let everything go."""
        self._over.set()
        self._thread.join()
        for each in (*self._taken, self._server):
            each.close()


def flapping():
    """Refuse every other request."""
    turn = iter(range(10_000))
    return lambda _spans: Reply(503) if next(turn) % 2 == 0 else None


ANSWERS = {
    "web page": lambda: lambda _spans: Reply(body=b"<!doctype html><html></html>", content_type="text/html"),
    "4xx": lambda: lambda _spans: Reply(404),
    "credentials": lambda: lambda _spans: Reply(401),
    "5xx": lambda: lambda _spans: Reply(500),
    "429 for an hour": lambda: lambda _spans: Reply(429, {"retry-after": "3600"}),
    "hangs up": lambda: lambda _spans: Reply(close=True),
    "flapping": flapping,
}


def go(tmp_path, monkeypatch, endpoint, exit_timeout_s=EXIT_TIMEOUT_S):
    """Run with this endpoint; returns the record, and how long it took."""
    for name in [name for name in os.environ if name.startswith("OTEL_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint)
    began = time.monotonic()
    record = run(
        [one(number) for number in range(6)],
        prefix=str(tmp_path / "out"),
        executor="inline",
        run_json=str(tmp_path / "run.json"),
        exit_timeout_s=exit_timeout_s,
    )
    return record, time.monotonic() - began


def check(tmp_path, record, took_s):
    """The run succeeded, in bounded time, with one warning of what did not get out."""
    assert record.outcome == "success"
    assert took_s < BOUND_S
    check_run(record)
    left = record.export.spans - record.export.spans_acknowledged
    said = [warning for warning in record.warnings if warning.code == "export"]
    assert len(said) == (1 if left else 0), said
    log = tmp_path / "out" / ".otel_exec" / "runs" / record.exec_id / "export.log"
    assert log.stat().st_size < 2_000, "log spam"


def replayed(tmp_path, receiver, record):
    """Replay to the receiver, which is healthy; every span is there."""
    receiver.refuse = None
    assert otel_exec(["replay", str(tmp_path / "run.json"), "--endpoint", receiver.http_endpoint]) == 0
    counts = receiver.counts()
    assert set(counts) == {span.span_id for span in recorded_spans(record)}
    return counts


@pytest.mark.parametrize("kind", ANSWERS)
def test_a_collector_that_answers_badly(tmp_path, monkeypatch, receiver, kind):
    """Each span is there exactly once after the replay: what was acknowledged is not sent again."""
    receiver.refuse = ANSWERS[kind]()
    record, took_s = go(tmp_path, monkeypatch, receiver.http_endpoint)
    check(tmp_path, record, took_s)
    assert set(replayed(tmp_path, receiver, record).values()) == {1}


@pytest.mark.parametrize("kind", ["refused", "black hole", "one byte a second", "no TLS there"])
def test_a_collector_that_does_not_answer(tmp_path, monkeypatch, kind):
    """Nothing was received, so each span is there exactly once after the replay."""
    port = free_port()
    silent = None if kind == "refused" else Silent(port, drip=kind == "one byte a second")
    scheme = "https" if kind == "no TLS there" else "http"
    record, took_s = go(tmp_path, monkeypatch, f"{scheme}://127.0.0.1:{port}")
    if silent is not None:
        silent.close()
    check(tmp_path, record, took_s)
    assert record.export.spans_acknowledged == 0
    with OtlpReceiver(http_port=port) as receiver:
        assert set(replayed(tmp_path, receiver, record).values()) == {1}


def test_an_answer_after_the_deadline(tmp_path, monkeypatch, receiver):
    """The receiver has the spans and its word comes too late: then, and only then, a span may be there twice."""
    late = threading.Event()
    receiver.refuse = lambda _spans: Reply(hold=late, keep=True)
    record, took_s = go(tmp_path, monkeypatch, receiver.http_endpoint)
    late.set()
    check(tmp_path, record, took_s)
    assert set(replayed(tmp_path, receiver, record).values()) <= {1, 2}


def test_a_partial_success_is_final(tmp_path, monkeypatch, receiver):
    """What a receiver says it dropped is counted as refused, and never sent again."""
    receiver.refuse = lambda spans: Reply(rejected=1, message="too old", keep=True) if len(spans) > 1 else None
    record, took_s = go(tmp_path, monkeypatch, receiver.http_endpoint, exit_timeout_s=15.0)
    assert took_s < BOUND_S
    assert record.export.spans_rejected >= 1
    assert record.export.spans == record.export.spans_acknowledged + record.export.spans_rejected
    before = len(receiver.spans)
    receiver.refuse = None
    assert otel_exec(["replay", str(tmp_path / "run.json"), "--endpoint", receiver.http_endpoint]) == 0
    assert len(receiver.spans) == before
