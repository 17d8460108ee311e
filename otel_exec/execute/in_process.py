"""What executors in the driver's own process share: one recorder for all tasks, calls handed over as they are.

What comes in: the run's settings. What goes out: worker contexts, the list of open spans. Results of tasks are dropped.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from otel_exec.execute import verify
from otel_exec.execute.capture import ProxiedStreams, StreamCapture
from otel_exec.execute.context import Call, WorkerContext
from otel_exec.execute.door import Door, Hands, NoHands
from otel_exec.record.spare import keep_descriptor
from otel_exec.spans.open_spans import OpenSpanTable
from otel_exec.spans.recorder import Recorder
from otel_exec.spans.spool import SpoolWriter

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from otel_exec.clock import Clock
    from otel_exec.execute.base import RunSettings
    from otel_exec.execute.envelope import TaskEnvelope
    from otel_exec.execute.interrupts import Guard
    from otel_exec.execute.rusage import ProcessMeter, ThreadMeter
    from otel_exec.plan.graph import Step
    from otel_exec.spans.open_spans import OpenEntry

__all__ = ["WRITER", "InProcess", "direct_call"]

# The spool's writer for tasks that run in the driver's process.
WRITER = "driver-tasks"


def direct_call(step: Step) -> Call:
    """Return a step's call as it is."""
    hook = step.verify if callable(step.verify) else verify.commands(step.verify)
    return (step.fn, step.config, step.call_style, hook)


class InProcess:
    """The parts of one run in this process."""

    def __init__(self, settings: RunSettings, clock: Clock) -> None:
        folder = os.path.join(settings.run_folder, "spans")
        self.settings = settings
        self.clock = clock
        self._spool = SpoolWriter(folder, WRITER, {**dict(settings.resource), "process.pid": os.getpid()})
        self._table = OpenSpanTable(folder, WRITER)
        self.recorder = Recorder(
            exec_id=settings.exec_id,
            trace_id=settings.trace_id,
            clock=clock,
            spool=self._spool,
            open_spans=self._table,
            sampled=settings.sampled,
            trace_state=settings.trace_state,
            limits=settings.limits,
        )
        keep_descriptor()
        self.streams = ProxiedStreams()
        self.streams.start()

    def context(
        self,
        worker_id: str,
        *,
        guard: Guard,
        meter: ProcessMeter | ThreadMeter,
        claimed: Callable[[TaskEnvelope, int, int], None],
        hands: Callable[[WorkerContext], Hands] | None = None,
        late_timeouts: bool = False,
    ) -> WorkerContext:
        """Return the context of a new worker."""
        budget = self.settings.max_task_spans
        return WorkerContext(
            worker_id=worker_id,
            settings=self.settings,
            clock=self.clock,
            recorder=self.recorder,
            capture=StreamCapture(self.settings.log_cap_bytes),
            meter=meter,
            guard=guard,
            claimed=claimed,
            door=lambda context, attributes, node_id: Door(context, attributes, node_id, (lambda: hands(context)) if hands is not None else NoHands, budget),
            late_timeouts=late_timeouts,
        )

    def open_spans(self, node_id: str, first: str = "") -> Sequence[OpenEntry]:
        """Return what is open of a step, the span `first` first."""
        found = [entry for entry in self._table.entries() if entry.node_id == node_id]
        return sorted(found, key=lambda span: (span.span_id != first, span.start_ns))

    def close(self) -> None:
        """Give the streams back, close the spool. Safe to call twice."""
        self.streams.stop()
        self._spool.close()
        self._table.remove()
