"""What can happen to a run, as values: the state machine's only input.

Every event carries its instant, `at_ns`, nanoseconds since the Unix epoch; the state machine itself has no clock.
"""

from __future__ import annotations

from dataclasses import dataclass

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


@dataclass(frozen=True, slots=True)
class RunBegan:
    """The run began: everything without an unsettled dependency is created now."""

    at_ns: int


@dataclass(frozen=True, slots=True)
class AttemptClaimed:
    """A worker took the attempt."""

    at_ns: int
    index: int
    attempt: int
    worker_id: str


@dataclass(frozen=True, slots=True)
class AttemptEnded:
    """The attempt came to an outcome (a word of `semconv.Outcome`, not `skip`). `blameless`: a death that may not be the step's own fault (worker or node died).

    `lock_lost`: the step's lock is not this run's any more, so a later attempt has to take it again.
    """

    at_ns: int
    index: int
    attempt: int
    outcome: str
    blameless: bool = False
    lock_lost: bool = False


@dataclass(frozen=True, slots=True)
class AttemptRefused:
    """Another run holds the step's lock: nothing ran, the worker is free again."""

    at_ns: int
    index: int
    attempt: int
    holder: str


@dataclass(frozen=True, slots=True)
class StepFoundCached:
    """When its lock was taken, the step had succeeded meanwhile in another run: nothing ran."""

    at_ns: int
    index: int
    attempt: int


@dataclass(frozen=True, slots=True)
class AttemptRecalled:
    """The executor gave back an attempt that no worker had claimed."""

    at_ns: int
    index: int
    attempt: int


@dataclass(frozen=True, slots=True)
class TimerFired:
    """A timer that the state asked for has come: a back-off is over, or a lock is to be tried again."""

    at_ns: int
    index: int


@dataclass(frozen=True, slots=True)
class GatesEnded:
    """All gates after level `level` ended, or were ended by a cancellation; `passed` says whether all passed. `RunGates` is always answered by this."""

    at_ns: int
    level: int
    passed: bool


@dataclass(frozen=True, slots=True)
class CancelRequested:
    """Nothing new starts; running attempts are told to end. `reason` is `interrupt`, `terminate` or `timeout`; fail-fast is the state's own."""

    at_ns: int
    reason: str


Event = RunBegan | AttemptClaimed | AttemptEnded | AttemptRefused | StepFoundCached | AttemptRecalled | TimerFired | GatesEnded | CancelRequested
