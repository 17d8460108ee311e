"""A finished span as a plain value.

What comes in: names, ids, integer nanoseconds, sanitised attributes. What goes out: `SpanRecord`, which crosses processes and which `line_codec`
writes into the spool. Imports no OpenTelemetry.

Units: `start_ns` and `end_ns` are nanoseconds since the Unix epoch. Ids are lower-case hex (32 and 16 digits), "" where there is none.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from otel_exec.semconv import SCOPE_NAME

__all__ = ["AttributeValue", "SpanLimits", "SpanLink", "SpanRecord"]

# Lists are flat and of one type (`sanitise.attribute` sees to it); msgspec decodes a union with one list type only.
AttributeValue = str | bool | int | float | Sequence[str | bool | int | float]


class SpanLimits(msgspec.Struct, frozen=True):
    """How much of what the user's code attaches to a span is kept (`OTEL_SPAN_*_LIMIT`). What the span model itself puts on it is kept whole, but for links.

    `value_length` in characters, for each text and each text of a list; `None`: our own bound alone. `links`: `None` means no limit.
    """

    value_length: int | None = None
    attributes: int = 128
    events: int = 128
    links: int | None = None


class SpanLink(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A link to another span; `edge` is its `exec.edge` ("" on links of the user's own), `attributes` hold the rest."""

    trace_id: str
    span_id: str
    edge: str = "data"
    attributes: dict[str, AttributeValue] = {}


class SpanRecord(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One finished span.

    `kind` is its `exec.kind` ("" for the user's own spans); it is not repeated in `attributes`, which hold everything else that the span carries.
    `status` is OTLP's: 0 unset, 1 ok, 2 error. `span_kind` is OTLP's: 1 internal, 2 server, 3 client, 4 producer, 5 consumer.
    `events` are (nanoseconds since the Unix epoch, name, attributes). `scope` is the instrumentation scope's name.
    `flags`: the low eight bits are the W3C trace flags (1 is sampled); 0x200 says that the parent is in another process.
    """

    trace_id: str
    span_id: str
    parent_span_id: str
    name: str
    kind: str
    start_ns: int
    end_ns: int
    attributes: dict[str, AttributeValue]
    links: tuple[SpanLink, ...] = ()
    status: int = 0
    status_message: str = ""
    span_kind: int = 1
    events: tuple[tuple[int, str, dict[str, AttributeValue]], ...] = ()
    scope: str = SCOPE_NAME
    flags: int = 1
    trace_state: str = ""

    @property
    def duration_ns(self) -> int:
        """Nanoseconds from start to end."""
        return self.end_ns - self.start_ns
