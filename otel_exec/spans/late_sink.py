"""Phases that open or close in the midst of another's folding, on the same thread: in a finaliser that the garbage collector runs, or in a signal handler.

What comes in: the calls of a sink, while the thread that makes them is inside another such call further up. What goes out: the same calls, in their order,
once that one is over: a fold can't be changed in the middle of a change, and to wait for it would be to wait for oneself. Imports nothing of OpenTelemetry.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from otel_exec.spans.phase_sink import PhaseSink, Totals

__all__ = ["LateSink"]


class _Own:
    """`OwnPhases` of a `LateSink`."""

    def __init__(self, calls: deque[Callable[[PhaseSink], object]]) -> None:
        self._calls = calls

    def opened(self, span_id: str, parent_span_id: str, name: str, at_ns: int, /) -> None:
        """Keep it for later."""
        self._calls.append(lambda sink: sink.own.opened(span_id, parent_span_id, name, at_ns))

    def closed(self, span_id: str, at_ns: int, error: bool, spanned: bool, /) -> None:
        """Keep it for later."""
        self._calls.append(lambda sink: sink.own.closed(span_id, at_ns, error, spanned))


class LateSink:
    """A scope's sink while its thread is inside a call of the real one.

    Args:
        behind: the real one, of which alone totals are asked.
    """

    def __init__(self, behind: PhaseSink) -> None:
        self.behind = behind
        self.calls: deque[Callable[[PhaseSink], object]] = deque()
        self.own = _Own(self.calls)

    def hand_on(self) -> None:
        """Make the calls that were kept, and those that are kept meanwhile."""
        calls = self.calls
        while calls:
            calls.popleft()(self.behind)

    def opened(self, span_id: str, parent_span_id: str, name: str, at_ns: int, *, node_id: str | None = None) -> None:
        """Keep it for later."""
        self.calls.append(lambda sink: sink.opened(span_id, parent_span_id, name, at_ns, node_id=node_id))

    def wait_opened(self, span_id: str, parent_span_id: str, at_ns: int) -> None:
        """Keep it for later."""
        self.calls.append(lambda sink: sink.wait_opened(span_id, parent_span_id, at_ns))

    def closed(self, span_id: str, at_ns: int, *, error: bool, tokens: dict[str, int] | None = None, spanned: bool = True) -> None:
        """Keep it for later."""
        self.calls.append(lambda sink: sink.closed(span_id, at_ns, error=error, tokens=tokens, spanned=spanned))

    def foreign(self, exec_id: str, node_id: str, name: str, duration_ns: int) -> None:
        """Keep it for later."""
        self.calls.append(lambda sink: sink.foreign(exec_id, node_id, name, duration_ns))

    def totals(self, own_node: str) -> Totals:
        """Return what the real one knows so far."""
        return self.behind.totals(own_node)

    def foreign_totals(self, exec_id: str, *, take: bool) -> Totals:
        """Return what the real one knows so far."""
        return self.behind.foreign_totals(exec_id, take=take)
