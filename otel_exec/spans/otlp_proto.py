"""OTLP/JSON lines as the official protobuf messages, and the few fields that are read from answers.

What comes in: checked lines. What goes out: an `ExportTraceServiceRequest`, or an `ExportMetricsServiceRequest`. `json_format` would take hex ids for base64 and is seven times slower.

Source: OTLP specification 1.5, "JSON Protobuf Encoding"; opentelemetry-proto; google/rpc/status.proto and error_details.proto.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest, ExportTraceServiceResponse
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from otel_exec.spans.otlp_proto_values import attributes_of, id_of, resource_of, scope_of
from otel_exec.spans.signal import Signal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from otel_exec.spans.otlp_json import ExportLine

__all__ = ["partial_success", "partial_success_of", "retry_delay_s", "status_message", "to_request"]

_decode = msgspec.json.Decoder().decode
_RETRY_INFO = "type.googleapis.com/google.rpc.RetryInfo"


def to_request(lines: Sequence[ExportLine]) -> Any:
    """Return one export request with all items of the lines (one or more, of one signal), grouped by resource and scope.

    Raises:
        ValueError: a line holds what the messages can't (an id that is not hex, a number past its range).
    """
    request: Any
    make: Callable[[dict[str, Any]], Any]
    if lines[0].signal is Signal.METRICS:
        from otel_exec.spans.otlp_proto_metrics import ExportMetricsServiceRequest, metric

        request, of_resource, of_scope, of_item, make = ExportMetricsServiceRequest(), "resource_metrics", "scope_metrics", "metrics", metric
    else:
        request, of_resource, of_scope, of_item, make = ExportTraceServiceRequest(), "resource_spans", "scope_spans", "spans", _span
    resources: dict[tuple[bytes, str], Any] = {}
    scopes: dict[tuple[bytes, str, bytes, str], Any] = {}
    try:
        for line in lines:
            for resource in line.resources:
                key = (bytes(resource.resource), resource.schemaUrl)
                group = resources.get(key)
                if group is None:
                    group = getattr(request, of_resource).add(resource=resource_of(_decode(resource.resource)), schema_url=resource.schemaUrl)
                    resources[key] = group
                for scope in resource.scopes:
                    scope_key = (*key, bytes(scope.scope), scope.schemaUrl)
                    scope_group = scopes.get(scope_key)
                    if scope_group is None:
                        scope_group = getattr(group, of_scope).add(scope=scope_of(_decode(scope.scope)), schema_url=scope.schemaUrl)
                        scopes[scope_key] = scope_group
                    getattr(scope_group, of_item).extend([make(_decode(each)) for each in scope.items])
    except (TypeError, KeyError, AttributeError, OverflowError, RecursionError, msgspec.DecodeError) as error:
        raise ValueError(f"not OTLP: {error}") from None
    return request


def partial_success(response: Any) -> tuple[int, str]:
    """Return how many items an export response says were rejected, and its message."""
    partial = response.partial_success
    rejected = partial.rejected_spans if isinstance(response, ExportTraceServiceResponse) else partial.rejected_data_points
    return max(rejected, 0), partial.error_message


def partial_success_of(signal: Signal, content: bytes) -> tuple[int, str]:
    """Return the same of a serialised response; raises what protobuf raises where it is none."""
    if signal is Signal.METRICS:
        from otel_exec.spans.otlp_proto_metrics import ExportMetricsServiceResponse

        return partial_success(ExportMetricsServiceResponse.FromString(content))
    return partial_success(ExportTraceServiceResponse.FromString(content))


def _span(span: dict[str, Any]) -> Any:
    message = Span(
        trace_id=id_of(span["traceId"], 16),
        span_id=id_of(span["spanId"], 8),
        parent_span_id=id_of(span.get("parentSpanId", ""), 8, may_be_empty=True),
        trace_state=span.get("traceState", ""),
        flags=span.get("flags", 0),
        name=span.get("name", ""),
        kind=span.get("kind", 0),
        start_time_unix_nano=int(span["startTimeUnixNano"]),
        end_time_unix_nano=int(span["endTimeUnixNano"]),
        attributes=attributes_of(span),
        dropped_attributes_count=span.get("droppedAttributesCount", 0),
        dropped_events_count=span.get("droppedEventsCount", 0),
        dropped_links_count=span.get("droppedLinksCount", 0),
    )
    if links := span.get("links"):
        message.links.extend([_link(link) for link in links])
    if events := span.get("events"):
        message.events.extend([_event(event) for event in events])
    if status := span.get("status"):
        message.status.CopyFrom(Status(code=status.get("code", 0), message=status.get("message", "")))
    return message


def _link(link: dict[str, Any]) -> Any:
    return Span.Link(
        trace_id=id_of(link["traceId"], 16),
        span_id=id_of(link["spanId"], 8),
        trace_state=link.get("traceState", ""),
        flags=link.get("flags", 0),
        attributes=attributes_of(link),
        dropped_attributes_count=link.get("droppedAttributesCount", 0),
    )


def _event(event: dict[str, Any]) -> Any:
    return Span.Event(
        time_unix_nano=int(event.get("timeUnixNano", 0)),
        name=event.get("name", ""),
        attributes=attributes_of(event),
        dropped_attributes_count=event.get("droppedAttributesCount", 0),
    )


def status_message(content: bytes) -> str:
    """Return the message of a serialised `google.rpc.Status`, "" when there is none."""
    return next((value.decode(errors="replace") for number, value in _fields(content) if number == 2 and isinstance(value, bytes)), "")


def retry_delay_s(content: bytes) -> float | None:
    """Return the delay of the `RetryInfo` in a serialised `google.rpc.Status`; `None` when it has none."""
    for number, detail in _fields(content):
        if number != 3 or not isinstance(detail, bytes):
            continue
        any_ = {key: value for key, value in _fields(detail) if isinstance(value, bytes)}
        if any_.get(1, b"").decode(errors="replace") == _RETRY_INFO:
            delays = [value for key, value in _fields(any_.get(2, b"")) if key == 1 and isinstance(value, bytes)]
            duration = {key: value for key, value in _fields(delays[0]) if isinstance(value, int)} if delays else {}
            return duration.get(1, 0) + duration.get(2, 0) / 1e9
    return None


def _fields(content: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Yield the varint and length-delimited fields of a serialised message; stops at what is not one."""
    position = 0
    try:
        while position < len(content):
            key, position = _varint(content, position)
            if key & 7 == 0:
                value, position = _varint(content, position)
                yield key >> 3, value
            elif key & 7 == 2:
                size, position = _varint(content, position)
                if position + size > len(content):
                    return
                yield key >> 3, content[position : position + size]
                position += size
            else:
                return
    except IndexError:
        return


def _varint(content: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = content[position]
        value |= (byte & 127) << shift
        position += 1
        if byte < 128:
            return value, position
        shift += 7
