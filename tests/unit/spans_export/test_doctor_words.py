"""What `otel-exec doctor` shows of variables, of receivers' words and of proxies."""

from __future__ import annotations

import pytest

from otel_exec.cli.doctor import _shown
from otel_exec.config_otel import Endpoint
from otel_exec.secrets import redact
from otel_exec.spans.find_again import _backend
from otel_exec.spans.proxies import grpc_proxy, http_proxy


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("x-api-key=hunter2", "x-api-key=***"),
        ("x-api-key=hunter2,tenant=one", "x-api-key=***,tenant=***"),
        ("Authorization: Bearer hunter2", "***"),
        ("Authorization: Basic aHVudGVyMg==", "***"),
        ("authorization=Basic a,hunter2", "authorization=***,***"),
        ("authorization=Basic a,aHVudGVyMg==", "authorization=***,***"),
        ("my secret hunter2=1", "***"),
    ],
)
def test_of_headers_only_names_are_shown(value, shown):
    """What is no header's name may be the rest of a secret, and is not shown."""
    assert _shown("OTEL_EXPORTER_OTLP_HEADERS", value) == shown


def test_the_password_of_a_proxy_is_not_shown():
    """Not in either spelling of the variable."""
    for name in ("HTTPS_PROXY", "https_proxy", "grpc_proxy"):
        assert _shown(name, "http://user:hunter2@proxy:3128") == "http://***@proxy:3128"


@pytest.mark.parametrize(
    ("value", "said", "shown"),
    [
        ("hunter2", "unknown api key hunter2", "unknown api key ***"),
        ("Bearer hunter2", "token hunter2 has expired", "token *** has expired"),
        ("Bearer hunter2", "got 'Bearer hunter2'", "got '***'"),
        ("Basic dXNlcjpodW50ZXIy", "wrong password hunter2 (dXNlcjpodW50ZXIy)", "wrong password *** (***)"),
        ("a", "a tenant called a, again", "*** tenant called ***, again"),
        ("hunter2", "nothing of it", "nothing of it"),
    ],
)
def test_a_receivers_words_hold_no_header(value, said, shown):
    """The value is hidden, whole and after its scheme, and what Basic stands for; short ones where they stand as a word."""
    assert redact(said, [value]) == shown
    assert Endpoint("http://localhost:4318/v1/traces", "http/protobuf", (("authorization", value),)).redact(said) == shown


@pytest.mark.parametrize(
    ("variables", "proxy"),
    [
        ({}, None),
        ({"HTTPS_PROXY": "http://upper:1", "HTTP_PROXY": "http://upper:1"}, None),
        ({"http_proxy": "http://c:1"}, "http://c:1"),
        ({"https_proxy": "http://b:1", "http_proxy": "http://c:1"}, "http://b:1"),
        ({"grpc_proxy": "http://a:1", "https_proxy": "http://b:1"}, "http://a:1"),
        ({"grpc_proxy": "http://a:1", "NO_PROXY": "collector.example"}, "http://a:1"),
        ({"grpc_proxy": "http://a:1", "no_proxy": "other, collector.example"}, None),
        ({"grpc_proxy": "http://a:1", "no_grpc_proxy": ".example"}, None),
        ({"grpc_proxy": "http://a:1", "no_grpc_proxy": "other", "no_proxy": "collector.example"}, "http://a:1"),
    ],
)
def test_the_proxy_of_grpc(variables, proxy):
    """gRPC reads three variables and two for exceptions, in lower case alone, whatever the scheme."""
    assert grpc_proxy("http://collector.example:4317", variables) == proxy


def test_networks_without_a_proxy():
    """An exception of gRPC may be a network."""
    variables = {"grpc_proxy": "http://a:1", "no_proxy": "10.0.0.0/8"}
    assert grpc_proxy("https://10.1.2.3:4317", variables) is None
    assert grpc_proxy("https://11.1.2.3:4317", variables) == "http://a:1"


def test_the_proxy_of_http(monkeypatch):
    """HTTP has that of its scheme, in either case."""
    for name in ("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HTTPS_PROXY", "http://b:1")
    assert http_proxy("http://collector.example/v1/traces") is None
    assert http_proxy("https://collector.example/v1/traces") == "http://b:1"
    monkeypatch.setenv("no_proxy", "collector.example")
    assert http_proxy("https://collector.example/v1/traces") is None


@pytest.mark.parametrize(
    ("content", "backend"),
    [
        ({"data": None, "errors": [{"code": 404}]}, "Jaeger"),
        ({"errors": [{"code": 404}]}, "Jaeger"),
        ({"batches": []}, "Tempo"),
        ({"trace": {}}, "Tempo"),
        ({"resourceSpans": []}, "Tempo"),
        ({"message": "Not found"}, ""),
        ([], ""),
        (None, ""),
    ],
)
def test_whose_answer_it_is(content, backend):
    """JSON alone makes no backend: its keys do."""
    assert _backend(content) == backend
