"""The states of a step, the table of what may lead from one to another, and each step's story.

What comes in: moves. What goes out: nothing, or an `ImpossibleTransition` that tells the step's story. Never knows why a move is wanted.

    waiting    an upstream is not settled (or the barrier is not passed)
    open       of a group alone: one of its members was created
    ready      created; waits for room
    submitted  in the executor's hand, not claimed
    running    claimed by a worker
    backoff    failed, to be tried again when its timer fires
    lock_wait  refused, since another run holds its lock; asked again when its timer fires
    settled    has its outcome, for good
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final

from otel_exec.errors import ImpossibleTransition

if TYPE_CHECKING:
    from otel_exec.plan.graph import Plan

__all__ = ["STORY_LENGTH", "TABLE", "Ledger"]

WAITING: Final = "waiting"
OPEN: Final = "open"
READY: Final = "ready"
SUBMITTED: Final = "submitted"
RUNNING: Final = "running"
BACKOFF: Final = "backoff"
LOCK_WAIT: Final = "lock_wait"
SETTLED: Final = "settled"

TABLE: Final[frozenset[tuple[str, str, str]]] = frozenset(
    {
        # what happened, from, to
        ("decided", WAITING, SETTLED),
        ("created", WAITING, READY),
        ("created", WAITING, OPEN),
        ("submitted", READY, SUBMITTED),
        ("claimed", SUBMITTED, RUNNING),
        ("ended", SUBMITTED, SETTLED),
        ("ended", SUBMITTED, BACKOFF),
        ("ended", RUNNING, SETTLED),
        ("ended", RUNNING, BACKOFF),
        ("refused", SUBMITTED, LOCK_WAIT),
        ("refused", SUBMITTED, SETTLED),
        ("recalled", SUBMITTED, READY),
        ("recalled", SUBMITTED, SETTLED),
        ("found_cached", SUBMITTED, SETTLED),
        ("found_cached", RUNNING, SETTLED),
        ("timer_fired", BACKOFF, READY),
        ("timer_fired", LOCK_WAIT, READY),
        ("upstream_failed", WAITING, SETTLED),
        ("gate_failed", WAITING, SETTLED),
        ("cancelled", WAITING, SETTLED),
        ("cancelled", READY, SETTLED),
        ("cancelled", BACKOFF, SETTLED),
        ("cancelled", LOCK_WAIT, SETTLED),
        ("members_settled", WAITING, SETTLED),
        ("members_settled", OPEN, SETTLED),
    }
)

STORY_LENGTH: Final = 50_000
"""Transitions remembered, of all steps together: five or so a step; a longer run forgets its oldest, so that a step that asks for a lock for days costs no memory."""


class Ledger:
    """The state of every step, `states[index]`, and the transitions that led there."""

    __slots__ = ("_log", "_plan", "states")

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._log: deque[tuple[int, int, str, str, str]] = deque(maxlen=STORY_LENGTH)
        self.states: list[str] = [WAITING] * len(plan.steps)

    def move(self, index: int, what: str, to: str, at_ns: int) -> None:
        """Move a step on.

        Raises:
            ImpossibleTransition: the table has no such row; the step stays where it was.
        """
        before = self.states[index]
        if (what, before, to) not in TABLE:
            raise self.impossible(index, what)
        self.states[index] = to
        self._log.append((index, at_ns, what, before, to))

    def impossible(self, index: int, what: str) -> ImpossibleTransition:
        """Return the error for something that can't happen to the step as it stands."""
        return ImpossibleTransition(self._plan.steps[index].name, self.states[index], what, self.story(index))

    def story(self, index: int) -> tuple[tuple[int, str, str, str], ...]:
        """Return the step's transitions as far as they are remembered, oldest first: (at_ns, what happened, from, to)."""
        return tuple(entry[1:] for entry in self._log if entry[0] == index)
