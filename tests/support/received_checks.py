"""What must hold of a run's spans at the receiver: they are those of the spool, each once, and their parents, links and resource are as the span model says.

What comes in: spans as a receiver decoded them, and the run's record. Nothing here looks at how they were sent.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from otel_exec.semconv import EXEC_EDGE, EXEC_KIND
from otel_exec.spans.spool import read_spool

if TYPE_CHECKING:
    from collections.abc import Sequence

    from support.otlp_receiver import ReceivedSpan

    from otel_exec.record.model import RunRecord, StepRecord
    from otel_exec.spans.span_record import SpanRecord

# A span's kind: the kinds that it may lie under.
PARENTS = {
    "level": {"run"},
    "step": {"level", "run"},
    "wait": {"step"},
    "queue": {"step"},
    "load": {"step"},
    "verify": {"step"},
    "store": {"step"},
    "backoff": {"step"},
    "task": {"step", "task", "phase"},
    "phase": {"task", "phase", ""},
    "fan_out": {"task", "phase", ""},
    "gate": {"run"},
    "worker": {"run"},
    "worker_init": {"worker"},
    "": {"task", "phase", ""},
}


def check_received(received: Sequence[ReceivedSpan], record: RunRecord, service: str, *, instant_ns: int = 0) -> Counter[str]:
    """Hold what arrived against the spool and the record; returns how many spans of each kind there are.

    Args:
        received: the spans as a receiver decoded them.
        record: the run's record.
        service: the name of the service that they must have.
        instant_ns: how long spans are there that end when they begin; Jaeger has them 1 ns long.
    """
    if instant_ns:
        received = [replace(span, end_ns=span.start_ns) if span.end_ns - span.start_ns == instant_ns else span for span in received]
    spool = {span.span_id: span for span in read_spool(str(Path(record.run_folder, "spans")))}
    assert Counter(span.span_id for span in received) == dict.fromkeys(spool, 1)
    for span in received:
        assert _plain(span) == _spooled(spool[span.span_id])
    assert {span.trace_id for span in received} == {record.trace_id}
    assert {(span.resource["service.name"], span.resource["service.instance.id"]) for span in received} == {(service, record.exec_id)}
    _check_parents(received, record)
    for step in record.steps:
        _check_step(step, received, record)
    return Counter(_kind(span) for span in received)


def _kind(span: ReceivedSpan) -> str:
    kind = span.attributes.get(EXEC_KIND, "")
    assert isinstance(kind, str)
    return kind


def _plain(span: ReceivedSpan) -> tuple[object, ...]:
    return (
        span.parent_span_id,
        span.name,
        span.kind,
        span.start_ns,
        span.end_ns,
        span.attributes,
        [(trace_id, span_id, values) for trace_id, span_id, values in span.links],
        span.events,
        span.status,
        span.status_message,
        span.flags & 0x2FF,
        span.trace_state,
        span.scope,
    )


def _spooled(span: SpanRecord) -> tuple[object, ...]:
    return (
        span.parent_span_id,
        span.name,
        span.span_kind,
        span.start_ns,
        span.end_ns,
        {EXEC_KIND: span.kind, **span.attributes} if span.kind else span.attributes,
        [(link.trace_id, link.span_id, {EXEC_EDGE: link.edge, **link.attributes} if link.edge else link.attributes) for link in span.links],
        [(at_ns, name, values) for at_ns, name, values in span.events],
        span.status,
        span.status_message,
        span.flags & 0x2FF,
        span.trace_state,
        span.scope,
    )


def _check_parents(received: Sequence[ReceivedSpan], record: RunRecord) -> None:
    by_id = {span.span_id: span for span in received}
    for span in received:
        kind = _kind(span)
        if kind == "run":
            assert (span.span_id, span.parent_span_id, span.kind) == (record.root_span_id, "", 2)
            continue
        parent = by_id[span.parent_span_id]
        assert _kind(parent) in PARENTS[kind], f"{span.name} ({kind}) lies under {parent.name} ({_kind(parent)})"
        assert parent.start_ns <= span.start_ns <= span.end_ns <= parent.end_ns, f"{span.name} is not inside {parent.name}"
        assert not re.search(r"exec_[0-9a-f]{32}|-[0-9a-f]{6}\b", span.name), f"{span.name} has an id in its name"
        if kind == "task" and span.attributes["exec.task.id"] == span.attributes["node.id"]:
            assert _kind(parent) == "step"


def _check_step(step: StepRecord, received: Sequence[ReceivedSpan], record: RunRecord) -> None:
    """The step's span has a link for each step that it waited for and each that it only refers to; groups stand for their members."""
    steps = {each.node_id: each for each in record.steps}

    def members(node_id: str) -> set[str]:
        return set().union(*map(members, steps[node_id].depends_on)) if steps[node_id].group else {node_id}

    (span,) = [span for span in received if _kind(span) == "step" and span.attributes["node.id"] == step.node_id]
    ids = {each.attributes["node.id"]: each.span_id for each in received if _kind(each) == "step"}
    wanted = {(ids[member], "data") for node_id in step.depends_on for member in members(node_id)}
    wanted |= {(ids[member], "nonblocking") for node_id in step.pseudo_depends_on for member in members(node_id)}
    edges = [(span_id, values[EXEC_EDGE]) for _, span_id, values in span.links if values[EXEC_EDGE] != "cached"]
    assert sorted(edges) == sorted(wanted)
    assert span.attributes["exec.depends_on"] == step.depends_on
