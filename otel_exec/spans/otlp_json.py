"""Lines of OTLP/JSON: checked, counted, and merged into one request body without being taken apart.

What comes in: lines of files that anyone may have written, of spans or of metrics. What goes out: `ExportLine`s whose items (spans, metrics) stay the bytes
that they were, and one OTLP/JSON export request for many of them. Imports no OpenTelemetry.

Source: OpenTelemetry Protocol File Exporter and OTLP 1.5, "JSON Protobuf Encoding".
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import msgspec

from otel_exec.spans.signal import Signal

__all__ = ["ITEM_MARK", "ExportLine", "item_count", "merge", "parse_line"]


class ScopeGroup(msgspec.Struct, kw_only=True):
    """Items of one instrumentation scope, as bytes."""

    items: list[msgspec.Raw]
    scope: msgspec.Raw = msgspec.Raw(b"{}")
    schemaUrl: str = ""  # noqa: N815  # OTLP/JSON's name


class ResourceGroup(msgspec.Struct, kw_only=True):
    """Items of one resource, as bytes."""

    scopes: Sequence[ScopeGroup]
    resource: msgspec.Raw = msgspec.Raw(b"{}")
    schemaUrl: str = ""  # noqa: N815  # OTLP/JSON's name


class ExportLine(msgspec.Struct, kw_only=True):
    """One line: an export request of `signal`."""

    signal: ClassVar[Signal]
    resources: Sequence[ResourceGroup]


class _ScopeSpans(ScopeGroup, kw_only=True, rename={"items": "spans"}):
    items: list[msgspec.Raw]


class _ResourceSpans(ResourceGroup, kw_only=True, rename={"scopes": "scopeSpans"}):
    scopes: list[_ScopeSpans]


class _SpanLine(ExportLine, kw_only=True, rename={"resources": "resourceSpans"}):
    signal: ClassVar[Signal] = Signal.TRACES
    resources: list[_ResourceSpans]


class _ScopeMetrics(ScopeGroup, kw_only=True, rename={"items": "metrics"}):
    items: list[msgspec.Raw]


class _ResourceMetrics(ResourceGroup, kw_only=True, rename={"scopes": "scopeMetrics"}):
    scopes: list[_ScopeMetrics]


class _MetricLine(ExportLine, kw_only=True, rename={"resources": "resourceMetrics"}):
    signal: ClassVar[Signal] = Signal.METRICS
    resources: list[_ResourceMetrics]


# Each span and each data point of ours has one start, and inside a JSON string the quotes would be escaped: so they can be counted without parsing.
ITEM_MARK = b'"startTimeUnixNano":'
_BRACE = ord("{")
_DECODERS = {line.signal: msgspec.json.Decoder(line).decode for line in (_SpanLine, _MetricLine)}
_NAMES = {Signal.TRACES: (b"resourceSpans", b"scopeSpans", b"spans"), Signal.METRICS: (b"resourceMetrics", b"scopeMetrics", b"metrics")}


def parse_line(line: bytes, signal: Signal = Signal.TRACES) -> ExportLine:
    """Return a line's parts.

    Raises:
        ValueError: it is not JSON in UTF-8, or not an export request of that signal.
    """
    if not line.isascii():
        line.decode()  # the parser passes over what is inside items
    try:
        parsed = _DECODERS[signal](line)
    except (msgspec.DecodeError, RecursionError) as error:
        raise ValueError(str(error)) from None
    for resource in parsed.resources:
        if memoryview(resource.resource)[0] != _BRACE:
            raise ValueError("a resource that is no object")
        for scope in resource.scopes:
            if memoryview(scope.scope)[0] != _BRACE or any(memoryview(item)[0] != _BRACE for item in scope.items):
                raise ValueError("an item that is no object")
    return parsed


def item_count(line: ExportLine) -> int:
    """Return how many spans, or data points, a line holds."""
    scopes = [scope for resource in line.resources for scope in resource.scopes]
    if line.signal is Signal.TRACES:
        return sum(len(scope.items) for scope in scopes)
    return sum(bytes(item).count(ITEM_MARK) for scope in scopes for item in scope.items)


def merge(lines: Sequence[ExportLine]) -> bytes:
    """Return one request body with all items of the lines (one or more, of one signal), grouped by resource and scope, in the order found."""
    resources: dict[tuple[bytes, str], dict[tuple[bytes, str], list[msgspec.Raw]]] = {}
    for line in lines:
        for resource in line.resources:
            scopes = resources.setdefault((bytes(resource.resource), resource.schemaUrl), {})
            for scope in resource.scopes:
                scopes.setdefault((bytes(scope.scope), scope.schemaUrl), []).extend(scope.items)
    of_resource, of_scope, of_item = _NAMES[lines[0].signal]
    return b'{"%b":[%b]}' % (
        of_resource,
        b",".join(
            b'{"resource":%b%b,"%b":[%b]}'
            % (
                resource,
                _schema(resource_schema),
                of_scope,
                b",".join(
                    b'{"scope":%b%b,"%b":[%b]}' % (scope, _schema(scope_schema), of_item, b",".join(items)) for (scope, scope_schema), items in scopes.items()
                ),
            )
            for (resource, resource_schema), scopes in resources.items()
        ),
    )


def _schema(url: str) -> bytes:
    return b',"schemaUrl":' + msgspec.json.encode(url) if url else b""
