"""The summary's steps and its critical path.

What comes in: a record and how many rows are wanted. What goes out: two sections.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from otel_exec.aggregate.tally import total_ns
from otel_exec.report.durations import duration_text, share_text
from otel_exec.report.steps import execution_ns, longest, outcome_word, plural
from otel_exec.report.summary_record import AnyRecord, AnyStep
from otel_exec.report.table import Column, Fact, Section, Table

__all__ = ["critical_path_section", "steps_section"]


def steps_section(record: AnyRecord, steps: Sequence[AnyStep], names: dict[str, str], sort: str, top: int | None) -> Section:
    """Return the steps, those that took longest kept, in the order asked for."""
    shown = longest(steps, top)
    if sort == "duration":
        shown.sort(key=lambda step: (-(execution_ns(step) or 0), step.node_id))
    elif sort == "name":
        shown.sort(key=lambda step: (names[step.node_id], step.node_id))
    else:
        shown.sort(key=lambda step: (step.start_ns is None, step.start_ns or 0))
    slack = record.critical_path.slack_ns if record.critical_path else {}
    wall_ns, over = record.duration_ns, record.outcome != "running"
    rows = [_step_row(step, names, slack, wall_ns, over=over) for step in shown]
    hidden = len(steps) - len(shown)
    title = "Steps" if not hidden else f"Steps (the {len(shown):,} that took longest of {len(steps):,}; --top shows more)"
    more = ""
    if hidden:
        kept = {step.node_id for step in shown}
        rest = [execution_ns(step) or 0 for step in steps if step.node_id not in kept]
        more = f"and {plural(hidden, 'more step')} of at most {duration_text(max(rest))}, {duration_text(sum(rest))} in all"
    # Why a step did not run is worth more than what others took of the machine.
    machine_priority = 10 if any(step.reason and step.reason != "cached" for step in shown) else 6
    columns = (
        Column("node_id", "", "json"),
        Column("name", "Step", "name", min_width=14),
        Column("level", "Lvl", "count", priority=3),
        Column("outcome", "Outcome", "outcome"),
        Column("attempts", "Try", "count", priority=4),
        Column("start", "Start", "duration", priority=20),
        Column("wait", "Wait", "duration", priority=12, sparse=True),
        Column("queue", "Queue", "duration", priority=5),
        Column("load", "Load", "duration", priority=16, sparse=True),
        Column("execution", "Exec", "duration"),
        Column("verification", "Verify", "duration", priority=15, sparse=True),
        Column("store", "Store", "duration", priority=17, sparse=True),
        Column("backoff", "Back-off", "duration", priority=14, sparse=True),
        Column("total", "Total", "duration", priority=2),
        Column("cpu", "CPU", "duration", priority=machine_priority, sparse=True),
        Column("peak_rss", "RSS", "bytes", priority=machine_priority + 1, sparse=True),
        Column("items", "Items", "count", priority=13, sparse=True),
        Column("worker_id", "Worker", "name", priority=18, min_width=6, sparse=True),
        Column("slack", "Slack", "duration", priority=11),
        Column("wall_share", "Share", "share", priority=1),
        Column("cached_from", "", "json"),
        Column("reason", "Why", "words", priority=5, sparse=True),
        Column("output_path", "", "json"),
    )
    notes = ("Exec is the function alone in its last attempt, Total from ready to settled; Share is Exec in the wall time.",) if rows else ()
    return Section("steps", title, table=Table("steps", columns, rows, hidden=hidden, more=more), notes=notes)


def _step_row(step: AnyStep, names: dict[str, str], slack: dict[str, int], wall_ns: int | None, *, over: bool) -> tuple[Any, ...]:
    last = step.attempts[-1] if step.attempts else None
    ran_ns = execution_ns(step)
    earlier = step.cached_from
    return (
        step.node_id,
        names[step.node_id],
        step.level,
        outcome_word(step, over=over),
        len(step.attempts),
        step.start_ns,
        last and last.wait_ns,
        last and last.queue_ns,
        last and last.load_ns,
        ran_ns,
        last and last.verification_ns,
        last and last.store_ns,
        last and last.backoff_ns,
        total_ns(step),
        last and last.cpu_ns,
        last and last.peak_rss_bytes,
        step.items.count if step.items else None,
        last and last.worker_id,
        slack.get(step.node_id) if step.attempts else None,
        ran_ns / wall_ns if ran_ns is not None and wall_ns else None,
        {"exec_id": earlier.exec_id, "trace_id": earlier.trace_id, "duration_seconds": earlier.duration_seconds} if earlier else None,
        step.reason if step.reason != "cached" else None,
        step.output_path,
    )


def critical_path_section(record: AnyRecord, steps: Sequence[AnyStep], names: dict[str, str], top: int | None) -> Section:
    """Return the critical path, its longest steps kept, and who is next to it."""
    path = record.critical_path
    if path is None or not path.duration_ns:
        return Section(
            "critical_path",
            "",
            facts=(Fact("duration", path and path.duration_ns, "duration"), Fact("outside", None, "duration"), Fact("outside_share", None)),
            table=_chain([], 0),
        )
    wall_ns = record.duration_ns
    outside_ns = None if wall_ns is None else max(0, wall_ns - path.duration_ns)
    by_id = {step.node_id: step for step in steps}
    chain = [by_id[node_id] for node_id in path.steps if node_id in by_id]
    shown = longest(chain, top)
    rows = [
        (step.node_id, names[step.node_id], execution_ns(step), (execution_ns(step) or 0) / path.duration_ns, (execution_ns(step) or 0) / path.duration_ns)
        for step in shown
    ]
    hidden = len(chain) - len(shown)
    # Items of a fan-out run on several workers at once: a step that has some may well get faster with more of them.
    but = ", but for the fan-outs inside its steps" if any(step.items and step.items.count for step in chain) else ""
    intro = f"No number of workers can make it faster{but}"
    if outside_ns is not None and wall_ns:
        intro += f"; {duration_text(outside_ns)} ({share_text(outside_ns / wall_ns)}) of the wall time lies outside it"
    on_path = set(path.steps)
    near = sorted((ns, names[node_id]) for node_id, ns in path.slack_ns.items() if node_id not in on_path and node_id in by_id and by_id[node_id].attempts)
    notes: tuple[str, ...] = ()
    if near:
        said = ", ".join(f"{name} ({duration_text(ns)})" for ns, name in near[:3])
        notes = (f"Least slack beside it: {said}{f' and {len(near) - 3:,} more' if len(near) > 3 else ''}.",)
    return Section(
        "critical_path",
        f"Critical path: {duration_text(path.duration_ns)} in {plural(len(chain), 'step')}",
        intro=(f"{intro}.",),
        facts=(
            Fact("duration", path.duration_ns, "duration"),
            Fact("outside", outside_ns, "duration"),
            Fact("outside_share", outside_ns / wall_ns if outside_ns is not None and wall_ns else None, "share"),
        ),
        table=_chain(rows, hidden),
        notes=notes,
    )


def _chain(rows: Sequence[tuple[Any, ...]], hidden: int) -> Table:
    columns = (
        Column("node_id", "", "json"),
        Column("name", "Step", "name", min_width=14),
        Column("execution", "Exec", "duration"),
        Column("path_share", "Of path", "share"),
        Column("bar", "", "bar", priority=1),
    )
    return Table("steps", columns, rows, hidden=hidden, more=f"and {plural(hidden, 'more step')} on it that took less" if hidden else "")
