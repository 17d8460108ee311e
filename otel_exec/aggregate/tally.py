"""Counts and durations of a run's steps by level, worker and template, kept as the steps come to something.

What comes in: step records, when a worker takes one and when it has settled. What goes out: the sums that every metric is made of, of a run that goes on
and of a record read from a file alike. Cost: some microseconds a step, whatever the size of the plan. Never reads a file or a clock.

Source of the definitions: docs/status.md, "The numbers".
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, TypeVar

from otel_exec.semconv import ERROR_INTERRUPTED, Outcome

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence, Sized

    from otel_exec.record.model import AttemptRecord, StepRecord

__all__ = ["FAILURES", "Group", "Tally", "between_ns", "counts", "execution_ns", "total_ns", "tried", "tries", "was_open"]

FAILURES = frozenset({Outcome.FAILURE, Outcome.TIMEOUT, Outcome.ERROR})
# Reasons of steps that this run never had to settle.
_NOT_OURS = frozenset({"not_needed", "not_selected"})

_Key = TypeVar("_Key", int, str)


def tried(attempt: AttemptRecord) -> bool:
    """Whether a worker took it: what was handed over and taken back is no try."""
    return attempt.claimed_ns is not None or attempt.start_ns is not None or attempt.outcome is not None


def tries(step: StepRecord) -> int:
    """Return how often a worker took the step."""
    return sum(map(tried, step.attempts))


def counts(step: StepRecord) -> bool:
    """Whether this run has to settle the step: groups and what nobody asked for don't count."""
    return not step.group and not (step.outcome == Outcome.SKIP and step.reason in _NOT_OURS)


def between_ns(start_ns: int | None, end_ns: int | None) -> int | None:
    """Return the nanoseconds between two instants; `None` when one is missing or they are reversed."""
    return None if start_ns is None or end_ns is None or end_ns < start_ns else end_ns - start_ns


def execution_ns(step: StepRecord) -> int | None:
    """Return how long the function of a step's last attempt took."""
    if not step.attempts:
        return None
    last = step.attempts[-1]
    return between_ns(last.start_ns, last.end_ns)


class _Timed(Protocol):
    """A step as any kind of record has it."""

    @property
    def attempts(self) -> Sized: ...
    @property
    def start_ns(self) -> int | None: ...
    @property
    def end_ns(self) -> int | None: ...


def total_ns(step: _Timed) -> int | None:
    """Return settled minus created; `None` for a step that was never queued, or has not settled."""
    return between_ns(step.start_ns, step.end_ns) if step.attempts else None


def was_open(step: StepRecord) -> bool:
    """Whether a step had come to nothing when its run died: recovery closed its spans as errors, and it has failed no more than one that still waits."""
    return step.error is not None and step.error.type == ERROR_INTERRUPTED


class Group:
    """Steps that are counted together.

    `task_count` are those to be settled by this run, `settled` those that were, `completed` and `failed` of these; `total_ns` adds up the execution of all that settled, `completed_ns` of the samples.
    `members` and `closed` count what this run had nothing to do for as well.
    """

    __slots__ = ("_samples", "_sorted", "closed", "completed", "completed_ns", "failed", "members", "settled", "task_count", "total_ns")

    def __init__(self) -> None:
        self.task_count = self.settled = self.completed = self.failed = self.members = self.closed = self.total_ns = self.completed_ns = 0
        self._samples: list[int] = []
        self._sorted = True

    def add(self, step: StepRecord, took_ns: int | None, *, ours: bool) -> None:
        """Count a step that has settled."""
        self.closed += 1
        if not ours:
            self.task_count -= 1
            return
        self.settled += 1
        if took_ns is not None:
            self.total_ns += took_ns
        if step.outcome == Outcome.SUCCESS:
            self.completed += 1
            if took_ns is not None and not step.cached:
                self._samples.append(took_ns)
                self.completed_ns += took_ns
                self._sorted = False
        elif step.outcome in FAILURES:
            self.failed += 1

    @property
    def samples(self) -> Sequence[int]:
        """How long each step took that this run completed, shortest first, nanoseconds."""
        if not self._sorted:
            self._samples.sort()  # sorted but for its tail: nearly linear
            self._sorted = True
        return self._samples


class Tally:
    """The sums of one run. `open` are the steps that a worker has taken and that have not settled."""

    def __init__(self, steps: Iterable[StepRecord]) -> None:
        self.levels: dict[int, Group] = {}
        self.workers: dict[str, Group] = {}
        self.templates: dict[str, Group] = {}
        self.all = Group()
        self.cached = self.skipped = self.cancelled = 0
        self.failures: list[StepRecord] = []
        self.open: dict[str, StepRecord] = {}
        self._used: set[str] = set()
        self._attempts = self._retries = 0
        self._settled: set[str] = set()
        of_plan = [step for step in steps if not step.group]
        for step in of_plan:
            for group in self._groups(step):
                group.task_count += 1
                group.members += 1
        for step in of_plan:
            if step.outcome is not None:
                self.settled(step)
            elif step.attempts:
                self.claimed(step)

    def _groups(self, step: StepRecord) -> list[Group]:
        groups = [self.all, _group(self.templates, step.template or step.name)]
        if step.level is not None:
            groups.append(_group(self.levels, step.level))
        return groups

    def claimed(self, step: StepRecord) -> None:
        """A worker took a step (again)."""
        if step.node_id not in self._settled:
            self.open[step.node_id] = step

    def settled(self, step: StepRecord) -> None:
        """A step has its outcome; a second time is nothing."""
        if step.group or step.node_id in self._settled:
            return
        if was_open(step):
            if step.attempts:
                self.claimed(step)
            return
        self._settled.add(step.node_id)
        self.open.pop(step.node_id, None)
        took_ns, ours = execution_ns(step), counts(step)
        for group in self._groups(step):
            group.add(step, took_ns, ours=ours)
        if step.attempts:
            self._count_tries(step)
            worker_id = step.attempts[-1].worker_id
            if worker_id is not None:
                group = _group(self.workers, worker_id)
                group.task_count += 1
                group.add(step, took_ns, ours=ours)
        if not ours:
            return
        if step.outcome == Outcome.SUCCESS:
            self.cached += step.cached
        elif step.outcome in FAILURES:
            self.failures.append(step)
        elif step.outcome == Outcome.SKIP:
            self.skipped += 1
        else:
            self.cancelled += 1

    def _count_tries(self, step: StepRecord) -> None:
        number = tries(step)
        self._attempts += number
        self._retries += max(0, number - 1)
        self._used.update(attempt.worker_id for attempt in step.attempts if attempt.worker_id is not None)

    # What steps in hand add, at the moment of asking.

    @property
    def attempts(self) -> int:
        """Every try at a step that a worker took, so far."""
        return self._attempts + sum(map(tries, self.open.values()))

    @property
    def retries(self) -> int:
        """The tries after a step's first, so far."""
        return self._retries + sum(max(0, tries(step) - 1) for step in self.open.values())

    @property
    def workers_used(self) -> int:
        """How many workers ran at least one attempt, so far."""
        return len(self._used | {attempt.worker_id for step in self.open.values() for attempt in step.attempts if attempt.worker_id is not None})

    def worker_total_ns(self, worker_id: str) -> int:
        """Return the execution of the steps whose last attempt the worker ran, so far."""
        group = self.workers.get(worker_id)
        known = group.total_ns if group is not None else 0
        return known + sum(execution_ns(step) or 0 for step in self.open.values() if step.attempts and step.attempts[-1].worker_id == worker_id)


def _group(groups: dict[_Key, Group], key: _Key) -> Group:
    group = groups.get(key)
    if group is None:
        group = groups[key] = Group()
    return group
