"""Rendering: the plan's half of a record, and the folded half put beside it.

What comes in: a plan and its decisions; an `Aggregator`. What goes out: `RunRecord`s. Never reads a file or a clock.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from otel_exec.aggregate.folds import ItemsFold, NodeFold, PhaseFold, TaskSums
from otel_exec.aggregate.sweep import MAX_NAMES
from otel_exec.aggregate.task_fold import MAX_NODES
from otel_exec.clock import to_iso
from otel_exec.record.model import (
    ItemsRecord,
    LevelRecord,
    NodeAttempt,
    NodeRecord,
    PhaseRecord,
    StepRecord,
)
from otel_exec.semconv import OTHERS_ROW

if TYPE_CHECKING:
    from collections.abc import Mapping

    from otel_exec.aggregate.aggregator import Aggregator
    from otel_exec.plan.graph import Plan
    from otel_exec.record.model import RunRecord

__all__ = ["phase_records", "render", "render_rows", "step_skeletons"]

_PERCENTILES = (50, 95, 99)


def step_skeletons(plan: Plan) -> list[StepRecord]:
    """Return the plan's half of every step's record, in the plan's order."""
    steps = plan.steps
    skeletons = []
    for step in steps:
        depends_on = [steps[index].node_id for index in step.depends_on]
        pseudo = [steps[index].node_id for index in step.pseudo_depends_on]
        version: dict[str, Any] = {"name": step.name, "config": step.recorded_version.get("config", {}), "dependencies": depends_on}
        if pseudo:
            version["pseudo_dependencies"] = pseudo
        skeletons.append(
            StepRecord(
                node_id=step.node_id,
                name=step.name,
                fn_name=step.fn_name,
                template=step.template,
                level=step.level,
                description=step.description,
                config=step.recorded_config,
                version=version,
                dependencies=[path for index in step.depends_on if (path := steps[index].output_path) is not None],
                output_path=step.output_path,
                override_output_path=step.override_output_path,
                group=step.group,
                depends_on=depends_on,
                pseudo_depends_on=pseudo,
            )
        )
    return skeletons


def phase_records(folds: Mapping[str, PhaseFold]) -> dict[str, PhaseRecord]:
    """Return folded phases as they stand in the record, by name."""
    found = {}
    for name, fold in folds.items():
        p50_ns, p95_ns, p99_ns = fold.samples.percentiles(_PERCENTILES)
        found[name] = PhaseRecord(
            count=fold.count,
            total_ns=fold.total_ns,
            union_ns=fold.union_ns,
            self_ns=fold.self_ns,
            share_ns=fold.share_ns,
            min_ns=fold.min_ns,
            max_ns=fold.max_ns,
            p50_ns=p50_ns,
            p95_ns=p95_ns,
            p99_ns=p99_ns,
            errors=fold.errors,
        )
    return found


def _items_record(fold: ItemsFold) -> ItemsRecord:
    p50_ns, p95_ns, p99_ns = fold.samples.percentiles(_PERCENTILES)
    return ItemsRecord(
        count=fold.count,
        completed=fold.completed,
        failed=fold.failed,
        cancelled=fold.cancelled,
        attempts=fold.attempts,
        busy_ns=fold.busy_ns,
        p50_ns=p50_ns,
        p95_ns=p95_ns,
        p99_ns=p99_ns,
    )


def _step_sums(aggregator: Aggregator) -> None:
    """Put what was folded of steps into their records: of each attempt its own, of the step all attempts'."""
    steps = aggregator.steps
    of_step: dict[str, list[TaskSums]] = {}
    for (node_id, number), sums in sorted(aggregator.sums.items()):
        if node_id in steps:
            attempt = aggregator.attempt(steps[node_id], number)
            attempt.node_time_ns, attempt.phases = sums.time_ns, phase_records(sums.phases)
            of_step.setdefault(node_id, []).append(sums)
    for node_id, found in of_step.items():
        step = steps[node_id]
        if len(found) == 1:  # as most steps have: its attempt's rows are its own
            (whole,) = found
            step.phases = step.attempts[-1].phases if len(step.attempts) == 1 else phase_records(whole.phases)
        else:
            whole = TaskSums()
            for sums in found:
                whole.merge(sums)
            step.phases = phase_records(whole.phases)
        step.node_time_ns, step.token_usage = whole.time_ns, whole.tokens
        _say_others(aggregator, step.name, step.phases)


def _say_others(aggregator: Aggregator, name: str, phases: Mapping[str, PhaseRecord]) -> None:
    others = phases.get(OTHERS_ROW)
    if others is not None:
        aggregator.state(
            "names_past_limit", f"{name}: phases under names past the {MAX_NAMES:,} that a task keeps apart count in the row {OTHERS_ROW}", others.count
        )


def _nodes(aggregator: Aggregator) -> list[NodeRecord]:
    """Return the nodes that are no steps: ids of phases, and tasks under no step (an execution's own)."""
    records: dict[str, NodeRecord] = {}
    merged: dict[str, NodeFold] = {}

    def add(node_id: str, total_ns: int, fold: NodeFold, attempt: tuple[str, int]) -> None:
        record = records.setdefault(node_id, NodeRecord(node_id, name=node_id))
        record.total_ns += total_ns
        merged.setdefault(node_id, NodeFold()).merge(fold)
        record.attempts.append(NodeAttempt(*attempt, total_ns=total_ns, phases=phase_records(fold.phases)))

    for key, sums in sorted(aggregator.sums.items()):
        if key[0] not in aggregator.steps:
            add(key[0], sums.time_ns, NodeFold(sums.phases, sums.tokens), key)
        for node_id, fold in sums.nodes.items():
            add(node_id, sum(phase.share_ns for phase in fold.phases.values()), fold, key)
    for node_id, fold in merged.items():
        records[node_id].phases, records[node_id].token_usage = phase_records(fold.phases), fold.tokens
        if node_id == OTHERS_ROW:
            aggregator.state(
                "nodes_past_limit",
                f"phases of nodes past the {MAX_NODES:,} that a task keeps apart: they count for a node {OTHERS_ROW}",
                sum(phase.count for phase in fold.phases.values()),
            )
        else:
            _say_others(aggregator, node_id, records[node_id].phases)
    return [records[node_id] for node_id in sorted(records)]


def render(aggregator: Aggregator) -> RunRecord:
    """Put what was folded so far into the aggregator's record, and return it: phases, items, nodes, levels, workers, gates."""
    record = aggregator.record
    steps = aggregator.steps
    _step_sums(aggregator)
    items: dict[str, ItemsFold] = {}
    for (node_id, _), fold in aggregator.items.items():
        items.setdefault(node_id, ItemsFold()).merge(fold)
    for node_id, fold in items.items():
        if node_id in steps:
            steps[node_id].items = _items_record(fold)
    record.nodes = _nodes(aggregator)
    for step in record.steps:
        if step.level is not None and step.level not in aggregator.levels:
            aggregator.levels[step.level] = LevelRecord(step.level)
    return render_rows(aggregator)


def render_rows(aggregator: Aggregator) -> RunRecord:
    """Put levels, gates and workers into the aggregator's record, and return it: the part of `render` that costs nothing however many steps there are."""
    record = aggregator.record
    record.levels = [aggregator.levels[number] for number in sorted(aggregator.levels)]
    record.gates = sorted(aggregator.gates.values(), key=lambda gate: gate.start_ns)
    for gate in record.gates:
        gate.output = aggregator.gate_output.get(gate.span_id or "", gate.output)
    record.workers = [aggregator.workers[key] for key in sorted(aggregator.workers, key=lambda key: (len(key), key))]
    for worker in record.workers:
        worker.busy_ns = aggregator.busy_ns(worker.worker_id)
        worker.last_task_completed_at = to_iso(aggregator.last_completed_ns(worker.worker_id))
    return record
