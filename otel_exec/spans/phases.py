"""`phase`: the public door to timing inside a step, and the scope of the task that it belongs to.

What comes in: a name and metadata from the user's code. What goes out: a phase span, and two calls to the task's sink. Where there is no run it does nothing.
The current scope and the current span travel in the OpenTelemetry context, so that whatever carries that (asyncio, instrumented threads) carries them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from otel_exec.spans.recorder import Recorder
    from otel_exec.spans.span_record import AttributeValue

__all__ = ["PhaseSink", "TaskScope", "current_scope", "enter_scope"]


class PhaseSink(Protocol):
    """Folds phases as they happen. Called under the scope's lock, with instants that never go back, from any thread of the task."""

    def opened(self, span_id: str, parent_span_id: str, name: str, at_ns: int, *, node_id: str | None = None) -> None:
        """A phase (or `map_tasks` call) opened under `parent_span_id`: another phase or the task. `node_id`: only where it is not the step's own."""
        ...

    def closed(self, span_id: str, at_ns: int, *, error: bool, tokens: dict[str, int] | None = None) -> None:
        """It closed; unknown ids are ignored."""
        ...


class TaskScope:
    """The task (or item) that the code is in: who records its phases and what every span of it carries.

    `attributes` are put on every span made in it (`node.id`, `node.name`, `exec.attempt`, `exec.worker.id`, ...).
    `max_spans`: past it phases are only folded; `unspanned` counts those.
    `fan_out` is set by the executor: what `map_tasks` calls (opaque here).
    """

    def __init__(
        self,
        recorder: Recorder,
        *,
        span_id: str,
        node_id: str,
        sink: PhaseSink,
        attributes: dict[str, AttributeValue],
        max_spans: int = 10_000,
        fan_out: object = None,
    ) -> None:
        raise NotImplementedError

    recorder: Recorder
    span_id: str
    node_id: str
    sink: PhaseSink
    unspanned: int
    fan_out: object


def enter_scope(scope: TaskScope) -> AbstractContextManager[None]:
    """Make `scope` current, with its task span as the OpenTelemetry context's current span, for the block."""
    raise NotImplementedError


def current_scope() -> TaskScope | None:
    """Return the scope of the code that calls: from the OpenTelemetry context, else (a bare thread of a process that runs one task) the process's own; `None` outside."""
    raise NotImplementedError
