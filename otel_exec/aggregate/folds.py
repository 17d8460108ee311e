"""The mergeable numbers: what is left of spans once they are folded.

What comes in: durations in integer nanoseconds. What goes out: values that can be added up in any order and cross processes.
Merging is commutative and associative; nothing here knows a clock, a file or a span object.
"""

from __future__ import annotations

import msgspec

from otel_exec.aggregate.histogram import Histogram

__all__ = ["ItemsFold", "NodeFold", "PhaseFold", "TaskSums", "add_counts"]

# What a report between processes, run.json and its readers can hold of an integer.
_MOST = (1 << 63) - 1


class PhaseFold(msgspec.Struct):
    """All occurrences of one phase within one task (later: of many).

    `union_ns`: wall-clock time in which at least one occurrence was open (within one task, then summed). `self_ns`: the sum of the occurrences' own intervals minus the union of their children's.
    `share_ns`: at each instant the innermost open phases of the task share it equally; this phase's part. Shares and the unaccounted rest add up to the task's duration exactly.
    `samples`: the occurrences' durations. `slowest`: of the occurrences that have a span, the longest, as (duration, end, span id); of equals the first to end.
    """

    count: int = 0
    total_ns: int = 0
    union_ns: int = 0
    self_ns: int = 0
    share_ns: int = 0
    min_ns: int | None = None
    max_ns: int | None = None
    errors: int = 0
    samples: Histogram = msgspec.field(default_factory=Histogram)
    slowest: tuple[int, int, str] | None = None

    def spanned(self, duration_ns: int, end_ns: int, span_id: str) -> None:
        """Remember an occurrence that has a span, if it is the slowest. In whatever order they come, the same one is kept."""
        slowest = self.slowest
        if slowest is None or duration_ns > slowest[0] or (duration_ns == slowest[0] and (end_ns, span_id) < slowest[1:]):
            self.slowest = (duration_ns, end_ns, span_id)

    def merge(self, other: PhaseFold) -> None:
        """Add another fold of the same phase to this one."""
        self.count += other.count
        self.total_ns += other.total_ns
        self.union_ns += other.union_ns
        self.self_ns += other.self_ns
        self.share_ns += other.share_ns
        if other.min_ns is not None:
            self.min_ns = other.min_ns if self.min_ns is None else min(self.min_ns, other.min_ns)
        if other.max_ns is not None:
            self.max_ns = other.max_ns if self.max_ns is None else max(self.max_ns, other.max_ns)
        self.errors += other.errors
        self.samples.merge(other.samples)
        if other.slowest is not None:
            self.spanned(*other.slowest)


class NodeFold(msgspec.Struct):
    """The phases of a node id that is no step's, within the tasks that they ran in, and the tokens that they gave."""

    phases: dict[str, PhaseFold] = msgspec.field(default_factory=dict)
    tokens: dict[str, int] = msgspec.field(default_factory=dict)

    def merge(self, other: NodeFold) -> None:
        """Add another fold of the same node to this one."""
        _merge_phases(self.phases, other.phases)
        add_counts(self.tokens, other.tokens)


class TaskSums(msgspec.Struct):
    """What a task (or several: a step's and its items') came to.

    `time_ns`: from start to end, less the time in which it did nothing but wait in `map_tasks`. Shares of `phases` and what no phase covered add up to it exactly.
    `phases` are its own by name, other nodes' as one row; `nodes` are those by node id; `tokens` its own phases' tokens by name.
    """

    time_ns: int = 0
    phases: dict[str, PhaseFold] = msgspec.field(default_factory=dict)
    tokens: dict[str, int] = msgspec.field(default_factory=dict)
    nodes: dict[str, NodeFold] = msgspec.field(default_factory=dict)

    def merge(self, other: TaskSums) -> None:
        """Add another task's sums to these."""
        self.time_ns += other.time_ns
        _merge_phases(self.phases, other.phases)
        add_counts(self.tokens, other.tokens)
        for node_id, fold in other.nodes.items():
            self.nodes.setdefault(node_id, NodeFold()).merge(fold)


def _merge_phases(into: dict[str, PhaseFold], folds: dict[str, PhaseFold]) -> None:
    for name, fold in folds.items():
        into.setdefault(name, PhaseFold()).merge(fold)


def add_counts(into: dict[str, int], counts: dict[str, int]) -> None:
    """Add numbers that the user's code gave, by name. A sum stays at the end of 64 bits where it would pass it."""
    for name, count in counts.items():
        into[name] = max(-_MOST, min(into.get(name, 0) + count, _MOST))


class ItemsFold(msgspec.Struct):
    """The items of a step's fan-outs: how many there were and what they came to; `attempts` counts tries, `busy_ns` sums their task spans, `samples` holds how long each took, whatever it came to.

    `lost`: tries that ended without a report: what had finished in them is in the spool alone.
    `helped_ns`: of these, by worker id, what workers other than the fan-out's owner ran; nested items that such a worker ran for itself are not counted again.
    """

    count: int = 0
    completed: int = 0
    failed: int = 0
    cancelled: int = 0
    attempts: int = 0
    lost: int = 0
    busy_ns: int = 0
    helped_ns: dict[str, int] = msgspec.field(default_factory=dict)
    samples: Histogram = msgspec.field(default_factory=Histogram)

    def merge(self, other: ItemsFold) -> None:
        """Add another fold to this one."""
        self.count += other.count
        self.completed += other.completed
        self.failed += other.failed
        self.cancelled += other.cancelled
        self.attempts += other.attempts
        self.lost += other.lost
        self.busy_ns += other.busy_ns
        for worker_id, busy_ns in other.helped_ns.items():
            self.helped_ns[worker_id] = self.helped_ns.get(worker_id, 0) + busy_ns
        self.samples.merge(other.samples)
