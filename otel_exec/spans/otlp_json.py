"""Lines of OTLP/JSON: checked, counted, and merged into one request body without being taken apart.

What comes in: lines of spool files, which anyone may have written. What goes out: `ExportLine`s whose spans stay the bytes that they were, and one
OTLP/JSON `ExportTraceServiceRequest` for many of them. Imports no OpenTelemetry.

Source: OpenTelemetry Protocol File Exporter and OTLP 1.5, "JSON Protobuf Encoding".
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["SPAN_MARK", "ExportLine", "merge", "parse_line", "span_count"]


class ScopeSpans(msgspec.Struct):
    """Spans of one instrumentation scope, as bytes."""

    spans: list[msgspec.Raw]
    scope: msgspec.Raw = msgspec.Raw(b"{}")
    schemaUrl: str = ""  # noqa: N815  # OTLP/JSON's name


class ResourceSpans(msgspec.Struct):
    """Spans of one resource, as bytes."""

    scopeSpans: list[ScopeSpans]  # noqa: N815  # OTLP/JSON's name
    resource: msgspec.Raw = msgspec.Raw(b"{}")
    schemaUrl: str = ""  # noqa: N815  # OTLP/JSON's name


class ExportLine(msgspec.Struct):
    """One line: an `ExportTraceServiceRequest`."""

    resourceSpans: list[ResourceSpans]  # noqa: N815  # OTLP/JSON's name


# Each span has one start, and inside a JSON string the quotes would be escaped: so spans can be counted without parsing.
SPAN_MARK = b'"startTimeUnixNano":'
_BRACE = ord("{")
_decode = msgspec.json.Decoder(ExportLine).decode


def parse_line(line: bytes) -> ExportLine:
    """Return a line's parts.

    Raises:
        ValueError: it is not JSON in UTF-8, or not an export request of spans.
    """
    if not line.isascii():
        line.decode()  # the parser passes over what is inside spans
    try:
        parsed = _decode(line)
    except (msgspec.DecodeError, RecursionError) as error:
        raise ValueError(str(error)) from None
    for resource in parsed.resourceSpans:
        if memoryview(resource.resource)[0] != _BRACE:
            raise ValueError("a resource that is no object")
        for scope in resource.scopeSpans:
            if memoryview(scope.scope)[0] != _BRACE or any(memoryview(span)[0] != _BRACE for span in scope.spans):
                raise ValueError("a span that is no object")
    return parsed


def span_count(line: ExportLine) -> int:
    """Return how many spans a line holds."""
    return sum(len(scope.spans) for resource in line.resourceSpans for scope in resource.scopeSpans)


def merge(lines: Iterable[ExportLine]) -> bytes:
    """Return one request body with all spans of the lines, grouped by resource and scope, in the order found."""
    resources: dict[tuple[bytes, str], dict[tuple[bytes, str], list[msgspec.Raw]]] = {}
    for line in lines:
        for resource in line.resourceSpans:
            scopes = resources.setdefault((bytes(resource.resource), resource.schemaUrl), {})
            for scope in resource.scopeSpans:
                scopes.setdefault((bytes(scope.scope), scope.schemaUrl), []).extend(scope.spans)
    return b'{"resourceSpans":[%b]}' % b",".join(
        b'{"resource":%b%b,"scopeSpans":[%b]}'
        % (
            resource,
            _schema(resource_schema),
            b",".join(b'{"scope":%b%b,"spans":[%b]}' % (scope, _schema(scope_schema), b",".join(spans)) for (scope, scope_schema), spans in scopes.items()),
        )
        for (resource, resource_schema), scopes in resources.items()
    )


def _schema(url: str) -> bytes:
    return b',"schemaUrl":' + msgspec.json.encode(url) if url else b""
