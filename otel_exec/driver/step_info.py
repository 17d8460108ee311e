"""What stands beside a step's output: what an earlier run left there, and the half of `.executor_info` that is known before the step runs.

What comes in: steps. What goes out: `Earlier` for the selection, JSON bytes for the envelope.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from otel_exec.record import locks
from otel_exec.record.model import CachedFrom
from otel_exec.record.process_id import holder_text
from otel_exec.record.step_files import read_events, read_info, standing
from otel_exec.schedule.select import Earlier

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from otel_exec.plan.graph import Plan, Step
    from otel_exec.record.step_files import StatusEvent

__all__ = ["cached_from", "look_up", "static_info"]

_TIMES = ("scheduled_time", "execution_start_time", "execution_end_time", "duration_seconds", "total_duration_seconds")


def look_up(step: Step) -> Earlier:
    """Return what an earlier run left of a step (a `schedule.select.Lookup`)."""
    path = step.output_path
    if path is None:
        return Earlier()
    events = read_events(path)
    if not events:
        return Earlier(held_by=holder_text(locks.peek(path)))
    info = read_info(path) or {}
    return earlier_from(events, info, held_by=holder_text(locks.peek(path)))


def earlier_from(events: list[StatusEvent], info: Mapping[str, object], *, held_by: str = "") -> Earlier:
    """Return what a step's events and `.executor_info` say of the run that wrote them; the events know where the info has nothing."""
    last = standing(events) or events[-1]
    times: dict[str, object] = {key: info.get(key) for key in _TIMES}
    if times["duration_seconds"] is None and last.execution_start_time is not None and last.execution_end_time is not None:
        times["duration_seconds"] = last.execution_end_time - last.execution_start_time
    return Earlier(
        status=last.status,
        held_by=held_by,
        version=info.get("version"),
        exec_id=last.exec_id or _text(info.get("exec_id")),
        trace_id=last.trace_id or _text(info.get("trace_id")),
        step_span_id=last.span_id or _text(info.get("span_id")),
        times=times,
        message=last.message or "",
    )


def cached_from(earlier: Earlier) -> CachedFrom:
    """Return what the record says of the run that made a cached step."""
    try:
        known = msgspec.convert({key: earlier.times.get(key) for key in _TIMES}, CachedFrom)
    except (msgspec.ValidationError, UnicodeError):  # another program's numbers: the identity still holds
        known = CachedFrom()
    known.exec_id = earlier.exec_id
    known.trace_id = earlier.trace_id
    known.span_id = earlier.step_span_id
    return known


def static_info(plan: Plan) -> Callable[[Step], bytes]:
    """Return a function that gives the half of a step's `.executor_info` that is known before it runs, a JSON object as bytes."""
    steps = plan.steps
    encode = msgspec.json.Encoder(enc_hook=repr).encode

    def info(step: Step) -> bytes:
        return encode(
            {
                "name": step.name,
                "fn_name": step.fn_name,
                "config": step.recorded_config,
                "description": step.description,
                "override_output_path": step.override_output_path,
                "version": msgspec.Raw(step.version_json),
                "dependencies": [path for index in step.depends_on if (path := steps[index].output_path) is not None],
                "output_path": step.output_path,
            }
        )

    return info


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None
