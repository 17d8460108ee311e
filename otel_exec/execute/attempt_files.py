"""What an attempt writes into its step's output folder: lock, status events, info.

What comes in: the instants and the outcome, when they are known. What goes out: the files of requirement B, by `record/`. The same numbers as in the spans: nothing is measured here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from otel_exec import semconv
from otel_exec.clock import System, to_iso
from otel_exec.errors import RecordError
from otel_exec.record import locks, reserve, step_files, storage
from otel_exec.record.process_id import holder_text
from otel_exec.record.spare import with_descriptor
from otel_exec.semconv import Outcome, StatusWord

if TYPE_CHECKING:
    from otel_exec.execute.context import WorkerContext
    from otel_exec.execute.envelope import ErrorInfo, TaskEnvelope

__all__ = ["AttemptFiles"]


class AttemptFiles:
    """The files of one attempt. `succeeded_meanwhile`: when the lock was taken, the step's output had been made already.

    Args:
        context: the worker's.
        envelope: the attempt.
        warnings: what could not be written and is not worth an outcome is said here.
    """

    __slots__ = ("_envelope", "_locked_s", "_recorder", "_rerun", "_settings", "_warnings", "succeeded_meanwhile")

    def __init__(self, context: WorkerContext, envelope: TaskEnvelope, warnings: list[tuple[str, str]]) -> None:
        self._settings = context.settings
        self._recorder = context.recorder
        self._envelope = envelope
        self._warnings = warnings
        self._rerun = envelope.force
        self._locked_s = envelope.first_created_ns / 1e9
        self.succeeded_meanwhile = False

    def take_lock(self) -> str:
        """Take the step's lock unless this run has it; returns the holder where another run does, else "".

        Raises:
            RecordError: the lock can't be written.
        """
        settings, envelope = self._settings, self._envelope
        if envelope.locked and not envelope.after_loss:
            return ""
        state = reserve.with_room(settings.run_folder, lambda: locks.acquire(envelope.output_path, settings.lock_holder))
        if not state.taken:
            return state.holder or locks.UNKNOWN
        self._locked_s = System.wall() / 1e9
        if state.taken_over_from:
            self._warnings.append(("lock_taken_over", f"{envelope.node_id}: the stale lock of {holder_text(state.taken_over_from)} was taken over"))
        if not envelope.force or envelope.after_loss:
            events = step_files.read_events(envelope.output_path)
            self._rerun = bool(events)
            standing = step_files.standing(events)
            # Forced is what others had made: what this run made, by an attempt whose worker died before it could report, is not made again.
            self.succeeded_meanwhile = (
                standing is not None and standing.status == StatusWord.SUCCESS and (not envelope.force or standing.exec_id == settings.exec_id)
            )
        return ""

    def begin(self) -> None:
        """Say RUNNING in the output folder, which the lock made, dated at created; raises `RecordError` or `OSError`."""
        envelope = self._envelope
        if envelope.attempt == 1 or ((envelope.after_loss or not envelope.locked) and not self._said()):
            if self._rerun:  # an earlier run's log is not this one's
                try:
                    storage.remove(envelope.output_path + step_files.LOG)
                except OSError as error:
                    self._warnings.append(
                        ("log_not_written", f"{envelope.node_id}: {storage.refused(envelope.output_path + step_files.LOG, 'removed', error)}")
                    )
            self._append(self._event(StatusWord.RUNNING, envelope.first_created_ns))

    def _said(self) -> bool:
        """Whether an earlier attempt of this run, of which nobody knows how far it came, said RUNNING."""
        exec_id = self._recorder.exec_id
        return any(event.status == StatusWord.RUNNING and event.exec_id == exec_id for event in step_files.read_events(self._envelope.output_path))

    def lease_lost(self) -> str:
        """Return in words where the step's lock went, "" where it is still this run's.

        The driver renews it, and ends an attempt that lost it; a driver that was stopped for longer than a lease can do neither. Within one lease nobody takes it over.
        """
        path = self._envelope.output_path
        if System.wall() / 1e9 - self._locked_s <= locks.STALE_S:
            return ""
        try:
            return "" if locks.heartbeat(path, self._settings.lock_holder) else locks.lost_to(path)
        except RecordError:  # it may be ours still
            return ""

    def end(self, outcome: str, error: ErrorInfo | None, at_ns: int, started_ns: int, completed_ns: int) -> None:
        """Append the last event; raises `RecordError` or `OSError`."""
        event = self._event(semconv.STATUS_OF_OUTCOME[Outcome(outcome)], at_ns)
        if error is not None:
            event.message = step_files.error_text(error.type, error.message)
        event.execution_start_time = started_ns / 1e9
        event.execution_end_time = completed_ns / 1e9
        self._append(event)

    def _append(self, event: step_files.StatusEvent) -> None:
        """Append an event, on a full disk with room from the reserve."""
        reserve.with_room(self._settings.run_folder, lambda: step_files.append_event(self._envelope.output_path, event))

    def write_info(self, started_ns: int, completed_ns: int, settled_ns: int) -> None:
        """Write `.executor_info`; what goes wrong is a warning."""
        envelope, recorder = self._envelope, self._recorder
        measured = {
            "scheduled_time": to_iso(envelope.first_created_ns),
            "execution_start_time": to_iso(started_ns),
            "execution_end_time": to_iso(completed_ns),
            "duration_seconds": (completed_ns - started_ns) / 1e9,
            "total_duration_seconds": (settled_ns - envelope.first_created_ns) / 1e9,
            "exec_id": recorder.exec_id,
            "trace_id": recorder.trace_id,
            "span_id": envelope.parent_span_id,
        }
        info = step_files.merge_info(envelope.info, measured)
        try:
            with_descriptor(lambda: step_files.write_info(envelope.output_path, info))
        except (RecordError, OSError) as error:
            self._warnings.append(("info_not_written", str(error)))

    def release(self) -> None:
        """Let the lock go; what goes wrong is a warning."""
        try:
            with_descriptor(lambda: locks.release(self._envelope.output_path, self._settings.lock_holder))
        except (RecordError, OSError) as error:
            self._warnings.append(("lock_not_released", str(error)))

    def _event(self, status: StatusWord, at_ns: int) -> step_files.StatusEvent:
        recorder, envelope = self._recorder, self._envelope
        return step_files.StatusEvent(
            date=to_iso(at_ns) or "",
            status=status.value,
            task_id=envelope.node_id,
            exec_id=recorder.exec_id,
            trace_id=recorder.trace_id,
            span_id=envelope.parent_span_id,
        )
