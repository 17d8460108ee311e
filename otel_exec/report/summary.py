"""The summary of a run: where its time went.

What comes in: a record (whole, or the part of it that is needed here) and what was asked for. What goes out: sections, for `as_text` and `as_json`.
Every number is the record's own: nothing is measured and nothing rounded here.
"""

from __future__ import annotations

import msgspec

from otel_exec.errors import UsageError
from otel_exec.record.model import EXECUTION, Export
from otel_exec.report.durations import duration_text
from otel_exec.report.start_ups import started_beside
from otel_exec.report.steps import count_steps, labels, plural, ran_anything, reached
from otel_exec.report.summary_lists import errors_section, gates_section, left_open_section, phases_section, warnings_section, workers_section
from otel_exec.report.summary_record import AnyRecord
from otel_exec.report.summary_steps import critical_path_section, steps_section
from otel_exec.report.table import Column, Fact, Section, Table
from otel_exec.report.wall_parts import wall_parts

__all__ = ["SORTS", "SUMMARY_SCHEMA_VERSION", "in_spool", "outcome_phrase", "summary", "trace_address", "was_sent"]

SUMMARY_SCHEMA_VERSION = "1.0"
SORTS = ("start", "duration", "name")


def summary(
    record: AnyRecord,
    *,
    sort: str = "start",
    top: int | None = None,
    trace_url: str | None = None,
    export: Export | None = None,
    record_path: str | None = None,
) -> list[Section]:
    """Return the summary's sections.

    Args:
        record: the run.
        sort: the order of the steps: `start`, `duration` (longest first) or `name`.
        top: how many rows a list may have; the longest, heaviest or first are kept. `None`: all.
        trace_url: the template of a trace's address, with `{trace_id}`.
        export: newer counts than the record's own.
        record_path: where the record lies, to be named.
    """
    if sort not in SORTS:
        raise UsageError(f"can't sort by {sort!r}: it takes {', '.join(SORTS)}")
    names = labels(record)
    steps = [step for step in record.steps if not step.group]
    # Where nothing ran there is nothing to tell but that: tables of dashes are for machines alone.
    shown = ran_anything(record)
    tables = [
        msgspec.structs.replace(section, in_text=shown)
        for section in (
            _wall(record),
            workers_section(record, top),
            steps_section(record, steps, names, sort, top),
            critical_path_section(record, steps, names, top),
            phases_section(record, steps, names, top),
        )
    ]
    return [
        _heading(record, record_path),
        left_open_section(record, names),
        *tables,
        gates_section(record),
        errors_section(steps, names, top),
        warnings_section(record, top),
        _trace(record, trace_url, export or record.export),
    ]


def outcome_phrase(record: AnyRecord) -> str:
    """Return how the run ended, for a title: `success in 4m16s`, `failure after 4m16s`, `running`."""
    if record.duration_ns is None:
        return record.outcome
    return f"{record.outcome} {'in' if record.outcome == 'success' else 'after'} {duration_text(record.duration_ns)}"


def trace_address(template: str | None, trace_id: str) -> str | None:
    """Return the trace's address, `None` where no backend is known."""
    return template.replace("{trace_id}", trace_id) if template and trace_id else None


def was_sent(export: Export | None) -> bool:
    """Whether a backend may have something of the run: an endpoint was set, or spans were acknowledged."""
    return export is not None and bool(export.endpoint or export.spans_acknowledged)


def in_spool(export: Export) -> int:
    """Return how many spans wait in the spool: neither acknowledged nor refused for good."""
    return max(0, export.spans - export.spans_acknowledged - export.spans_rejected)


def _heading(record: AnyRecord, record_path: str | None) -> Section:
    counts = count_steps(record)
    executor = record.executor
    # Where no worker was started, how many there might have been says nothing.
    workers = f", {plural(executor.workers, 'worker')}" if record.workers else ""
    if record.workers and executor.kind == "ray":  # there a worker is a process, and a cluster has as many as it likes
        workers = (
            f", {plural(len(record.workers), 'worker')}, up to {plural(min(executor.workers, executor.max_concurrent or executor.workers), 'step')} at once"
        )
    limit = f", at most {executor.max_concurrent} at once" if executor.max_concurrent and executor.kind != "ray" else ""
    started = _instant(record.start_time)
    when = started if record.end_time is None else f"{started} to {_until(started, _instant(record.end_time))}"
    facts = [
        Fact("schema_version", SUMMARY_SCHEMA_VERSION),
        Fact("experiment", record.experiment.name),
        Fact("description", record.experiment.description),
        Fact("exec_id", record.exec_id, label="exec id"),
        Fact("alias", record.alias, label="known as" if record.alias else ""),
        Fact("trace_id", record.trace_id),
        Fact("outcome", record.outcome, "outcome", label="outcome"),
        Fact("start_time", record.start_time, label="when", said=f"{when} UTC"),
        Fact("end_time", record.end_time),
        Fact("duration", record.duration_ns, "duration", label="wall time"),
        Fact(
            "executor",
            {"kind": executor.kind, "workers": executor.workers, "max_concurrent": executor.max_concurrent, "barrier": executor.barrier},
            "json",
            label="executor",
            said=f"{executor.kind}{workers}{limit}{', with barrier' if executor.barrier else ''}",
        ),
        Fact(
            "step_counts",
            {key: getattr(counts, key) for key in counts.__struct_fields__},
            "json",
            label="steps",
            said=reached(counts, over=record.outcome != "running"),
        ),
        Fact("run_folder", record.run_folder),
        Fact("run_json", record_path, "path", label="record" if record_path else ""),
        Fact("resumed_from", record.resumed_from and record.resumed_from.exec_id, label="goes on from" if record.resumed_from else ""),
    ]
    description = (record.experiment.description,) if record.experiment.description else ()
    notes = _state_notes(record, counts.total)
    return Section("", f"otel-exec summary: {record.experiment.name}", intro=description, facts=tuple(facts), notes=notes, top=True)


def _state_notes(record: AnyRecord, total: int) -> tuple[str, ...]:
    if record.outcome == "running":
        return ("The run goes on; this is how far its record has come.",)
    if record.outcome == "interrupted":
        return ("The run was killed before it could end: what was open then is closed at its last sign of life.",)
    if record.executor.kind == EXECUTION:
        return ("A program's own execution: it has phases and nodes, and no steps.",)
    if not total:
        return ("The run had no steps.",)
    if not ran_anything(record):
        return (f"Nothing had to run: every step that was asked for had succeeded before.{_earlier(record)}",)
    return ()


def _earlier(record: AnyRecord) -> str:
    """Return the sentence on what cached steps took when they ran, "" where nothing is known of it."""
    sources = [step.cached_from for step in record.steps if step.cached and not step.group and step.cached_from]
    known = [source.duration_seconds for source in sources if source.duration_seconds is not None]
    if not known:
        return ""
    runs = {source.exec_id for source in sources if source.exec_id}
    where = f", in {runs.pop()}" if len(runs) == 1 else f", in {len(runs):,} earlier runs" if runs else ""
    what = "They" if len(known) == len(sources) else f"{len(known):,} of them are known to have"
    return f" {what} {'took' if what == 'They' else 'taken'} {duration_text(round(sum(known) * 1e9))} in all{where}."


def _instant(text: str) -> str:
    """Return an ISO 8601 instant for people: `2026-11-27 14:41:14`."""
    return text[:19].replace("T", " ")


def _until(start: str, end: str) -> str:
    """Return the end without the date that it shares with the start."""
    return end[11:] if start[:10] == end[:10] else end


def _wall(record: AnyRecord) -> Section:
    columns = (
        Column("part", "", min_width=12),
        Column("duration", "", "duration"),
        Column("share", "", "share"),
        Column("bar", "", "bar", priority=1),
    )
    parts = wall_parts(record)
    rows = [(part.part, part.duration_ns, part.share, None) for part in parts]
    said = tuple((part.title, part.duration_ns, part.percent, part.share) for part in parts if part.duration_ns)
    text_columns = (columns[0], columns[1], Column("share", "", "right"), columns[3])
    return Section(
        "wall",
        "Where the wall time went",
        table=Table("wall", columns, rows, in_text=False),
        drawn=Table("wall", text_columns, said, header=False) if said else None,
        notes=tuple(filter(None, [started_beside(record)])),
    )


def _trace(record: AnyRecord, trace_url: str | None, export: Export | None) -> Section:
    address = trace_address(trace_url, record.trace_id)
    left = None if export is None else in_spool(export)
    facts = [
        Fact("trace_id", record.trace_id, label="" if address else "trace id"),
        Fact("url", address, "path", label="address" if address else ""),
        Fact("endpoint", export and export.endpoint, "path", label="sent to" if export and export.endpoint else ""),
    ]
    if export is None or export.endpoint is None:
        gone = record.outcome == "interrupted"
        said = "nothing that anybody acknowledged before it was killed" if gone else "nothing: no endpoint was set, or exporting was switched off"
    elif left or export.spans_rejected:
        parts = [(left, "still in the spool"), (export.spans_rejected, "refused for good")]
        said = f"{export.spans_acknowledged:,} of {export.spans:,} spans; {', '.join(f'{count:,} {word}' for count, word in parts if count)}"
    else:
        said = f"all {export.spans:,} spans"
    facts += [
        Fact("spans", export and export.spans, "count"),
        Fact("spans_acknowledged", export and export.spans_acknowledged, "count", label="exported", said=said),
        Fact("spans_rejected", export and export.spans_rejected, "count"),
        Fact("spans_in_spool", left, "count"),
    ]
    metrics = export.metrics if export is not None else None
    of_metrics = ""
    if metrics is not None:
        of_metrics = (
            f"{metrics.points_acknowledged:,} of {metrics.points:,} data points: {metrics.note}" if metrics.note else f"all {metrics.points:,} data points"
        )
    facts += [
        Fact("metric_points", metrics and metrics.points, "count"),
        Fact("metric_points_acknowledged", metrics and metrics.points_acknowledged, "count", label="metrics" if metrics else "", said=of_metrics),
    ]
    return Section("trace", "Trace", facts=tuple(facts))
