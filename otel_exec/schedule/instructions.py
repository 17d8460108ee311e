"""What the runner is to do next, as values: the state machine's only output. The runner obeys them in order."""

from __future__ import annotations

import msgspec

__all__ = [
    "CloseLevel",
    "EndRun",
    "Instruction",
    "InterruptRunning",
    "OpenLevel",
    "RecallAll",
    "RunGates",
    "SetTimer",
    "SettleStep",
    "StartStep",
    "Submit",
]


class OpenLevel(msgspec.Struct, frozen=True, gc=False):
    """The level's first step is about to be created: open its span at `at_ns`."""

    level: int
    at_ns: int


class CloseLevel(msgspec.Struct, frozen=True, gc=False):
    """All of the level's steps have settled: its span is from `start_ns` to `at_ns`.

    `start_ns` is the first created of its steps; it may lie before `OpenLevel`'s instant, since reports come in another order than attempts settled in.
    A level of which no step was created opens and closes at one instant.
    """

    level: int
    at_ns: int
    start_ns: int


class StartStep(msgspec.Struct, frozen=True, gc=False):
    """The step is created (ready) at `at_ns`: open its span. Groups too, when the first of what they called is created."""

    index: int
    at_ns: int


class Submit(msgspec.Struct, frozen=True, gc=False):
    """Hand the attempt to the executor. `created_ns` is the attempt's own (after back-off for a later one). `locked`: this run holds the step's lock already."""

    index: int
    attempt: int
    created_ns: int
    last_attempt: bool
    locked: bool


class SetTimer(msgspec.Struct, frozen=True, gc=False):
    """Send `TimerFired` for the step at `at_ns`. `why` is `backoff` or `lock`."""

    index: int
    at_ns: int
    why: str


class SettleStep(msgspec.Struct, frozen=True, gc=False):
    """The step has its outcome, for good, at `at_ns`: close its span and write what only the driver can write.

    `cause` says why a step that did not run was settled: `upstream_failed` (then `by` is the index of the first cause), `cached`, `not_needed`, `not_selected`, `failed_previously`, `gate_failed`, `cancelled`; "" when it ran.
    A step without a `StartStep` before was never created; it opens no level, so where its zero-length span is to lie inside its level, it waits for the `OpenLevel`.
    `attempts` counts those that were made. A group comes to `success`, or to its members' `skip` or `cancellation`: it never fails itself.
    """

    index: int
    at_ns: int
    outcome: str
    cause: str = ""
    by: int | None = None
    attempts: int = 0


class RunGates(msgspec.Struct, frozen=True, gc=False):
    """Run the gates after level `level`; `GatesEnded` is expected, also when a cancellation ends them."""

    level: int


class RecallAll(msgspec.Struct, frozen=True, gc=False):
    """Take back what no worker claimed (`AttemptRecalled` for each)."""


class InterruptRunning(msgspec.Struct, frozen=True, gc=False):
    """Tell all running attempts, and gates, to end; after the grace the runner kills them. Comes again when an attempt is claimed late: who was told already is not told twice."""


class EndRun(msgspec.Struct, frozen=True, gc=False):
    """Everything has settled. `outcome`: success, failure, timeout or cancellation."""

    at_ns: int
    outcome: str


Instruction = OpenLevel | CloseLevel | StartStep | Submit | SetTimer | SettleStep | RunGates | RecallAll | InterruptRunning | EndRun
