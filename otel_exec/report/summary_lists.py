"""The summary's other lists: workers, phases, gates, errors, warnings.

What comes in: a record and how many rows are wanted. What goes out: a section each.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from otel_exec.clock import from_iso
from otel_exec.record.model import EXECUTION
from otel_exec.report.durations import exact_text, share_text
from otel_exec.report.steps import FAILURES, left_open, plural
from otel_exec.report.summary_record import AnyRecord, AnyStep
from otel_exec.report.table import Column, Entry, Fact, Section, Table
from otel_exec.report.text_safety import first_line
from otel_exec.semconv import NODES_ROW

# So many workers' deaths are told one by one.
_MOST_DEATHS = 5

__all__ = ["errors_section", "gates_section", "left_open_section", "phases_section", "warnings_section", "workers_section"]


def workers_section(record: AnyRecord, top: int | None) -> Section:
    """Return how busy the workers were, the busiest kept where there are too many; a worker's time is from its start to its stop or the run's end."""
    end = from_iso(record.end_time)
    rows: list[tuple[Any, ...]] = []
    busy_ns = there_ns = 0
    for worker in record.workers:
        started, stopped = from_iso(worker.started_at), from_iso(worker.stopped_at) or end
        own_ns = None if started is None or stopped is None else max(0, stopped - started)
        if own_ns:
            busy_ns += worker.busy_ns
            there_ns += own_ns
        init_ns = None if worker.initialization_ms is None else worker.initialization_ms * 1_000_000
        if init_ns is not None and worker.start_ns is not None and worker.ready_ns is not None:  # a record of others may have no nanoseconds
            init_ns = max(0, worker.ready_ns - worker.start_ns)
        rows.append(
            (
                worker.worker_id,
                worker.host,
                worker.tasks_completed,
                worker.tasks_failed,
                init_ns,
                worker.busy_ns,
                own_ns,
                worker.busy_ns / own_ns if own_ns else None,
                worker.died,
            )
        )
    share = busy_ns / there_ns if there_ns else None
    hidden = max(0, len(rows) - top) if top is not None else 0
    if hidden:
        rows = sorted(rows, key=lambda row: -row[5])[:top]
    columns = (
        Column("worker_id", "Worker", "name", min_width=6),
        Column("host", "Host", "name", min_width=6, priority=3, sparse=True),
        Column("tasks_completed", "Done", "count"),
        Column("tasks_failed", "Failed", "count", sparse=True, priority=1),
        Column("initialization", "Init", "duration", priority=2),
        Column("busy", "Busy", "duration"),
        Column("uptime", "Up", "duration", priority=1),
        Column("busy_share", "Busy/up", "share"),
        Column("died", "", "json"),  # a sentence, for which a column has no room
    )
    notes = _deaths(record)
    if record.executor.kind == "ray" and any(step.items is not None and step.items.count for step in record.steps):
        notes.append("A step that waits for its items counts as busy, too: on Ray others run them.")
    title = "How busy the workers were"
    if share is not None:
        title += f": {share_text(share)} ({exact_text(busy_ns)} of {exact_text(there_ns)})"
    return Section(
        "workers",
        title,
        notes=tuple(notes),
        facts=(Fact("busy", busy_ns, "duration"), Fact("uptime", there_ns, "duration"), Fact("busy_share", share, "share")),
        table=Table("list", columns, rows, hidden=hidden, more=f"and {plural(hidden, 'more worker')} less busy than these" if hidden else ""),
    )


def _deaths(record: AnyRecord) -> list[str]:
    """Return who died and why, in sentences; of many the first."""
    died = [worker for worker in record.workers if worker.died]
    said = [f"Worker {worker.worker_id} died: {first_line(worker.died or '')}." for worker in died[:_MOST_DEATHS]]
    return said + ([f"And {plural(len(died) - len(said), 'more worker')} died."] if len(died) > len(said) else [])


def phases_section(record: AnyRecord, steps: Sequence[AnyStep], names: dict[str, str], top: int | None) -> Section:
    """Return the phases by name over all steps and nodes, those with the largest totals kept."""
    sums: dict[str, list[Any]] = {}
    for place, phases in [*((names[step.node_id], step.phases) for step in steps if step.phases), *((node.name, node.phases) for node in record.nodes)]:
        for name, phase in phases.items():
            if name == NODES_ROW:  # their own rows follow
                continue
            own = sums.setdefault(name, [0, 0, 0, 0, 0, 0, 0, "", -1])
            own[0] += 1
            own[1] += phase.count
            own[2] += phase.total_ns
            own[3] += phase.self_ns
            own[4] += phase.share_ns
            own[5] = max(own[5], phase.max_ns or 0)
            own[6] += phase.errors
            if phase.total_ns > own[8]:
                own[7], own[8] = place, phase.total_ns
    items_ns = sum(step.items.busy_ns for step in steps if step.items)
    executing_ns = sum(_node_time_ns(step) for step in steps) or (record.duration_ns or 0 if record.executor.kind == EXECUTION else 0)
    # An attempt that was lost may have left its phases without a length of its own: then they are what is known of the whole.
    whole_ns = max(executing_ns, sum(own[4] for own in sums.values()))
    ranked = sorted(sums.items(), key=lambda item: (-item[1][2], item[0]))
    shown = ranked if top is None else ranked[:top]
    rows = [
        (name, count, total, own_ns, share / whole_ns if whole_ns else None, longest_ns, errors, where_count, where)
        for name, (where_count, count, total, own_ns, share, longest_ns, errors, where, _) in shown
    ]
    hidden = len(ranked) - len(shown)
    columns = (
        Column("phase", "Phase", "name", min_width=14),
        Column("count", "Count", "count"),
        Column("total", "Total", "duration"),
        Column("self", "Self", "duration", priority=3),
        Column("share", "Share", "share", priority=2),
        Column("max", "Longest", "duration", priority=4),
        Column("errors", "Errors", "count", priority=1, sparse=True),
        Column("steps", "Steps", "count", priority=5),
        Column("most_in", "Most of it in", "name", min_width=14, priority=6),
    )
    included = ", items of fan-outs included" if items_ns else ""
    notes = (f"Share is the phase's part of all execution{included}; where phases overlap each counts for its part.",) if rows else ()
    more = f"and {plural(hidden, 'more phase')} that took less" if hidden else ""
    return Section("phases", "Phases that took most", table=Table("phases", columns, rows, hidden=hidden, more=more), notes=notes)


def _node_time_ns(step: AnyStep) -> int:
    """Return a step's time without its waiting in `map_tasks`; of a record that does not tell it, that of its tasks and items."""
    if step.node_time_ns is not None:
        return step.node_time_ns
    return sum(attempt.execution_ns or 0 for attempt in step.attempts) + (step.items.busy_ns if step.items else 0)


def gates_section(record: AnyRecord) -> Section:
    """Return the gates that were run."""
    columns = (
        Column("name", "Gate", "name", min_width=14),
        Column("level", "After level", "count"),
        Column("outcome", "Outcome", "outcome"),
        Column("duration", "Time", "duration"),
    )
    rows = [(gate.name, gate.level, gate.outcome, gate.end_ns - gate.start_ns) for gate in record.gates]
    return Section("gates", "Gates", table=Table("gates", columns, rows))


def left_open_section(record: AnyRecord, names: dict[str, str]) -> Section:
    """Return what an interrupted run left open, longest first: a step counts from when a worker took it, or, where none did, from when it was ready."""
    rows: list[tuple[Any, ...]] = []
    for step in left_open(record):
        last = step.attempts[-1] if step.attempts else None
        taken = last is not None and last.claimed_ns is not None
        since_ns = last.claimed_ns if last is not None and last.claimed_ns is not None else step.start_ns
        open_ns = None if record.duration_ns is None or since_ns is None else max(0, record.duration_ns - since_ns)
        rows.append((step.node_id, names[step.node_id], "running" if taken else "ready", len(step.attempts), last and last.worker_id, open_ns))
    rows.sort(key=lambda row: -(row[5] or 0))
    columns = (
        Column("node_id", "", "json"),
        Column("name", "Step", "name", min_width=14),
        Column("state", "It was"),
        Column("attempt", "Attempt", "count", priority=2),
        Column("worker_id", "Worker", "name", min_width=6, priority=1),
        Column("open", "For", "duration"),
    )
    return Section("left_open", "Open when the run was broken off", table=Table("left_open", columns, rows))


def errors_section(steps: Sequence[AnyStep], names: dict[str, str], top: int | None) -> Section:
    """Return the steps that failed, the first ones kept: what is the matter, and where to read on."""
    failed = [step for step in steps if step.outcome in FAILURES or step.error is not None]
    shown = failed if top is None else failed[:top]
    rows, entries = [], []
    for step in shown:
        error = step.error
        kind, message = (error.type, first_line(error.message)) if error else (None, "")
        where, log = (error.where, error.log) if error else (None, None)
        rows.append((step.node_id, names[step.node_id], step.outcome, len(step.attempts), kind, message or None, where, log))
        tried = f" after {len(step.attempts)} attempts" if len(step.attempts) > 1 else ""
        said = f"{kind}: {message}" if kind else "no error was recorded"
        paths = [(label, path) for label, path in (("at", where), ("read on in", log)) if path]
        entries.append(Entry(f"{names[step.node_id]}: {step.outcome}{tried}", lines=(said,), paths=tuple(paths), style="red"))
    hidden = len(failed) - len(shown)
    columns = tuple(Column(key, "") for key in ("node_id", "name", "outcome", "attempts", "type", "message", "where", "log"))
    skipped = sum(1 for step in steps if step.reason == "upstream_failed")
    notes = (
        (f"{plural(skipped, 'step')} {'was' if skipped == 1 else 'were'} not run because of {'it' if len(failed) == 1 else 'these'}.",)
        if skipped and failed
        else ()
    )
    if hidden:
        notes = (f"and {hidden:,} more that failed", *notes)
    return Section(
        "errors", f"Errors ({len(failed):,})", table=Table("errors", columns, rows, hidden=hidden, in_text=False), entries=tuple(entries), notes=notes
    )


def warnings_section(record: AnyRecord, top: int | None) -> Section:
    """Return the record's warnings."""
    shown = record.warnings if top is None else record.warnings[:top]
    rows = [(warning.code, warning.message, warning.count) for warning in shown]
    entries = tuple(
        Entry(f"{warning.code}{f' ({warning.count:,} times)' if warning.count > 1 else ''}", lines=(warning.message,), style="yellow") for warning in shown
    )
    hidden = len(record.warnings) - len(shown)
    columns = (Column("code", ""), Column("message", ""), Column("count", ""))
    notes = (f"and {hidden:,} more",) if hidden else ()
    return Section(
        "warnings", f"Warnings ({len(record.warnings):,})", table=Table("warnings", columns, rows, hidden=hidden, in_text=False), entries=entries, notes=notes
    )
