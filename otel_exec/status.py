"""A run's status as it is now: what its driver last wrote, or of a run whose driver is gone what it left behind.

What comes in: what a person typed as RUN, and the present instant. What goes out: a `StatusRecord`, whatever moment the run's files are met in.
Reads status.json alone where that says enough; journal, spool and mapped memory (`spans/*.open`) where it does not. Writes nothing, imports no OpenTelemetry.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import msgspec

from otel_exec.clock import AnchoredClock, from_iso, to_iso
from otel_exec.errors import RecordError, UsageError
from otel_exec.record import locks, storage
from otel_exec.record.bounds import bound
from otel_exec.record.find import STATUS_JSON, find_run
from otel_exec.record.journal import JOURNAL
from otel_exec.record.model import SCHEMA_VERSION, RunRecord, StepRecord
from otel_exec.record.record_file import read_record
from otel_exec.record.status_file import read_status
from otel_exec.record.status_model import OpenRecord, Progress, StatusRecord, TaskStatus
from otel_exec.report.steps import outcome_word
from otel_exec.report.text_safety import one_line
from otel_exec.semconv import Kind, error_text
from otel_exec.spans.open_spans import OPEN_SUFFIX, OpenEntry, read_open

__all__ = ["RunPlace", "gone", "locate", "status_now"]

_MS = 1_000_000
_WORKER_FILE = "worker-"


class _Head(msgspec.Struct):
    run_folder: str
    exec_id: str
    schema_version: str = "1.0"


@dataclass(frozen=True, slots=True)
class RunPlace:
    """Where a run lies: its folder, and the record that was named where that lies elsewhere (a copy, or one whose folder is gone)."""

    folder: str
    record_path: str

    @property
    def status_path(self) -> str:
        """Where its status.json is, or would be."""
        return self.folder + STATUS_JSON


def locate(run: str | None, *, prefix: str) -> RunPlace:
    """Return where the run is that RUN names (as `record.find.find_run` finds it).

    Raises:
        RecordError: there is no such run.
    """
    path = find_run(run, prefix=prefix)
    if storage.is_remote(path):
        folder = path.rpartition("/")[0] if path.endswith(".json") else path
        return RunPlace(folder, path)
    if os.path.isdir(path):
        return RunPlace(path, os.path.join(path, "run.json"))
    folder = os.path.dirname(os.path.abspath(path))
    if not os.path.exists(os.path.join(folder, "journal.jsonl")):  # a copy, as the one in the working directory is
        head = read_record(path, _Head)
        if os.path.isdir(head.run_folder):
            folder = os.path.abspath(head.run_folder)
    return RunPlace(folder, path)


def gone(place: RunPlace) -> bool:
    """Return whether the run's folder and the record that was named are both gone."""
    return not (storage.exists(place.folder) or storage.exists(place.record_path))


def status_now(place: RunPlace, now_ns: int, *, tasks: bool = False) -> StatusRecord:
    """Return the run's status.

    Args:
        place: where the run is.
        now_ns: the present instant, nanoseconds since the Unix epoch: elapsed times of a run that goes on are up to it.
        tasks: whether the status has `tasks`, which takes reading the whole record.

    Raises:
        RecordError: nothing that can be read is there.
    """
    status = _told(place, now_ns, tasks=tasks)
    _mend(status)
    return status


def _mend(status: StatusRecord) -> None:
    """Take out of a status what no run comes to, whoever wrote its files: numbers that are none, metrics that are no FeatureMetrics."""
    bound(status)
    if status.metrics is None:
        return
    from otel_exec.metrics import FeatureMetrics

    try:
        metrics = FeatureMetrics.from_dict({"computed_at": status.updated_at, **status.metrics})
    except UsageError:
        status.metrics = None
        return
    bound(metrics)
    status.metrics = metrics.to_dict()


def _told(place: RunPlace, now_ns: int, *, tasks: bool) -> StatusRecord:
    """Return the status as the run's files tell it."""
    known = read_status(place.folder)
    if known is None:
        if _starting(place, now_ns):
            return StatusRecord(SCHEMA_VERSION, os.path.basename(place.folder), "running", to_iso(now_ns) or "", Progress())
        known = read_status(place.folder)  # it may have begun between the two looks
    if known is not None and known.state == "running":
        at_ns = _by_its_clock(known, now_ns)
        if _driver_gone(known, place, now_ns) and not _lives(place, now_ns):
            return _left_behind(place, known, now_ns, tasks=tasks)
        return _going_on(place, known, at_ns, tasks=tasks)
    if known is not None and not tasks:
        return known
    # Of a run that ended the record is whole; one without a status that can be read is made anew.
    record = _record(place, alive=_lives(place, now_ns))
    status = _of_record(record, place, known, now_ns)
    if tasks:
        status.tasks = _task_rows(record, now_ns)
    return status


def _by_its_clock(status: StatusRecord, now_ns: int) -> int:
    """Return the present as the run's own clock has it, which is anchored once: the wall clock may have been set since, or the machine have slept.

    Only on the driver's host; of another one the wall clock is all there is.
    """
    offset = status.clock_offset_ns
    if not status.driver or not locks.of_this_host(status.driver) or offset is None or not (offset.isascii() and offset.removeprefix("-").isdecimal()):
        return now_ns
    return AnchoredClock(int(offset[:20])).now_ns()


def _starting(place: RunPlace, now_ns: int) -> bool:
    """Return whether a run has just made its folder and written nothing in it yet that says more."""
    if storage.exists(place.record_path) or storage.exists(place.status_path) or now_ns / 1e9 - _journal_s(place) >= locks.STALE_S:
        return False
    # Its driver's spool comes before either: where there is one that nobody writes, the run is dead and its files were taken away.
    return not os.path.exists(place.folder + "/spans/driver.jsonl") or _lives(place, now_ns)


def _driver_gone(status: StatusRecord, place: RunPlace, now_ns: int) -> bool:
    """Return whether the driver is gone: provably, or (it is another host's) by silence, as with locks."""
    if not status.driver or locks.holder_dead(status.driver):
        return True
    if locks.of_this_host(status.driver):
        return False
    heard_s = max((from_iso(status.updated_at) or 0) / 1e9, _journal_s(place))
    return now_ns / 1e9 - heard_s > locks.STALE_S


def _lives(place: RunPlace, now_ns: int) -> bool:
    """Return whether the run may go on by what its files prove: its driver's lock on its spool most of all."""
    from otel_exec.recovery import lives

    return os.path.isdir(place.folder) and lives(place.folder, now_ns)


def _journal_s(place: RunPlace) -> float:
    """Return when the journal was last written, Unix seconds: of a large run that is more often than its status."""
    try:
        return storage.modified_s(place.folder + JOURNAL) or 0.0
    except OSError:
        return 0.0


def _record(place: RunPlace, *, alive: bool) -> RunRecord:
    """Return the run's record: as it ended, or made anew from the journal and the spool."""
    try:
        record = read_record(os.path.join(place.folder, "run.json"))
    except RecordError:
        record = read_record(place.record_path)
    if record.outcome == "running" and os.path.isdir(place.folder):
        from otel_exec.complete import rebuild  # most questions are answered without it, in half the time

        return rebuild(place.folder, alive=alive)
    return record


def _of_record(record: RunRecord, place: RunPlace, known: StatusRecord | None, now_ns: int) -> StatusRecord:
    """Return the status that a record gives; that of a dead run names what was open."""
    from otel_exec.complete import status_of

    at_ns = now_ns if record.outcome == "running" else _ended_ns(record)
    if record.metrics is None:  # another program's record, or one of the run's first moment
        from otel_exec.metrics import MetricsCollector

        MetricsCollector(record, now_ns=at_ns).fill(record)
    opened = _left_open(record, place.folder, at_ns, known) if record.outcome == "interrupted" else []
    status = status_of(record, now_ns=at_ns, opened=opened, eta=None, driver=known.driver if known is not None else None)
    if record.outcome == "running" and not _lives(place, now_ns):
        status.state = "interrupted"
    return status


def _ended_ns(record: RunRecord) -> int:
    """Return when a run ended, as far as its record tells."""
    ended_ns = from_iso(record.end_time)
    if ended_ns is None:
        ended_ns = (from_iso(record.start_time) or 0) + max(0, record.duration_ns or 0)
    return ended_ns


# A run that goes on.


def _going_on(place: RunPlace, known: StatusRecord, now_ns: int, *, tasks: bool) -> StatusRecord:
    """Return what the driver last wrote, with the time that has passed since; with tasks, all counts are those of the journal, which is ahead."""
    status = known
    tasks = tasks and not _unrecorded(place)
    if tasks:
        from otel_exec.complete import rebuild, status_of

        record = rebuild(place.folder, alive=True)
        status = status_of(record, now_ns=now_ns, opened=known.open, eta=None, driver=known.driver)
        status.eta_ms, status.eta_basis, status.updated_at, status.state = known.eta_ms, known.eta_basis, known.updated_at, known.state
        status.tasks, status.waiting = _task_rows(record, now_ns), known.waiting
    _advance(status, known, now_ns)
    status.open = _open_now(status, place.folder, now_ns)
    if tasks:
        _agree(status)
    return status


def _unrecorded(place: RunPlace) -> bool:
    """Whether a run still waits for what it needs to begin, a cluster say: then it has a status and no record."""
    return not (storage.exists(os.path.join(place.folder, "run.json")) or storage.exists(place.record_path))


def _agree(status: StatusRecord) -> None:
    """Let what is open agree with the tasks, which were read after it: what has settled since is open no longer, and a step has one elapsed time."""
    rows = {row.task_id: row for row in status.tasks or ()}
    status.open = [span for span in status.open if span.node_id not in rows or rows[span.node_id].outcome is None]
    for span in status.open:
        elapsed_ms = rows[span.node_id].elapsed_ms if span.kind == Kind.STEP and span.node_id in rows else None
        span.elapsed_ms = span.elapsed_ms if elapsed_ms is None else elapsed_ms


def _advance(status: StatusRecord, known: StatusRecord, now_ns: int) -> None:
    """Let elapsed times go on to the present: uptimes of workers that have not stopped, the run's, what is open, the ETA."""
    heard_ns = from_iso(known.updated_at)
    passed_ms = 0 if heard_ns is None else max(0, now_ns - heard_ns) // _MS
    began_ns = from_iso(status.start_time)
    uptimes: dict[str, int] = {}
    for worker in status.workers:
        started_ns = from_iso(worker.started_at)
        if worker.stopped_at is None and started_ns is not None:
            worker.uptime_ms = max(worker.uptime_ms, (now_ns - started_ns) // _MS)
        uptimes[worker.worker_id] = worker.uptime_ms
    metrics = status.metrics
    if metrics is not None:
        total_ms = metrics.get("total_duration_ms")
        if began_ns is not None and began_ns <= now_ns:
            metrics["total_duration_ms"] = (now_ns - began_ns) // _MS
        elif isinstance(total_ms, int):
            metrics["total_duration_ms"] = total_ms + passed_ms
        rows = metrics.get("worker_metrics")
        for row in rows if isinstance(rows, list) else ():
            if isinstance(row, dict) and row.get("worker_id") in uptimes:
                row["uptime_ms"] = uptimes[row["worker_id"]]
    for span in status.open:
        span.elapsed_ms += passed_ms
    for each in status.waiting:
        each.elapsed_ms = None if each.elapsed_ms is None else each.elapsed_ms + passed_ms
    if status.eta_ms is not None:
        status.eta_ms = max(0, status.eta_ms - passed_ms)


def _open_now(status: StatusRecord, folder: str, now_ns: int) -> list[OpenRecord]:
    """Return what is open, as mapped memory has it: that is of this moment, where the driver writes twice a second and hears of phases once.

    Of Ray's workers it is what they last told, within a second. Where there is no memory to look into (another host's) it is what the driver last heard.
    """
    known = status.open
    placed = _placed(_open_tables(folder))
    if not placed:
        return known
    steps = {span.node_id or "": span for span in known if span.kind == Kind.STEP}
    over = {worker.worker_id for worker in status.workers if worker.stopped_at is not None}
    now: dict[str, str | None] = {}
    since: dict[str, int] = {}
    for _, _, top, worker_id in placed:
        heard = steps.get(top.node_id)
        if worker_id in over or (heard is not None and worker_id is not None and heard.worker_id != worker_id):
            continue  # left over from a worker that died
        now.setdefault(top.node_id, worker_id or (heard.worker_id if heard is not None else None))
        since[top.node_id] = min(top.start_ns, since.get(top.node_id, top.start_ns))
    busy = {worker_id for worker_id in now.values() if worker_id is not None}
    for node_id, heard in steps.items():
        if heard.worker_id not in busy:  # it is being loaded or stored, or has just ended
            now.setdefault(node_id, heard.worker_id)
    inside = _inside(placed, now, now_ns)
    opened: list[OpenRecord] = []
    for node_id, worker_id in now.items():
        elapsed_ms = max(0, now_ns - since.get(node_id, now_ns)) // _MS
        span = steps.get(node_id) or OpenRecord(Kind.STEP, node_id.rpartition("-")[0] or node_id, node_id, worker_id, elapsed_ms)
        span.elapsed_ms = max(span.elapsed_ms, elapsed_ms)
        opened += [span, *inside.get(node_id, ())]
    return opened + [span for span in known if span.kind not in {Kind.STEP, Kind.PHASE}]


# A run whose driver is gone.


def _left_behind(place: RunPlace, known: StatusRecord, now_ns: int, *, tasks: bool) -> StatusRecord:
    """Return the status of a run that died: its numbers made anew, and what was open."""
    try:
        record = _record(place, alive=False)
    except RecordError:
        known.state, known.eta_ms, known.eta_basis, known.waiting = "interrupted", None, None, []
        return known
    status = _of_record(record, place, known, now_ns)
    if tasks:
        status.tasks = _task_rows(record, now_ns)
    return status


def _left_open(record: RunRecord, folder: str, at_ns: int, known: StatusRecord | None) -> list[OpenRecord]:
    """Return the steps that workers had when the run died, and what was open in them, as of the last sign of life."""
    began_ns = int(record.start_time_unix_nano)
    steps: list[tuple[StepRecord, OpenRecord]] = []
    for step in record.steps:
        last = step.attempts[-1] if step.attempts else None
        ended = step.outcome is not None and not (step.error is not None and step.error.type == "interrupted")
        if step.group or last is None or ended or last.claimed_ns is None:
            continue
        if last.outcome is not None and not (last.error is not None and last.error.type == "interrupted"):
            continue  # between two tries
        elapsed_ms = max(0, at_ns - began_ns - last.claimed_ns) // _MS
        steps.append((step, OpenRecord(Kind.STEP, step.name, step.node_id, last.worker_id, elapsed_ms, last.attempt)))
    inside = _inside(_placed(_open_tables(folder)), {step.node_id: span.worker_id for step, span in steps}, at_ns)
    opened: list[OpenRecord] = []
    for step, span in steps:
        opened.append(span)
        # Without a table (another host's, or taken away since) what its worker last told the driver.
        told = [each for each in known.open if each.kind != Kind.STEP and each.node_id == step.node_id] if known is not None else []
        opened += inside.get(step.node_id) or told
    return opened


# Mapped memory.


def _open_tables(folder: str) -> list[tuple[str, OpenEntry]]:
    """Return what is open according to the tables of all writers: the writer's name, and the span."""
    spans = os.path.join(folder, "spans")
    try:
        names = sorted(name for name in os.listdir(spans) if name.endswith(OPEN_SUFFIX))
    except OSError:
        return []
    return [(name.removesuffix(OPEN_SUFFIX), entry) for name in names for entry in read_open(os.path.join(spans, name))]


def _placed(tables: list[tuple[str, OpenEntry]]) -> list[tuple[OpenEntry, str | None, OpenEntry, str | None]]:
    """Return each open span with the worker it is on, and the outermost one above it with its worker, oldest first; a worker is `None` where the table is of several (threads)."""
    by_id = {entry.span_id: (writer, entry) for writer, entry in tables}
    placed = []
    for writer, entry in sorted(tables, key=lambda pair: pair[1].start_ns):
        top_writer, top = writer, entry
        for _ in range(len(by_id)):  # a table that others can write to may hold circles
            above = by_id.get(top.parent_span_id)
            if above is None:
                break
            top_writer, top = above
        placed.append((entry, _worker_of(writer), top, _worker_of(top_writer)))
    return placed


def _worker_of(writer: str) -> str | None:
    return writer.removeprefix(_WORKER_FILE) if writer.startswith(_WORKER_FILE) else None


def _inside(placed: list[tuple[OpenEntry, str | None, OpenEntry, str | None]], workers: dict[str, str | None], at_ns: int) -> dict[str, list[OpenRecord]]:
    """Return what is open inside of steps, by node id, oldest first.

    Args:
        placed: what `_placed` gave.
        workers: of each step in hand, by node id, the worker that has it: what another worker's table says of the step is of an earlier try.
        at_ns: until when elapsed times go.
    """
    found: dict[str, list[OpenRecord]] = {}
    for entry, own, top, top_worker in placed:
        if top.node_id not in workers or (entry is top and entry.kind == Kind.TASK):
            continue
        worker_id = workers[top.node_id]
        if top_worker is not None and top_worker != worker_id:
            continue
        found.setdefault(top.node_id, []).append(OpenRecord(entry.kind, entry.name, top.node_id, own or worker_id, max(0, at_ns - entry.start_ns) // _MS))
    return found


# Tasks.


def _task_rows(record: RunRecord, now_ns: int) -> list[TaskStatus]:
    """Return every step's TaskMetrics and times, in the order of the plan; groups are no tasks."""
    began_ns = int(record.start_time_unix_nano)
    return [_task_row(step, record, began_ns, now_ns) for step in record.steps if not step.group]


def _task_row(step: StepRecord, record: RunRecord, began_ns: int, now_ns: int) -> TaskStatus:
    from otel_exec.aggregate.tally import between_ns, execution_ns, total_ns, tries
    from otel_exec.metrics import task_metrics

    last = step.attempts[-1] if step.attempts else None
    elapsed_ms = None
    if record.outcome == "running" and last is not None and last.claimed_ns is not None and last.outcome is None:
        elapsed_ms = max(0, now_ns - began_ns - last.claimed_ns) // _MS
    metrics: dict[str, Any] = task_metrics(step).to_dict()
    return TaskStatus(
        **metrics,
        name=step.name,
        template=step.template,
        level=step.level,
        state=outcome_word(step, over=record.outcome != "running"),
        outcome=step.outcome,
        cached=step.cached,
        attempts=tries(step),
        worker_id=last.worker_id if last is not None else None,
        scheduled_time=step.scheduled_time,
        execution_start_time=step.execution_start_time,
        execution_end_time=step.execution_end_time,
        elapsed_ms=elapsed_ms,
        cpu_ms=None if last is None or last.cpu_ns is None else last.cpu_ns // _MS,
        peak_rss_bytes=last.peak_rss_bytes if last is not None else None,
        error=_said(step),
        queue_ns=between_ns(last.created_ns, last.claimed_ns) if last is not None else None,
        execution_ns=execution_ns(step),
        verification_ns=last.verification_ns if last is not None else None,
        total_ns=total_ns(step),
    )


def _said(step: StepRecord) -> str | None:
    if step.error is None:
        return None
    return error_text(step.error.type, one_line(step.error.message))
