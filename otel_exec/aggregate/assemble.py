"""Rendering: the plan's half of a record, and the folded half put beside it.

What comes in: a plan and its decisions; an `Aggregator`. What goes out: `RunRecord`s. Never reads a file or a clock.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from otel_exec.aggregate.folds import ItemsFold, PhaseFold
from otel_exec.clock import to_iso
from otel_exec.record.model import (
    ItemsRecord,
    LevelRecord,
    NodeRecord,
    PhaseRecord,
    StepRecord,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from otel_exec.aggregate.aggregator import Aggregator
    from otel_exec.plan.graph import Plan
    from otel_exec.record.model import RunRecord

__all__ = ["phase_records", "render", "render_rows", "step_skeletons"]


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
    return {
        name: PhaseRecord(
            count=fold.count,
            total_ns=fold.total_ns,
            union_ns=fold.union_ns,
            self_ns=fold.self_ns,
            share_ns=fold.share_ns,
            min_ns=fold.min_ns,
            max_ns=fold.max_ns,
            p50_ns=fold.samples.percentile(50),
            p95_ns=fold.samples.percentile(95),
            p99_ns=fold.samples.percentile(99),
            errors=fold.errors,
        )
        for name, fold in folds.items()
    }


def _items_record(fold: ItemsFold) -> ItemsRecord:
    return ItemsRecord(
        count=fold.count,
        completed=fold.completed,
        failed=fold.failed,
        cancelled=fold.cancelled,
        attempts=fold.attempts,
        busy_ns=fold.busy_ns,
        p50_ns=fold.samples.percentile(50),
        p95_ns=fold.samples.percentile(95),
        p99_ns=fold.samples.percentile(99),
    )


def _merged(folds: Iterable[Mapping[str, PhaseFold]]) -> dict[str, PhaseFold]:
    merged: dict[str, PhaseFold] = {}
    for attempt in folds:
        for name, fold in attempt.items():
            merged.setdefault(name, PhaseFold()).merge(fold)
    return merged


def _nodes(aggregator: Aggregator) -> list[NodeRecord]:
    by_node: dict[str, list[dict[str, PhaseFold]]] = {}
    for nodes in aggregator.nodes.values():
        for node_id, folds in nodes.items():
            by_node.setdefault(node_id, []).append(folds)
    records = []
    for node_id, attempts in sorted(by_node.items()):
        merged = _merged(attempts)
        records.append(NodeRecord(node_id, name=node_id, total_ns=sum(fold.share_ns for fold in merged.values()), phases=phase_records(merged)))
    return records


def render(aggregator: Aggregator) -> RunRecord:
    """Put what was folded so far into the aggregator's record, and return it: phases, items, nodes, levels, workers, gates."""
    record = aggregator.record
    steps = aggregator.steps
    by_node: dict[str, list[dict[str, PhaseFold]]] = {}
    for (node_id, number), folds in sorted(aggregator.phases.items()):
        if node_id in steps:
            by_node.setdefault(node_id, []).append(folds)
            aggregator.attempt(steps[node_id], number).phases = phase_records(folds)
    for node_id, attempts in by_node.items():
        steps[node_id].phases = phase_records(_merged(attempts))
    items: dict[str, ItemsFold] = {}
    for (node_id, _), fold in aggregator.items.items():
        items.setdefault(node_id, ItemsFold()).merge(fold)
    for node_id, fold in items.items():
        if node_id in steps:
            steps[node_id].items = _items_record(fold)
    usage: dict[str, dict[str, int]] = {}
    for (node_id, _), tokens in aggregator.tokens.items():
        of_step = usage.setdefault(node_id, {})
        for name, count in tokens.items():
            of_step[name] = of_step.get(name, 0) + count
    for node_id, of_step in usage.items():
        if node_id in steps:
            steps[node_id].token_usage = of_step
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
