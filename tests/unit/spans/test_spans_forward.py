"""Spans of the spool through a provider of the application's own."""

from __future__ import annotations

import subprocess
import sys

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from otel_exec.errors import UsageError
from otel_exec.spans.forward import SpoolForwarder, check_provider
from otel_exec.spans.line_codec import LineEncoder
from otel_exec.spans.span_record import SpanLink, SpanRecord

TRACE = "ab" * 16


def forwarded(tmp_path, *records):
    (tmp_path / "spans").mkdir()
    (tmp_path / "spans" / "driver.jsonl").write_bytes(LineEncoder({}).encode(records))
    exporter = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    SpoolForwarder(str(tmp_path / "spans"), provider).finish()
    return exporter.get_finished_spans()


def test_our_spans_keep_what_they_say(tmp_path):
    """Ids, times, kind, status, attributes and links with their edge arrive; a parent in another process is remote."""
    link = SpanLink("cd" * 16, "2" * 16, "data", {"n": 1})
    (span,) = forwarded(
        tmp_path,
        SpanRecord(TRACE, "1" * 16, "3" * 16, "run x", "run", 10, 30, {"exec.id": "e"}, (link,), 2, "no", 2, ((11, "event", {"k": 1}),), flags=0x201),
    )
    assert (span.context.trace_id, span.context.span_id, span.parent.span_id) == (int(TRACE, 16), int("1" * 16, 16), int("3" * 16, 16))
    assert (span.parent.is_remote, span.context.is_remote) == (True, False)
    assert (span.start_time, span.end_time, span.kind) == (10, 30, SpanKind.SERVER)
    assert (span.status.status_code, span.status.description) == (StatusCode.ERROR, "no")
    assert dict(span.attributes) == {"exec.id": "e", "exec.kind": "run"}
    assert [dict(each.attributes) for each in span.links] == [{"exec.edge": "data", "n": 1}]
    assert [(event.name, event.timestamp, dict(event.attributes)) for event in span.events] == [("event", 11, {"k": 1})]
    assert span.instrumentation_scope.name == "otel_exec"


def test_the_users_spans_stay_the_users(tmp_path):
    """A span of the user's own keeps its scope and its links' attributes, and gets neither a kind nor an edge of ours."""
    (span,) = forwarded(
        tmp_path, SpanRecord(TRACE, "1" * 16, "", "GET", "", 1, 2, {"url": "x"}, (SpanLink("cd" * 16, "2" * 16, "", {"why": "w"}),), scope="my.lib")
    )
    assert span.instrumentation_scope.name == "my.lib"
    assert dict(span.attributes) == {"url": "x"}
    assert [dict(each.attributes) for each in span.links] == [{"why": "w"}]
    assert span.parent is None


@pytest.mark.parametrize("provider", [None, "x", object()])
def test_what_is_no_sdk_provider_is_refused(tmp_path, provider):
    """Anything but an SDK provider is an error of usage that names what it was given, before anything is started."""
    with pytest.raises(UsageError, match=type(provider).__qualname__):
        check_provider(provider)
    with pytest.raises(UsageError):
        SpoolForwarder(str(tmp_path), provider)
    check_provider(TracerProvider(shutdown_on_exit=False))


def test_checking_a_provider_imports_nothing():
    """In a process that has not imported the SDK the check refuses without importing it."""
    code = (
        "import sys\nfrom otel_exec.errors import UsageError\nfrom otel_exec.spans.forward import check_provider\n"
        "try:\n    check_provider(object())\nexcept UsageError:\n    print('opentelemetry.sdk.trace' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "False"
