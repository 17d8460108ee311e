"""What receivers, networks and files do wrong: the run's end stays bounded, and what was not acknowledged is sent later, once."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter

import grpc
import pytest
from support.otlp_receiver import OtlpReceiver, Reply
from support.rotel_agent import free_port
from support.spool_lines import line, span, span_ids, write_spool

from otel_exec.config import Endpoint
from otel_exec.errors import RecordError
from otel_exec.spans.cursor import Lease, read_export
from otel_exec.spans.exporter import ExporterHandle, export_once

PROTOCOLS = ("grpc", "http/protobuf", "http/json")


def endpoint_at(port, protocol, **more):
    path = "" if protocol == "grpc" else "/v1/traces"
    return Endpoint(f"http://127.0.0.1:{port}{path}", protocol, **more)


def endpoint_of(receiver, protocol, **more):
    return endpoint_at(receiver.grpc_port if protocol == "grpc" else receiver.http_port, protocol, **more)


def until(condition, timeout_s=20.0):
    """Wait until a condition holds."""
    deadline = time.monotonic() + timeout_s
    pause = threading.Event()
    while not (result := condition()):
        assert time.monotonic() < deadline, "not in time"
        pause.wait(0.01)
    return result


def noted_error(run_folder):
    state = read_export(str(run_folder))
    return state and next((entry.last_error for entry in state.endpoints.values() if entry.last_error), None)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_dead_endpoint_is_bounded(run_folder, protocol):
    """Where nothing listens the run's end waits for the exit timeout and no longer, and says why in one sentence."""
    write_spool(run_folder, "driver", range(50))
    handle = ExporterHandle.start(str(run_folder), [endpoint_at(free_port(), protocol)], exit_timeout_s=1.5)
    until(lambda: noted_error(run_folder))
    begun = time.monotonic()
    summary = handle.finish()
    assert time.monotonic() - begun < 2.5
    (entry,) = summary.endpoints
    assert (entry.total, entry.acknowledged, entry.waiting) == (50, 0, 50)
    assert entry.error.endswith("connection refused: nothing listens there")
    assert any(each.waiting for each in summary.endpoints)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_black_hole_is_bounded(run_folder, protocol):
    """A host that takes the connection and never answers does not hold up the run's end, though a request may take ten seconds."""
    with socket.create_server(("127.0.0.1", 0)) as hole:
        write_spool(run_folder, "driver", range(50))
        handle = ExporterHandle.start(str(run_folder), [endpoint_at(hole.getsockname()[1], protocol, timeout_s=10.0)], exit_timeout_s=0.5)
        connection, _ = hole.accept()  # the request is under way
        begun = time.monotonic()
        summary = handle.finish()
        assert time.monotonic() - begun < 2.0
        connection.close()
    assert summary.endpoints[0].waiting == 50
    assert "no answer within 0.5 s" in summary.endpoints[0].error
    assert handle.pid is not None
    with pytest.raises(ProcessLookupError):
        os.kill(handle.pid, 0)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_collector_that_starts_late(run_folder, protocol):
    """A collector that comes up during the run gets everything, once."""
    port = free_port()
    write_spool(run_folder, "driver", range(50))
    handle = ExporterHandle.start(str(run_folder), [endpoint_at(port, protocol)])
    until(lambda: noted_error(run_folder))
    with OtlpReceiver(**{"grpc_port" if protocol == "grpc" else "http_port": port}) as receiver:
        receiver.wait_for(50)
        write_spool(run_folder, "driver", range(50, 80))
        summary = handle.finish()
        assert not any(each.waiting for each in summary.endpoints)
        assert summary.endpoints[0].error == ""
        assert receiver.counts() == dict.fromkeys(span_ids(range(80)), 1)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_catching_up_sends_the_rest_alone(run_folder, protocol):
    """After a collector died during a run, a later export sends what it had not acknowledged and nothing else."""
    with OtlpReceiver() as receiver:
        endpoint = endpoint_of(receiver, protocol)
        write_spool(run_folder, "driver", range(40))
        handle = ExporterHandle.start(str(run_folder), [endpoint], exit_timeout_s=0.3)
        until(lambda: (state := read_export(str(run_folder))) and state.endpoints[endpoint.shown].acknowledged == 40)
        http_port, grpc_port = receiver.http_port, receiver.grpc_port
    write_spool(run_folder, "driver", range(40, 100))
    summary = handle.finish()
    assert (summary.endpoints[0].acknowledged, summary.endpoints[0].waiting) == (40, 60)
    with OtlpReceiver(http_port, grpc_port) as receiver:
        summary = export_once(str(run_folder), [endpoint])
        assert receiver.counts() == dict.fromkeys(span_ids(range(40, 100)), 1)
        assert summary.endpoints[0].acknowledged == 100
        export_once(str(run_folder), [endpoint])
        assert len(receiver.spans) == 60


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_killed_exporter_sends_at_most_one_batch_twice(receiver, run_folder, protocol):
    """After a SIGKILL in the middle, the next export sends the rest; only the request whose answer was on its way is sent again."""
    write_spool(run_folder, "driver", range(6000))
    hold = threading.Event()
    receiver.answer_next(Reply(), Reply(hold=hold))
    handle = ExporterHandle.start(str(run_folder), [endpoint_of(receiver, protocol)])
    receiver.wait_for(lambda server: len(server.requests) == 2)
    os.kill(handle.pid, signal.SIGKILL)
    until(lambda: gone(handle.pid))
    summary = handle.finish()
    assert "the exporter died (killed by SIGKILL" in summary.problem
    assert summary.endpoints[0].acknowledged == len(receiver.requests[0].spans)
    in_flight = Counter(each.span_id for each in receiver.requests[1].spans)
    hold.set()
    receiver.wait_for(len(receiver.requests[0].spans) + len(in_flight))
    (sent,) = export_once(str(run_folder), [endpoint_of(receiver, protocol)]).endpoints
    assert sent.waiting == 0
    counts = receiver.counts()
    assert set(counts) == span_ids(range(6000))
    assert {identity for identity, count in counts.items() if count > 1} == set(in_flight)
    assert max(counts.values()) == 2


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_foreign_lines_are_skipped(receiver, run_folder, protocol):
    """Lines that are no spans are passed over and counted; a line without its end is left for its writer."""
    write_spool(run_folder, "driver", range(5))
    with (run_folder / "spans" / "driver.jsonl").open("ab") as file:
        file.write(b'not json\n\n[]\n{"resourceSpans":[{"scopeSpans":[{"spans":[7]}]}]}\n{"resourceSpans":[{"scopeSpans":[{"spans":[{"name":"\xff"}]}]}]}\n')
        file.write(b"[" * 100_000 + b"\n")
        file.write(b"\0" * 5_000_000 + b"\n")
    write_spool(run_folder, "driver", range(5, 10))
    with (run_folder / "spans" / "driver.jsonl").open("ab") as file:
        file.write(line(span(99)).encode()[:-20])
    (run_folder / "spans" / "elsewhere.jsonl").symlink_to("/etc/passwd")
    os.mkfifo(run_folder / "spans" / "pipe.jsonl")
    summary = export_once(str(run_folder), [endpoint_of(receiver, protocol)])
    assert receiver.counts() == dict.fromkeys(span_ids(range(10)), 1)
    assert summary.endpoints[0].acknowledged == 10
    assert summary.endpoints[0].skipped == 6


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_bad_span_is_found_and_set_aside(receiver, run_folder, protocol):
    """Spans that the receiver can't take are found by halving and counted as rejected; all others arrive, once."""
    write_spool(run_folder, "driver", range(100))
    with (run_folder / "spans" / "driver.jsonl").open("a") as file:
        file.write(line(span(100, traceId="0af7")))
        file.write(line(span(101)))
        file.write(line(span(102, attributes=[{"key": "n", "value": {"intValue": str(2**64)}}])))
    write_spool(run_folder, "driver", range(103, 200))
    summary = export_once(str(run_folder), [endpoint_of(receiver, protocol)])
    assert receiver.counts() == dict.fromkeys(span_ids(range(200)) - span_ids(range(100, 101)) - span_ids(range(102, 103)), 1)
    (entry,) = summary.endpoints
    assert (entry.total, entry.acknowledged, entry.rejected) == (200, 198, 2)
    assert entry.error


@pytest.mark.parametrize(
    ("protocol", "reply"),
    [("grpc", Reply(grpc.StatusCode.INVALID_ARGUMENT, message="no")), ("http/protobuf", Reply(400)), ("http/json", Reply(413))],
)
def test_a_receiver_that_refuses_everything_costs_nothing(receiver, run_folder, protocol, reply):
    """Where every span is refused it is the receiver's fault: nothing counts as rejected, all stays in the spool."""
    write_spool(run_folder, "driver", range(100))
    receiver.refuse = lambda _spans: reply
    (entry,) = export_once(str(run_folder), [endpoint_of(receiver, protocol)]).endpoints
    assert (entry.acknowledged, entry.rejected, entry.waiting) == (0, 0, 100)
    assert "answers" in entry.error
    receiver.refuse = None
    assert export_once(str(run_folder), [endpoint_of(receiver, protocol)]).endpoints[0].acknowledged == 100


@pytest.mark.parametrize(
    ("protocol", "reply", "words"),
    [
        ("http/json", Reply(body=b"<!doctype html><html></html>", content_type="text/html"), "is not an OTLP receiver: it answers with a web page"),
        ("http/protobuf", Reply(301, {"location": "https://elsewhere/"}), "redirects are not followed"),
        ("http/protobuf", Reply(401), "the credentials are missing or wrong"),
        ("http/json", Reply(403, body=b'{"message":"no such key"}'), "answers 403 (no such key)"),
        ("http/json", Reply(500, body=b"<html>oh</html>", content_type="text/html"), "answers 500"),
        ("grpc", Reply(grpc.StatusCode.UNAUTHENTICATED, message="who are you"), "answers UNAUTHENTICATED (who are you)"),
        ("grpc", Reply(grpc.StatusCode.RESOURCE_EXHAUSTED, message="full"), "answers RESOURCE_EXHAUSTED (full)"),
    ],
)
def test_a_refusal_is_said_once_and_not_repeated(receiver, run_folder, protocol, reply, words):
    """Where trying again makes no sense the exporter asks once, ends at once, says why, and leaves the spans in the spool."""
    write_spool(run_folder, "driver", range(5))
    receiver.refuse = lambda _spans: reply
    handle = ExporterHandle.start(str(run_folder), [endpoint_of(receiver, protocol)], exit_timeout_s=30.0)
    until(lambda: noted_error(run_folder))
    begun = time.monotonic()
    (entry,) = handle.finish().endpoints
    assert time.monotonic() - begun < 10
    assert words in entry.error
    assert "\n" not in entry.error
    assert (entry.acknowledged, entry.rejected, entry.waiting) == (0, 0, 5)
    assert len(receiver.requests) == 1


def retry_info(seconds):
    """Return a serialised google.rpc.Status with RetryInfo, by hand: field numbers of google/rpc/status.proto."""
    duration = bytes([8, seconds])
    info = bytes([10, len(duration)]) + duration
    url = b"type.googleapis.com/google.rpc.RetryInfo"
    detail = bytes([10, len(url)]) + url + bytes([18, len(info)]) + info
    return bytes([8, 8]) + bytes([26, len(detail)]) + detail


@pytest.mark.parametrize(
    ("protocol", "reply", "least_s"),
    [
        ("http/json", Reply(429, {"retry-after": "1"}), 1.0),
        ("http/protobuf", Reply(503, {"retry-after": "1"}), 1.0),
        ("http/protobuf", Reply(502), 0.0),
        ("http/json", Reply(close=True), 0.0),
        ("grpc", Reply(grpc.StatusCode.UNAVAILABLE), 0.0),
        ("grpc", Reply(grpc.StatusCode.RESOURCE_EXHAUSTED, metadata=(("grpc-status-details-bin", retry_info(1)),)), 1.0),
    ],
)
def test_a_busy_receiver_is_asked_again(receiver, run_folder, protocol, reply, least_s):
    """Answers that mean "later" are retried, not before the receiver says; each span arrives once."""
    write_spool(run_folder, "driver", range(5))
    receiver.answer_next(reply)
    (entry,) = export_once(str(run_folder), [endpoint_of(receiver, protocol)]).endpoints
    assert (entry.acknowledged, entry.error) == (5, "")
    assert receiver.counts() == dict.fromkeys(span_ids(range(5)), 1)
    first, second = receiver.requests
    assert second.at_s - first.at_s >= least_s


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_partial_success_is_final(receiver, run_folder, protocol):
    """Spans that a receiver says it dropped count as rejected, with its reason, and are not sent again."""
    write_spool(run_folder, "driver", range(10))
    receiver.answer_next(Reply(rejected=3, message="three too old", keep=True))
    (entry,) = export_once(str(run_folder), [endpoint_of(receiver, protocol)]).endpoints
    assert (entry.total, entry.acknowledged, entry.rejected) == (10, 7, 3)
    assert entry.error.endswith("three too old")
    export_once(str(run_folder), [endpoint_of(receiver, protocol)])
    assert len(receiver.requests) == 1


@pytest.mark.parametrize(
    ("protocol", "other", "words"),
    [("grpc", "http_port", "is it the HTTP port (usually 4318)?"), ("http/json", "grpc_port", "is it the gRPC port (usually 4317)?")],
)
def test_the_two_ports_mixed_up(receiver, run_folder, protocol, other, words):
    """An address with the other protocol's port is recognised as such."""
    write_spool(run_folder, "driver", range(5))
    (entry,) = export_once(str(run_folder), [endpoint_at(getattr(receiver, other), protocol)], patience_s=1.0).endpoints
    assert words in entry.error


def test_the_exporter_follows_a_killed_driver(run_folder):
    """When the driver is killed its exporter sends what is there, and is gone within the bound; a dead endpoint does not keep it."""
    code = (
        "import os, signal, sys\n"
        "from otel_exec.config import Endpoint\n"
        "from otel_exec.spans.exporter import ExporterHandle\n"
        "handle = ExporterHandle.start(sys.argv[1], [Endpoint(url, 'http/json') for url in sys.argv[2:]], exit_timeout_s=0.5)\n"
        "print(handle.pid, flush=True)\n"
        "if os.fork() == 0:\n"  # a child that holds the pipe open must not keep the exporter either
        "    signal.pause()\n"
        "signal.pause()\n"
    )
    with OtlpReceiver() as receiver:
        urls = [f"{receiver.http_endpoint}/v1/traces", f"http://127.0.0.1:{free_port()}/v1/traces"]
        write_spool(run_folder, "driver", range(20))
        driver = subprocess.Popen([sys.executable, "-c", code, str(run_folder), *urls], stdout=subprocess.PIPE, text=True, start_new_session=True)
        assert driver.stdout is not None
        exporter = int(driver.stdout.readline())
        receiver.wait_for(20)
        write_spool(run_folder, "driver", range(20, 30))
        os.kill(driver.pid, signal.SIGKILL)
        receiver.wait_for(30)
        until(lambda: gone(exporter))
        assert receiver.counts() == dict.fromkeys(span_ids(range(30)), 1)
        os.killpg(driver.pid, signal.SIGKILL)  # the forked child
        driver.stdout.close()
        driver.wait(10)


def gone(pid):
    """Whether a process has ended (a zombie that nobody reaps has)."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8") as file:
            return file.read().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def test_one_exporter_at_a_time(receiver, run_folder):
    """While one exporter is at work a second one refuses and touches nothing; a live one waits for its turn."""
    write_spool(run_folder, "driver", range(5))
    lease = Lease.take(str(run_folder))
    assert lease is not None
    with pytest.raises(RecordError, match="another exporter"):
        export_once(str(run_folder), [endpoint_of(receiver, "http/json")])
    handle = ExporterHandle.start(str(run_folder), [endpoint_of(receiver, "http/json")])
    lease.release()
    receiver.wait_for(5)
    assert not any(each.waiting for each in handle.finish().endpoints)


def test_a_busy_lease_at_the_end(receiver, run_folder):
    """A live exporter that never got its turn says so and ends at once."""
    write_spool(run_folder, "driver", range(5))
    lease = Lease.take(str(run_folder))
    summary = ExporterHandle.start(str(run_folder), [endpoint_of(receiver, "http/json")], exit_timeout_s=20).finish()
    assert "another exporter is at work" in summary.problem
    assert summary.endpoints[0].waiting == 5
    lease.release()


@pytest.mark.parametrize("content", [b"{", b"[]", json.dumps({"schema_version": "2.0"}).encode()])
def test_a_cursor_that_cannot_be_read_stops_the_export(receiver, run_folder, content):
    """With a damaged or newer cursor nothing is sent, since everything would be sent twice; the file stays as it is."""
    write_spool(run_folder, "driver", range(5))
    (run_folder / "export.json").write_bytes(content)
    with pytest.raises(RecordError) as caught:
        export_once(str(run_folder), [endpoint_of(receiver, "http/json")])
    assert caught.value.path.endswith("export.json")
    summary = ExporterHandle.start(str(run_folder), [endpoint_of(receiver, "http/json")], exit_timeout_s=20).finish()
    assert "export.json" in summary.problem
    assert (run_folder / "export.json").read_bytes() == content
    assert receiver.requests == []


def test_finish_never_raises(tmp_path, receiver):
    """A run folder that is not there, and a second call, give summaries, not exceptions."""
    handle = ExporterHandle.start(str(tmp_path / "missing"), [endpoint_of(receiver, "grpc")])
    assert handle.pid is None
    summary = handle.finish()
    assert "could not be started" in summary.problem
    assert handle.finish() is summary


def test_modules_of_the_working_directory_do_not_harm(receiver, run_folder, tmp_path, monkeypatch):
    """A user's file that is named like a module that the exporter needs is not imported by it."""
    (tmp_path / "json.py").write_text("raise SystemExit('wrong module')")
    (tmp_path / "queue.py").write_text("raise SystemExit('wrong module')")
    monkeypatch.chdir(tmp_path)
    write_spool(run_folder, "driver", range(5))
    (sent,) = ExporterHandle.start(str(run_folder), [endpoint_of(receiver, "http/protobuf")], exit_timeout_s=20).finish().endpoints
    assert sent.waiting == 0
