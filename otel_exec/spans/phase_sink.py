"""Where a task's phases go to be counted: what `spans` asks of whoever folds them.

What comes in: phases that open and close. What goes out: nothing here. Imports nothing of ours.
"""

from __future__ import annotations

from typing import Protocol

__all__ = ["Ended", "PhaseSink", "Totals"]

# Node id, name of a phase, nanoseconds in all.
Totals = dict[str, dict[str, int]]


class OwnPhases(Protocol):
    """The shortest way for a phase of the step itself that gives no tokens: most are. Contract of call as of `PhaseSink`."""

    def opened(self, span_id: str, parent_span_id: str, name: str, at_ns: int, /) -> None:
        """A phase opened."""
        ...

    def closed(self, span_id: str, at_ns: int, error: bool, spanned: bool, /) -> object:
        """It closed; unknown ids are ignored. `spanned`: it has a span, and is not only counted."""
        ...


class PhaseSink(Protocol):
    """Folds phases as they happen. Called under the scope's lock, with instants that never go back, from any thread of the task."""

    @property
    def own(self) -> OwnPhases:
        """Where phases of the step itself go."""
        ...

    def opened(self, span_id: str, parent_span_id: str, name: str, at_ns: int, *, node_id: str | None = None) -> None:
        """A phase opened under `parent_span_id`: another phase or the task. `node_id`: only where it is not the step's own."""
        ...

    def wait_opened(self, span_id: str, parent_span_id: str, at_ns: int) -> None:
        """The code under `parent_span_id` waits for a fan-out, until `closed`."""
        ...

    def closed(self, span_id: str, at_ns: int, *, error: bool, tokens: dict[str, int] | None = None, spanned: bool = True) -> None:
        """It closed; unknown ids are ignored. `spanned`: it has a span, and is not only counted."""
        ...

    def foreign(self, exec_id: str, node_id: str, name: str, duration_ns: int) -> None:
        """A phase ended that the user's code keeps under an execution id of its own."""
        ...

    def totals(self, own_node: str) -> Totals:
        """Return what the phases that have ended come to, by node and name."""
        ...

    def foreign_totals(self, exec_id: str, *, take: bool) -> Totals:
        """Return the same of one foreign execution id; `take`: and forget it."""
        ...


class _Nothing:
    """No phases."""

    def opened(self, span_id: str, parent_span_id: str, name: str, at_ns: int, /) -> None:
        """Nothing is folded any more."""

    def closed(self, span_id: str, at_ns: int, error: bool, spanned: bool, /) -> None:
        """Nothing is folded any more."""


class Ended:
    """The sink of a scope that is over: its fold has been read, or is about to be."""

    def __init__(self) -> None:
        self.own = _Nothing()

    def opened(self, span_id: str, parent_span_id: str, name: str, at_ns: int, *, node_id: str | None = None) -> None:
        """Nothing is folded any more."""

    def wait_opened(self, span_id: str, parent_span_id: str, at_ns: int) -> None:
        """Nothing is folded any more."""

    def closed(self, span_id: str, at_ns: int, *, error: bool, tokens: dict[str, int] | None = None, spanned: bool = True) -> None:
        """Nothing is folded any more."""

    def foreign(self, exec_id: str, node_id: str, name: str, duration_ns: int) -> None:
        """Nothing is folded any more."""

    def totals(self, own_node: str) -> Totals:  # noqa: ARG002  the protocol's signature
        """Nothing is kept here any more."""
        return {}

    def foreign_totals(self, exec_id: str, *, take: bool) -> Totals:  # noqa: ARG002  the protocol's signature
        """Nothing is kept here any more."""
        return {}
