"""The driver's hand in step files: the events that no worker can write, and the locks that no worker lets go.

What comes in: steps, words, instants. What goes out: lines in `.executor_status`, released locks. A file that can't be written is a warning of the record:
it never changes an outcome.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from otel_exec.clock import to_iso
from otel_exec.errors import RecordError
from otel_exec.record import locks, reserve
from otel_exec.record.spare import with_descriptor
from otel_exec.record.step_files import StatusEvent, append_event, make_output_folder, merge_info, read_events, standing, write_info
from otel_exec.semconv import OUTCOME_OF_STATUS

if TYPE_CHECKING:
    from otel_exec.aggregate.aggregator import Aggregator
    from otel_exec.clock import Clock
    from otel_exec.execute.base import RunSettings
    from otel_exec.plan.graph import Step
    from otel_exec.semconv import StatusWord

__all__ = ["StatusWriter"]


def _say(output_path: str, event: StatusEvent) -> None:
    make_output_folder(output_path)
    append_event(output_path, event)


class StatusWriter:
    """Writes for one run."""

    def __init__(self, settings: RunSettings, clock: Clock, aggregator: Aggregator) -> None:
        self._settings = settings
        self._clock = clock
        self._aggregator = aggregator
        # When a step's lock was last known to be ours, by its index.
        self._renewed_ns: dict[int, int] = {}

    def event(self, step: Step, span_id: str, word: StatusWord, message: str | None, times: tuple[int, int] | None = None) -> None:
        """Append an event; `times` are started and completed, nanoseconds since the Unix epoch, where the function was called."""
        if step.output_path is None:
            return
        event = StatusEvent(
            date=to_iso(self._clock.now_ns()) or "",
            status=word.value,
            message=message or None,
            task_id=step.node_id,
            execution_start_time=times[0] / 1e9 if times else None,
            execution_end_time=times[1] / 1e9 if times else None,
            exec_id=self._settings.exec_id,
            trace_id=self._settings.trace_id,
            span_id=span_id,
        )
        try:
            reserve.with_room(self._settings.run_folder, partial(_say, step.output_path, event))
        except RecordError as error:
            self._aggregator.warn("status_not_written", str(error))

    def info(self, step: Step, span_id: str, static: bytes, task: tuple[int, int], step_times: tuple[int, int]) -> None:
        """Replace `.executor_info` for a worker that can't: `task` is started and completed, `step_times` created and settled, nanoseconds since the Unix epoch."""
        if step.output_path is None:
            return
        measured = {
            "scheduled_time": to_iso(step_times[0]),
            "execution_start_time": to_iso(task[0]),
            "execution_end_time": to_iso(task[1]),
            "duration_seconds": (task[1] - task[0]) / 1e9,
            "total_duration_seconds": (step_times[1] - step_times[0]) / 1e9,
            "exec_id": self._settings.exec_id,
            "trace_id": self._settings.trace_id,
            "span_id": span_id,
        }
        try:
            with_descriptor(partial(write_info, step.output_path, merge_info(static, measured)))
        except RecordError as error:
            self._aggregator.warn("info_not_written", str(error))

    def last_word(self, step: Step, span_id: str) -> StatusEvent | None:
        """Return the event by which a worker of this run said how the step ended, `None` where none did. Another run may have gone on since."""
        if step.output_path is None:
            return None
        try:
            events = read_events(step.output_path)
        except RecordError:
            return None
        last = standing([event for event in events if (event.exec_id, event.span_id) == (self._settings.exec_id, span_id)])
        return last if last is not None and last.status in OUTCOME_OF_STATUS else None

    def lost_to(self, step: Step) -> str:
        """Return in words where the lock went that is no longer ours."""
        return locks.lost_to(step.output_path or "")

    def renew(self, step: Step, locked_ns: int) -> bool:
        """Renew the step's lock; `False` when it is no longer ours.

        A lock that can't be reached is a warning, since it may be ours still; once it could not be reached for as long as makes a lock stale, anybody may have taken it.

        Args:
            step: the step.
            locked_ns: when this run took the lock.
        """
        if step.output_path is None:
            return True
        now_ns = self._clock.now_ns()
        try:
            ours = locks.heartbeat(step.output_path, self._settings.lock_holder)
        except RecordError as error:
            self._aggregator.warn("lock_not_renewed", str(error))
            return now_ns - max(locked_ns, self._renewed_ns.get(step.index, 0)) <= locks.STALE_S * 1_000_000_000
        self._renewed_ns[step.index] = now_ns
        return ours

    def release(self, step: Step) -> None:
        """Let the step's lock go, if it is ours."""
        if step.output_path is None:
            return
        try:
            with_descriptor(partial(locks.release, step.output_path, self._settings.lock_holder))
        except RecordError as error:
            self._aggregator.warn("lock_not_released", str(error))
