"""`otel-exec doctor` where somebody answers badly: no secret is printed, and nothing takes for ever."""

from __future__ import annotations

import json
import socket
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest
from support.otlp_receiver import OtlpReceiver, Reply
from support.outside import otel_exec

from otel_exec.config import Endpoint
from otel_exec.spans.diagnose import diagnose

SECRET = "hunter2"
TLS = Path(__file__).parents[1] / "support" / "tls"


@contextmanager
def answering(first, then=b""):
    """A server that answers each connection with `first`, and after it sends `then` until the other side has had enough."""
    over = threading.Event()
    server = socket.create_server(("127.0.0.1", 0))
    server.settimeout(0.05)

    def answer(connection):
        with connection:
            connection.settimeout(0.05)
            try:
                connection.recv(65536)
                connection.sendall(first)
                while then and not over.wait(0.05):
                    connection.sendall(then)
            except OSError:
                return

    def serve():
        while not over.is_set():
            try:
                connection, _ = server.accept()
            except TimeoutError:
                continue
            threading.Thread(target=answer, args=(connection,), daemon=True).start()

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield server.getsockname()[1]
    finally:
        over.set()
        thread.join(5)
        server.close()


def whole(status, body, kind="application/json"):
    """Return an answer of HTTP."""
    return f"HTTP/1.1 {status} X\r\ncontent-type: {kind}\r\ncontent-length: {len(body)}\r\nconnection: close\r\n\r\n{body}".encode()


def found_again(folder, query, endpoint, *argv):
    """Return what the doctor says of the query address, and all that it printed."""
    done = otel_exec("doctor", "--timeout", "1", "--wait", "0.2", "--json", "--endpoint", endpoint, "--query", query, *argv, cwd=folder)
    return next(each for each in json.loads(done.stdout)["checks"] if each["check"] == "found again"), done.stdout + done.stderr


@pytest.mark.parametrize(
    ("first", "then"),
    [
        (b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 100000\r\n\r\n", b" "),
        (b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n", b"1\r\n \r\n"),
        (b"HTTP/1.1 200 OK\r\n", b"x-more: 1\r\n"),
        (b"HTTP/1.1 200 OK\r\n", b""),
    ],
)
def test_an_answer_that_does_not_end(tmp_path, receiver, first, then):
    """A body or headers that come a byte at a time for ever: the time for an answer is over when it is over."""
    with answering(first, then) as port:
        wrong, _ = found_again(tmp_path, f"http://127.0.0.1:{port}", receiver.grpc_endpoint)
    assert wrong["verdict"] == "wrong"


@pytest.mark.parametrize("protocol", ["grpc", "http/protobuf", "http/json"])
@pytest.mark.parametrize(
    "first",
    [
        b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 100000\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nx-more: ",
        b"",
    ],
)
def test_a_receiver_whose_answer_does_not_end(protocol, first):
    """A receiver that answers a byte at a time is given up when the time for an answer is over, in each protocol that is tried."""
    with answering(first, b"1") as port:
        url = f"http://127.0.0.1:{port}" + ("" if protocol == "grpc" else "/v1/traces")
        begun = time.monotonic()
        *_, last = diagnose(Endpoint(url, protocol), None, timeout_s=0.3)
        taken_s = time.monotonic() - begun
    assert (last.check, last.verdict) == ("protocol", "wrong")
    # At most seven questions of 0.3 s, each half a second more at most; without an end of its own one alone would take hours.
    assert taken_s < 60


def test_an_answer_that_is_too_large(tmp_path, receiver):
    """Of an answer without end no more is read than one of one span could have."""
    first = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\r\n"
    with answering(first, b" " * (4 << 20)) as port:
        wrong, _ = found_again(tmp_path, f"http://127.0.0.1:{port}", receiver.grpc_endpoint, "--timeout", "20")
    assert "more than 1 MiB" in wrong["said"]


def test_a_clock_that_does_not_end(tmp_path):
    """The receiver's clock is read from the headers, whatever comes after them."""
    with OtlpReceiver() as receiver:
        done = otel_exec(
            "doctor", "--timeout", "2", "--endpoint", receiver.http_endpoint, cwd=tmp_path, timeout_s=30, OTEL_EXPORTER_OTLP_PROTOCOL="http/protobuf"
        )
    assert done.returncode == 0, done.stdout
    from otel_exec.spans.find_again import clock_of

    headers = b"HTTP/1.1 200 OK\r\ndate: Sat, 01 Jan 2000 00:00:00 GMT\r\ncontent-length: 100000\r\n\r\n"
    with answering(headers, b" ") as port:
        clock = clock_of(f"http://127.0.0.1:{port}", timeout_s=5.0)
    assert clock is not None
    assert clock.ahead_s < -1e8
    with answering(b"HTTP/1.1 200 OK\r\n", b"x-more: 1\r\n") as port:
        assert clock_of(f"http://127.0.0.1:{port}", timeout_s=0.5) is None


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (404, '{"message": "no such route"}', "application/json"),
        (404, "404 page not found\n", "text/plain"),
        (200, '{"status": "ok"}', "application/json"),
    ],
)
def test_another_servers_answer_is_not_a_backends(tmp_path, receiver, status, body, kind):
    """A server that says 404, or something else in JSON, is told to be no backend, and is not asked again."""
    with answering(whole(status, body, kind)) as port:
        wrong, _ = found_again(tmp_path, f"http://127.0.0.1:{port}", receiver.grpc_endpoint)
    assert wrong["verdict"] == "wrong"
    assert "--query" in wrong["to_do"]


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (404, ""),
        (404, '{"data": null, "errors": [{"code": 404}]}'),
        (404, '{"error": {"httpCode": 404, "message": "No traces found"}}'),
        (200, '{"batches": []}'),
    ],
)
def test_a_backend_without_the_span(tmp_path, receiver, status, body):
    """Jaeger and Tempo say each in its own way that they have no such trace."""
    with answering(whole(status, body)) as port:
        wrong, _ = found_again(tmp_path, f"http://127.0.0.1:{port}", receiver.grpc_endpoint)
    assert "was acknowledged and did not come to" in wrong["said"]


@pytest.mark.parametrize("reply", [whole(404, "no"), whole(200, "<html>", "text/html"), whole(404, ""), whole(302, "", "text/plain"), b"what?\r\n\r\n", b""])
def test_the_password_of_the_query_address_is_never_printed(tmp_path, receiver, reply):
    """Whatever is answered; it is sent as credentials, and not as a part of the address."""
    with answering(reply) as port:
        wrong, printed = found_again(tmp_path, f"http://user:{SECRET}@127.0.0.1:{port}/?token={SECRET}", receiver.grpc_endpoint)
    assert wrong["verdict"] == "wrong"
    assert SECRET not in printed
    assert "dXNlcjpodW50ZXIy" not in printed


@pytest.mark.parametrize(
    "endpoint",
    [f"http://127.0.0.1:{{port}}/v1/traces?api_key={SECRET}", f"http://user:{SECRET}@127.0.0.1:{{port}}", f"http://user:a/{SECRET}@127.0.0.1:{{port}}"],
)
def test_the_secrets_of_the_endpoint_are_never_printed(tmp_path, endpoint):
    """Neither where TLS is spoken to who writes http://, nor where the address can't be read."""
    with OtlpReceiver(tls=(TLS / "server.pem", TLS / "server.key")) as receiver:
        url = endpoint.format(port=receiver.http_port)
        done = otel_exec("doctor", "--timeout", "2", "--endpoint", url, cwd=tmp_path, OTEL_EXPORTER_OTLP_PROTOCOL="http/protobuf")
    assert done.returncode == 1
    assert SECRET not in done.stdout + done.stderr


@pytest.mark.parametrize("address", ["http://user:hunter2@nobody.invalid:1", "http://user:hunter2@127.0.0.1:99999", "ftp://user:hunter2@127.0.0.1"])
def test_the_password_of_an_address_that_leads_nowhere(tmp_path, receiver, address):
    """An address that can't be asked is told without its password, from the command line and from the variable."""
    wrong, printed = found_again(tmp_path, address, receiver.grpc_endpoint)
    assert wrong["verdict"] == "wrong"
    assert SECRET not in printed
    variables = {"OTEL_EXEC_TRACE_URL": address + "/trace/{trace_id}", "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.grpc_endpoint}
    done = otel_exec("doctor", "--timeout", "1", "--wait", "0.2", cwd=tmp_path, **variables)
    assert SECRET not in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("protocol", "reply"),
    [
        ("http/protobuf", Reply(rejected=1, message=f"no quota for {SECRET}")),
        ("grpc", Reply(grpc.StatusCode.UNAUTHENTICATED, message=f"unknown api key {SECRET}")),
        ("grpc", Reply(grpc.StatusCode.UNAVAILABLE, message=f"wait, {SECRET}")),
        ("grpc", Reply(rejected=1, message=f"no quota for {SECRET}")),
    ],
)
def test_a_receiver_that_repeats_the_key(tmp_path, receiver, protocol, reply):
    """A receiver's own words are shown without the values of the headers that it was sent."""
    receiver.refuse = lambda spans: reply
    endpoint = receiver.grpc_endpoint if protocol == "grpc" else receiver.http_endpoint
    headers = {"OTEL_EXPORTER_OTLP_HEADERS": f"authorization=Bearer {SECRET}", "OTEL_EXPORTER_OTLP_PROTOCOL": protocol}
    done = otel_exec("doctor", "--timeout", "2", "--endpoint", endpoint, "--json", cwd=tmp_path, **headers)
    assert done.returncode == 1
    assert any("***" in each["said"] for each in json.loads(done.stdout)["checks"] if each["check"] != "variables")
    assert SECRET not in done.stdout + done.stderr


@pytest.mark.parametrize(("status", "kind"), [(401, "application/json"), (401, "text/plain"), (400, "application/json"), (503, "text/plain")])
def test_a_web_server_that_repeats_the_key(tmp_path, status, kind):
    """So are the words of an error over HTTP."""
    body = f'{{"message": "unknown api key {SECRET}"}}' if kind.endswith("json") else f"unknown api key {SECRET}"
    headers = {"OTEL_EXPORTER_OTLP_HEADERS": f"x-api-key={SECRET}", "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf"}
    with answering(whole(status, body, kind)) as port:
        done = otel_exec("doctor", "--timeout", "2", "--endpoint", f"http://127.0.0.1:{port}", "--json", cwd=tmp_path, **headers)
    assert "unknown api key ***" in done.stdout
    assert SECRET not in done.stdout + done.stderr
