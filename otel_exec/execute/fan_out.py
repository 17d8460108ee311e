"""`map_tasks`: many items inside a step, shared with workers that are idle.

What comes in: a function and items, from the code of a step. What goes out: the results in the order of the items, and the fan-out's numbers for the step's report.
The owner (the worker whose code called) works on its own items from the end of the list while idle workers take them from its front; so it can't deadlock,
however many steps fan out at once. Who helps, and how items get there, is the executor's: `Hands`.
"""

from __future__ import annotations

import heapq
import random
import threading
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from otel_exec import semconv
from otel_exec.aggregate.folds import ItemsFold, TaskSums
from otel_exec.errors import FanOutError
from otel_exec.execute.door import Door, NoHands
from otel_exec.execute.envelope import ErrorInfo
from otel_exec.execute.items import ItemEnvelope, ItemReport, record_item, run_item
from otel_exec.semconv import Outcome
from otel_exec.spans.current import current_span_id
from otel_exec.spans.phases import current_scope
from otel_exec.spans.waits import waiting

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


__all__ = ["Arrival", "FanOut", "map_tasks"]

T = TypeVar("T")
R = TypeVar("R")

# Makes (report, result, exception) of what came home of an item.
Arrival = Callable[[], tuple[ItemReport, Any, BaseException | None]]

# Tries beyond those that were asked for, after deaths that may not be the item's fault; as of steps (requirement C).
BLAMELESS_TRIES = 2
_BACKOFF_NS = 50_000_000
_BACKOFF_MAX_NS = 2_000_000_000
_NOTE_CHARS = 8_000
# Our own generator: a step's `random.seed(0)` must not line up the retries of many workers.
_jitter = random.Random()  # noqa: S311  spreading retries is not cryptography


def map_tasks(
    fn: Callable[[T], R],
    items: Iterable[T],
    *,
    name: str | None = None,
    max_workers: int | None = None,
    retries: int = 0,
    timeout: float | None = None,
) -> list[R]:
    """Call a function for each item, on whatever workers are idle, and return the results in the order of the items.

    Outside of a step it is a plain map. The first item that fails, after its retries, cancels those that have not started, and its exception is raised as itself.

    Args:
        fn: takes one item. What it and the items refer to must be sendable to another process.
        items: what to call it for.
        name: what the items' spans are named for; the function's name otherwise.
        max_workers: how many items may run at once, the caller's own worker included.
        retries: how often a failed item is tried again; one whose worker died twice more at most.
        timeout: seconds an item may take. Such items never run in the caller's own worker, so that they can be killed.

    Raises:
        FanOutError: an item's worker died, or its time ran out, or its exception can't be sent home.
    """
    if max_workers is not None and max_workers < 1:
        raise ValueError(f"map_tasks: max_workers must be at least 1, not {max_workers}")
    if retries < 0:
        raise ValueError(f"map_tasks: retries must not be negative, not {retries}")
    if timeout is not None and timeout <= 0:
        raise ValueError(f"map_tasks: timeout must be more than 0 seconds, not {timeout}")
    scope = current_scope()
    door = scope.fan_out if scope is not None else None
    if not isinstance(door, Door):
        return [fn(item) for item in items]
    listed = list(items)
    if not listed or scope is None:
        return []
    fan_out = FanOut(door, fn, listed, name=name, max_workers=max_workers, retries=retries, timeout_s=timeout)
    with waiting(scope, fan_out.fn_name, len(listed)):
        return fan_out.run()


class FanOut:
    """One `map_tasks` call, from its owner's side. `take`, `settle` and `give_back` may be called from any thread; the rest is the owner's."""

    def __init__(
        self, door: Door, fn: Callable[[Any], Any], items: Sequence[Any], *, name: str | None, max_workers: int | None, retries: int, timeout_s: float | None
    ) -> None:
        self.door = door
        self.fn = fn
        self.items = items
        self.hands = door.hands()
        self.timeout_s = timeout_s
        self.owner_runs = isinstance(self.hands, NoHands) or (timeout_s is None and self.hands.owner_helps)
        limit = max_workers if max_workers is not None else len(items)
        self.hands_limit = 0 if isinstance(self.hands, NoHands) else limit - 1 if self.owner_runs else limit
        self.changed = threading.Condition()
        self.taken: dict[int, ItemEnvelope] = {}  # by other workers, begun or not
        self._arrived: deque[tuple[ItemEnvelope, Arrival]] = deque()
        self.cancelled = False
        self._retries = retries
        self._waiting: deque[int] = deque(range(len(items)))
        self._delayed: list[tuple[int, int]] = []
        self._attempts: dict[int, int] = {}
        self._not_charged: dict[int, int] = {}  # index -> attempts that use up none of its retries
        self._last_span: dict[int, str] = {}
        self._results: list[Any] = [None] * len(items)
        self._failure: BaseException | None = None
        self._fold = ItemsFold(count=len(items))
        self._spanned = door.spans_for(len(items))
        self._parent = current_span_id()
        self.fn_name = name or str(getattr(fn, "__qualname__", type(fn).__qualname__))
        code = getattr(fn, "__code__", None)
        self._code = (code.co_filename, code.co_firstlineno) if code is not None else ("", 0)

    # --- for other workers ------------------------------------------------------------------------------------------------------------------------

    def take(self, *, owner: bool) -> ItemEnvelope | None:
        """Take the next item to run, `None` where there is none (now)."""
        with self.changed:
            self._wake_delayed()
            if self.cancelled or not self._waiting or (not owner and len(self.taken) >= self.hands_limit):
                return None
            index = self._waiting.pop() if owner and self.hands_limit > 0 else self._waiting.popleft()
            envelope = self._envelope(index)
            if not owner:
                self.taken[index] = envelope
            return envelope

    def has_items(self) -> bool:
        """Whether another worker could take one now."""
        with self.changed:
            self._wake_delayed()
            return bool(self._waiting) and not self.cancelled and len(self.taken) < self.hands_limit

    def give_back(self, indices: Iterable[int]) -> None:
        """Items that were taken were not begun, and will not be by whoever took them."""
        with self.changed:
            for index in indices:
                if self.taken.pop(index, None) is None:
                    continue
                if self.cancelled:
                    self._fold.cancelled += 1
                else:
                    self._attempts[index] -= 1
                    self._waiting.append(index)
            self.changed.notify_all()

    def still_running(self, indices: Iterable[int]) -> None:
        """After a cancellation: of the items that were taken these alone have begun."""
        running = set(indices)
        self.give_back([index for index in list(self.taken) if index not in running])

    def settle(self, report: ItemReport, value: Any, error: BaseException | None) -> None:
        """An attempt that another worker took has ended."""
        with self.changed:
            envelope = self.taken.get(report.index)
            if envelope is not None and envelope.attempt == report.attempt:
                del self.taken[report.index]
                self._settle(envelope, report, value, error)
            self.changed.notify_all()

    def arrived(self, index: int, attempt: int, arrival: Arrival) -> None:
        """Like `settle`, for whom the owner's thread is the one to unpack the result: user's code may run in that."""
        with self.changed:
            envelope = self.taken.get(index)
            if envelope is not None and envelope.attempt == attempt:
                del self.taken[index]
                self._arrived.append((envelope, arrival))
            self.changed.notify_all()

    def lose(self, index: int, worker_id: str, error_type: str, message: str, start_ns: int, end_ns: int, *, final: bool = False, spare: int = 0) -> None:
        """An attempt that another worker took has ended without a word: its worker died or its time ran out. Its span is made here.

        `final`: it is not to be tried again. `spare`: it may not be its own fault, and uses up none of its retries, so many times at most.
        """
        outcome = Outcome.TIMEOUT if error_type == semconv.ERROR_TIMEOUT else Outcome.ERROR
        with self.changed:
            envelope = self.taken.pop(index, None)
            if envelope is not None:
                report = ItemReport(
                    index,
                    envelope.attempt,
                    worker_id,
                    outcome.value,
                    start_ns,
                    max(start_ns, end_ns),
                    sums=TaskSums(time_ns=max(0, end_ns - start_ns)),
                    error=ErrorInfo(error_type, message),
                    unspanned=0 if envelope.spanned else 1,
                )
                record_item(self.door.context, envelope, report)
                self._fold.lost += 1
                self._settle(envelope, report, None, FanOutError(index, error_type, message), final=final, spare=spare)
            self.changed.notify_all()

    # --- the owner --------------------------------------------------------------------------------------------------------------------------------

    def run(self) -> list[Any]:
        """Run all items; returns the results, raises the first failure."""
        try:
            self.hands.opened(self)
            while self._go_on():
                pass
        except BaseException as error:
            self._stop(error)
            raise
        finally:
            self.hands.closed(self)
            self.door.add_items(self._fold)
        if self._failure is not None:
            raise self._failure
        if self.cancelled:  # from outside: the task was given up
            raise KeyboardInterrupt
        return self._results

    def _go_on(self) -> bool:
        """Do one thing; returns whether there is more to do."""
        self._settle_arrived()
        if self._failure is not None and not self.cancelled:
            self.cancel(interrupt=False)
        envelope = self.take(owner=True) if self.owner_runs else None
        if envelope is not None:
            self._run_here(envelope)
            self.hands.more(self)
            return True
        if self.taken:
            self.hands.reclaim(self)
        with self.changed:
            if self._failure is not None and not self.cancelled:
                return True
            if self._arrived or (self._waiting and self.owner_runs and not self.cancelled):
                return True
            if not self.taken and not self._delayed and (not self._waiting or self.cancelled):
                return False
            waits = [wait_s for wait_s in (self.hands.wait_s(self), self._delay_s()) if wait_s is not None]
            self.hands.wait(self, min(waits) if waits else None)
            self._wake_delayed()
        self.hands.more(self)
        return True

    def _settle_arrived(self) -> None:
        while self._arrived:
            envelope, arrival = self._arrived.popleft()
            report, value, error = arrival()
            with self.changed:
                self._settle(envelope, report, value, error)

    def _run_here(self, envelope: ItemEnvelope) -> None:
        report, value, error = run_item(self.door.context, envelope, self.fn, self.items[envelope.index], measure=False, late_timeout=True)
        if report.outcome == Outcome.CANCELLATION and error is not None and self.door.context.guard.interrupted:
            with self.changed:
                self._count(envelope, report)
                self._fold.cancelled += 1
            raise error
        if report.outcome == Outcome.TIMEOUT and report.error is not None:
            error = FanOutError(envelope.index, report.error.type, report.error.message)
        with self.changed:
            self._settle(envelope, report, value, error, final=report.outcome == Outcome.TIMEOUT)

    def _settle(self, envelope: ItemEnvelope, report: ItemReport, value: Any, error: BaseException | None, *, final: bool = False, spare: int = 0) -> None:
        """Take in one attempt; called with the lock."""
        self._count(envelope, report)
        fold = self._fold
        if error is None:
            fold.completed += 1
            self._results[report.index] = value
            return
        if spare:
            self._not_charged[report.index] = min(self._not_charged.get(report.index, 0) + 1, spare)
        tries = self._retries + self._not_charged.get(report.index, 0)
        if report.outcome != Outcome.CANCELLATION and report.attempt <= tries and not final and not self.cancelled:
            wait_ns = min(_BACKOFF_NS << (report.attempt - 1), _BACKOFF_MAX_NS)
            due_ns = self.door.context.clock.now_ns() + int(wait_ns * (0.5 + _jitter.random() / 2))
            heapq.heappush(self._delayed, (due_ns, report.index))
            return
        if report.outcome == Outcome.CANCELLATION:
            fold.cancelled += 1
        else:
            fold.failed += 1
        if self._failure is None:
            self._failure = self._noted(report, error)

    def _count(self, envelope: ItemEnvelope, report: ItemReport) -> None:
        """Count one attempt, whatever it came to, as `aggregate.rebuild` counts its span; called with the lock."""
        self._last_span[report.index] = envelope.span_id
        self.door.add(report)
        fold, busy_ns = self._fold, report.end_ns - report.start_ns
        fold.attempts += 1
        fold.busy_ns += busy_ns
        fold.samples.add(busy_ns)
        if report.worker_id != self.door.context.worker_id:
            fold.helped_ns[report.worker_id] = fold.helped_ns.get(report.worker_id, 0) + busy_ns
        if report.output:
            self.door.context.capture.feed(report.output)

    def _noted(self, report: ItemReport, error: BaseException) -> BaseException:
        note = f"item {report.index} of map_tasks({self.fn_name}), attempt {report.attempt}, worker {report.worker_id}"
        if report.worker_id != self.door.context.worker_id and report.error is not None and report.error.traceback:
            note += f"; there:\n{report.error.traceback[-_NOTE_CHARS:]}"
        error.add_note(note)
        return error

    def cancel(self, *, interrupt: bool) -> None:
        """Begin nothing more; `interrupt`: end what runs elsewhere, too. From any thread."""
        with self.changed:
            self.cancelled = True
            self._fold.cancelled += len(self._waiting) + len(self._delayed)
            self._waiting.clear()
            self._delayed.clear()
        self.hands.cancel(self, interrupt=interrupt)

    def _stop(self, error: BaseException) -> None:
        """The owner itself is interrupted: end what runs elsewhere and wait for it, unless told again."""
        del error
        self.cancel(interrupt=True)
        while True:
            self._settle_arrived()
            with self.changed:
                if not self.taken:
                    return
                self.hands.wait(self, self.hands.wait_s(self))
            self.hands.more(self)

    def _envelope(self, index: int) -> ItemEnvelope:
        attempt = self._attempts[index] = self._attempts.get(index, 0) + 1
        context, attributes = self.door.context, self.door.attributes
        span_id = context.recorder.ids.span_id()
        level = attributes.get(semconv.EXEC_LEVEL)
        return ItemEnvelope(
            node_id=self.door.node_id,
            name=str(attributes[semconv.NODE_NAME]),
            template=str(attributes[semconv.EXEC_TEMPLATE]),
            level=level if isinstance(level, int) else None,
            index=index,
            attempt=attempt,
            parent_span_id=self._parent,
            span_id=span_id,
            fn_name=self.fn_name,
            previous_span_id=self._last_span.get(index, ""),
            spanned=index < self._spanned,
            code_file=self._code[0],
            code_line=self._code[1],
            timeout_s=self.timeout_s,
        )

    def _wake_delayed(self) -> None:
        if self._delayed:
            now_ns = self.door.context.clock.now_ns()
            while self._delayed and self._delayed[0][0] <= now_ns:
                self._waiting.appendleft(heapq.heappop(self._delayed)[1])

    def _delay_s(self) -> float | None:
        if not self._delayed:
            return None
        return max(0.0, (self._delayed[0][0] - self.door.context.clock.now_ns()) / 1e9) + 0.0005
