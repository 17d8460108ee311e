"""What can happen to a run, as values: the state machine's only input.

Every event carries its instant, `at_ns`, nanoseconds since the Unix epoch; the state machine itself has no clock.
"""

from __future__ import annotations

import msgspec

__all__ = [
    "AttemptClaimed",
    "AttemptEnded",
    "AttemptRecalled",
    "AttemptRefused",
    "CancelRequested",
    "Event",
    "GatesEnded",
    "RunBegan",
    "StepFoundCached",
    "TimerFired",
]


class RunBegan(msgspec.Struct, frozen=True, gc=False):
    """The run began: everything without an unsettled dependency is created now."""

    at_ns: int


class AttemptClaimed(msgspec.Struct, frozen=True, gc=False):
    """A worker took the attempt."""

    at_ns: int
    index: int
    attempt: int
    worker_id: str


class AttemptEnded(msgspec.Struct, frozen=True, gc=False):
    """The attempt came to an outcome (a word of `semconv.Outcome`, not `skip`). `blameless`: a death that may not be the step's own fault (worker or node died).

    `lock_lost`: the step's lock is not this run's any more, so a later attempt has to take it again.
    """

    at_ns: int
    index: int
    attempt: int
    outcome: str
    blameless: bool = False
    lock_lost: bool = False


class AttemptRefused(msgspec.Struct, frozen=True, gc=False):
    """Another run holds the step's lock: nothing ran, the worker is free again."""

    at_ns: int
    index: int
    attempt: int
    holder: str


class StepFoundCached(msgspec.Struct, frozen=True, gc=False):
    """When its lock was taken, the step had succeeded meanwhile in another run: nothing ran."""

    at_ns: int
    index: int
    attempt: int


class AttemptRecalled(msgspec.Struct, frozen=True, gc=False):
    """The executor gave back an attempt that no worker had claimed."""

    at_ns: int
    index: int
    attempt: int


class TimerFired(msgspec.Struct, frozen=True, gc=False):
    """A timer that the state asked for has come: a back-off is over, or a lock is to be tried again."""

    at_ns: int
    index: int


class GatesEnded(msgspec.Struct, frozen=True, gc=False):
    """All gates after level `level` ended, or were ended by a cancellation; `passed` says whether all passed. `RunGates` is always answered by this."""

    at_ns: int
    level: int
    passed: bool


class CancelRequested(msgspec.Struct, frozen=True, gc=False):
    """Nothing new starts; running attempts are told to end. `reason` is `interrupt`, `terminate` or `timeout`; fail-fast is the state's own."""

    at_ns: int
    reason: str


Event = RunBegan | AttemptClaimed | AttemptEnded | AttemptRefused | StepFoundCached | AttemptRecalled | TimerFired | GatesEnded | CancelRequested
