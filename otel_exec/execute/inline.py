"""The inline executor: attempts run one after the other in the thread that polls. For debugging, tests and the smallest experiments.

What comes in: envelopes. What goes out: notices. It can't be interrupted but by a signal handler of its own thread, and can't kill: a timeout is judged when the function returns.
No thread beside the one that runs the attempt hands on its spans, so what ended before a long quiet stretch of it is exported with the next phase, or at the attempt's end.
"""

from __future__ import annotations

import os
import socket
import threading
from collections import deque
from typing import TYPE_CHECKING

from otel_exec.execute.base import Claimed, Output, Reported, WorkerReady, WorkerStarted, WorkerStopped
from otel_exec.execute.in_process import InProcess, direct_call
from otel_exec.execute.interrupts import InlineGuard
from otel_exec.execute.lease import LeaseKeeper
from otel_exec.execute.rusage import ProcessMeter
from otel_exec.execute.worker import run_attempt

if TYPE_CHECKING:
    from collections.abc import Sequence

    from otel_exec.clock import Clock
    from otel_exec.execute.base import Notice, RunSettings
    from otel_exec.execute.context import Call, WorkerContext
    from otel_exec.execute.envelope import TaskEnvelope
    from otel_exec.plan.graph import Step
    from otel_exec.spans.open_spans import OpenEntry

__all__ = ["InlineExecutor"]

_WORKER_ID = "0"


class InlineExecutor:
    """Runs attempts in `poll`; see `execute.base.Executor` for the contract."""

    kind = "inline"
    workers = 1
    prefetch = 0
    can_kill = False
    awaits = ""
    by_value = False

    def __init__(self) -> None:
        self._queue: deque[tuple[TaskEnvelope, Call]] = deque()
        self._notices: list[Notice] = []
        self._guard = InlineGuard()
        self._poller = 0
        self._woken = threading.Event()
        self._parts: InProcess | None = None
        self._context: WorkerContext | None = None
        self._node_id = ""

    def start(self, settings: RunSettings, clock: Clock) -> None:
        """Be ready at once."""
        self._parts = InProcess(settings, clock)
        self._lease = LeaseKeeper(settings.lock_holder)
        self._context = self._parts.context(_WORKER_ID, guard=self._guard, meter=ProcessMeter(peak=False), claimed=self._claimed, late_timeouts=True)
        if settings.show_output:
            self._context.capture.show = self._show  # type: ignore[attr-defined]  # a StreamCapture
        now = clock.now_ns()
        self._notices += [WorkerStarted(_WORKER_ID, now, os.getpid(), socket.gethostname()), WorkerReady(_WORKER_ID, now)]

    def pack(self, step: Step) -> object:
        """Return the step's call as it is."""
        return direct_call(step)

    def submit(self, envelope: TaskEnvelope, packed: object) -> None:
        """Put the attempt into the queue; `poll` runs it."""
        self._queue.append((envelope, packed))  # type: ignore[arg-type]  # what pack returned

    def poll(self, timeout_s: float | None) -> Sequence[Notice]:
        """Run the next attempt, if there is one and nothing else to tell; else wait to be woken."""
        if not self._notices and self._queue:
            assert self._context is not None
            envelope, call = self._queue.popleft()
            self._poller = threading.get_ident()
            self._node_id = envelope.node_id
            assert self._parts is not None
            self._parts.streams.start()
            report = run_attempt(self._context, envelope, direct=call)
            self._lease.keep("")
            self._poller = 0
            if report is not None:
                self._notices.append(Reported(report))
        elif not self._notices:
            self._woken.wait(timeout_s)
        self._woken.clear()
        notices, self._notices = self._notices, []
        return notices

    def wake(self) -> None:
        """End a waiting poll; from a signal handler of the polling thread: raise KeyboardInterrupt in the attempt that runs there."""
        self._woken.set()
        if self._poller == threading.get_ident():
            self._guard.request_here()

    def recall(self) -> Sequence[tuple[str, int]]:
        """Take back what was not run yet."""
        taken = [(envelope.node_id, envelope.attempt) for envelope, _ in self._queue]
        self._queue.clear()
        return taken

    def interrupt(self, node_id: str, attempt: int) -> None:
        """Do nothing: when the runner's thread is here, no attempt runs."""

    def kill(self, node_id: str, attempt: int) -> None:
        """Do nothing: when the runner's thread is here, no attempt runs."""

    def open_spans(self, node_id: str, attempt: int) -> Sequence[OpenEntry]:
        """Return what is open of the step."""
        del attempt
        return self._parts.open_spans(node_id) if self._parts is not None else ()

    def log_tail(self, node_id: str, attempt: int) -> str:
        """Return nothing: when the runner's thread is here, no attempt runs."""
        del node_id, attempt
        return ""

    def stop(self, grace_s: float) -> Sequence[Notice]:
        """Close what was opened."""
        del grace_s
        if self._parts is None:
            return ()
        now = self._parts.clock.now_ns()
        self._lease.close()
        self._parts.close()
        self._parts = None
        notices, self._notices = [*self._notices, WorkerStopped(_WORKER_ID, now)], []
        return notices

    def _claimed(self, envelope: TaskEnvelope, sequence: int, at_ns: int) -> None:
        del sequence
        self._lease.keep(envelope.output_path)
        self._notices.append(Claimed(envelope.node_id, envelope.attempt, _WORKER_ID, at_ns))

    def _show(self, text: str) -> None:
        self._notices.append(Output(_WORKER_ID, self._node_id, text))
