"""Spool files made by hand, for tests of what reads them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

TRACE_ID = "0af7651916cd43dd8448eb211c80319c"


def span(number: int, **more: Any) -> dict[str, Any]:
    """Return a span as OTLP/JSON has it; its id is its number."""
    return {
        "traceId": TRACE_ID,
        "spanId": f"{number + 1:016x}",
        "parentSpanId": "b7ad6b7169203331",
        "name": f"task t{number % 7}",
        "kind": 1,
        "startTimeUnixNano": str(1_700_000_000_000_000_000 + number),
        "endTimeUnixNano": str(1_700_000_000_000_001_000 + number),
        "attributes": [
            {"key": "exec.id", "value": {"stringValue": f"exec_{TRACE_ID}"}},
            {"key": "exec.kind", "value": {"stringValue": "task"}},
            {"key": "exec.attempt", "value": {"intValue": "1"}},
            {"key": "node.id", "value": {"stringValue": f"tokenize/wörter {number}-1f6e23"}},
        ],
        **more,
    }


def line(*spans: dict[str, Any], service: str = "demo", scope: str = "otel_exec") -> str:
    """Return one export request as a line."""
    resource = {"attributes": [{"key": "service.name", "value": {"stringValue": service}}]}
    request = {"resourceSpans": [{"resource": resource, "scopeSpans": [{"scope": {"name": scope}, "spans": list(spans)}]}]}
    return json.dumps(request, separators=(",", ":"), ensure_ascii=False) + "\n"


def write_spool(run_folder: Path, writer: str, numbers: range, **more: Any) -> None:
    """Append a span a line to a writer's file."""
    (run_folder / "spans").mkdir(parents=True, exist_ok=True)
    with (run_folder / "spans" / f"{writer}.jsonl").open("a", encoding="utf-8") as file:
        file.write("".join(line(span(number), **more) for number in numbers))


def span_ids(numbers: range) -> set[str]:
    """Return the ids of spans with these numbers."""
    return {f"{number + 1:016x}" for number in numbers}
