"""An OTLP receiver for tests: HTTP (protobuf and JSON, gzip or not) and gRPC on loopback, decoded with the official messages.

What comes in: export requests. What goes out: `spans`, and scripted answers: what the next requests are answered with instead of success.
"""

from __future__ import annotations

import base64
import contextlib
import gzip
import http.server
import json
import socket
import ssl
import threading
import time
from collections import Counter, deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import grpc
from google.protobuf import json_format
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2 as metrics_service
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2_grpc as metrics_service_grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as trace_service
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc as trace_service_grpc


@dataclass(frozen=True)
class ReceivedSpan:
    """A span as it arrived. Ids are hex; times are integer nanoseconds; values are Python's own."""

    trace_id: str
    span_id: str
    parent_span_id: str
    name: str
    kind: int
    start_ns: int
    end_ns: int
    attributes: dict[str, Any]
    links: list[tuple[str, str, dict[str, Any]]]
    events: list[tuple[int, str, dict[str, Any]]]
    status: int
    status_message: str
    flags: int
    trace_state: str
    resource: dict[str, Any]
    scope: str


@dataclass(frozen=True)
class ReceivedPoint:
    """A data point of a metric as it arrived: `value` of sums; the rest of histograms. Exemplars are (time, value, span id, trace id)."""

    metric: str
    kind: str
    unit: str
    description: str
    temporality: int
    monotonic: bool | None
    attributes: dict[str, Any]
    start_ns: int
    at_ns: int
    value: int | None = None
    count: int = 0
    sum: float = 0.0
    min: float | None = None
    max: float | None = None
    buckets: tuple[int, ...] = ()
    bounds: tuple[float, ...] = ()
    exemplars: tuple[tuple[int, float, str, str], ...] = ()
    resource: dict[str, Any] = field(default_factory=dict)
    scope: str = ""


@dataclass
class Reply:
    """An answer other than success. `hold`: wait for this event first. `close`: hang up without an answer. `keep`: count the spans as received all the same."""

    status: int | grpc.StatusCode = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    content_type: str = "application/json"
    hold: threading.Event | None = None
    close: bool = False
    keep: bool = False
    rejected: int = 0
    message: str = ""
    metadata: tuple[tuple[str, bytes | str], ...] = ()

    @property
    def taken(self) -> bool:
        """Whether what was sent counts as received: it was answered as a receiver answers, which a page with status 200 is not."""
        return self.keep or (self.status == 200 and not self.close and not self.body)


@dataclass
class Request:
    """A request as it came: `spans` or `points` in it, its metadata (lower-case names), its size on the wire, when."""

    spans: list[ReceivedSpan]
    headers: dict[str, str]
    size: int
    at_s: float
    points: list[ReceivedPoint] = field(default_factory=list)


class OtlpReceiver:
    """Serves OTLP on `http_port` and `grpc_port` until `close`. Thread-safe.

    Args:
        http_port: 0 takes a free one.
        grpc_port: 0 takes a free one.
        tls: certificate and key; without them plain text.
        metrics: whether it has a service for metrics (Jaeger has none).
    """

    def __init__(self, http_port: int = 0, grpc_port: int = 0, tls: tuple[Path, Path] | None = None, *, metrics: bool = True) -> None:
        self.has_metrics = metrics
        self._changed = threading.Condition()
        self.requests: list[Request] = []
        self.spans: list[ReceivedSpan] = []
        self.script: deque[Reply] = deque()
        self.refuse: Any = None  # a function of the spans that returns a Reply, or None for success
        self.metric_requests: list[Request] = []
        self.points: list[ReceivedPoint] = []
        self.metric_script: deque[Reply] = deque()
        self.refuse_metrics: Any = None  # a function of the points that returns a Reply, or None for success
        self._http = _HttpServer(("127.0.0.1", http_port), self)
        self.http_port = self._http.server_address[1]
        if tls:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*tls)
            self._http.socket = context.wrap_socket(self._http.socket, server_side=True, do_handshake_on_connect=False)
        self._http_thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self._http_thread.start()
        self._grpc = grpc.server(ThreadPoolExecutor(4), options=(("grpc.so_reuseport", 0),))
        trace_service_grpc.add_TraceServiceServicer_to_server(_Servicer(self), self._grpc)
        if metrics:
            metrics_service_grpc.add_MetricsServiceServicer_to_server(_MetricsServicer(self), self._grpc)
        address = f"127.0.0.1:{grpc_port}"
        if tls:
            certificate, key = (path.read_bytes() for path in tls)
            self.grpc_port = self._grpc.add_secure_port(address, grpc.ssl_server_credentials([(key, certificate)]))
        else:
            self.grpc_port = self._grpc.add_insecure_port(address)
        self._grpc.start()

    @property
    def http_endpoint(self) -> str:
        return f"http://127.0.0.1:{self.http_port}"

    @property
    def grpc_endpoint(self) -> str:
        return f"http://127.0.0.1:{self.grpc_port}"

    def answer_next(self, *replies: Reply) -> None:
        """Answer the next requests so, one each."""
        with self._changed:
            self.script.extend(replies)

    def wait_for(self, condition: int | Any, timeout_s: float = 20.0) -> None:
        """Wait until so many spans are here, or the condition (a function of the receiver) holds."""
        holds = condition if callable(condition) else lambda receiver: len(receiver.spans) >= condition
        with self._changed:
            if not self._changed.wait_for(lambda: holds(self), timeout_s):
                raise AssertionError(f"not within {timeout_s} s: {len(self.spans)} spans in {len(self.requests)} requests")

    def counts(self) -> Counter[str]:
        """How often each span id arrived."""
        with self._changed:
            return Counter(span.span_id for span in self.spans)

    def clear(self) -> None:
        """Forget what arrived and what was scripted."""
        with self._changed:
            self.requests.clear()
            self.spans.clear()
            self.script.clear()
            self.refuse = None
            self.metric_requests.clear()
            self.points.clear()
            self.metric_script.clear()
            self.refuse_metrics = None

    def latest(self) -> dict[tuple[str, tuple[tuple[str, Any], ...]], ReceivedPoint]:
        """The newest point of each series, by metric and sorted attributes."""
        with self._changed:
            return {(point.metric, tuple(sorted(point.attributes.items()))): point for point in sorted(self.points, key=lambda point: point.at_ns)}

    def take_metrics(self, points: list[ReceivedPoint], headers: dict[str, str], size: int) -> Reply:
        """Note a request of metrics; returns how it is answered."""
        with self._changed:
            reply = self.metric_script.popleft() if self.metric_script else (self.refuse_metrics(points) if self.refuse_metrics else None) or Reply()
            self.metric_requests.append(Request([], headers, size, time.monotonic(), points))
            self._changed.notify_all()
        if reply.hold is not None:
            reply.hold.wait(60)
        with self._changed:
            if reply.taken:
                self.points.extend(points)
            self._changed.notify_all()
        return reply

    def take(self, spans: list[ReceivedSpan], headers: dict[str, str], size: int) -> Reply:
        """Note a request; returns how it is answered."""
        with self._changed:
            reply = self.script.popleft() if self.script else (self.refuse(spans) if self.refuse else None) or Reply()
            self.requests.append(Request(spans, headers, size, time.monotonic()))
            self._changed.notify_all()
        if reply.hold is not None:
            reply.hold.wait(60)
        with self._changed:
            if reply.taken:
                self.spans.extend(spans)
            self._changed.notify_all()
        return reply

    def close(self) -> None:
        """Stop serving; ports are free afterwards."""
        self._http.shutdown()
        self._http.server_close()
        self._http.hang_up()
        self._http_thread.join(5)
        self._grpc.stop(0).wait(5)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _HttpServer(http.server.ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self, address: tuple[str, int], receiver: OtlpReceiver) -> None:
        self.receiver = receiver
        self._connections: set[Any] = set()
        super().__init__(address, _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        self._connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._connections.discard(request)
        super().shutdown_request(request)

    def hang_up(self) -> None:
        """End the connections that clients keep open."""
        for connection in list(self._connections):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that hang up are part of the tests."""


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _HttpServer

    def log_message(self, *_: Any) -> None:
        pass

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        size = len(body)
        if self.headers.get("content-encoding") == "gzip":
            body = gzip.decompress(body)
        kind = self.headers.get("content-type", "")
        receiver = self.server.receiver
        path = self.path.partition("?")[0]
        metrics = path == "/v1/metrics" and receiver.has_metrics
        message = metrics_service.ExportMetricsServiceRequest if metrics else trace_service.ExportTraceServiceRequest
        try:
            if path != "/v1/traces" and not metrics:
                return self._send(404, b"", "text/plain", {})
            if kind == "application/json":
                request = parse_json(body, message())
            elif kind == "application/x-protobuf":
                request = message.FromString(body)
            else:
                return self._send(415, b"", "text/plain", {})
            items: list[Any] = decode_metrics(request) if metrics else decode(request)
        except Exception as error:
            return self._send(400, json.dumps({"code": 3, "message": f"bad request: {error}"}).encode(), "application/json", {})
        take = receiver.take_metrics if metrics else receiver.take
        reply = take(items, {name.lower(): value for name, value in self.headers.items()}, size)
        if reply.close:
            self.close_connection = True
            return None
        if reply.status == 200 and not reply.body:
            response = _response(reply, metrics=metrics)
            content = json_format.MessageToJson(response).encode() if kind == "application/json" else response.SerializeToString()
            return self._send(200, content, kind, reply.headers)
        return self._send(int(reply.status), reply.body, reply.content_type, reply.headers)

    def _send(self, status: int, body: bytes, kind: str, headers: dict[str, str]) -> None:
        self.send_response(status)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(body)))
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)


def _response(reply: Reply, *, metrics: bool) -> Any:
    response = metrics_service.ExportMetricsServiceResponse() if metrics else trace_service.ExportTraceServiceResponse()
    if reply.rejected or reply.message:
        setattr(response.partial_success, "rejected_data_points" if metrics else "rejected_spans", reply.rejected)
        response.partial_success.error_message = reply.message
    return response


class _Servicer(trace_service_grpc.TraceServiceServicer):
    def __init__(self, receiver: OtlpReceiver) -> None:
        self._receiver = receiver

    def Export(self, request: Any, context: Any) -> Any:
        reply = self._receiver.take(decode(request), _headers(context), request.ByteSize())
        _abort(reply, context)
        return _response(reply, metrics=False)


class _MetricsServicer(metrics_service_grpc.MetricsServiceServicer):
    def __init__(self, receiver: OtlpReceiver) -> None:
        self._receiver = receiver

    def Export(self, request: Any, context: Any) -> Any:
        reply = self._receiver.take_metrics(decode_metrics(request), _headers(context), request.ByteSize())
        _abort(reply, context)
        return _response(reply, metrics=True)


def _headers(context: Any) -> dict[str, str]:
    return {key: value if isinstance(value, str) else repr(value) for key, value in context.invocation_metadata()}


def _abort(reply: Reply, context: Any) -> None:
    if isinstance(reply.status, grpc.StatusCode):
        if reply.metadata:
            context.set_trailing_metadata(reply.metadata)
        context.abort(reply.status, reply.message)


def decode_json(body: bytes) -> list[ReceivedSpan]:
    """Decode spans in OTLP/JSON."""
    return decode(parse_json(body, trace_service.ExportTraceServiceRequest()))


def parse_json(body: bytes, message: Any) -> Any:
    """Parse OTLP/JSON strictly into a message: ids are hex there, where protobuf's own JSON form has base64; unknown fields and wrong types are errors."""
    document = json.loads(body.decode("utf-8"), parse_constant=_refuse_constant)

    def base64_ids(value: Any) -> None:
        if isinstance(value, dict):
            for name in ("traceId", "spanId", "parentSpanId"):
                if name in value:
                    value[name] = base64.b64encode(bytes.fromhex(value[name])).decode()
            for each in value.values():
                base64_ids(each)
        elif isinstance(value, list):
            for each in value:
                base64_ids(each)

    base64_ids(document)
    return json_format.ParseDict(document, message)


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def decode(request: Any) -> list[ReceivedSpan]:
    """Return a request's spans; ids of a wrong size are errors, as real receivers have it."""
    found = []
    for resource_spans in request.resource_spans:
        resource = _attributes(resource_spans.resource.attributes)
        for scope_spans in resource_spans.scope_spans:
            for span in scope_spans.spans:
                if len(span.trace_id) != 16 or len(span.span_id) != 8 or len(span.parent_span_id) not in (0, 8):
                    raise ValueError("an id of a wrong size")
                found.append(
                    ReceivedSpan(
                        trace_id=span.trace_id.hex(),
                        span_id=span.span_id.hex(),
                        parent_span_id=span.parent_span_id.hex(),
                        name=span.name,
                        kind=span.kind,
                        start_ns=span.start_time_unix_nano,
                        end_ns=span.end_time_unix_nano,
                        attributes=_attributes(span.attributes),
                        links=[(link.trace_id.hex(), link.span_id.hex(), _attributes(link.attributes)) for link in span.links],
                        events=[(event.time_unix_nano, event.name, _attributes(event.attributes)) for event in span.events],
                        status=span.status.code,
                        status_message=span.status.message,
                        flags=span.flags,
                        trace_state=span.trace_state,
                        resource=resource,
                        scope=scope_spans.scope.name,
                    )
                )
    return found


def decode_metrics(request: Any) -> list[ReceivedPoint]:
    """Return a request's data points; what can't be a sum or a histogram is an error, as are buckets that don't fit."""
    found = []
    for resource_metrics in request.resource_metrics:
        resource = _attributes(resource_metrics.resource.attributes)
        for scope_metrics in resource_metrics.scope_metrics:
            for metric in scope_metrics.metrics:
                kind = metric.WhichOneof("data")
                data = getattr(metric, kind)
                for point in data.data_points:
                    common = {
                        "metric": metric.name,
                        "kind": kind,
                        "unit": metric.unit,
                        "description": metric.description,
                        "temporality": data.aggregation_temporality,
                        "monotonic": data.is_monotonic if kind == "sum" else None,
                        "attributes": _attributes(point.attributes),
                        "start_ns": point.start_time_unix_nano,
                        "at_ns": point.time_unix_nano,
                        "resource": resource,
                        "scope": scope_metrics.scope.name,
                    }
                    found.append(ReceivedPoint(**common, **(_histogram(point) if kind == "histogram" else {"value": point.as_int})))
    return found


def _histogram(point: Any) -> dict[str, Any]:
    if len(point.bucket_counts) != len(point.explicit_bounds) + 1 or sum(point.bucket_counts) != point.count:
        raise ValueError("buckets that do not fit")
    exemplars = []
    for each in point.exemplars:
        if len(each.trace_id) != 16 or len(each.span_id) != 8:
            raise ValueError("an id of a wrong size")
        exemplars.append((each.time_unix_nano, each.as_double, each.span_id.hex(), each.trace_id.hex()))
    return {
        "count": point.count,
        "sum": point.sum,
        "min": point.min if point.HasField("min") else None,
        "max": point.max if point.HasField("max") else None,
        "buckets": tuple(point.bucket_counts),
        "bounds": tuple(point.explicit_bounds),
        "exemplars": tuple(exemplars),
    }


def _attributes(attributes: Any) -> dict[str, Any]:
    return {each.key: _value(each.value) for each in attributes}


def _value(value: Any) -> Any:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [_value(each) for each in value.array_value.values]
    if kind == "kvlist_value":
        return {each.key: _value(each.value) for each in value.kvlist_value.values}
    return getattr(value, kind) if kind else None
