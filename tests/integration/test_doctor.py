"""`otel-exec doctor` against real sockets: whatever is wrong, the sentence says so, and what helps."""

from __future__ import annotations

import http.server
import json
import threading
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest
from support.otlp_receiver import OtlpReceiver, Reply
from support.outside import otel_exec
from support.rotel_agent import free_port

TLS = Path(__file__).parents[1] / "support" / "tls"
QUICK = ("--timeout", "3", "--wait", "10")


def doctor(folder, *argv, **variables):
    """Run the command; returns its exit code and its findings, and holds what it prints for people against them."""
    done = otel_exec("doctor", *QUICK, "--json", *argv, cwd=folder, **variables)
    assert done.stderr == ""
    told = json.loads(done.stdout)
    assert told["well"] is (done.returncode == 0)
    return done.returncode, told["checks"]


def the_wrong_one(folder, *argv, **variables):
    """Return the only finding that is wrong: as text."""
    code, checks = doctor(folder, *argv, **variables)
    (wrong,) = [each for each in checks if each["verdict"] == "wrong"]
    assert code == 1
    assert wrong["to_do"]
    return f"{wrong['check']}: {wrong['said']}; {wrong['to_do']}"


@contextmanager
def serving(answer):
    """A web server; `answer(handler)` returns status, content type, body and more headers."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            self.rfile.read(int(self.headers.get("content-length", 0)))
            status, kind, body, headers = answer(self)
            self.send_response_only(status)
            for name, value in {"content-type": kind, "content-length": str(len(body)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def do_GET(self):
            self.do_POST()

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)


def jaeger_of(receiver, doubled=1):
    """A query API as Jaeger's, over what a receiver got."""

    def answer(handler):
        trace_id = handler.path.rpartition("/")[2]
        spans = [{"spanID": span.span_id} for span in list(receiver.spans) if span.trace_id == trace_id] * doubled
        body = {"data": [{"traceID": trace_id, "spans": spans}]} if spans else {"data": None, "errors": [{"code": 404, "msg": "trace not found"}]}
        return (200 if spans else 404), "application/json", json.dumps(body).encode(), {"Date": handler.date_time_string()}

    return answer


def newer_jaeger_of(receiver):
    """A query API as that of a Jaeger which has /api/v3 alone, over what a receiver got."""

    def answer(handler):
        if "/api/v3/traces/" not in handler.path:
            return 404, "text/plain", b"404 page not found\n", {}
        trace_id = handler.path.rpartition("/")[2]
        spans = [{"traceId": trace_id, "spanId": span.span_id} for span in list(receiver.spans) if span.trace_id == trace_id]
        body = {"result": {"resourceSpans": [{"scopeSpans": [{"spans": spans}]}]}} if spans else {"error": {"httpCode": 404, "message": "No traces found"}}
        return (200 if spans else 404), "application/json", json.dumps(body).encode(), {"Date": handler.date_time_string()}

    return answer


@pytest.fixture(scope="module")
def secure_receiver():
    with OtlpReceiver(tls=(TLS / "server.pem", TLS / "server.key")) as server:
        yield server


def test_no_endpoint(tmp_path):
    """Without an endpoint nothing is sent, and the variable is named."""
    assert "no endpoint is set" in (said := the_wrong_one(tmp_path))
    assert "OTEL_EXPORTER_OTLP_ENDPOINT" in said


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"OTEL_SDK_DISABLED": "true"}, "OTEL_SDK_DISABLED=true switches exporting off"),
        ({"OTEL_TRACES_EXPORTER": "none"}, "no endpoint is set"),
        ({"OTEL_TRACES_EXPORTER": "console"}, "prints spans and sends them nowhere"),
        ({"OTEL_TRACES_SAMPLER": "always_off"}, "the sampler always_off lets no trace out"),
        ({"OTEL_EXPORTER_OTLP_PROTOCOL": "gprc"}, "OTEL_EXPORTER_OTLP_PROTOCOL='gprc' can't be read; accepted: one of grpc"),
    ],
)
def test_settings_that_send_nothing(tmp_path, variables, said):
    """Each setting that keeps spans back is found before anything is tried."""
    assert said in the_wrong_one(tmp_path, OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:9", **variables)


def test_a_name_that_nobody_knows(tmp_path):
    """The name is said, and nothing after it is tried."""
    assert "name: the name 'collector.invalid' can't be resolved" in the_wrong_one(tmp_path, "--endpoint", "http://collector.invalid:4317")


@pytest.mark.parametrize("protocol", ["grpc", "http/protobuf"])
def test_nothing_listens(tmp_path, protocol):
    """A port that nobody has: host, port and how to start a receiver."""
    port = free_port()
    said = the_wrong_one(tmp_path, "--endpoint", f"http://localhost:{port}", OTEL_EXPORTER_OTLP_PROTOCOL=protocol)
    assert f"port: nothing listens on port {port} of localhost" in said
    assert "docker compose up -d" in said


@pytest.mark.parametrize("real", [False, True])
def test_grpc_is_spoken_to_an_http_port(tmp_path, receiver, rotel, real):
    """The port takes HTTP: both ways out are told, and the first of them helps."""
    endpoint = (rotel[0] if real else receiver).http_endpoint
    said = the_wrong_one(tmp_path, "--endpoint", endpoint, OTEL_EXPORTER_OTLP_PROTOCOL="grpc")
    assert "protocol: the port takes OTLP over HTTP (protobuf), and OTLP over gRPC is spoken to it" in said
    assert "OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf" in said
    assert "4317" in said
    assert doctor(tmp_path, "--endpoint", endpoint, OTEL_EXPORTER_OTLP_PROTOCOL="http/protobuf")[0] == 0


@pytest.mark.parametrize("real", [False, True])
def test_http_is_spoken_to_a_grpc_port(tmp_path, receiver, rotel, real):
    """The port takes gRPC: both ways out are told, and the first of them helps."""
    endpoint = (rotel[0] if real else receiver).grpc_endpoint
    said = the_wrong_one(tmp_path, "--endpoint", endpoint, OTEL_EXPORTER_OTLP_PROTOCOL="http/protobuf")
    assert "protocol: the port takes OTLP over gRPC, and OTLP over HTTP (protobuf) is spoken to it" in said
    assert "OTEL_EXPORTER_OTLP_PROTOCOL=grpc" in said
    assert "4318" in said
    assert doctor(tmp_path, "--endpoint", endpoint, OTEL_EXPORTER_OTLP_PROTOCOL="grpc")[0] == 0


@pytest.mark.parametrize("status", [200, 404, 405])
@pytest.mark.parametrize("protocol", ["grpc", "http/protobuf"])
def test_a_web_server(tmp_path, protocol, status):
    """What listens is a web server, whatever it answers and whatever was spoken to it."""
    with serving(lambda _: (status, "text/html", b"<html>hello</html>", {})) as address:
        said = the_wrong_one(tmp_path, "--endpoint", address, OTEL_EXPORTER_OTLP_PROTOCOL=protocol)
    assert "what listens there is" in said
    assert "no receiver of OTLP" in said
    assert ("answers with a web page" if status == 200 else f"answers {status}") in said


def test_a_path_where_nothing_is(tmp_path, receiver):
    """OTLP is taken at the usual path, and the address has another one."""
    said = the_wrong_one(tmp_path, OTEL_EXPORTER_OTLP_TRACES_ENDPOINT=f"{receiver.http_endpoint}/otlp")
    assert "OTLP is taken at the path /v1/traces, not at /otlp" in said
    assert f"set OTEL_EXPORTER_OTLP_TRACES_ENDPOINT to {receiver.http_endpoint}/v1/traces" in said


@pytest.mark.parametrize("protocol", ["grpc", "http/protobuf"])
def test_a_certificate_that_nobody_vouches_for(tmp_path, secure_receiver, protocol):
    """The certificate is not trusted, and the variable that helps is named; with it all is well."""
    port = secure_receiver.grpc_port if protocol == "grpc" else secure_receiver.http_port
    endpoint = f"https://127.0.0.1:{port}"
    said = the_wrong_one(tmp_path, "--endpoint", endpoint, OTEL_EXPORTER_OTLP_PROTOCOL=protocol)
    assert "TLS: the receiver's certificate is not trusted: self-signed certificate" in said
    assert "OTEL_EXPORTER_OTLP_CERTIFICATE" in said
    trusting = {"OTEL_EXPORTER_OTLP_PROTOCOL": protocol, "OTEL_EXPORTER_OTLP_CERTIFICATE": str(TLS / "server.pem")}
    code, checks = doctor(tmp_path, "--endpoint", endpoint, **trusting)
    assert code == 0
    assert [each["said"] for each in checks if each["check"] == "TLS"] == ["TLSv1.3, and the certificate is trusted"]


@pytest.mark.parametrize("protocol", ["grpc", "http/protobuf"])
def test_tls_and_plain_text_taken_for_each_other(tmp_path, receiver, secure_receiver, protocol):
    """https to plain text, and http to TLS: each says which scheme is right."""
    plain, secure = ((each.grpc_port if protocol == "grpc" else each.http_port) for each in (receiver, secure_receiver))
    variables = {"OTEL_EXPORTER_OTLP_PROTOCOL": protocol}
    assert "write http:// in the address" in the_wrong_one(tmp_path, "--endpoint", f"https://127.0.0.1:{plain}", **variables)
    said = the_wrong_one(tmp_path, "--endpoint", f"http://127.0.0.1:{secure}", **variables)
    assert "TLS: the receiver speaks TLS, and the address begins with http://" in said
    assert f"https://127.0.0.1:{secure}" in said


@pytest.mark.parametrize(
    ("protocol", "reply", "word"),
    [
        ("http/protobuf", Reply(401), "answers 401: the credentials are missing or wrong"),
        ("http/json", Reply(403), "answers 403"),
        ("grpc", Reply(grpc.StatusCode.UNAUTHENTICATED, message="no token"), "UNAUTHENTICATED (no token)"),
    ],
)
def test_credentials_that_are_refused(tmp_path, receiver, protocol, reply, word):
    """The refusal is told as one of credentials, with the names of the headers that were sent and never their values."""
    receiver.refuse = lambda spans: reply
    endpoint = receiver.grpc_endpoint if protocol == "grpc" else receiver.http_endpoint
    headers = {"OTEL_EXPORTER_OTLP_HEADERS": "x-api-key=hunter2", "OTEL_EXPORTER_OTLP_PROTOCOL": protocol}
    said = the_wrong_one(tmp_path, "--endpoint", endpoint, **headers)
    assert said.startswith("authentication: ")
    assert word in said
    assert "sent now: x-api-key" in said
    printed = otel_exec("doctor", "--endpoint", endpoint, cwd=tmp_path, **headers)
    assert "hunter2" not in printed.stdout + printed.stderr


def test_a_receiver_that_takes_no_span(tmp_path, receiver):
    """A receiver that reads requests and rejects the span in them is told by the test span."""
    receiver.refuse = lambda spans: Reply(rejected=1, message="quota") if spans else None
    code, checks = doctor(tmp_path, "--endpoint", receiver.grpc_endpoint)
    assert code == 1
    assert checks[-1]["check"] == "test span"
    assert "quota" in checks[-1]["said"]


@pytest.mark.parametrize("protocol", ["grpc", "http/protobuf", "http/json"])
def test_a_healthy_collector(tmp_path, rotel, protocol):
    """Through a real collector one span arrives, is found again at the query address, and clocks agree; text says the same as JSON."""
    agent, server = rotel
    endpoint = agent.grpc_endpoint if protocol == "grpc" else agent.http_endpoint
    variables = {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint, "OTEL_EXPORTER_OTLP_PROTOCOL": protocol}
    with serving(jaeger_of(server)) as query:
        code, checks = doctor(tmp_path, OTEL_EXEC_TRACE_URL=query + "/trace/{trace_id}", **variables)
        assert code == 0, checks
        assert [each["check"] for each in checks] == [
            *("versions", "variables", "settings", "name", "port", "protocol", "test span", "found again", "clock", "metrics"),
        ]
        assert {each["verdict"] for each in checks} == {"ok"}
        assert checks[-3]["said"].startswith("Jaeger has the span")
        (span,) = server.spans
        assert (span.name, span.resource["service.name"]) == ("otel-exec doctor", "otel-exec-doctor")
        printed = otel_exec("doctor", *QUICK, "--query", query, cwd=tmp_path, **variables)
    assert printed.returncode == 0
    assert printed.stdout.endswith("\nA trace would be seen.\n")
    assert all(f"  ok {each['check']}: " in printed.stdout for each in checks)


def test_a_jaeger_of_the_newer_api_alone(tmp_path, receiver):
    """The span is found at /api/v3 where /api/traces is gone."""
    with serving(newer_jaeger_of(receiver)) as query:
        code, checks = doctor(tmp_path, "--endpoint", receiver.grpc_endpoint, "--query", query)
    assert code == 0, checks
    assert next(each["said"] for each in checks if each["check"] == "found again").startswith("Jaeger has the span")


def test_a_span_that_is_not_found_again(tmp_path, receiver):
    """What was acknowledged and does not come out at the backend is wrong; so is a query address where no API is; twice is worth a note."""
    with OtlpReceiver() as empty, serving(jaeger_of(empty)) as query:
        said = the_wrong_one(tmp_path, "--endpoint", receiver.grpc_endpoint, "--query", query, "--wait", "0.2")
    assert f"was acknowledged and did not come to {query} within 0.2 s" in said
    with serving(lambda _: (200, "text/html", b"<html>", {})) as page:
        assert "answers with a web page" in the_wrong_one(tmp_path, "--endpoint", receiver.grpc_endpoint, "--query", page)
    nobody = f"http://127.0.0.1:{free_port()}"
    assert "nothing listens there" in the_wrong_one(tmp_path, "--endpoint", receiver.grpc_endpoint, "--query", nobody)
    with serving(jaeger_of(receiver, doubled=2)) as query:
        code, checks = doctor(tmp_path, "--endpoint", receiver.grpc_endpoint, "--query", query)
    assert code == 0
    assert "has the span 2 times" in next(each["said"] for each in checks if each["check"] == "found again")


def test_clocks_that_differ(tmp_path, receiver):
    """A clock that is years off is said to be so, in words; where the span was found all the same, it is no reason not to see a trace."""

    def late(handler):
        status, kind, body, _ = jaeger_of(receiver)(handler)
        return status, kind, body, {"Date": "Sat, 01 Jan 2000 00:00:00 GMT"}

    with serving(late) as query:
        code, checks = doctor(tmp_path, "--endpoint", receiver.grpc_endpoint, "--query", query)
    (clock,) = [each for each in checks if each["check"] == "clock"]
    assert (code, clock["verdict"]) == (0, "note")
    assert clock["said"].startswith("its clock is ")
    assert clock["said"].endswith(" days behind ours")


def test_a_receiver_of_spans_alone(tmp_path, receiver):
    """Where metrics are not taken it is noted, and nothing is wrong: spans go on without them."""
    with serving(lambda _: (404, "text/plain", b"", {})) as nowhere:
        code, checks = doctor(
            tmp_path,
            OTEL_EXPORTER_OTLP_ENDPOINT=receiver.http_endpoint,
            OTEL_EXPORTER_OTLP_PROTOCOL="http/protobuf",
            OTEL_EXPORTER_OTLP_METRICS_ENDPOINT=nowhere + "/v1/metrics",
        )
    assert code == 0
    (metrics,) = [each for each in checks if each["check"] == "metrics"]
    assert metrics["verdict"] == "note"
    assert "metrics are not taken" in metrics["said"]


def test_a_mistyped_variable(tmp_path, receiver):
    """A variable that nobody reads is noted with the one that was meant."""
    _, checks = doctor(tmp_path, OTEL_EXPORTER_OTLP_ENDPIONT=receiver.grpc_endpoint)
    assert [each["to_do"] for each in checks if each["verdict"] == "note"] == ["did you mean OTEL_EXPORTER_OTLP_ENDPOINT?"]
