"""What a worker has while it lives, whichever executor it belongs to.

What comes in: the parts, made by the executor. What goes out: one value that is handed to whatever runs in the worker.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from otel_exec.execute.failure import describe

if TYPE_CHECKING:
    from collections.abc import Callable

    from otel_exec.clock import Clock
    from otel_exec.execute.base import RunSettings
    from otel_exec.execute.capture import Capture
    from otel_exec.execute.door import Door
    from otel_exec.execute.envelope import TaskEnvelope
    from otel_exec.execute.interrupts import Guard
    from otel_exec.execute.rusage import ProcessMeter, ThreadMeter
    from otel_exec.spans.recorder import Recorder
    from otel_exec.spans.span_record import AttributeValue

__all__ = ["Call", "WorkerContext", "current_umask", "leave_if_forked"]

# (function, config, call style, verify hook), as `packing.Packer.call` packs it.
Call = tuple[Any, Any, str, Any]


def _nothing() -> None:
    """Do nothing."""


@dataclass(slots=True)
class WorkerContext:
    """What one worker has, for as long as it lives.

    `claimed` is told (envelope, sequence, at_ns) just before an attempt's function is loaded. `door` makes what `map_tasks` calls inside a task.
    `after` puts the process back as it was when a task has ended. `late_timeouts`: nobody can end an attempt from outside, so its timeout is judged when it returns.
    `carrier`: the process is ours, so its environment may carry the task to processes that the task starts.
    """

    worker_id: str
    settings: RunSettings
    clock: Clock
    recorder: Recorder
    capture: Capture
    meter: ProcessMeter | ThreadMeter
    guard: Guard
    claimed: Callable[[TaskEnvelope, int, int], None]
    door: Callable[[WorkerContext, dict[str, AttributeValue], str], Door]
    after: Callable[[], None] = _nothing
    late_timeouts: bool = False
    carrier: bool = False
    pid: int = field(default_factory=os.getpid)


def current_umask() -> int:
    """Return the process's umask. The system tells it only by setting another: a strict one, for what threads may create meanwhile."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def leave_if_forked(context: WorkerContext, error: BaseException | None = None) -> None:
    """End the process if it is a child that the user's function forked and let return (or raise) through our code: the worker itself reports, once.

    It ends as Python would have ended it: with the code of its `sys.exit`, or with 1 and the user's part of the traceback.
    """
    if os.getpid() == context.pid:
        return
    code = 0 if error is None else 1
    try:
        if isinstance(error, SystemExit) and (error.code is None or isinstance(error.code, int)):
            code = (error.code or 0) & 0xFF
        elif error is not None:
            print(error.code if isinstance(error, SystemExit) else describe(error).traceback, file=sys.stderr)
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(code)
