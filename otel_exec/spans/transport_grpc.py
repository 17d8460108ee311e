"""OTLP over gRPC, with the official messages and stub.

What comes in: lines. What goes out: one `Export` call, and what its answer means. Retries are not gRPC's: the caller decides.

Source: OTLP specification 1.5, "OTLP/gRPC"; grpc channel arguments.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # before the import: what goes wrong is said by answers, not by a library's log

import grpc
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2_grpc import MetricsServiceStub
from opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc import TraceServiceStub

from otel_exec.spans.otlp_proto import partial_success, retry_delay_s, to_request
from otel_exec.spans.signal import Signal
from otel_exec.spans.transport import USER_AGENT, Answer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from otel_exec.config import Endpoint
    from otel_exec.spans.otlp_json import ExportLine

__all__ = ["GrpcTransport"]

_AGAIN = (
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.ABORTED,
    grpc.StatusCode.OUT_OF_RANGE,
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DATA_LOSS,
)
_OPTIONS = (
    ("grpc.primary_user_agent", USER_AGENT),
    ("grpc.enable_retries", 0),
    # A collector that comes back is found within a second, not within gRPC's two minutes.
    ("grpc.initial_reconnect_backoff_ms", 100),
    # Not less time between two attempts, as the name says, but what a connection may take.
    ("grpc.min_reconnect_backoff_ms", 10_000),
    ("grpc.max_reconnect_backoff_ms", 1000),
)


class GrpcTransport:
    """One endpoint over gRPC."""

    def __init__(self, endpoint: Endpoint) -> None:
        parts = urlsplit(endpoint.url)
        target = parts.netloc if parts.port else f"{parts.netloc}:{443 if parts.scheme == 'https' else 80}"
        self._shown = endpoint.shown
        self._redact = endpoint.redact
        self._timeout_s = endpoint.timeout_s
        self._metadata = endpoint.headers or None
        self._compression = grpc.Compression.Gzip if endpoint.compression == "gzip" else grpc.Compression.NoCompression
        if parts.scheme == "https":
            credentials = grpc.ssl_channel_credentials(_read(endpoint.certificate), _read(endpoint.client_key), _read(endpoint.client_certificate))
            self._channel = grpc.secure_channel(target, credentials, options=_OPTIONS)
        else:
            self._channel = grpc.insecure_channel(target, options=_OPTIONS)
        self._export = {
            Signal.TRACES: TraceServiceStub(self._channel).Export,  # type: ignore[no-untyped-call]  # generated without types
            Signal.METRICS: MetricsServiceStub(self._channel).Export,  # type: ignore[no-untyped-call]  # generated without types
        }

    def send(self, lines: Sequence[ExportLine]) -> Answer:
        """See `Transport`."""
        request = to_request(lines)
        try:
            response = self._export[lines[0].signal](request, timeout=self._timeout_s or None, metadata=self._metadata, compression=self._compression)
        except grpc.RpcError as error:
            return self._answer(error)
        except (TypeError, ValueError) as error:  # what gRPC refuses to send at all
            return Answer("refused", f"{self._shown}: gRPC can't send this ({self._redact(str(error))[:200]})")
        rejected, message = partial_success(response)
        return Answer("accepted", f"{self._shown}: {self._redact(message)}" if message else "", rejected)

    def close(self) -> None:
        """See `Transport`."""
        self._channel.close()

    def _answer(self, error: Any) -> Answer:
        code = error.code()
        detail = " ".join(self._redact(str(error.details() or "")).split())
        said = f"{self._shown} answers {code.name}{f' ({detail[:200]})' if detail else ''}"
        if code is grpc.StatusCode.INVALID_ARGUMENT:
            return Answer("content", said)
        delay_s = _delay_s(error.trailing_metadata())
        if code is grpc.StatusCode.RESOURCE_EXHAUSTED:
            if delay_s is not None:
                return Answer("again", said, retry_after_s=delay_s)
            return Answer("content" if "larger than max" in detail else "refused", said)
        if code in _AGAIN:
            return Answer("again", f"{self._shown}: {_sentence(code, detail, self._timeout_s)}", retry_after_s=delay_s)
        return Answer("refused", said, absent=code is grpc.StatusCode.UNIMPLEMENTED)


def _sentence(code: Any, detail: str, timeout_s: float) -> str:
    """Return in one sentence why a call did not get through."""
    lower = detail.lower()
    if "connection refused" in lower:
        return "connection refused: nothing listens there"
    if "errors resolving" in lower or "dns resolution failed" in lower:
        return "the host's name can't be resolved"
    if "failed parsing http/2" in lower:
        return "what answers there does not speak gRPC: is it the HTTP port (usually 4318)?"
    if "wrong_version_number" in lower:
        return "TLS is not spoken there; for plain text write http:// in the address"
    if "handshake failed" in lower:
        return f"TLS failed ({detail[-200:]})"
    if "timed out" in lower:
        return "no connection within 10 s"
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return f"no answer within {timeout_s:g} s"
    return f"{code.name}: {detail[:200]}"


def _delay_s(metadata: Any) -> float | None:
    """Return the delay that a status's `RetryInfo` asks for, seconds."""
    for key, value in metadata or ():
        if key == "grpc-status-details-bin":
            return retry_delay_s(value)
    return None


def _read(path: str | None) -> bytes | None:
    if path is None:
        return None
    with open(path, "rb") as file:
        return file.read()
