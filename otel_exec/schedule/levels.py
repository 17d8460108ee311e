"""When levels open and close, and where the barrier stands.

What comes in: the creation and settlement of steps. What goes out: `OpenLevel`, `CloseLevel` and `RunGates`. Pure.

Without a barrier a level is no more than the time around its steps. With one, levels go by in order, each a microsecond at least after the one before
(Jaeger's critical path skips siblings that touch), with the gates in between.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from otel_exec.schedule.instructions import CloseLevel, Instruction, OpenLevel, RunGates

if TYPE_CHECKING:
    from otel_exec.plan.graph import Plan

__all__ = ["BETWEEN_LEVELS_NS", "Levels"]

BETWEEN_LEVELS_NS: Final = 1_000


class Levels:
    """The levels of one run.

    `current` is the last level whose steps may be created, and `floor_ns` the earliest instant for them: when the barrier before it was passed.
    `left` counts the steps of each level that have not settled, `end_ns` is the end of the level that ended last. `gating`: gates run now.
    """

    __slots__ = ("_barrier", "_end_ns", "_gates", "_members", "_start_ns", "current", "end_ns", "floor_ns", "gating", "last", "left", "left_in_all")

    def __init__(self, plan: Plan, *, barrier: bool, gates: bool) -> None:
        self._barrier = barrier
        self._gates = gates
        self._members: list[list[int]] = [[] for _ in range(plan.levels + 1)]
        for step in plan.steps:
            if step.level is not None:
                self._members[step.level].append(step.index)
        self.left = [len(members) for members in self._members]
        self.left_in_all = sum(self.left)
        self._start_ns: list[int | None] = [None] * (plan.levels + 1)
        self._end_ns = [0] * (plan.levels + 1)
        self.last = plan.levels
        self.current = 1 if barrier else plan.levels
        self.floor_ns = 0
        self.end_ns = 0
        self.gating = False

    def created(self, level: int, at_ns: int, out: list[Instruction]) -> None:
        """A step of the level is about to be created."""
        start = self._start_ns[level]
        if start is None:
            self._start_ns[level] = at_ns
            out.append(OpenLevel(level, at_ns))
        elif at_ns < start:
            self._start_ns[level] = at_ns

    def settled(self, level: int, at_ns: int, out: list[Instruction]) -> None:
        """A step of the level has settled, created or not."""
        self.left[level] -= 1
        self.left_in_all -= 1
        self._end_ns[level] = max(self._end_ns[level], at_ns)
        if not self.left[level] and not self._barrier:
            self._close(level, out)

    def pass_barrier(self, out: list[Instruction]) -> list[int] | None:
        """Go on to the next level if all of the current one has settled and no gate stands between; returns the next one's steps, `None` where the barrier holds."""
        if not self._barrier or self.gating or self.current > self.last or self.left[self.current]:
            return None
        level = self.current
        self.floor_ns = self._close(level, out) + BETWEEN_LEVELS_NS
        # Gates look at what is there before more is built on it; where nothing is left to run, there is nothing to hold back.
        if self._gates and self.left_in_all:
            self.gating = True
            out.append(RunGates(level))
            return None
        return self._next()

    def gates_ended(self, at_ns: int) -> list[int]:
        """The gates that `pass_barrier` asked for have ended; returns the next level's steps."""
        self.gating = False
        self.floor_ns = max(self.floor_ns, at_ns)
        return self._next()

    def _next(self) -> list[int]:
        self.current += 1
        return self._members[self.current] if self.current <= self.last else []

    def _close(self, level: int, out: list[Instruction]) -> int:
        start = self._start_ns[level]
        if start is None:
            start = max(self._end_ns[level], self.floor_ns)
            self._start_ns[level] = start
            out.append(OpenLevel(level, start))
        end = max(start, self._end_ns[level])
        self.end_ns = max(self.end_ns, end)
        out.append(CloseLevel(level, end, start))
        return end
