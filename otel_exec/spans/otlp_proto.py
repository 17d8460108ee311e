"""OTLP/JSON lines as the official protobuf messages, and the few fields that are read from answers.

What comes in: checked lines. What goes out: an `ExportTraceServiceRequest`. `json_format` would take hex ids for base64 and is seven times slower.

Source: OTLP specification 1.5, "JSON Protobuf Encoding"; opentelemetry-proto; google/rpc/status.proto and error_details.proto.
"""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any

import msgspec
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest, ExportTraceServiceResponse
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, ArrayValue, InstrumentationScope, KeyValue, KeyValueList
from opentelemetry.proto.resource.v1.resource_pb2 import Resource
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from otel_exec.spans.otlp_json import ExportLine

__all__ = ["ExportTraceServiceResponse", "retry_delay_s", "status_message", "to_request"]

_decode = msgspec.json.Decoder().decode
_RETRY_INFO = "type.googleapis.com/google.rpc.RetryInfo"


def to_request(lines: Sequence[ExportLine]) -> Any:
    """Return one `ExportTraceServiceRequest` with all spans of the lines, grouped by resource and scope.

    Raises:
        ValueError: a line holds what the messages can't (an id that is not hex, a number past its range).
    """
    request = ExportTraceServiceRequest()
    resources: dict[tuple[bytes, str], Any] = {}
    scopes: dict[tuple[bytes, str, bytes, str], Any] = {}
    try:
        for line in lines:
            for resource in line.resourceSpans:
                of_resource = (bytes(resource.resource), resource.schemaUrl)
                resource_spans = resources.get(of_resource)
                if resource_spans is None:
                    resource_spans = request.resource_spans.add(resource=_resource(_decode(resource.resource)), schema_url=resource.schemaUrl)
                    resources[of_resource] = resource_spans
                for scope in resource.scopeSpans:
                    of_scope = (*of_resource, bytes(scope.scope), scope.schemaUrl)
                    scope_spans = scopes.get(of_scope)
                    if scope_spans is None:
                        scope_spans = resource_spans.scope_spans.add(scope=_scope(_decode(scope.scope)), schema_url=scope.schemaUrl)
                        scopes[of_scope] = scope_spans
                    scope_spans.spans.extend([_span(_decode(span)) for span in scope.spans])
    except (TypeError, KeyError, AttributeError, OverflowError, RecursionError, msgspec.DecodeError) as error:
        raise ValueError(f"not OTLP: {error}") from None
    return request


def _span(span: dict[str, Any]) -> Any:
    message = Span(
        trace_id=_id(span["traceId"], 16),
        span_id=_id(span["spanId"], 8),
        parent_span_id=_id(span.get("parentSpanId", ""), 8, may_be_empty=True),
        trace_state=span.get("traceState", ""),
        flags=span.get("flags", 0),
        name=span.get("name", ""),
        kind=span.get("kind", 0),
        start_time_unix_nano=int(span["startTimeUnixNano"]),
        end_time_unix_nano=int(span["endTimeUnixNano"]),
        attributes=_attributes(span),
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
        trace_id=_id(link["traceId"], 16),
        span_id=_id(link["spanId"], 8),
        trace_state=link.get("traceState", ""),
        flags=link.get("flags", 0),
        attributes=_attributes(link),
        dropped_attributes_count=link.get("droppedAttributesCount", 0),
    )


def _event(event: dict[str, Any]) -> Any:
    return Span.Event(
        time_unix_nano=int(event.get("timeUnixNano", 0)),
        name=event.get("name", ""),
        attributes=_attributes(event),
        dropped_attributes_count=event.get("droppedAttributesCount", 0),
    )


def _resource(resource: dict[str, Any]) -> Any:
    return Resource(attributes=_attributes(resource), dropped_attributes_count=resource.get("droppedAttributesCount", 0))


def _scope(scope: dict[str, Any]) -> Any:
    return InstrumentationScope(
        name=scope.get("name", ""),
        version=scope.get("version", ""),
        attributes=_attributes(scope),
        dropped_attributes_count=scope.get("droppedAttributesCount", 0),
    )


def _attributes(of: dict[str, Any]) -> list[Any]:
    return [KeyValue(key=each["key"], value=_value(each.get("value") or {})) for each in of.get("attributes", ())]


def _value(value: dict[str, Any]) -> Any:
    for kind, content in value.items():
        if kind == "stringValue":
            return AnyValue(string_value=content)
        if kind == "intValue":
            return AnyValue(int_value=int(content))
        if kind == "boolValue":
            return AnyValue(bool_value=content)
        if kind == "doubleValue":
            return AnyValue(double_value=float(content))
        if kind == "arrayValue":
            return AnyValue(array_value=ArrayValue(values=[_value(each) for each in content.get("values", ())]))
        if kind == "kvlistValue":
            return AnyValue(kvlist_value=KeyValueList(values=[KeyValue(key=each["key"], value=_value(each["value"])) for each in content.get("values", ())]))
        if kind == "bytesValue":
            return AnyValue(bytes_value=base64.b64decode(content))
    return AnyValue()


def _id(text: str, size: int, *, may_be_empty: bool = False) -> bytes:
    identity = bytes.fromhex(text)
    if len(identity) != size and not (may_be_empty and not identity):
        raise ValueError(f"{text!r} is not an id of {size} bytes")
    return identity


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
