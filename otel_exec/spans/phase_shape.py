"""What all occurrences of a phase in a task have in common, made once: names, attributes, the pieces of their line.

What comes in: a scope, a name, the ids that the user's code gave. What goes out: a `PhaseShape`, kept in the scope. Imports no OpenTelemetry.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from otel_exec.semconv import EXEC_KIND, EXEC_OUTCOME, EXEC_PHASE, FOREIGN_EXEC_ID, NODE_ID, NODE_NAME, SCOPE_NAME, Kind
from otel_exec.spans import sanitise
from otel_exec.spans.open_spans import listing
from otel_exec.spans.span_record import SpanRecord

if TYPE_CHECKING:
    from otel_exec.spans.scope import TaskScope
    from otel_exec.spans.span_record import AttributeValue

__all__ = ["PhaseShape", "shape_of"]

# Names are few. A user who makes them up endlessly must not grow us.
_MAX_SHAPES = 1024
_PHASE = str(Kind.PHASE)
# Stand for what changes from one occurrence to the next; nothing else in a line holds a control character.
_ID, _PARENT, _START, _END = "\0id", "\0parent", "\0start", "\0end"
_LAST = "]}]}]}]}\n"


class PhaseShape:
    """A phase of one name, node and execution in one task.

    `pieces`: the line of an occurrence that succeeded with nothing of its own to say, cut where its id, its parent's id, its start and its end go in, and where
    its metadata would; `None` where somebody wants records. `plain`: it counts for the step, and for no other execution. `reserved`: attributes that metadata may not take.
    """

    __slots__ = ("_recorder", "attributes", "exec_id", "listing", "name", "node_id", "pieces", "plain", "reserved")

    def __init__(self, scope: TaskScope, name: str, node_id: str | None, exec_id: str | None) -> None:
        self._recorder = recorder = scope.recorder
        self.name = name
        self.node_id = node_id
        self.exec_id = exec_id
        self.plain = node_id is None and exec_id is None
        self.listing = listing(_PHASE, name, scope.node_id if node_id is None else node_id)
        attributes: dict[str, AttributeValue] = {**scope.base, EXEC_PHASE: name}
        if node_id is not None:
            attributes[NODE_ID] = attributes[NODE_NAME] = node_id
        if exec_id is not None:
            attributes[FOREIGN_EXEC_ID] = exec_id
        self.attributes = attributes
        self.reserved = frozenset((*attributes, EXEC_KIND, EXEC_OUTCOME))
        self.pieces: tuple[str, str, str, str, str, str] | None = None
        start_ns, end_ns = cast("tuple[int, int]", (_START, _END))
        line = recorder.line_of(self.record(_ID, _PARENT, start_ns, end_ns, {**attributes, EXEC_OUTCOME: "success"}))
        if line is not None and line.endswith(_LAST):
            head, line = line.split(_ID)
            before_parent, line = line.split(_PARENT)
            before_start, line = line.split(_START)
            before_end, line = line.split(_END)
            self.pieces = head, before_parent, before_start, before_end, line.removesuffix(_LAST), _LAST

    def record(
        self,
        span_id: str,
        parent_span_id: str,
        start_ns: int,
        end_ns: int,
        attributes: dict[str, AttributeValue],
        *,
        status: int = 0,
        message: str = "",
        events: tuple[tuple[int, str, dict[str, AttributeValue]], ...] = (),
    ) -> SpanRecord:
        """Return the span of one occurrence."""
        recorder = self._recorder
        return SpanRecord(
            recorder.trace_id,
            span_id,
            parent_span_id,
            self.name,
            _PHASE,
            start_ns,
            end_ns,
            attributes,
            (),
            status,
            message,
            1,
            events,
            SCOPE_NAME,
            recorder.flags,
            recorder.trace_state,
        )


def shape_of(scope: TaskScope, name: object, node_id: str | None, exec_id: str | None) -> PhaseShape:
    """Return the shape of a phase, made if need be. From any thread."""
    if node_id is not None and node_id in scope.own_names:
        node_id = None
    if exec_id == scope.recorder.exec_id:
        exec_id = None
    clean = sanitise.phase_name(name)
    key: object = clean if node_id is None and exec_id is None else (clean, node_id, exec_id)
    shape = scope.shapes.get(key)
    if shape is None:
        if len(scope.shapes) >= _MAX_SHAPES:
            scope.shapes.clear()
        shape = scope.shapes[key] = PhaseShape(scope, clean, node_id, exec_id)
    return shape
