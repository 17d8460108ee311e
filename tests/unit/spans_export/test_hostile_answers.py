"""What receivers and the environment say that nobody should say."""

from __future__ import annotations

import pytest

from otel_exec.config_otel import Endpoint, read_otel
from otel_exec.errors import ConfigError
from otel_exec.secrets import MASK
from otel_exec.spans import diagnose, find_again, transport_http
from otel_exec.spans.signal import Signal
from otel_exec.spans.transport import Answer

URL = "http://127.0.0.1:4318/v1/traces"
NOT_UTF8 = b'{"message":"caf\xe9"}'
DEEP = b"[" * 60_000


def transport(monkeypatch, **environment):
    for name in ("http_proxy", "HTTP_PROXY", "no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    return transport_http.HttpTransport(Endpoint(URL, "http/protobuf"))


@pytest.mark.parametrize("body", [NOT_UTF8, DEEP])
@pytest.mark.parametrize("status", [400, 401, 503])
def test_json_that_is_none_hides_no_status(monkeypatch, body, status):
    """An error whose body can't be read is still the receiver's error, with its status in the reason."""
    answer = transport(monkeypatch)._answer(Signal.TRACES, status, {"content-type": "application/json"}, body)
    assert f"answers {status}" in answer.reason


@pytest.mark.parametrize("body", [b'{"data":"\xff"}', DEEP])
def test_a_backend_that_answers_nonsense_is_none(body):
    """A query's answer that can't be read is an answer of nobody we know."""
    found = find_again._judge("there", find_again._Reply(200, "", body, 0.0, 0.0), "a" * 16)
    assert (found.spans, found.backend) == (0, "")
    assert "a web page" in found.reason


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("12", 12.0), ("9" * 400, 86_400.0), ("Fri, 27 Nov 2026 00:00:00 +99999999999999999", None), ("Fri, 27 Nov 9999 00:00:00 GMT", 86_400.0), ("soon", None)],
)
def test_a_pause_that_is_asked_for_is_a_day_at_most(text, seconds):
    """Whatever number or date stands in Retry-After."""
    assert transport_http._retry_after_s(text) == seconds


def test_a_clock_beyond_all_time_is_none():
    """A `Date` that no clock has tells nothing."""
    assert find_again._clock("Fri, 27 Nov 99999999999 00:00:00 GMT", 0.0, 1.0) is None


def test_a_proxy_without_a_scheme_is_one_of_http(monkeypatch):
    """As curl reads it; user and password in its address are sent to it."""
    made = transport(monkeypatch, http_proxy="user:pass%20word@localhost:3128")
    assert made._pool.proxy.url == "http://user:pass%20word@localhost:3128"
    assert made._pool.proxy_headers["proxy-authorization"].startswith("Basic ")


def test_a_proxy_that_is_none_is_said_in_a_sentence(monkeypatch):
    """It refuses what is sent, without secrets in the reason; nothing is raised."""
    answer = transport(monkeypatch, http_proxy="socks5://user:hunter2-secret@localhost:1080").send([])
    assert answer.verdict == "refused"
    assert answer.reason == f"{URL}: the proxy socks5://{MASK}@localhost:1080 of the environment is no http:// or https:// address"


@pytest.mark.parametrize("headers", ["trace-bin=x", "x!y=v"])
def test_headers_that_grpc_does_not_send_are_refused_before_the_run(headers):
    """Over HTTP they are taken."""
    environ = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://localhost:4317", "OTEL_EXPORTER_OTLP_HEADERS": headers}
    with pytest.raises(ConfigError, match="OTEL_EXPORTER_OTLP_HEADERS"):
        read_otel(environ)
    assert read_otel({**environ, "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf"}).traces


def test_an_address_with_bytes_of_no_encoding_is_refused():
    """The environment may hold any bytes."""
    with pytest.raises(ConfigError, match="OTEL_EXPORTER_OTLP_ENDPOINT"):
        read_otel({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://u:p\udcff@127.0.0.1:4317"})


def test_a_pasted_key_is_not_repeated():
    """A key in place of its path is a secret that the sentence leaves out."""
    with pytest.raises(ConfigError) as refused:
        read_otel(
            {"OTEL_EXPORTER_OTLP_ENDPOINT": "https://a:1", "OTEL_EXPORTER_OTLP_CLIENT_KEY": "-----BEGIN PRIVATE KEY-----\nMIIEvQ\n-----END PRIVATE KEY-----"}
        )
    assert refused.value.value == MASK
    assert "MIIEvQ" not in str(refused.value)


def test_the_rest_of_a_secret_is_no_header_name():
    """A comma in a value makes a name of what follows it."""
    assert Endpoint(URL, "grpc", headers=(("authorization", "Basic a"), ("c2vjcmv0", "="))).header_names == ("authorization", MASK)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (Answer("again", "x answers 503 (queue is full)"), "asks to be left alone"),
        (Answer("again", "x answers 429"), "asks to be left alone"),
        (Answer("again", "x answers RESOURCE_EXHAUSTED"), "asks to be left alone"),
        (Answer("refused", "x answers 500"), "a fault of its own"),
        (Answer("again", "x: TLS failed (CERTIFICATE_VERIFY_FAILED)"), "TLS failed"),
        (Answer("again", "x: TLS failed (TLSV13_ALERT_CERTIFICATE_REQUIRED)"), "wants a certificate of its client"),
    ],
)
def test_what_another_address_would_not_mend(answer, said):
    """A receiver that is busy or broken, and TLS, are not called a wrong address."""
    finding = diagnose._not_the_address(answer, "grpc")
    assert finding is not None
    assert said in finding.said


@pytest.mark.parametrize(
    "reason",
    [
        "x answers 404",
        "x: connection refused: nothing listens there",
        "x: what answers there does not speak HTTP/1.1: is it the gRPC port (usually 4317)?",
        "x: what answers there does not speak gRPC: is it the HTTP port (usually 4318)?",
    ],
)
@pytest.mark.parametrize("verdict", ["again", "refused"])
def test_a_wrong_address_is_not_the_receivers_fault(verdict, reason):
    """What answers with 404, in another language, or not at all, may well be something else."""
    assert diagnose._not_the_address(Answer(verdict, reason), "http/protobuf") is None


def test_over_http_tls_is_not_a_matter_of_the_roots_of_grpc():
    """Where TLS fails after a handshake that went well, only gRPC has authorities of its own."""
    finding = diagnose._not_the_address(Answer("again", "x: TLS failed (EOF occurred)"), "http/protobuf")
    assert finding is not None
    assert finding.check == "TLS"
    assert "gRPC" not in finding.to_do


@pytest.mark.parametrize("protocol", ["grpc", "http/protobuf"])
@pytest.mark.parametrize("name", ["a%0A", "trace-bin%0A"])
def test_a_header_name_that_ends_a_line_is_refused_before_the_run(protocol, name):
    """A name whose last character is a line feed is no name: neither gRPC nor HTTP sends it."""
    with pytest.raises(ConfigError, match="OTEL_EXPORTER_OTLP_HEADERS"):
        read_otel(
            {
                "OTEL_EXPORTER_OTLP_ENDPOINT": "http://localhost:4317",
                "OTEL_EXPORTER_OTLP_PROTOCOL": protocol,
                "OTEL_EXPORTER_OTLP_HEADERS": f"{name}=v",
            }
        )
