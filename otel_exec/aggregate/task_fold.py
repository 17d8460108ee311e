"""Folding the phases of one task: while they happen, or again from its finished spans.

What comes in: phases that open and close, at instants that never go back; or span records in any order, duplicates included.
What goes out: a `PhaseFold` a name, exact to the nanosecond, the same either way.
At each instant the innermost open phases (those with no open phase directly under them) share it equally; self time is a phase's own interval
minus the union of its children, of which a call of `map_tasks` is one; union is the time in which any occurrence of the name is open. A parent that is not open (unknown, closed before
its child) has no say: such a phase counts under the task. These are statements about instants, so the order in which events of one
instant arrive changes nothing. Shares and the unaccounted rest add up to the task's duration exactly; `sweep.py` says how.

Nothing is kept of a phase once it has closed, so a million of them cost no memory.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from otel_exec.aggregate.folds import NodeFold, PhaseFold, TaskSums, add_counts
from otel_exec.aggregate.sweep import Sweep
from otel_exec.aggregate.timing_collector import add_row
from otel_exec.semconv import NODE_ID, NODES_ROW, OTHERS_ROW, Kind
from otel_exec.spans.tokens import tokens_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from otel_exec.spans.span_record import SpanRecord

__all__ = ["MAX_NODES", "TaskFold", "fold_spans", "fold_task"]

# Other nodes that a task keeps apart; the phases of further ones count for a node `(others)`. Of each node so many names: `sweep.MAX_NAMES`.
MAX_NODES = 1000
_STATUS_ERROR = 2
_OPEN, _CLOSE = 0, 1
_FOLDED = frozenset({Kind.PHASE, Kind.FAN_OUT})


class TaskFold:
    """The sink of one task's phases (`spans.scope.PhaseSink`). Not thread-safe by itself: its caller holds a lock.

    Phases with a `node_id` of their own are folded a second time among themselves into `sums.nodes` (their shares add up to the node's union), and
    stand in the step's own folds as one row, `NODES_ROW`. Among themselves: a phase's parent is then the nearest open one of its node around it.

    Args:
        task_span_id: the task's span: the parent of phases that lie in no other.
        start_ns: when the task began; phases that began earlier count from there.

    `dropped`: the first execution id of the user's that had to make room in `foreign_ids`, for `say_dropped`.
    """

    sums: TaskSums
    foreign_ids: dict[str, dict[str, dict[str, int]]]
    unaccounted_ns: int
    dropped: str | None

    def __init__(self, task_span_id: str, start_ns: int) -> None:
        self.task_span_id = task_span_id
        self.start_ns = start_ns
        self.sums = TaskSums()
        self.foreign_ids = {}
        self.dropped = None
        self.unaccounted_ns = 0
        self._sweep = self.own = Sweep(start_ns)
        self._node_sweeps: dict[str, Sweep] = {}
        self._ended = False

    def opened(self, span_id: str, parent_span_id: str, name: str, at_ns: int, *, node_id: str | None = None) -> None:
        """A phase opened."""
        if self._ended:
            return
        if node_id is None:
            self._sweep.opened(span_id, parent_span_id, name, at_ns, None)
            return
        sweep = self._node_sweeps.get(node_id)
        if sweep is None:
            if len(self._node_sweeps) >= MAX_NODES:
                node_id = OTHERS_ROW
            sweep = self._node_sweeps.get(node_id)
            if sweep is None:
                sweep = self._node_sweeps[node_id] = Sweep(max(self.start_ns, at_ns))
        sweep.opened(span_id, self._sweep.above(parent_span_id, node_id), name, at_ns)
        self._sweep.opened(span_id, parent_span_id, NODES_ROW, at_ns, node_id)

    def wait_opened(self, span_id: str, parent_span_id: str, at_ns: int) -> None:
        """The task waits in `map_tasks` from here on, until `closed`."""
        if not self._ended:
            self._sweep.wait_opened(span_id, parent_span_id, at_ns)

    def closed(self, span_id: str, at_ns: int, *, error: bool, tokens: dict[str, int] | None = None, spanned: bool = True) -> None:
        """A phase or a wait closed; ids that are not open are ignored. `spanned`: it has a span, and is not only counted."""
        phase = None if self._ended else self._sweep.closed(span_id, at_ns, error, spanned)
        if phase is None:
            return
        node = phase.node
        if node is not None:
            self._node_sweeps[node].closed(span_id, at_ns, error, spanned)
        if tokens:
            add_counts(self.sums.tokens if node is None else self.sums.nodes.setdefault(node, NodeFold()).tokens, tokens)

    def is_open(self, span_id: str) -> bool:
        """Whether a phase has not closed yet."""
        return not self._ended and self._sweep.is_open(span_id)

    def foreign(self, exec_id: str, node_id: str, name: str, duration_ns: int) -> None:
        """A phase ended that the user's code keeps under an execution id of its own."""
        dropped = add_row(self.foreign_ids, exec_id, node_id, name, duration_ns)
        if self.dropped is None:
            self.dropped = dropped

    def totals(self, own_node: str) -> dict[str, dict[str, int]]:
        """Return what the phases that have ended come to in nanoseconds, by node and name."""
        found = {own_node: self._sweep, **self._node_sweeps}
        rows = {node: {name: fold.total_ns for name, fold in sweep.folds().items() if fold.count and name != NODES_ROW} for node, sweep in found.items()}
        return {node: row for node, row in rows.items() if row}

    def foreign_totals(self, exec_id: str, *, take: bool) -> dict[str, dict[str, int]]:
        """Return the same of one foreign execution id, a copy; `take`: and forget it."""
        rows = self.foreign_ids.pop(exec_id, {}) if take else self.foreign_ids.get(exec_id, {})
        return {node: row.copy() for node, row in rows.items()}

    def finish(self, at_ns: int) -> dict[str, PhaseFold]:
        """The task ended at `at_ns`: what was left open is closed there, later events are ignored.

        Returns:
            The step's own phases by name, in order of first opening. `sums` has them and the rest; `unaccounted_ns` is what no phase covered.
        """
        if self._ended:
            return self.sums.phases
        self._ended = True
        sums, sweep = self.sums, self._sweep
        busy_ns = sweep.finish(at_ns)
        sums.phases = sweep.folds()
        # Threads of the task may have gone on for a moment after the instant that counts as its end: waits, then the largest shares give that back.
        length_ns = max(0, at_ns - self.start_ns)
        waiting_ns = max(0, min(sweep.waiting_ns, length_ns - busy_ns))
        sums.time_ns = length_ns - waiting_ns
        self.unaccounted_ns = sums.time_ns - busy_ns
        if self.unaccounted_ns < 0:
            for fold in sorted(sums.phases.values(), key=lambda fold: fold.share_ns, reverse=True):
                given = min(fold.share_ns, -self.unaccounted_ns)
                fold.share_ns -= given
                self.unaccounted_ns += given
        for node_id, node_sweep in self._node_sweeps.items():
            node_sweep.finish(at_ns)
            sums.nodes.setdefault(node_id, NodeFold()).phases = node_sweep.folds()
        return sums.phases


def fold_spans(task: SpanRecord, phases: Iterable[SpanRecord]) -> dict[str, PhaseFold]:
    """Return the task's own folds by name; see `fold_task`."""
    fold = fold_task(task, phases)
    return fold.finish(task.end_ns)


def fold_task(task: SpanRecord, records: Iterable[SpanRecord]) -> TaskFold:
    """Return the finished fold of a task from the spans that were made in it.

    Args:
        task: the task's span; phases count between its start and its end.
        records: spans in any order. Phases under another task (an item of a fan-out) are that one's; spans of the user's own are looked through
            for the phase that they lie in; other kinds are passed over.
    """
    spans: dict[str, SpanRecord] = {}
    for record in records:
        known = spans.get(record.span_id)
        # Of two spans with one id the one that says more is kept, whichever comes first.
        if known is None or _weight(record) > _weight(known):
            spans[record.span_id] = record
    spans.pop(task.span_id, None)
    fold = TaskFold(task.span_id, task.start_ns)
    own_node = task.attributes.get(NODE_ID)
    depths: dict[str, int] = {}
    events: list[tuple[int, int, int, str, SpanRecord]] = []
    for record in spans.values():
        if record.kind not in _FOLDED or record.start_ns > task.end_ns or not _in_task(record, task, spans):
            continue
        # Of what opened in one instant the outer goes first, as it did.
        depth = _depth(record, spans, depths)
        events.append((max(record.start_ns, task.start_ns), _OPEN, depth, record.span_id, record))
        events.append((max(min(record.end_ns, task.end_ns), task.start_ns), _CLOSE, depth, record.span_id, record))
    events.sort(key=lambda event: event[:4])
    for at_ns, what, _, span_id, record in events:
        if what == _OPEN and record.kind == Kind.FAN_OUT:
            fold.wait_opened(span_id, _phase_above(record, spans), at_ns)
        elif what == _OPEN:
            node = record.attributes.get(NODE_ID, own_node)
            fold.opened(span_id, _phase_above(record, spans), record.name, at_ns, node_id=None if node == own_node else str(node))
        else:
            # A phase that outlived its task had not failed by then, and had no span yet.
            in_time = record.end_ns <= task.end_ns
            fold.closed(
                span_id,
                at_ns,
                error=in_time and record.status == _STATUS_ERROR,
                tokens=tokens_of(record.attributes) if record.kind == Kind.PHASE else None,
                spanned=in_time,
            )
    fold.finish(task.end_ns)
    return fold


def _weight(record: SpanRecord) -> tuple[int, int, int, str, str]:
    return (record.end_ns, -record.start_ns, record.status, record.name, record.parent_span_id)


def _phase_above(record: SpanRecord, spans: dict[str, SpanRecord]) -> str:
    """Return the id of the nearest span above that is not the user's own."""
    seen = {record.span_id}
    parent = record.parent_span_id
    while parent not in seen:
        above = spans.get(parent)
        if above is None or above.kind:
            break
        seen.add(parent)
        parent = above.parent_span_id
    return parent


def _depth(record: SpanRecord, spans: dict[str, SpanRecord], depths: dict[str, int]) -> int:
    """Return how many spans lie above one; `depths` remembers what was found."""
    trail: list[str] = []
    here: SpanRecord | None = record
    while here is not None and here.span_id not in depths and len(trail) <= len(spans):  # a spool that others can write to may hold circles
        trail.append(here.span_id)
        here = spans.get(here.parent_span_id)
    depth = -1 if here is None else depths.get(here.span_id, -1)
    for span_id in reversed(trail):
        depth += 1
        depths[span_id] = depth
    return depths[record.span_id]


def _in_task(record: SpanRecord, task: SpanRecord, spans: dict[str, SpanRecord]) -> bool:
    seen = {record.span_id}
    parent = record.parent_span_id
    while parent != task.span_id and parent not in seen:
        above = spans.get(parent)
        if above is None:
            return True
        if above.kind == Kind.TASK:
            return False
        seen.add(parent)
        parent = above.parent_span_id
    return True
