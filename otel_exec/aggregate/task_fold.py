"""Folding the phases of one task while they happen: a sweep along time.

What comes in: phases that open and close, at instants that never go back. What goes out: a `PhaseFold` a name, exact to the nanosecond.
At each instant the innermost open phases share it equally; self time is a phase's own interval minus the union of its children; union is the time in which any occurrence of the name is open.
Nothing is kept of a phase once it has closed, so a million of them cost no memory.
"""

from __future__ import annotations

from otel_exec.aggregate.folds import PhaseFold

__all__ = ["TaskFold"]


class TaskFold:
    """The sink of one task's phases (`spans.phases.PhaseSink`). Not thread-safe by itself: its caller holds a lock."""

    def __init__(self, task_span_id: str, start_ns: int) -> None:
        raise NotImplementedError

    def opened(self, span_id: str, parent_span_id: str, name: str, at_ns: int, *, node_id: str | None = None) -> None:
        """A phase opened."""
        raise NotImplementedError

    def closed(self, span_id: str, at_ns: int, *, error: bool, tokens: dict[str, int] | None = None) -> None:
        """A phase closed."""
        raise NotImplementedError

    def finish(self, at_ns: int) -> dict[str, PhaseFold]:
        """The task ended at `at_ns`: phases left open are closed there. Returns the step's own folds by name; `nodes` and `tokens` hold the rest."""
        raise NotImplementedError

    nodes: dict[str, dict[str, PhaseFold]]
    tokens: dict[str, int]
    unaccounted_ns: int
