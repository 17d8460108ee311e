"""Folding what stands in a spool: the way by which a dead run's phases, or a killed attempt's, get into the same aggregator.

What comes in: span records in any order, also twice. What goes out: folds, task by task, in the aggregator. Reads no files.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from otel_exec.aggregate.folds import ItemsFold, TaskSums
from otel_exec.aggregate.task_fold import fold_task
from otel_exec.semconv import EXEC_ATTEMPT, EXEC_OUTCOME, EXEC_TASK_ID, EXEC_WORKER_ID, NODE_ID, NODE_NAME, TOKEN_KEYS, Kind, Outcome
from otel_exec.spans.span_record import SpanRecord

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from collections.abc import Set as AbstractSet

    from otel_exec.aggregate.aggregator import Aggregator
    from otel_exec.spans.open_spans import OpenEntry
    from otel_exec.spans.span_record import AttributeValue

__all__ = ["PARTS", "attempts_of", "descends", "fold_task_spans", "full_tasks", "open_so_far", "slim", "spans_of_attempt"]

# The parts of an attempt that are made beside its task.
PARTS = frozenset({Kind.LOAD, Kind.VERIFY, Kind.STORE})
# What a task's fold is made of: phases, waits for fan-outs, and spans of the user's own that phases may lie under.
_INSIDE = frozenset({Kind.PHASE, Kind.FAN_OUT, ""})
# What a fold asks of them, beside names, times and place.
_ASKED_FOR = frozenset({NODE_ID, NODE_NAME, *TOKEN_KEYS})


def spans_of_attempt(
    spans: Iterable[SpanRecord], task_span_id: str, node_id: str, attempt: int, *, open_parents: Mapping[str, str] | None = None
) -> list[SpanRecord]:
    """Return the spans of one attempt at a step: its load, task, verify and store spans, and all that lies under its task, items of fan-outs with it.

    What lies under the task is known by descent, not by attributes: on an item's spans `exec.attempt` counts the tries at the item.

    Args:
        spans: of the run, in any order.
        task_span_id: the attempt's task span, which need not have ended.
        node_id: the step's.
        attempt: the step's.
        open_parents: of spans that have not ended, by span id, the span above: what ended under them belongs to the attempt as well.
    """
    by_id = {span.span_id: span for span in spans}
    parents = {**(open_parents or {}), **{span_id: span.parent_span_id for span_id, span in by_id.items()}}
    within = {task_span_id: True}
    found = []
    for span_id, span in by_id.items():
        part = span.kind in PARTS and span.attributes.get(NODE_ID) == node_id and span.attributes.get(EXEC_ATTEMPT) == attempt
        if part or descends(span_id, parents, within):
            found.append(span)
    return found


def descends(span_id: str, parents: Mapping[str, str], within: dict[str, bool]) -> bool:
    """Return whether a span is one that `within` calls so, or lies under one.

    Args:
        span_id: the span's.
        parents: the span above each.
        within: what is known; remembers what was found.
    """
    trail: list[str] = []
    here = span_id
    while here not in within:
        within[here] = False  # until found otherwise: a spool that others can write to may hold circles
        trail.append(here)
        here = parents.get(here, "")
    answer = within[here]
    for passed in trail:
        within[passed] = answer
    return answer


def attempts_of(some: Iterable[SpanRecord], spans: Iterable[SpanRecord]) -> dict[str, tuple[str, int]]:
    """Return the attempt (node id, number) that each of `some` spans lies in, by span id, by descent through `spans`, all of the run's."""
    by_id = {span.span_id: span for span in spans}
    homes: dict[str, str] = {}
    found = {}
    for span in some:
        outer = span if span.kind == Kind.TASK else None
        above = _task_above(span, by_id, homes)
        seen = {span.span_id}
        while above and above not in seen:  # tasks in a circle are nobody's
            seen.add(above)
            outer = by_id[above]
            above = _task_above(outer, by_id, homes)
        if outer is not None and (key := _attempt_of(outer)) is not None:
            found[span.span_id] = key
    return found


def _attempt_of(task: SpanRecord) -> tuple[str, int] | None:
    """Return the attempt that a task span is of; `None` for an item's."""
    node_id, number = task.attributes.get(NODE_ID), task.attributes.get(EXEC_ATTEMPT)
    if isinstance(node_id, str) and isinstance(number, int) and task.attributes.get(EXEC_TASK_ID) == node_id:
        return node_id, number
    return None


def fold_task_spans(aggregator: Aggregator, spans: Iterable[SpanRecord], *, only: AbstractSet[tuple[str, int]] | None = None, items: bool = True) -> None:
    """Fold phases and items into the attempts that they ran in: phases task by task, items by the attempt whose function fanned out.

    Args:
        aggregator: where the folds go.
        spans: of the run, in any order.
        only: these attempts alone; default all.
        items: whether items are counted, too; else what is known of them stays.
    """
    by_id = {span.span_id: span for span in spans}
    tasks = {span_id: span for span_id, span in by_id.items() if span.kind == Kind.TASK}
    homes: dict[str, str] = {}
    of_task = _by_task(by_id, homes)
    folded: dict[tuple[str, int], TaskSums] = {}
    tried: dict[tuple[str, int], dict[str, list[SpanRecord]]] = {}
    helped: dict[tuple[str, int], dict[str, int]] = {}
    for task_id, task in tasks.items():
        outer = task
        workers = []
        while above := _task_above(outer, by_id, homes):
            outer = tasks[above]
            workers.append(outer.attributes.get(EXEC_WORKER_ID))
        key = _attempt_of(outer)
        if key is None or (only is not None and key not in only):
            continue
        node_id, number = key
        folded.setdefault((node_id, number), TaskSums()).merge(fold_task(task, of_task.get(task_id, ())).sums)
        if task is not outer and EXEC_OUTCOME in task.attributes:
            # Tries at one item share its caller, function and number.
            item = f"{task.parent_span_id} {task.name} {task.attributes.get(EXEC_TASK_ID)}"
            tried.setdefault((node_id, number), {}).setdefault(item, []).append(task)
            worker_id = task.attributes.get(EXEC_WORKER_ID)
            if isinstance(worker_id, str) and worker_id not in workers:
                of_attempt = helped.setdefault((node_id, number), {})
                of_attempt[worker_id] = of_attempt.get(worker_id, 0) + task.duration_ns
    for (node_id, number), sums in folded.items():
        own = tried.get((node_id, number)) if items else None
        aggregator.fold(node_id, number, sums, items=_items(own.values(), helped.get((node_id, number), {})) if own else None)


def slim(spans: Iterable[SpanRecord]) -> Iterator[SpanRecord]:
    """Yield spans without what no fold asks for, so that a million of them can be held: of phases and the user's own names, times, place and tokens stay; what repeats is shared."""
    shared: dict[object, Any] = {}

    def one(value: Any) -> Any:
        return shared.setdefault(value, value)

    for span in spans:
        if span.kind not in _INSIDE:
            yield span
            continue
        # With its type: `1`, `1.0` and `True` are the same key otherwise, and not the same number of tokens.
        kept = tuple((key, type(value), value) for key, value in span.attributes.items() if key in _ASKED_FOR and not isinstance(value, (list, tuple)))
        attributes = shared.get(kept)
        if attributes is None:
            attributes = shared[kept] = {key: value for key, _, value in kept}
        ids = one(span.trace_id), span.span_id, one(span.parent_span_id)
        yield SpanRecord(*ids, one(span.name), one(span.kind), span.start_ns, span.end_ns, attributes, status=span.status)


def full_tasks(spans: Iterable[SpanRecord], limit: int) -> dict[str, int]:
    """Return how many tasks have `limit` spans of their own or more, by the name of their node."""
    by_id = {span.span_id: span for span in spans}
    found: dict[str, int] = {}
    for task_id, inside in _by_task(by_id, {}).items():
        if len(inside) >= limit:
            attributes = by_id[task_id].attributes
            name = str(attributes.get(NODE_NAME, attributes.get(NODE_ID, "")))
            found[name] = found.get(name, 0) + 1
    return found


def _by_task(by_id: Mapping[str, SpanRecord], homes: dict[str, str]) -> dict[str, list[SpanRecord]]:
    """Return what a task's fold is made of, by task."""
    of_task: dict[str, list[SpanRecord]] = {}
    for span in by_id.values():
        if span.kind in _INSIDE:
            home = _task_above(span, by_id, homes)
            if home:
                of_task.setdefault(home, []).append(span)
    return of_task


def open_so_far(aggregator: Aggregator, spans: Iterable[SpanRecord], opened: Iterable[OpenEntry], end_ns: int) -> list[SpanRecord]:
    """Return what is open in a run that goes on as spans up to `end_ns`, to be folded with those that have finished: tasks, items, phases, waits for fan-outs.

    Phases and waits end a moment after their tasks: they go on, and have no span yet. An item has no outcome yet, and is not counted among the items.

    Args:
        aggregator: has taken in the transitions: they name each attempt's task span.
        spans: those that have finished.
        opened: what is open; a task that is of no attempt and no execution is passed over.
        end_ns: the last sign of life.
    """
    finished = {span.span_id for span in spans}
    attempts = {attempt.span_id: (node_id, attempt.attempt) for node_id, step in aggregator.steps.items() for attempt in step.attempts}
    found = []
    for entry in opened:
        if entry.span_id in finished:
            continue
        node_id, number, until_ns = entry.node_id, entry.attempt, end_ns
        attributes: dict[str, AttributeValue] = {NODE_ID: node_id}
        if entry.kind != Kind.TASK:
            until_ns += 1
        elif entry.item is not None:
            attributes |= {EXEC_TASK_ID: f"{node_id}/{entry.item}", EXEC_ATTEMPT: number}
        else:
            node_id, number = attempts.get(entry.span_id, (node_id, 1 if node_id not in aggregator.steps else 0))
            if not number:
                continue
            attributes = {NODE_ID: node_id, EXEC_TASK_ID: node_id, EXEC_ATTEMPT: number}
        start_ns = min(entry.start_ns, until_ns)
        found.append(SpanRecord(aggregator.record.trace_id, entry.span_id, entry.parent_span_id, entry.name, entry.kind, start_ns, until_ns, attributes))
    return found


def _task_above(span: SpanRecord, by_id: Mapping[str, SpanRecord], homes: dict[str, str]) -> str:
    """Return the id of the nearest task above a span, "" where there is none; `homes` remembers what was found."""
    trail: list[str] = []
    here = span
    home = ""
    while here.span_id not in homes:
        trail.append(here.span_id)
        above = by_id.get(here.parent_span_id)
        if above is None or len(trail) > len(by_id):  # a spool that others can write to may hold circles
            break
        if above.kind == Kind.TASK:
            home = above.span_id
            break
        here = above
    else:
        home = homes[here.span_id]
    for span_id in trail:
        homes[span_id] = home
    return home


def _items(items: Iterable[list[SpanRecord]], helped_ns: dict[str, int]) -> ItemsFold:
    fold = ItemsFold(helped_ns=helped_ns)
    for tries in items:
        outcomes = [str(span.attributes.get(EXEC_OUTCOME)) for span in tries]
        fold.count += 1
        fold.attempts += len(tries)
        if Outcome.SUCCESS in outcomes:
            fold.completed += 1
        elif Outcome.CANCELLATION in outcomes:
            fold.cancelled += 1
        else:
            fold.failed += 1
        for span in tries:
            fold.busy_ns += span.duration_ns
            fold.samples.add(span.duration_ns)
    return fold
