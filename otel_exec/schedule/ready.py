"""The steps that could start now, and which of them does: longest chain below first, as far as there is room.

What comes in: steps that became ready. What goes out: the next one that fits. Pure.

A step that does not fit keeps for itself what it is short of, and nothing else: those behind it that need none of that go on (backfill), and those that do can't
starve it. So two steps that ask for the same kinds of thing never overtake one another, and one heap for each set of kinds is enough:
a decision costs O(kinds log steps), not a walk over all that is ready.

Steps are handed over ahead of a free worker only where their template has proved quick: a queue of those costs no step that matters more its turn,
and spares the workers a wait for the driver; of long steps each is given to a worker that is free, so that the best one is chosen as late as can be.
"""

from __future__ import annotations

from heapq import heappop, heappush
from typing import TYPE_CHECKING, Final

from otel_exec.schedule.capacity import Pool, demand_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from otel_exec.plan.graph import Plan
    from otel_exec.schedule.capacity import Capacity, Demand

__all__ = ["QUICK_NS", "ReadySteps", "chains_below"]

# What is ahead in the queue delays a step that matters more by this at most, times what each worker has queued.
QUICK_NS: Final = 30_000_000


def chains_below(plan: Plan, will_run: Sequence[bool]) -> list[int]:
    """Return for each step the number of steps in the longest chain that starts with it and goes downstream, counting those that will run."""
    chains = [0] * len(plan.steps)
    for step in reversed(plan.steps):
        chains[step.index] += will_run[step.index]
        below = chains[step.index]
        for upstream in step.depends_on:
            chains[upstream] = max(chains[upstream], below)
    return chains


class ReadySteps:
    """The ready steps of a run and the pool that they share."""

    __slots__ = ("_demands", "_heap_of", "_heaps", "_keys", "_quick", "_steps", "_templates", "pool")

    def __init__(self, plan: Plan, will_run: Sequence[bool], capacity: Capacity) -> None:
        self.pool = Pool(capacity)
        self._steps = len(plan.steps)
        chains = chains_below(plan, will_run)
        # One integer holds priority and step: the longest chain first, the plan's order among equals.
        self._keys = [(self._steps - chain) * self._steps + index for index, chain in enumerate(chains)]
        self._demands: list[Demand] = [demand_of(step.resources, capacity) for step in plan.steps]
        self._templates = [step.template for step in plan.steps]
        self._quick: set[str] = set()
        heaps: dict[frozenset[str], list[int]] = {}
        self._heap_of = [heaps.setdefault(demand.kinds, []) for demand in self._demands]
        self._heaps = list(heaps.items())

    def __len__(self) -> int:
        return sum(len(heap) for _, heap in self._heaps)

    def push(self, index: int) -> None:
        """Add a step that could start."""
        heappush(self._heap_of[index], self._keys[index])

    def pop(self) -> int | None:
        """Return the step that starts next, its resources taken; `None` when none fits."""
        if self.pool.full:
            return None
        blocked: set[str] = set()
        waiting = [(heap[0], kinds, heap) for kinds, heap in self._heaps if heap]
        if len(waiting) > 1:
            waiting.sort(key=_first)
        for key, kinds, heap in waiting:
            if not blocked.isdisjoint(kinds):
                continue
            index = key % self._steps
            if self.pool.ahead and self._templates[index] not in self._quick:
                return None
            short = self.pool.short(self._demands[index])
            if not short:
                heappop(heap)
                self.pool.take(self._demands[index])
                return index
            blocked.update(short)
        return None

    def took(self, index: int, duration_ns: int) -> None:
        """Learn how long an attempt kept its worker, claimed to ended: the last one speaks for its template."""
        if duration_ns <= QUICK_NS:
            self._quick.add(self._templates[index])
        else:
            self._quick.discard(self._templates[index])

    def give_back(self, index: int) -> None:
        """Return what a step took."""
        self.pool.give_back(self._demands[index])

    def demand(self, index: int) -> Demand:
        """Return what the step takes while it is in hand."""
        return self._demands[index]

    def clear(self) -> None:
        """Forget all ready steps."""
        for _, heap in self._heaps:
            heap.clear()


def _first(entry: tuple[int, frozenset[str], list[int]]) -> int:
    return entry[0]
