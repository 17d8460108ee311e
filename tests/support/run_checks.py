"""What must hold of every whole run, whatever it did: its spans, its numbers, its files. `check_run(record)` holds it all against each other."""

from __future__ import annotations

import json
import os
import shutil
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING

import jsonschema
import msgspec

import otel_exec.record
from otel_exec import read_run
from otel_exec.clock import from_iso
from otel_exec.complete import rebuild
from otel_exec.record.model import RunRecord, StepRecord
from otel_exec.record.record_file import read_record, write_record
from otel_exec.record.step_files import read_events, read_info
from otel_exec.semconv import Kind
from otel_exec.testing import recorded_spans

if TYPE_CHECKING:
    from otel_exec.spans.span_record import SpanRecord

EXECUTORS = ("inline", "threads", "processes")

_SCHEMAS = Path(otel_exec.record.__file__).parent
_PARTS = {
    Kind.WAIT: "wait_ns",
    Kind.QUEUE: "queue_ns",
    Kind.LOAD: "load_ns",
    Kind.TASK: "execution_ns",
    Kind.VERIFY: "verification_ns",
    Kind.STORE: "store_ns",
    Kind.BACKOFF: "backoff_ns",
}


class Trace:
    """The spans of a run, by what is asked of them."""

    def __init__(self, record: RunRecord) -> None:
        self.spans = recorded_spans(record)
        self.by_id = {span.span_id: span for span in self.spans}

    def of(self, kind: str, **attributes: object) -> list[SpanRecord]:
        """Return the spans of a kind, in order of start; attributes are given as `node_name="a"` for `node.name`, `exec_attempt=1` for `exec.attempt`."""
        wanted = {key.replace("_", "."): value for key, value in attributes.items()}
        return [span for span in self.spans if span.kind == kind and all(span.attributes.get(key) == value for key, value in wanted.items())]

    def one(self, kind: str, **attributes: object) -> SpanRecord:
        """Return the only span of a kind with these attributes."""
        (span,) = self.of(kind, **attributes)
        return span

    def parent(self, span: SpanRecord) -> SpanRecord:
        """Return a span's parent."""
        return self.by_id[span.parent_span_id]


def step_named(record: RunRecord, name: str) -> StepRecord:
    """Return the step of that name."""
    (step,) = [step for step in record.steps if step.name == name]
    return step


def outcomes(record: RunRecord) -> dict[str, str | None]:
    """Return the steps' outcomes by name."""
    return {step.name: step.outcome for step in record.steps}


def statuses(step: StepRecord) -> list[str]:
    """Return the words of a step's status file, in order."""
    assert step.output_path is not None
    return [event.status for event in read_events(step.output_path)]


def check_run(record: RunRecord, *, files: bool = True, slack_ns: int = 0) -> Trace:
    """Hold a finished run's record, spans and files against each other; `files`: its output lies on a local disk; `slack_ns`: how far clocks of its machines disagree."""
    trace = Trace(record)
    _check_spans(record, trace, slack_ns)
    for step in record.steps:
        _check_step(record, step, trace)
    _check_levels(record, trace)
    assert record.wall is not None
    assert sum(msgspec.structs.asdict(record.wall).values()) == record.duration_ns
    assert record.critical_path is not None
    assert 0 <= record.critical_path.duration_ns <= (record.duration_ns or 0)
    if files:
        _check_files(record)
        check_rebuilt(record)
    return trace


def _check_spans(record: RunRecord, trace: Trace, slack_ns: int) -> None:
    twice = [span for span in trace.spans if trace.by_id[span.span_id] is not span]
    assert not twice, f"spans stand twice in the spool: {[(span, trace.by_id[span.span_id]) for span in twice]}"
    root = trace.one(Kind.RUN)
    assert root.span_id == record.root_span_id
    assert root.span_kind == 2
    assert root.start_ns == int(record.start_time_unix_nano)
    assert root.duration_ns == record.duration_ns
    assert root.attributes["exec.outcome"] == record.outcome
    for span in trace.spans:
        assert span.trace_id == record.trace_id
        assert span.attributes["exec.id"] == record.exec_id
        assert span.start_ns <= span.end_ns
        if span is not root:
            parent = trace.parent(span)
            assert parent.start_ns <= span.start_ns + slack_ns, f"{span.name} begins {parent.start_ns - span.start_ns} ns before {parent.name}"
            assert span.end_ns <= parent.end_ns + slack_ns, f"{span.name} ends {span.end_ns - parent.end_ns} ns after {parent.name}"


def _check_step(record: RunRecord, step: StepRecord, trace: Trace) -> None:
    origin = int(record.start_time_unix_nano)
    span = trace.one(Kind.STEP, node_id=step.node_id)
    assert (span.span_id, span.start_ns - origin, span.end_ns - origin) == (step.span_id, step.start_ns, step.end_ns)
    assert span.attributes["exec.outcome"] == step.outcome
    assert (span.status == 2) == (step.outcome not in {"success", "skip"})
    parent = trace.parent(span)
    assert parent.kind == (Kind.RUN if step.level is None else Kind.LEVEL)
    assert step.level is None or parent.attributes["exec.level"] == step.level
    assert list(span.attributes["exec.depends_on"]) == step.depends_on
    links = [link for link in span.links if link.edge != "cached"]
    groups = {each.node_id: each.depends_on for each in record.steps if each.group}
    upstreams = _through(step.depends_on, groups)
    ids = {each.node_id: each.span_id for each in record.steps}
    assert {(link.span_id, link.edge) for link in links} == {(ids[node], "data") for node in upstreams} | {
        (ids[node], "nonblocking") for node in step.pseudo_depends_on
    }
    assert {link.trace_id for link in links} <= {record.trace_id}

    if step.group:
        assert not step.attempts
        return
    parts = sorted((part for part in trace.spans if part.parent_span_id == span.span_id), key=lambda part: (part.start_ns, part.end_ns))
    if step.scheduled_time is None:  # never created
        assert span.duration_ns == 0
        assert not parts
        assert step.duration_seconds is step.total_duration_seconds is step.execution_start_time is None
        return
    assert from_iso(step.scheduled_time) == span.start_ns // 1000 * 1000
    assert step.total_duration_seconds == span.duration_ns / 1e9
    at = span.start_ns
    for part in parts:
        assert part.start_ns == at, f"{part.start_ns - at} ns of {step.name} before its {part.kind} are unaccounted for"
        at = part.end_ns
    assert at == span.end_ns, f"{span.end_ns - at} ns of {step.name} at its end are unaccounted for"
    sums: dict[tuple[int, str], int] = defaultdict(int)
    for part in parts:
        sums[int(part.attributes["exec.attempt"]), _PARTS[Kind(part.kind)]] += part.duration_ns
    previous = ""
    for number, attempt in enumerate(step.attempts, 1):
        assert attempt.attempt == number
        for field in _PARTS.values():
            assert getattr(attempt, field) == sums.pop((number, field), None), f"{field} of attempt {number} of {step.name}"
        instants = [attempt.created_ns, attempt.claimed_ns, attempt.start_ns, attempt.end_ns, attempt.settled_ns]
        known = [instant for instant in instants if instant is not None]
        assert known == sorted(known)
        tasks = trace.of(Kind.TASK, exec_task_id=step.node_id, exec_attempt=number)
        assert len(tasks) == (attempt.start_ns is not None)
        for task in tasks:
            assert (task.start_ns - origin, task.end_ns - origin, task.span_id) == (attempt.start_ns, attempt.end_ns, attempt.span_id)
            assert task.name == f"task {step.fn_name}"
            # What failed after the function is the verification's; what it came to stands, whoever died or lost the lease after that.
            died = attempt.error is not None and attempt.error.type in {"worker_died", "lease_lost"}
            assert died or task.attributes["exec.outcome"] in {attempt.outcome, "success"}
            assert [(link.span_id, link.edge) for link in task.links] == ([(previous, "retry")] if previous else [])
            previous = task.span_id
    assert not sums
    if step.attempts and step.attempts[-1].start_ns is not None:
        last = step.attempts[-1]
        assert step.duration_seconds == last.execution_ns / 1e9
        assert from_iso(step.execution_start_time) == (origin + last.start_ns) // 1000 * 1000
        assert from_iso(step.execution_end_time) == (origin + last.end_ns) // 1000 * 1000


def _through(nodes: list[str], groups: dict[str, list[str]]) -> set[str]:
    found: set[str] = set()
    pending = list(nodes)
    while pending:
        node = pending.pop()
        if node in groups:
            pending += groups[node]
        else:
            found.add(node)
    return found


def _check_levels(record: RunRecord, trace: Trace) -> None:
    origin = int(record.start_time_unix_nano)
    spans = trace.of(Kind.LEVEL)
    assert [
        (span.attributes["exec.level"], span.start_ns - origin, span.end_ns - origin) for span in sorted(spans, key=lambda s: s.attributes["exec.level"])
    ] == [(level.level, level.start_ns, level.end_ns) for level in record.levels]
    for level in record.levels:
        members = [step for step in record.steps if step.level == level.level]
        assert members
        created = [step for step in members if step.scheduled_time is not None]
        if created:
            assert level.start_ns == min(step.start_ns for step in created)
            assert level.end_ns == max(step.end_ns for step in members)
    if record.executor.barrier:
        for before, after in zip(record.levels, record.levels[1:], strict=False):
            assert before.end_ns + 1_000 <= after.start_ns


def _check_files(record: RunRecord) -> None:
    folder = record.run_folder
    with open(os.path.join(folder, "run.json"), "rb") as file:
        written = file.read()
    jsonschema.validate(json.loads(written), json.loads((_SCHEMAS / "run.schema.json").read_text()))
    status = json.loads(Path(folder, "status.json").read_text())
    jsonschema.validate(status, json.loads((_SCHEMAS / "status.schema.json").read_text()))
    assert status["state"] == record.outcome
    assert _plain(read_record(os.path.join(folder, "run.json"))) == _plain(record)
    assert _plain(read_run(folder)) == _plain(record)
    _no_negative(json.loads(written))
    for step in record.steps:
        if step.output_path is None or step.cached or not any(attempt.start_ns is not None for attempt in step.attempts):
            continue
        if step.attempts[-1].error is not None and step.attempts[-1].error.type == "lease_lost":  # the folder is another run's
            continue
        events = read_events(step.output_path)
        mine = [event for event in events if event.exec_id == record.exec_id]
        words = [event.status for event in mine]
        assert words[-1] == step.status
        assert words.count("RUNNING") == 1
        assert from_iso(mine[words.index("RUNNING")].date) == from_iso(step.scheduled_time)
        assert [word for word in words if word not in {"WAITING", "RUNNING"}] == [step.status]
        assert {event.span_id for event in mine} == {step.span_id}
        info = read_info(step.output_path)
        assert info is not None
        assert info["exec_id"] == record.exec_id
        for key in ("scheduled_time", "execution_start_time", "execution_end_time", "duration_seconds", "total_duration_seconds"):
            assert info[key] == getattr(step, key), f"{key} of {step.name}: {info[key]} in .executor_info, {getattr(step, key)} in run.json"
        if step.status in {"SUCCESS", "FAILED"}:
            start, end = mine[-1].execution_start_time, mine[-1].execution_end_time
            assert abs(start - from_iso(step.execution_start_time) / 1e9) < 2e-6
            assert abs(end - from_iso(step.execution_end_time) / 1e9) < 2e-6
            assert not os.path.exists(step.output_path + "/.executor_status.lock")


def _no_negative(value: object, where: str = "") -> None:
    if isinstance(value, dict):
        for key, each in value.items():
            _no_negative(each, f"{where}.{key}")
    elif isinstance(value, list):
        for index, each in enumerate(value):
            _no_negative(each, f"{where}[{index}]")
    elif isinstance(value, (int, float)) and where.endswith(("_ns", "_ms", "_seconds", "count", "_bytes")) and ".config" not in where:
        assert value >= 0, f"{where} is {value}"


def _plain(record: RunRecord) -> object:
    return msgspec.json.decode(write_record(record))


def skeleton_of(record: RunRecord) -> RunRecord:
    """Return the record as it stood when the run began."""
    bare = msgspec.convert(_plain(record), RunRecord)
    steps = [
        StepRecord(
            **{key: getattr(step, key) for key in StepRecord.__struct_fields__[: StepRecord.__struct_fields__.index("status")]}, cached_from=step.cached_from
        )
        for step in bare.steps
    ]
    return msgspec.structs.replace(
        bare,
        outcome="running",
        steps=steps,
        nodes=[],
        levels=[],
        workers=[],
        gates=[],
        templates=[],
        end_time=None,
        duration_ns=None,
        metrics=None,
        critical_path=None,
        wall=None,
    )


def check_rebuilt(record: RunRecord) -> None:
    """Journal and spool alone give the record that the run itself wrote."""
    folder = record.run_folder
    run_json = os.path.join(folder, "run.json")
    kept = run_json + ".kept"
    shutil.copy2(run_json, kept)
    try:
        with open(run_json, "wb") as file:
            file.write(write_record(skeleton_of(record)))
        again, live = _plain(rebuild(folder)), _plain(record)
    finally:
        os.replace(kept, run_json)
    for whole in (again, live):
        metrics = whole["metrics"]
        metrics.pop("computed_at", None)
    for key in live:
        assert again[key] == live[key], f"{key}: rebuilt {_differences(again[key], live[key])}"


def _differences(one: object, other: object, where: str = "") -> str:
    """Return the first place where two JSON values differ."""
    if isinstance(one, dict) and isinstance(other, dict):
        for key in {**one, **other}:
            if one.get(key) != other.get(key):
                return _differences(one.get(key), other.get(key), f"{where}.{key}")
    if isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        for index, (a, b) in enumerate(zip(one, other, strict=True)):
            if a != b:
                return _differences(a, b, f"{where}[{index}]")
    return f"{where}: {one!r} instead of {other!r}"
