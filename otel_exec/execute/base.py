"""What every executor is: a place where envelopes go in and notices come out.

What comes in: `TaskEnvelope`s. What goes out: notices, polled by the runner. An executor never calls back, never decides what runs next,
and knows nothing of levels or dependencies. It deals the items of fan-outs to idle workers itself.

Contract of call, for every method but `wake`: called by the runner's thread alone. `wake` may be called from any thread and from a signal handler.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import msgspec

from otel_exec.spans.open_spans import OpenEntry
from otel_exec.spans.span_record import SpanLimits

if TYPE_CHECKING:
    from collections.abc import Sequence

    from otel_exec.clock import Clock
    from otel_exec.execute.envelope import TaskEnvelope, TaskReport
    from otel_exec.plan.graph import Step
    from otel_exec.spans.span_record import AttributeValue

__all__ = [
    "AttemptLost",
    "Beat",
    "Claimed",
    "Executor",
    "Notice",
    "OpenSpan",
    "Outlived",
    "Output",
    "Reported",
    "RunSettings",
    "Warned",
    "WorkerDied",
    "WorkerReady",
    "WorkerStarted",
    "WorkerStopped",
]


class RunSettings(msgspec.Struct, frozen=True):
    """What a worker must know of the run, once.

    `run_folder` is local (the live spool lies under it, `spans/`); `lock_holder` is the driver's `worker_id` in lock files (requirement A).
    `log_cap_bytes` bounds each `.executor_log`. `max_task_spans`: past it a task's further phases are only aggregated. `limits`: how much of the user's own a span keeps.
    """

    exec_id: str
    trace_id: str
    run_span_id: str
    run_folder: str
    lock_holder: str
    clock_offset_ns: int
    sampled: bool = True
    trace_state: str = ""
    resource: tuple[tuple[str, AttributeValue], ...] = ()
    show_output: bool = False
    log_cap_bytes: int = 2 * 1024 * 1024
    max_task_spans: int = 10_000
    script: str | None = None
    limits: SpanLimits = SpanLimits()


# A span that has not ended, as far as is known.
OpenSpan = OpenEntry


class WorkerStarted(msgspec.Struct, frozen=True):
    """A worker's process (or thread) was started; it is not ready yet."""

    worker_id: str
    at_ns: int
    pid: int
    host: str
    node: str | None = None


class WorkerReady(msgspec.Struct, frozen=True):
    """A worker said by itself that it takes tasks."""

    worker_id: str
    at_ns: int


class WorkerStopped(msgspec.Struct, frozen=True):
    """A worker that was told to stop has ended."""

    worker_id: str
    at_ns: int


class WorkerDied(msgspec.Struct, frozen=True):
    """A worker ended without being told to. `node_ids` are the attempts it took with it (at most one of them claimed); each must be settled by the runner.

    `reason` is one sentence for people: its exit code or signal.
    `open_spans` are those that its mapped memory still held: they are closed by the runner at `at_ns`.
    """

    worker_id: str
    at_ns: int
    attempts: tuple[tuple[str, int], ...]
    reason: str
    error_type: str = "worker_died"
    open_spans: tuple[OpenSpan, ...] = ()
    log_tail: str = ""


class AttemptLost(msgspec.Struct, frozen=True):
    """An attempt has ended without a report, and no worker is known that ended with it: it could not be placed, or nobody knows who had it.

    `reason` is one sentence for people. `blameless`: it may not be the attempt's own fault.
    """

    node_id: str
    attempt: int
    at_ns: int
    error_type: str
    reason: str
    blameless: bool = False


class Warned(msgspec.Struct, frozen=True):
    """Something that the record's reader should know, and whoever watches the run: why a step waits (`node_id`), or what is wrong with a node (""). `count`: how many of it."""

    code: str
    message: str
    node_id: str = ""
    count: int = 1


class Claimed(msgspec.Struct, frozen=True):
    """A worker took an attempt and holds its lock; the function is about to be loaded."""

    node_id: str
    attempt: int
    worker_id: str
    at_ns: int


class Reported(msgspec.Struct, frozen=True):
    """An attempt came to its end by itself, or was refused (`report.found`)."""

    report: TaskReport


class Outlived(msgspec.Struct, frozen=True):
    """An attempt that had been abandoned (a thread past its timeout) has ended after all: its lock can go."""

    node_id: str
    attempt: int
    worker_id: str
    at_ns: int


class Beat(msgspec.Struct, frozen=True):
    """A sign of life of a worker, about once a second: what is open in it now."""

    worker_id: str
    at_ns: int
    open_spans: tuple[OpenSpan, ...]


class Output(msgspec.Struct, frozen=True):
    """Whole lines that a step printed, newline-terminated; only with `RunSettings.show_output`. They are in the step's log as well."""

    worker_id: str
    node_id: str
    text: str


Notice = WorkerStarted | WorkerReady | WorkerStopped | WorkerDied | Claimed | Reported | AttemptLost | Outlived | Beat | Output | Warned


class Executor(Protocol):
    """Runs envelopes.

    `kind` is its name on the command line. `workers` is how many attempts run at once; `prefetch` how many more it likes to have in hand, so that no worker waits for the driver.
    `can_kill` says whether `kill` ends an attempt for sure (processes); where not, `kill` abandons it: the runner settles it and the executor sends `Outlived` when it ends after all.
    `by_value` says whether the function must be packed (another process) or is handed over as it is.
    """

    kind: str
    workers: int
    prefetch: int
    can_kill: bool
    by_value: bool

    @property
    def awaits(self) -> str:
        """What `start` will wait for, in words; "" where it returns at once."""
        ...

    def start(self, settings: RunSettings, clock: Clock) -> None:
        """Start the workers; returns before they are ready."""
        ...

    def pack(self, step: Step) -> object:
        """Make ready whatever of the step goes to a worker. Raises a `Mistake` when it can't be sent, naming step, place and way out. Called once per step that will run."""
        ...

    def submit(self, envelope: TaskEnvelope, packed: object) -> None:
        """Hand over an attempt; never blocks. The executor starts it on the first free worker, in the order submitted."""
        ...

    def poll(self, timeout_s: float | None) -> Sequence[Notice]:
        """Return what happened since the last call; waits up to `timeout_s` (`None`: until something happens or `wake`) when nothing did. `inline` runs a submitted attempt in here."""
        ...

    def wake(self) -> None:
        """Make a `poll` that waits return; safe in a signal handler. While `inline` runs an attempt in the main thread, a call from the signal handler raises KeyboardInterrupt in it."""
        ...

    def recall(self) -> Sequence[tuple[str, int]]:
        """Take back all attempts that no worker has claimed; returns their (node_id, attempt)."""
        ...

    def interrupt(self, node_id: str, attempt: int) -> None:
        """Raise KeyboardInterrupt in a running attempt, if it can; its report follows when it ends."""
        ...

    def kill(self, node_id: str, attempt: int) -> None:
        """End a running attempt now. No notice follows for the attempt; the runner settles it. A killed worker is replaced (`WorkerStopped`, then `WorkerStarted`), if the run goes on."""
        ...

    def open_spans(self, node_id: str, attempt: int) -> Sequence[OpenSpan]:
        """Return what is open in a running attempt, its task span first; read before `kill` so that the runner can close them. Empty where nothing is known."""
        ...

    def log_tail(self, node_id: str, attempt: int) -> str:
        """Return the last lines of what a running attempt has printed so far; read before `kill`. "" where nothing is known."""
        ...

    def stop(self, grace_s: float) -> Sequence[Notice]:
        """Stop the workers, those that do not obey within `grace_s` by force; returns the last notices. Safe to call twice."""
        ...
