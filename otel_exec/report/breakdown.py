"""Where the time of each node went, phase by phase, and what each phase could save at most.

What comes in: a record (whole, or the part of it that is needed here). What goes out: a `Breakdown`, for `breakdown_text` and `breakdown_json`.
Every number is the record's own, in nanoseconds; shares of a node and its unaccounted rest add up to its time exactly. Pure.

What a phase could save at most is what it took itself, phases inside it not counted, since they have rows of their own: its self time, and of occurrences side
by side no more than the time in which any was open. It is no more than its step ran (a fan-out's items run side by side) and no more than the run took. A step
with slack holds nobody up, and its phases, and those of nodes that ran in such steps alone, could save nothing, where workers were not short: no step queued for
more than `SHORT_OF_WORKERS` of the run, and there was no barrier.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from otel_exec.aggregate.folds import add_counts
from otel_exec.errors import UsageError, unknown_name
from otel_exec.record.model import PhaseRecord
from otel_exec.report.breakdown_record import AnyBreakdown, AnyBreakdownStep, AnyNode
from otel_exec.report.start_ups import started_beside
from otel_exec.report.steps import FAILURES
from otel_exec.semconv import NODES_ROW
from otel_exec.semconv import UNACCOUNTED_ROW as UNACCOUNTED

__all__ = ["UNACCOUNTED", "Bottleneck", "Breakdown", "Node", "Row", "Try", "breakdown"]

# A step that queued longer than this share of the run says that workers were short.
SHORT_OF_WORKERS = 0.01
# So many nodes of one template are shown as one.
_REPEATED = 4


class Row(msgspec.Struct, frozen=True):
    """One phase of one node (or of several of one template). `share_ns` is its part of the node's time; percentiles are `None` where nodes were put together."""

    name: str
    count: int
    total_ns: int
    union_ns: int
    self_ns: int
    share_ns: int
    p50_ns: int | None = None
    p95_ns: int | None = None
    p99_ns: int | None = None
    errors: int = 0


class Try(msgspec.Struct, frozen=True):
    """What a node came to in one attempt: its own, of a step; at the step `node_id` and its items, of another node. `outcome` is a step's."""

    node_id: str
    attempt: int
    outcome: str | None
    total_ns: int | None
    rows: tuple[Row, ...]
    unaccounted_ns: int | None


class Node(msgspec.Struct, frozen=True):
    """A node's breakdown. `total_ns` is its time, `None` where nothing is known; `rows` are longest first, `unaccounted_ns` is what is left of the time.

    `timed`: it has a time of its own, as steps and executions have; any other node's is that of its phases, which leave nothing unaccounted for.
    `wall_ns` and `cpu_ns` are its attempts' execution and CPU time, `None` while one of them runs; `attempts` how many there were, `failed` how many of them failed.
    `tries`: each attempt by itself, where there was more than one and they were asked for. `ran_in`: of a node that is no step, the steps that it ran in.
    `members`: the times of the nodes that were put together, [] for a node of its own.
    """

    node_id: str
    name: str
    total_ns: int | None
    rows: tuple[Row, ...]
    unaccounted_ns: int | None
    tokens: dict[str, int]
    step: bool = False
    timed: bool = False
    template: str | None = None
    attempts: int = 0
    failed: int = 0
    items: int = 0
    wall_ns: int | None = None
    cpu_ns: int | None = None
    members: tuple[int, ...] = ()
    tries: tuple[Try, ...] = ()
    ran_in: frozenset[str] = frozenset()


class Bottleneck(msgspec.Struct, frozen=True):
    """A phase (or what no phase of a step covered) and what it could save of the run's wall time, at most. `slack_ns`: its step's, `None` where it has none."""

    node_id: str
    name: str
    phase: str
    total_ns: int
    saves_ns: int
    slack_ns: int | None


class Breakdown(msgspec.Struct, frozen=True):
    """A run, node by node, the longest first. `nodes` are all of them, each by itself; `shown` those to be shown, repeated ones put together. `note`: what the bottlenecks can't say."""

    exec_id: str
    alias: str | None
    outcome: str
    duration_ns: int | None
    nodes: tuple[Node, ...]
    shown: tuple[Node, ...]
    bottlenecks: tuple[Bottleneck, ...]
    note: str = ""


def breakdown(record: AnyBreakdown, *, now_ns: int | None = None, every: bool = False, node: str | None = None, tries: bool = False) -> Breakdown:
    """Return a run's breakdown.

    Args:
        record: the run.
        now_ns: the present instant (nanoseconds since the Unix epoch), for a run that goes on.
        every: nodes without phases too.
        node: these alone: a node id, a name or a template, with each attempt by itself. Without it bottlenecks are looked for in all nodes.
        tries: each attempt by itself, of all nodes.

    Raises:
        UsageError: there is no node of that name.
    """
    duration_ns = record.duration_ns
    if duration_ns is None and now_ns is not None:
        duration_ns = max(0, now_ns - int(record.start_time_unix_nano))
    # Steps that were not run, a cached one say, have no time to break down.
    steps = [step for step in record.steps if step.attempts and not step.group]
    tries = tries or node is not None
    nodes = [*(_of_step(step, tries=tries) for step in steps), *(_of_node(each, tries=tries) for each in record.nodes)]
    nodes.sort(key=lambda each: (-(each.total_ns or 0), each.node_id))
    ranked = nodes
    if node is not None:
        chosen = [each for each in nodes if node in {each.node_id, each.name, each.template}]
        if not chosen:
            raise UsageError(unknown_name("node", node, {each.name for each in nodes}))
        nodes = ranked = chosen
    elif not every:
        nodes = [each for each in nodes if each.rows]
    return Breakdown(
        exec_id=record.exec_id,
        alias=record.alias,
        outcome=record.outcome,
        duration_ns=duration_ns,
        nodes=tuple(nodes),
        shown=tuple(nodes if node is not None else _together(nodes)),
        bottlenecks=tuple(_bottlenecks(record, ranked, duration_ns or 0)),
        note=started_beside(record) if node is None else "",
    )


def _row(name: str, phase: PhaseRecord) -> Row:
    # A file of others may hold anything: no time and no count is below 0.
    return Row(
        name,
        max(0, phase.count),
        max(0, phase.total_ns),
        max(0, phase.union_ns),
        max(0, phase.self_ns),
        max(0, phase.share_ns),
        _not_below(phase.p50_ns),
        _not_below(phase.p95_ns),
        _not_below(phase.p99_ns),
        max(0, phase.errors),
    )


def _rows(phases: dict[str, PhaseRecord]) -> tuple[Row, ...]:
    return _longest_first(_row(name, phase) for name, phase in phases.items())


def _longest_first(rows: Iterable[Row]) -> tuple[Row, ...]:
    return tuple(sorted(rows, key=lambda row: (-row.total_ns, row.name)))


def _of_step(step: AnyBreakdownStep, *, tries: bool) -> Node:
    rows = _rows(step.phases)
    known = [attempt for attempt in step.attempts if attempt.execution_ns is not None]
    going_on = any(attempt.execution_ns is None and attempt.outcome is None for attempt in step.attempts)
    cpu = [attempt.cpu_ns for attempt in known if attempt.cpu_ns is not None]
    return Node(
        node_id=step.node_id,
        name=step.name,
        total_ns=_not_below(step.node_time_ns),
        rows=rows,
        unaccounted_ns=_rest(_not_below(step.node_time_ns), rows),
        tokens=_counts(step.token_usage),
        step=True,
        timed=True,
        template=step.template,
        attempts=len(step.attempts),
        failed=sum(attempt.outcome in FAILURES for attempt in step.attempts),
        items=step.items.count if step.items else 0,
        wall_ns=sum(attempt.execution_ns or 0 for attempt in known) if known and not going_on else None,
        cpu_ns=sum(cpu) if cpu and len(cpu) == len(known) and not going_on else None,
        tries=tuple(_try(step.node_id, each.attempt, each.outcome, each.node_time_ns, each.phases) for each in step.attempts)
        if tries and len(step.attempts) > 1
        else (),
    )


def _of_node(node: AnyNode, *, tries: bool) -> Node:
    rows = _rows(node.phases)
    ran_in = frozenset(each.node_id for each in node.attempts)
    return Node(
        node_id=node.node_id,
        name=node.name,
        total_ns=max(0, node.total_ns),
        rows=rows,
        unaccounted_ns=_rest(max(0, node.total_ns), rows),
        tokens=_counts(node.token_usage),
        timed=node.node_id in ran_in,
        tries=tuple(_try(each.node_id, each.attempt, None, each.total_ns, each.phases) for each in node.attempts) if tries and len(node.attempts) > 1 else (),
        ran_in=ran_in,
    )


def _try(node_id: str, attempt: int, outcome: str | None, total_ns: int | None, phases: dict[str, PhaseRecord]) -> Try:
    rows = _rows(phases)
    return Try(node_id, attempt, outcome, total_ns, rows, _rest(total_ns, rows))


def _rest(total_ns: int | None, rows: Iterable[Row]) -> int | None:
    return None if total_ns is None else max(0, total_ns - sum(row.share_ns for row in rows))


def _not_below(number: int | None) -> int | None:
    return None if number is None else max(0, number)


def _counts(tokens: dict[str, int]) -> dict[str, int]:
    return {name: max(0, count) for name, count in tokens.items()}


def _together(nodes: Sequence[Node]) -> list[Node]:
    """Put the steps of one template together where there are many; the longest first."""
    by_template: dict[str, list[Node]] = {}
    for each in nodes:
        if each.step and each.template:
            by_template.setdefault(each.template, []).append(each)
    repeated = {template: group for template, group in by_template.items() if len(group) >= _REPEATED}
    shown = [each for each in nodes if not (each.step and each.template in repeated)]
    shown += [_sum(template, group) for template, group in repeated.items()]
    return sorted(shown, key=lambda each: (-(each.total_ns or 0), each.node_id))


def _sum(template: str, group: Sequence[Node]) -> Node:
    """Return the nodes of one template as one: everything added up. Percentiles of phases can't be, and are left out."""
    rows: dict[str, Row] = {}
    tokens: dict[str, int] = {}
    for each in group:
        for row in each.rows:
            so_far = rows.get(row.name)
            rows[row.name] = msgspec.structs.replace(row, p50_ns=None, p95_ns=None, p99_ns=None) if so_far is None else _added(so_far, row)
        add_counts(tokens, each.tokens)
    times = tuple(each.total_ns for each in group if each.total_ns is not None)
    total_ns = sum(times) if times else None
    ordered = _longest_first(rows.values())
    return Node(
        node_id=template,
        name=template,
        total_ns=total_ns,
        rows=ordered,
        unaccounted_ns=_rest(total_ns, ordered),
        tokens=tokens,
        step=True,
        timed=True,
        template=template,
        attempts=sum(each.attempts for each in group),
        failed=sum(each.failed for each in group),
        items=sum(each.items for each in group),
        wall_ns=_known_sum(each.wall_ns for each in group),
        cpu_ns=_known_sum(each.cpu_ns for each in group),
        members=times,
    )


def _known_sum(values: Iterable[int | None]) -> int | None:
    listed = list(values)
    return None if None in listed else sum(value or 0 for value in listed)


def _added(one: Row, other: Row) -> Row:
    return Row(
        one.name,
        one.count + other.count,
        one.total_ns + other.total_ns,
        one.union_ns + other.union_ns,
        one.self_ns + other.self_ns,
        one.share_ns + other.share_ns,
        errors=one.errors + other.errors,
    )


def _bottlenecks(record: AnyBreakdown, nodes: Sequence[Node], wall_ns: int) -> list[Bottleneck]:
    slack = record.critical_path.slack_ns if record.critical_path is not None else {}
    short = record.executor.barrier or any((attempt.queue_ns or 0) > wall_ns * SHORT_OF_WORKERS for step in record.steps for attempt in step.attempts)
    found = []
    for node in nodes:
        ran_ns = wall_ns if node.wall_ns is None else min(wall_ns, node.wall_ns)
        # A node that is no step has the slack of the step that had least of those that it ran in.
        slacks = [slack.get(node_id) for node_id in ({node.node_id} if node.step else node.ran_in)]
        slack_ns = None if not slacks or None in slacks else min(each or 0 for each in slacks)
        rows = [(row.name, row.total_ns, min(row.self_ns, row.union_ns)) for row in node.rows if row.name != NODES_ROW]
        rows.append((UNACCOUNTED, node.unaccounted_ns or 0, node.unaccounted_ns or 0))
        for name, total_ns, took_ns in rows:
            saves_ns = min(took_ns, ran_ns)
            if slack_ns and not short:
                saves_ns = 0
            if saves_ns > 0:
                found.append(Bottleneck(node.node_id, node.name, name, total_ns, saves_ns, slack_ns))
    return sorted(found, key=lambda each: (-each.saves_ns, -each.total_ns, each.node_id, each.phase))
