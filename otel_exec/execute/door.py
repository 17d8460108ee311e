"""The door from a task to fan-outs: what `map_tasks` finds in the scope of the code that calls it, and who may lend a hand.

What comes in: the numbers of attempts at items. What goes out: those numbers, folded, for the task's report. Knows nothing of how items get to other workers: that is the executor's.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Protocol

from otel_exec.aggregate.folds import ItemsFold, TaskSums
from otel_exec.aggregate.timing_collector import add_rows, say_dropped

if TYPE_CHECKING:
    from collections.abc import Callable

    from otel_exec.execute.context import WorkerContext
    from otel_exec.execute.fan_out import FanOut
    from otel_exec.execute.items import ItemReport
    from otel_exec.spans.span_record import AttributeValue

__all__ = ["Door", "Hands", "LocalHands", "NoHands"]


class Hands(Protocol):
    """How an executor has others help with a fan-out. Called by the owner's thread.

    Whoever helps takes items with `FanOut.take(owner=False)` and hands in what came of them with `FanOut.settle`, from any thread.
    `owner_helps`: the owner runs items by itself, too, unless they have a timeout.
    """

    owner_helps: bool

    def opened(self, fan_out: FanOut) -> None:
        """There is a fan-out with items to take."""
        ...

    def more(self, fan_out: FanOut) -> None:
        """The owner is between two items of its own, or woke up: a good moment to hand out more, and to look at timeouts where nobody else does."""
        ...

    def reclaim(self, fan_out: FanOut) -> None:
        """The owner has nothing to do: items that were taken but not begun may come back (`FanOut.give_back`). Returns at once."""
        ...

    def cancel(self, fan_out: FanOut, *, interrupt: bool) -> None:
        """Nothing more of it shall begin; what was taken but not begun comes back. `interrupt`: end what runs, too. Returns at once."""
        ...

    def closed(self, fan_out: FanOut) -> None:
        """It is over; nothing of it runs."""
        ...

    def wait_s(self, fan_out: FanOut) -> float | None:
        """Return how long the owner may wait before `more` should be called again, `None`: until something happens. Called with the fan-out's lock."""
        ...

    def wait(self, fan_out: FanOut, timeout_s: float | None) -> None:
        """Wait until something has happened, or so long. Called with the fan-out's lock, which is let go meanwhile."""
        ...


class LocalHands:
    """What hands of one machine have in common: the owner helps, and waits for its lock's condition."""

    owner_helps = True

    def wait(self, fan_out: FanOut, timeout_s: float | None) -> None:
        """Wait for the condition."""
        fan_out.changed.wait(timeout_s)


class NoHands(LocalHands):
    """Nobody helps: inline, or a child process that a step forked."""

    def opened(self, fan_out: FanOut) -> None:
        """Nothing to do."""

    def more(self, fan_out: FanOut) -> None:
        """Nothing to do."""

    def reclaim(self, fan_out: FanOut) -> None:
        """Nothing to do."""

    def cancel(self, fan_out: FanOut, *, interrupt: bool) -> None:
        """Nothing to do."""

    def closed(self, fan_out: FanOut) -> None:
        """Nothing to do."""

    def wait_s(self, fan_out: FanOut) -> float | None:
        """Wait for what happens."""
        del fan_out
        return None


class Door:
    """What `map_tasks` finds in the scope of a task or item: its worker, and where the numbers of its fan-outs are gathered.

    Args:
        context: the worker's.
        attributes: of the task or item: node, template, level.
        node_id: the step's.
        hands: makes the hands of a fan-out.
        budget: how many items may have spans of their own.
    """

    def __init__(self, context: WorkerContext, attributes: dict[str, AttributeValue], node_id: str, hands: Callable[[], Hands], budget: int) -> None:
        self.context = context
        self.attributes = attributes
        self.node_id = node_id
        self.hands = hands
        self.budget = budget
        self.unspanned = self.dropped = 0
        self.items: ItemsFold | None = None
        self._lock = threading.Lock()
        self._sums = TaskSums()
        self._foreign_ids: dict[str, dict[str, dict[str, int]]] = {}

    @property
    def capture(self) -> object:
        """What catches the task's output."""
        return self.context.capture

    def spans_for(self, count: int) -> int:
        """Return how many of `count` items may have a span, and take them from the budget."""
        with self._lock:
            granted = min(count, self.budget)
            self.budget -= granted
            return granted

    def add(self, report: ItemReport) -> None:
        """Take in the numbers of one attempt at an item."""
        with self._lock:
            self._sums.merge(report.sums)
            dropped = add_rows(self._foreign_ids, report.foreign_ids)
            self.unspanned += report.unspanned
            self.dropped += report.dropped
            if report.items is not None:
                self._merge_items(report.items)
        say_dropped(dropped)

    def add_items(self, fold: ItemsFold) -> None:
        """Take in the numbers of a fan-out that is over."""
        with self._lock:
            self._merge_items(fold)

    def fold_into(self, sums: TaskSums, foreign_ids: dict[str, dict[str, dict[str, int]]]) -> ItemsFold | None:
        """Add what was gathered to a task's own sums; returns the items' fold, `None` where there was no fan-out."""
        with self._lock:
            sums.merge(self._sums)
            add_rows(foreign_ids, self._foreign_ids)
            return self.items

    def _merge_items(self, fold: ItemsFold) -> None:
        if self.items is None:
            self.items = ItemsFold()
        self.items.merge(fold)
