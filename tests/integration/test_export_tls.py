"""TLS, by both transports, against a server with a certificate of its own."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest
from support.otlp_receiver import OtlpReceiver
from support.spool_lines import write_spool

from otel_exec.config import Endpoint
from otel_exec.spans.exporter import export_once

TLS = Path(__file__).parents[1] / "support" / "tls"


@pytest.fixture(scope="module")
def secure_receiver():
    with OtlpReceiver(tls=(TLS / "server.pem", TLS / "server.key")) as server:
        yield server


def endpoint_of(receiver, protocol, **more):
    if protocol == "grpc":
        # Not localhost: of several addresses gRPC names the last one's error, and nothing listens on ::1.
        return Endpoint(f"https://127.0.0.1:{receiver.grpc_port}", "grpc", **more)
    return Endpoint(f"https://localhost:{receiver.http_port}/v1/traces", protocol, **more)


@pytest.mark.parametrize("protocol", ["grpc", "http/protobuf"])
def test_a_trusted_server(secure_receiver, run_folder, protocol):
    """With the server's certificate as the trusted one spans arrive over TLS."""
    secure_receiver.clear()
    write_spool(run_folder, "driver", range(5))
    summary = export_once(str(run_folder), [endpoint_of(secure_receiver, protocol, certificate=str(TLS / "server.pem"))])
    assert summary.endpoints[0].acknowledged == 5
    assert len(secure_receiver.spans) == 5


@pytest.mark.parametrize("protocol", ["grpc", "http/protobuf"])
def test_a_server_that_is_not_trusted(secure_receiver, run_folder, protocol):
    """A server whose certificate nobody vouches for gets nothing, and the error says that TLS failed."""
    secure_receiver.clear()
    write_spool(run_folder, "driver", range(5))
    (entry,) = export_once(str(run_folder), [endpoint_of(secure_receiver, protocol)], patience_s=1.0).endpoints
    assert entry.waiting == 5
    assert "TLS failed" in entry.error
    assert secure_receiver.requests == []


@pytest.mark.parametrize("protocol", ["grpc", "http/protobuf"])
def test_tls_where_none_is_spoken(receiver, run_folder, protocol):
    """https to a server without TLS says so."""
    write_spool(run_folder, "driver", range(5))
    (entry,) = export_once(str(run_folder), [endpoint_of(receiver, protocol)], patience_s=1.0).endpoints
    assert "TLS" in entry.error
    assert "plain text" in entry.error


def test_the_certificate_is_in_date():
    """The tests' own certificate is not about to run out."""
    decoded = ssl._ssl._test_decode_cert(str(TLS / "server.pem"))
    assert int(decoded["notAfter"].split()[-2]) > 2100
