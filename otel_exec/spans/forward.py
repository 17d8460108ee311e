"""Our spans through the application's own provider: what `run(tracer_provider=...)` asks for.

What comes in: a run's spool and an OpenTelemetry SDK `TracerProvider`. What goes out: each span of the spool, once, given to that provider's span processors
as a finished span with our ids and times. Reads the same files as the exporter does; never touches a step.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from otel_exec.errors import UsageError
from otel_exec.semconv import EXEC_EDGE, EXEC_KIND
from otel_exec.spans.recorder import REMOTE_PARENT
from otel_exec.spans.spool_tail import SpoolTail

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan

    from otel_exec.spans.span_record import SpanRecord

__all__ = ["SpoolForwarder", "check_provider", "readable"]


def check_provider(provider: object) -> None:
    """Say at once whether spans can be forwarded to a provider. Imports nothing: where the SDK was not imported yet, nothing can be of its class.

    Raises:
        UsageError: `provider` is not an `opentelemetry.sdk.trace.TracerProvider`.
    """
    sdk = sys.modules.get("opentelemetry.sdk.trace")
    if sdk is None or not isinstance(provider, sdk.TracerProvider):
        raise UsageError(f"tracer_provider takes an opentelemetry.sdk.trace.TracerProvider, not a {type(provider).__qualname__}")


def readable(record: SpanRecord, resource: Any) -> ReadableSpan:
    """Return a finished SDK span with the record's ids, times, attributes, links and instrumentation scope."""
    from opentelemetry.sdk.trace import Event, ReadableSpan
    from opentelemetry.sdk.util.instrumentation import InstrumentationScope
    from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode, TraceFlags
    from opentelemetry.trace.span import TraceState

    def context(trace_id: str, span_id: str, *, remote: bool = False) -> SpanContext:
        return SpanContext(int(trace_id, 16), int(span_id, 16), is_remote=remote, trace_flags=TraceFlags(record.flags & 0xFF), trace_state=state)

    state = TraceState.from_header([record.trace_state] if record.trace_state else [])
    attributes = dict(record.attributes)
    if record.kind:
        attributes[EXEC_KIND] = record.kind
    return ReadableSpan(
        name=record.name,
        context=context(record.trace_id, record.span_id),
        parent=context(record.trace_id, record.parent_span_id, remote=bool(record.flags & REMOTE_PARENT)) if record.parent_span_id else None,
        resource=resource,
        attributes=attributes,
        events=[Event(name, event_attributes, at_ns) for at_ns, name, event_attributes in record.events],
        links=[
            Link(context(link.trace_id, link.span_id), {EXEC_EDGE: link.edge, **link.attributes} if link.edge else link.attributes) for link in record.links
        ],
        kind=list(SpanKind)[max(0, record.span_kind - 1)],
        status=Status((StatusCode.UNSET, StatusCode.OK, StatusCode.ERROR)[record.status], record.status_message or None if record.status == 2 else None),
        start_time=record.start_ns,
        end_time=record.end_ns,
        instrumentation_scope=InstrumentationScope(record.scope),
    )


class SpoolForwarder:
    """Follows a run's spool and gives its spans to a provider.

    Args:
        folder: the run's `spans` folder.
        provider: an SDK `TracerProvider`; it is not shut down here, since it is not ours.

    Raises:
        UsageError: `provider` is not an SDK provider.
    """

    def __init__(self, folder: str, provider: object) -> None:
        check_provider(provider)
        sdk_provider: Any = provider
        resource = sdk_provider.resource
        processor = sdk_provider._active_span_processor
        self._tail = SpoolTail(folder, lambda record: processor.on_end(readable(record, resource)))

    def finish(self) -> None:
        """Give the provider what is left; its own processors decide when that is sent."""
        self._tail.finish()
