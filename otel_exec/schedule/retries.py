"""How often a step is tried, and how long it waits in between.

What comes in: what an attempt came to. What goes out: whether to try again, and after how long. Pure: chance is injected.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from otel_exec.schedule.instructions import Submit
from otel_exec.semconv import Outcome

if TYPE_CHECKING:
    from collections.abc import Callable

    from otel_exec.plan.graph import Plan
    from otel_exec.schedule.events import AttemptEnded

__all__ = ["BLAMELESS_TRIES", "Attempts", "RetryPolicy"]

BLAMELESS_TRIES: Final = 2
"""Tries beyond `retries` for deaths that may not be the step's own fault."""

_NS: Final = 1_000_000_000


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Exponential back-off with jitter, and the pace at which another run's lock is asked for again.

    The n-th attempt is followed by `base_s * 2**(n-1)`, at most `cap_s`, of which the upper half is left to chance, so that steps that failed together don't come back together.
    A lock is asked for again after `lock_first_s`, then at twice the interval each time up to `lock_cap_s`.
    `jitter` returns a number in [0, 1). `retry_timeouts` is off where an attempt past its timeout can only be abandoned (threads).
    """

    jitter: Callable[[], float]
    base_s: float = 0.5
    cap_s: float = 60.0
    lock_first_s: float = 0.05
    lock_cap_s: float = 1.0
    retry_timeouts: bool = True

    def backoff_ns(self, attempt: int) -> int:
        """Return how long to wait after the attempt, counted from 1."""
        # 2**30 half seconds are past any cap; a larger exponent would only overflow.
        whole_s = min(self.cap_s, self.base_s * 2.0 ** min(attempt - 1, 30))
        return round(whole_s * (0.5 + 0.5 * self.jitter()) * _NS)

    def lock_ns(self, refusals: int) -> int:
        """Return how long to wait after the lock was refused for the n-th time, counted from 1."""
        return round(min(self.lock_cap_s, self.lock_first_s * 2.0 ** min(refusals - 1, 30)) * _NS)


class Attempts:
    """The attempts of every step: `made[index]` have come to an end, so the present one has the next number."""

    __slots__ = ("_deaths_forgiven", "_policy", "_refusals", "_retries", "_retries_used", "claimed_ns", "created_ns", "locked", "made")

    def __init__(self, plan: Plan, policy: RetryPolicy) -> None:
        count = len(plan.steps)
        self.made = [0] * count
        self.created_ns = [0] * count
        self.locked = bytearray(count)
        self.claimed_ns: dict[int, int] = {}
        self._policy = policy
        self._retries = [step.retries for step in plan.steps]
        # Few steps ever come to these, so they are kept by index.
        self._retries_used: dict[int, int] = {}
        self._deaths_forgiven: dict[int, int] = {}
        self._refusals: dict[int, int] = {}

    def submit(self, index: int) -> Submit:
        """Return the instruction that hands over the present attempt."""
        last = self._retries_used.get(index, 0) >= self._retries[index]
        return Submit(index, self.made[index] + 1, self.created_ns[index], last, bool(self.locked[index]))

    def tries_again(self, event: AttemptEnded) -> bool:
        """Return whether another attempt follows one that failed; if so, count what it uses up."""
        index = event.index
        if event.outcome == Outcome.TIMEOUT and not self._policy.retry_timeouts:
            return False
        used = self._retries_used.get(index, 0)
        if used < self._retries[index]:
            self._retries_used[index] = used + 1
            return True
        forgiven = self._deaths_forgiven.get(index, 0)
        if event.blameless and event.outcome == Outcome.ERROR and forgiven < BLAMELESS_TRIES:
            self._deaths_forgiven[index] = forgiven + 1
            return True
        return False

    def backoff_ns(self, event: AttemptEnded) -> int:
        """Return how long the step waits before the next attempt."""
        return self._policy.backoff_ns(event.attempt)

    def refused_ns(self, index: int) -> int:
        """Count that another run holds the step's lock, and return how long to wait before asking again."""
        refusals = self._refusals.get(index, 0) + 1
        self._refusals[index] = refusals
        self.locked[index] = False
        return self._policy.lock_ns(refusals)
