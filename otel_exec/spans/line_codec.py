"""A span as one line of OTLP/JSON, and back.

What comes in: `SpanRecord`s and a resource's attributes. What goes out: lines, each a whole `ExportTraceServiceRequest` with one span, newline-terminated,
as the OpenTelemetry file exporter writes them. Touches no file and imports no OpenTelemetry.

Source: OTLP 1.5, "JSON Protobuf Encoding" (hex ids, 64-bit integers as strings, enums as numbers); OTLP file exporter, 1.5.
"""

from __future__ import annotations

from json.encoder import encode_basestring as _quoted
from typing import TYPE_CHECKING, Any

import msgspec

from otel_exec.semconv import EXEC_EDGE, EXEC_KIND
from otel_exec.spans import sanitise
from otel_exec.spans.span_record import SpanLink, SpanRecord

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from otel_exec.spans.span_record import AttributeValue

__all__ = ["LineEncoder", "decode", "encode_attributes", "to_bytes"]

_HAS_IS_REMOTE = 0x100  # SpanFlags: bit 8 says that bit 9 (the parent is remote) means something.
_KEPT_FLAGS = 0x2FF
_MAX_INT = (1 << 63) - 1
_MIN_INT = -(1 << 63)
_MAX_KEYS = 4096
_MAX_KEPT = 512

_NO_VALUE = object()
# Of each key: the text before its value, the last value (immutable), and its whole text.
_last: dict[str, tuple[str, object, str]] = {}


class LineEncoder:
    """Encodes the spans of one resource. Safe to share between threads."""

    def __init__(self, resource: Mapping[str, AttributeValue]) -> None:
        attributes = encode_attributes(sanitise.attributes(resource, count_limit=1024))
        self._head = f'{{"resourceSpans":[{{"resource":{{"attributes":[{attributes}]}},"scopeSpans":[{{"scope":{{"name":'
        self._prefixes: dict[str, str] = {}

    def encode(self, records: Iterable[SpanRecord]) -> bytes:
        """Return the records' lines. What a receiver would refuse is cleaned on the way, so this never fails for what a record holds."""
        prefixes = self._prefixes
        lines: list[str] = []
        for record in records:
            prefix = prefixes.get(record.scope)
            if prefix is None:
                prefix = self._prefix(record.scope)
            lines.append(f"{prefix}{_span(record)}]}}]}}]}}\n")
        return to_bytes("".join(lines))

    def _prefix(self, scope: str) -> str:
        prefix = f'{self._head}{_quoted(sanitise.name(scope))}}},"spans":['
        if len(self._prefixes) >= _MAX_KEYS:
            self._prefixes.clear()
        self._prefixes[scope] = prefix
        return prefix


def to_bytes(text: str) -> bytes:
    """Return lines in UTF-8. A lone surrogate stands for itself in the text, so replacing it there mends the line."""
    try:
        return text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace").encode()


def _span(record: SpanRecord) -> str:
    attributes = encode_attributes(record.attributes)
    if record.kind:
        kind = f'{{"key":"{EXEC_KIND}","value":{{"stringValue":{_quoted(record.kind)}}}}}'
        attributes = f"{kind},{attributes}" if attributes else kind
    state = f'"traceState":{_quoted(record.trace_state)},' if record.trace_state else ""
    parent = f'"parentSpanId":"{record.parent_span_id}",' if record.parent_span_id else ""
    tail = ""
    if record.events:
        events = ",".join(
            f'{{"timeUnixNano":"{at_ns}","name":{_quoted(name)},"attributes":[{encode_attributes(values)}]}}' for at_ns, name, values in record.events
        )
        tail = f',"events":[{events}]'
    if record.links:
        tail = f'{tail},"links":[{",".join(map(_link, record.links))}]'
    if record.status or record.status_message:
        message = f'"message":{_quoted(record.status_message)},' if record.status_message else ""
        tail = f'{tail},"status":{{{message}"code":{record.status}}}'
    return (
        f'{{"traceId":"{record.trace_id}","spanId":"{record.span_id}",{state}{parent}"flags":{record.flags & _KEPT_FLAGS | _HAS_IS_REMOTE},'
        f'"name":{_quoted(record.name)},"kind":{record.span_kind},"startTimeUnixNano":"{record.start_ns}","endTimeUnixNano":"{record.end_ns}",'
        f'"attributes":[{attributes}]{tail}}}'
    )


def _link(link: SpanLink) -> str:
    attributes = encode_attributes(link.attributes) if link.attributes else ""
    if link.edge:
        edge = f'{{"key":"{EXEC_EDGE}","value":{{"stringValue":{_quoted(link.edge)}}}}}'
        attributes = f"{edge},{attributes}" if attributes else edge
    return f'{{"traceId":"{link.trace_id}","spanId":"{link.span_id}","attributes":[{attributes}]}}'


def encode_attributes(values: Mapping[str, AttributeValue]) -> str:
    """Return the inside of a list of attributes; what a receiver would refuse is cleaned or left out."""
    # The hot path of every span. Strings joined once beat msgspec structs and dictionaries (measured for eight attributes: 1.4, 1.9 and 2.0 us);
    # most attributes of a task's spans are the same objects each time, so the last text of each key is kept and found again by identity.
    parts: list[str] = []
    last = _last
    for key, value in values.items():
        known = last.get(key)
        if known is None:
            known = (_head_of(key), _NO_VALUE, "")
        elif known[1] is value:
            parts.append(known[2])
            continue
        head = known[0]
        kind = type(value)
        if kind is str:
            text = f'{head}"stringValue":{_quoted(value)}}}}}'  # type: ignore[arg-type]  # mypy does not narrow by `type() is`
        elif kind is bool:
            text = f'{head}"boolValue":{"true" if value else "false"}}}}}'
        elif kind is int and _MIN_INT <= value <= _MAX_INT:  # type: ignore[operator]  # as above
            text = f'{head}"intValue":"{value}"}}}}'
        else:
            clean = _any_value(sanitise.attribute(value))
            if clean is not None:
                parts.append(f"{head}{clean}}}}}")
            continue
        parts.append(text)
        if len(text) <= _MAX_KEPT:
            last[key] = (head, value, text)
    return ",".join(parts)


def _any_value(value: AttributeValue | None) -> str | None:
    """Return the inside of an `AnyValue` of a clean value: `"intValue":"1"`."""
    if value is None:
        return None
    if isinstance(value, str):
        return f'"stringValue":{_quoted(value)}'
    if isinstance(value, bool):
        return f'"boolValue":{"true" if value else "false"}'
    if isinstance(value, int):
        return f'"intValue":"{value}"'
    if isinstance(value, float):
        return f'"doubleValue":{value!r}'
    items = ",".join(f"{{{_any_value(item)}}}" for item in value)
    return f'"arrayValue":{{"values":[{items}]}}'


def _head_of(key: str) -> str:
    head = f'{{"key":{_quoted(sanitise.text(key, sanitise.MAX_KEY))},"value":{{'
    if len(_last) >= _MAX_KEYS:  # keys are few; a user who makes them up endlessly must not grow us
        _last.clear()
    _last[key] = (head, _NO_VALUE, "")
    return head


class _AnyValue(msgspec.Struct, rename="camel"):
    string_value: str | None = None
    int_value: str | int | None = None
    bool_value: bool | None = None
    double_value: float | str | None = None
    array_value: _ArrayValue | None = None
    bytes_value: str | None = None


class _ArrayValue(msgspec.Struct):
    values: list[_AnyValue] = []


class _KeyValue(msgspec.Struct):
    key: str
    value: _AnyValue = msgspec.field(default_factory=_AnyValue)


class _Event(msgspec.Struct, rename="camel"):
    time_unix_nano: str | int = "0"
    name: str = ""
    attributes: list[_KeyValue] = []


class _Link(msgspec.Struct, rename="camel"):
    trace_id: str
    span_id: str
    attributes: list[_KeyValue] = []


class _Status(msgspec.Struct):
    code: int = 0
    message: str = ""


class _Span(msgspec.Struct, rename="camel"):
    trace_id: str
    span_id: str
    name: str = ""
    start_time_unix_nano: str | int = "0"
    end_time_unix_nano: str | int = "0"
    parent_span_id: str = ""
    flags: int = 0
    kind: int = 1
    attributes: list[_KeyValue] = []
    events: list[_Event] = []
    links: list[_Link] = []
    status: _Status | None = None
    trace_state: str = ""


class _Scope(msgspec.Struct):
    name: str = ""


class _ScopeSpans(msgspec.Struct):
    scope: _Scope | None = None
    spans: list[_Span] = []


class _ResourceSpans(msgspec.Struct, rename="camel"):
    scope_spans: list[_ScopeSpans] = []


class _Request(msgspec.Struct, rename="camel"):
    resource_spans: list[_ResourceSpans]


_parse: Callable[[bytes], _Request] = msgspec.json.Decoder(_Request).decode


def decode(line: bytes) -> list[SpanRecord]:
    """Return the spans of one request.

    Raises:
        ValueError: the line is not an export request (torn, foreign, not JSON).
    """
    # msgspec's own errors are ValueErrors.
    try:
        request = _parse(line)
    except RecursionError as error:
        raise ValueError(str(error)) from None
    return [
        _record(span, group.scope.name if group.scope is not None else "")
        for resource in request.resource_spans
        for group in resource.scope_spans
        for span in group.spans
    ]


def _instant(value: str | int) -> int:
    """Return an instant; raises `ValueError` for what OTLP can't hold and no clock tells: arithmetic with it would fail anywhere."""
    at_ns = int(value)
    if not 0 <= at_ns <= _MAX_INT:
        raise ValueError("an instant out of range")
    return at_ns


def _record(span: _Span, scope: str) -> SpanRecord:
    attributes = _values(span.attributes)
    kind = attributes.pop(EXEC_KIND, "")
    status = span.status
    return SpanRecord(
        span.trace_id,
        span.span_id,
        span.parent_span_id,
        span.name,
        kind if isinstance(kind, str) else "",
        _instant(span.start_time_unix_nano),
        _instant(span.end_time_unix_nano),
        attributes,
        tuple(map(_link_of, span.links)) if span.links else (),
        status.code if status is not None else 0,
        status.message if status is not None else "",
        span.kind,
        tuple((_instant(event.time_unix_nano), event.name, _values(event.attributes)) for event in span.events) if span.events else (),
        scope,
        span.flags & _KEPT_FLAGS,
        span.trace_state,
    )


def _link_of(link: _Link) -> SpanLink:
    attributes = _values(link.attributes)
    edge = attributes.pop(EXEC_EDGE, "")
    return SpanLink(link.trace_id, link.span_id, edge if isinstance(edge, str) else "", attributes)


def _values(pairs: list[_KeyValue]) -> dict[str, AttributeValue]:
    values: dict[str, AttributeValue] = {}
    for pair in pairs:
        value = pair.value
        plain: Any = value.string_value
        if plain is None:
            plain = _other(value)
            if plain is None:
                continue
        values[pair.key] = plain
    return values


def _other(value: _AnyValue) -> Any:
    if value.int_value is not None:
        whole = int(value.int_value)
        return whole if _MIN_INT <= whole <= _MAX_INT else None
    if value.bool_value is not None:
        return value.bool_value
    if value.double_value is not None:
        return value.double_value if isinstance(value.double_value, str) else float(value.double_value)
    if value.array_value is not None:
        items = [item.string_value if item.string_value is not None else _other(item) for item in value.array_value.values]
        return [item for item in items if item is not None]
    return value.bytes_value
