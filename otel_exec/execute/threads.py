"""The threads executor: attempts run on threads of the driver's process.

What comes in: envelopes. What goes out: notices. A thread can't be killed: `kill` abandons it (nothing it does afterwards is written), a new thread takes its place, and `Outlived` follows when it ends after all.
"""

from __future__ import annotations

import itertools
import os
import socket
import threading
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from otel_exec import semconv
from otel_exec.errors import qualified_name
from otel_exec.execute.base import Claimed, Outlived, Output, Reported, WorkerReady, WorkerStarted, WorkerStopped
from otel_exec.execute.capture import StreamCapture
from otel_exec.execute.door import LocalHands
from otel_exec.execute.failure import refusal
from otel_exec.execute.fan_out import FanOut
from otel_exec.execute.in_process import InProcess, direct_call
from otel_exec.execute.interrupts import ThreadGuard
from otel_exec.execute.items import run_item
from otel_exec.execute.rusage import ThreadMeter
from otel_exec.execute.worker import run_attempt

if TYPE_CHECKING:
    from collections.abc import Sequence

    from otel_exec.clock import Clock
    from otel_exec.execute.base import Notice, RunSettings
    from otel_exec.execute.context import Call, WorkerContext
    from otel_exec.execute.envelope import TaskEnvelope
    from otel_exec.execute.items import ItemEnvelope
    from otel_exec.plan.graph import Step
    from otel_exec.spans.open_spans import OpenEntry

__all__ = ["ThreadsExecutor"]

# How often an idle thread looks whether an item's back-off is over, while a fan-out is open.
_LOOK_S = 0.05


@dataclass(eq=False)
class _Worker:
    """A thread. `sent` is the attempt it runs, `item` the item of another's fan-out; `only`: it is the extra worker of that fan-out."""

    worker_id: str
    guard: ThreadGuard = field(default_factory=ThreadGuard)
    context: WorkerContext | None = None
    only: FanOut | None = None
    sent: TaskEnvelope | None = None
    item: tuple[FanOut, ItemEnvelope] | None = None
    item_ns: int = 0
    sequence: int = -1
    abandoned: bool = False
    thread: threading.Thread | None = None


class ThreadsExecutor:
    """Runs attempts on threads; see `execute.base.Executor` for the contract."""

    kind = "threads"
    can_kill = False
    awaits = ""
    by_value = False

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self.prefetch = workers
        self._work = threading.Condition()
        self._told = threading.Condition()
        self._notices: list[Notice] = []
        self._woken = False
        self._queue: deque[tuple[TaskEnvelope, Call]] = deque()
        self._fans: list[FanOut] = []
        self._threads: list[_Worker] = []
        self._names = itertools.count()
        self._sequences = itertools.count(1)
        self._idle = 0
        self._stopping = False
        self._parts: InProcess | None = None

    # --- the runner's side ------------------------------------------------------------------------------------------------------------------------

    def start(self, settings: RunSettings, clock: Clock) -> None:
        """Start the threads."""
        self._parts = InProcess(settings, clock)
        for _ in range(self.workers):
            self._add_worker()

    def pack(self, step: Step) -> object:
        """Return the step's call as it is."""
        return direct_call(step)

    def submit(self, envelope: TaskEnvelope, packed: object) -> None:
        """Put the attempt into the queue."""
        with self._work:
            self._queue.append((envelope, packed))  # type: ignore[arg-type]  # what pack returned
            self._work.notify()

    def poll(self, timeout_s: float | None) -> Sequence[Notice]:
        """Return what happened; wait for it when nothing did."""
        if self._parts is not None:
            self._parts.recorder.flush()
        with self._told:
            if not self._notices and not self._woken:
                self._told.wait(timeout_s)
            self._woken = False
            notices, self._notices = self._notices, []
            return notices

    def wake(self) -> None:
        """End a waiting poll."""
        # Called by a signal handler too, perhaps of the very thread that holds the lock.
        self._woken = True
        if self._told.acquire(blocking=False):
            try:
                self._told.notify_all()
            finally:
                self._told.release()
        else:
            threading.Thread(target=self._tell, daemon=True).start()

    def recall(self) -> Sequence[tuple[str, int]]:
        """Take back what no thread has begun."""
        with self._work:
            taken = [(envelope.node_id, envelope.attempt) for envelope, _ in self._queue]
            self._queue.clear()
            return taken

    def interrupt(self, node_id: str, attempt: int) -> None:
        """Set KeyboardInterrupt in the thread: it comes when that next runs Python code."""
        worker = self._running(node_id, attempt)
        if worker is not None:
            worker.guard.request(worker.sequence)

    def kill(self, node_id: str, attempt: int) -> None:
        """Abandon the attempt: a new thread takes the place of its own."""
        with self._work:
            kept = [pair for pair in self._queue if (pair[0].node_id, pair[0].attempt) != (node_id, attempt)]
            self._queue = deque(kept)
        worker = self._running(node_id, attempt)
        if worker is not None:
            self._abandon(worker)
        with self._told:
            self._notices = [
                notice
                for notice in self._notices
                if not (isinstance(notice, Reported) and (notice.report.node_id, notice.report.attempt) == (node_id, attempt))
            ]

    def open_spans(self, node_id: str, attempt: int) -> Sequence[OpenEntry]:
        """Return what is open of the step, its task span first."""
        worker = self._running(node_id, attempt)
        if self._parts is None:
            return ()
        return self._parts.open_spans(node_id, worker.sent.span_id if worker is not None and worker.sent is not None else "")

    def log_tail(self, node_id: str, attempt: int) -> str:
        """Return the last lines of what the attempt has printed so far."""
        worker = self._running(node_id, attempt)
        capture = worker.context.capture if worker is not None and worker.context is not None else None
        return capture.last_lines() if isinstance(capture, StreamCapture) else ""

    def stop(self, grace_s: float) -> Sequence[Notice]:
        """End the threads; those that don't end within the grace are left behind (they end with the process)."""
        import time

        if self._parts is None:
            return ()
        with self._work:
            self._stopping = True
            self._queue.clear()
            self._work.notify_all()
            threads = [worker for worker in self._threads if not worker.abandoned]
        deadline = time.monotonic() + grace_s
        for worker in threads:
            if worker.thread is not None:
                worker.thread.join(max(0.0, deadline - time.monotonic()))
        for worker in threads:
            if worker.thread is not None and worker.thread.is_alive():
                self._abandon(worker, replace=False)
        self._parts.close()
        self._parts = None
        return self.poll(0)

    # --- the threads ------------------------------------------------------------------------------------------------------------------------------

    def _add_worker(self, only: FanOut | None = None) -> None:
        assert self._parts is not None
        worker = _Worker(str(next(self._names)), only=only)
        worker.context = self._parts.context(
            worker.worker_id, guard=worker.guard, meter=ThreadMeter(), claimed=self._claimed(worker), hands=lambda _: _ThreadHands(self, worker)
        )
        if self._parts.settings.show_output:
            worker.context.capture.show = self._show(worker)  # type: ignore[attr-defined]  # a StreamCapture
        worker.thread = threading.Thread(target=self._serve, args=(worker,), name=f"otel-exec-worker-{worker.worker_id}", daemon=True)
        with self._work:
            self._threads.append(worker)
        self._tell(WorkerStarted(worker.worker_id, self._parts.clock.now_ns(), os.getpid(), socket.gethostname()))
        worker.thread.start()

    def _serve(self, worker: _Worker) -> None:
        assert self._parts is not None
        clock = self._parts.clock
        self._tell(WorkerReady(worker.worker_id, clock.now_ns()))
        while not worker.abandoned and self._next(worker):
            pass
        with self._work:
            if worker in self._threads:
                self._threads.remove(worker)
        if not worker.abandoned:
            self._tell(WorkerStopped(worker.worker_id, clock.now_ns()))

    def _next(self, worker: _Worker) -> bool:
        """Run the next attempt or item; returns whether the thread is to go on."""
        call: Any = None
        with self._work:
            while True:
                if self._stopping:
                    return False
                if worker.only is None and self._queue:
                    worker.sent, call = self._queue.popleft()
                    worker.sequence = next(self._sequences)
                    break
                item = self._find_item(worker)
                if item is not None:
                    worker.item = item
                    worker.item_ns = worker.context.clock.now_ns() if worker.context is not None else 0
                    worker.sequence = next(self._sequences)
                    break
                if worker.only is not None and worker.only not in self._fans:
                    return False
                self._idle += worker.only is None
                self._work.wait(_LOOK_S if self._fans else None)
                self._idle -= worker.only is None
        if self._parts is not None:
            self._parts.streams.start()
        if worker.sent is not None:
            self._run_attempt(worker, worker.sent, call)
        elif worker.item is not None:
            self._run_item(worker, *worker.item)
        return True

    def _find_item(self, worker: _Worker) -> tuple[FanOut, ItemEnvelope] | None:
        """Take an item of an open fan-out, each in its turn; called with the lock."""
        for _ in range(len(self._fans)):
            fan_out = self._fans.pop(0)
            self._fans.append(fan_out)
            if worker.only is None or worker.only is fan_out:
                envelope = fan_out.take(owner=False)
                if envelope is not None:
                    return fan_out, envelope
        return None

    def _run_attempt(self, worker: _Worker, envelope: TaskEnvelope, call: Call) -> None:
        assert worker.context is not None
        report = run_attempt(worker.context, envelope, direct=call, sequence=worker.sequence)
        with self._work:
            worker.sent = None
            abandoned = worker.abandoned
        if abandoned or report is None:
            self._tell(Outlived(envelope.node_id, envelope.attempt, worker.worker_id, worker.context.clock.now_ns()))
        else:
            self._tell(Reported(report))

    def _run_item(self, worker: _Worker, fan_out: FanOut, envelope: ItemEnvelope) -> None:
        from otel_exec.execute.capture import use_capture

        context = worker.context
        assert context is not None
        worker.guard.begin(worker.sequence)
        context.capture.begin(None, 1)
        settled = None
        why = (semconv.ERROR_CANCELLED, "interrupted")
        try:
            with use_capture(fan_out.door.context.capture):
                try:
                    worker.guard.arm()
                    settled = run_item(context, envelope, fan_out.fn, fan_out.items[envelope.index], measure=True)
                finally:
                    worker.guard.disarm()
        except BaseException as error:  # of our own lines: an interrupt that came between them, or a process that has no descriptor or memory left
            worker.guard.disarm()
            if not isinstance(error, KeyboardInterrupt):
                cut = refusal(error, qualified_name(type(error)))
                why = (cut.type, cut.message)
        worker.guard.end()
        with self._work:
            worker.item = None
            abandoned = worker.abandoned
        if abandoned:
            return
        if settled is None:
            now = context.clock.now_ns()
            fan_out.lose(envelope.index, worker.worker_id, *why, worker.item_ns, now, final=True)
        else:
            fan_out.settle(*settled)

    def _running(self, node_id: str, attempt: int) -> _Worker | None:
        with self._work:
            for worker in self._threads:
                sent = worker.sent
                if sent is not None and sent.node_id == node_id and sent.attempt == attempt and not worker.abandoned:
                    return worker
        return None

    def _abandon(self, worker: _Worker, *, replace: bool = True) -> None:
        """Leave a thread to itself and put another in its place."""
        assert self._parts is not None
        with self._work:
            worker.abandoned = worker.guard.abandoned = True
            if worker in self._threads:
                self._threads.remove(worker)
            owned = [fan_out for fan_out in self._fans if fan_out.door.context is worker.context]
        for fan_out in owned:
            fan_out.cancel(interrupt=True)
        worker.guard.request(worker.sequence)
        self._tell(WorkerStopped(worker.worker_id, self._parts.clock.now_ns()))
        if replace and worker.only is None:
            self._add_worker()

    def _claimed(self, worker: _Worker) -> Any:
        def claimed(envelope: TaskEnvelope, sequence: int, at_ns: int) -> None:
            del sequence
            self._tell(Claimed(envelope.node_id, envelope.attempt, worker.worker_id, at_ns))

        return claimed

    def _show(self, worker: _Worker) -> Any:
        def show(text: str) -> None:
            sent = worker.sent
            self._tell(Output(worker.worker_id, sent.node_id if sent is not None else "", text))

        return show

    def _tell(self, *notices: Notice) -> None:
        with self._told:
            self._notices += notices
            self._told.notify_all()

    # --- fan-outs ---------------------------------------------------------------------------------------------------------------------------------

    def open_fan_out(self, fan_out: FanOut) -> None:
        """A fan-out has items to take."""
        with self._work:
            self._fans.append(fan_out)
        self.offer(fan_out)

    def offer(self, fan_out: FanOut) -> None:
        """Have idle threads look for items; where there is none for items with a timeout, start an extra one."""
        if not fan_out.has_items():
            return
        with self._work:
            self._work.notify_all()
            served = any(worker.only is fan_out or (worker.item is not None and worker.item[0] is fan_out) for worker in self._threads)
            extra = fan_out.timeout_s is not None and not served and self._idle == 0 and not self._stopping
        if extra:
            self._add_worker(only=fan_out)

    def lent_to(self, fan_out: FanOut) -> list[_Worker]:
        """Return the workers that run an item of a fan-out."""
        with self._work:
            return [worker for worker in self._threads if worker.item is not None and worker.item[0] is fan_out]

    def end_overdue(self, fan_out: FanOut) -> None:
        """Abandon the items whose time ran out; they are not tried again, since their threads go on."""
        if fan_out.timeout_s is None:
            return
        for worker in self.lent_to(fan_out):
            item, context = worker.item, worker.context
            assert context is not None
            now = context.clock.now_ns()
            if item is not None and now - worker.item_ns > fan_out.timeout_s * 1e9:
                self._abandon(worker)
                message = f"its timeout of {fan_out.timeout_s:g} s passed"
                fan_out.lose(item[1].index, worker.worker_id, semconv.ERROR_TIMEOUT, message, worker.item_ns, now, final=True)

    def close_fan_out(self, fan_out: FanOut) -> None:
        """A fan-out is over."""
        with self._work:
            if fan_out in self._fans:
                self._fans.remove(fan_out)
            self._work.notify_all()


class _ThreadHands(LocalHands):
    """Idle threads help with a fan-out."""

    def __init__(self, executor: ThreadsExecutor, owner: _Worker) -> None:
        self._executor = executor
        self._owner = owner

    def opened(self, fan_out: FanOut) -> None:
        """Let idle threads take items."""
        self._executor.open_fan_out(fan_out)

    def more(self, fan_out: FanOut) -> None:
        """Wake idle threads; end what ran out of time."""
        self._executor.end_overdue(fan_out)
        self._executor.offer(fan_out)

    def reclaim(self, fan_out: FanOut) -> None:
        """Nothing to do: a thread begins what it takes."""

    def cancel(self, fan_out: FanOut, *, interrupt: bool) -> None:
        """Interrupt those that run items of it."""
        if interrupt:
            for worker in self._executor.lent_to(fan_out):
                worker.guard.request(worker.sequence)

    def closed(self, fan_out: FanOut) -> None:
        """Stop taking items."""
        self._executor.close_fan_out(fan_out)

    def wait_s(self, fan_out: FanOut) -> float | None:
        """Look at timeouts every twentieth of a second, if there are any."""
        return _LOOK_S if fan_out.timeout_s is not None else None
