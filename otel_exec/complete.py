"""Completing a record: what is computed from a whole one, and how one is made again from a run's files.

What comes in: an aggregator that was fed, or a run's folder (journal, spool, the record of its start). What goes out: a whole `RunRecord`, of a dead run too.
The live run, `read_run` and every command come through here, so there is one set of numbers.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import msgspec

from otel_exec.aggregate.aggregator import Aggregator
from otel_exec.aggregate.assemble import render
from otel_exec.aggregate.rebuild import fold_task_spans
from otel_exec.clock import from_iso, to_iso
from otel_exec.metrics import MetricsCollector
from otel_exec.record.model import OpenRecord, Progress, RunRecord, StatusRecord
from otel_exec.record.run_store import find_run, read_journal, read_record
from otel_exec.report.critical_path import of_record
from otel_exec.report.wall import wall
from otel_exec.semconv import Outcome
from otel_exec.spans.spool import read_spool

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["finish", "progress", "read_run", "rebuild", "status_of"]


def finish(record: RunRecord, now_ns: int) -> RunRecord:
    """Fill in what follows from the rest: level, worker and run metrics, the critical path, where the wall time went.

    Args:
        record: a rendered record; it is changed in place.
        now_ns: the present instant (nanoseconds since the Unix epoch), for what is still open.
    """
    collector = MetricsCollector(record, now_ns=now_ns)
    metrics = collector.compute_feature_metrics()
    for level, numbers in zip(record.levels, metrics.level_metrics, strict=True):
        for field, value in numbers.to_dict().items():
            setattr(level, field, value)
    for worker, worker_numbers in zip(record.workers, metrics.worker_metrics, strict=True):
        for field, value in worker_numbers.to_dict().items():
            if field != "worker_id":
                setattr(worker, field, value)
    record.metrics = metrics.to_dict()
    if record.duration_ns is not None:
        record.critical_path = of_record(record)
        record.wall = wall(record)
    return record


def progress(record: RunRecord) -> Progress:
    """Return the counts of steps that this run has to settle: groups never count, nor do ancestors that nobody needed."""
    counts = Progress()
    for step in record.steps:
        if step.group or (step.outcome == Outcome.SKIP and step.reason in {"not_needed", "not_selected"}):
            continue
        counts.total += 1
        if step.outcome == Outcome.SUCCESS:
            counts.done += 1
            counts.cached += step.cached
        elif step.outcome in {Outcome.FAILURE, Outcome.TIMEOUT, Outcome.ERROR}:
            counts.failed += 1
    return counts


def status_of(record: RunRecord, *, now_ns: int, opened: Iterable[OpenRecord], eta_ms: int | None, driver: str) -> StatusRecord:
    """Return the small live status of a rendered and finished record."""
    return StatusRecord(
        schema_version=record.schema_version,
        exec_id=record.exec_id,
        state=record.outcome,
        updated_at=to_iso(now_ns) or "",
        progress=progress(record),
        levels=record.levels,
        workers=record.workers,
        metrics=record.metrics,
        open=list(opened),
        eta_ms=eta_ms,
        experiment=record.experiment.name,
        driver=driver,
    )


def rebuild(folder: str, *, alive: bool = False) -> RunRecord:
    """Return a run's record made from its folder: the record of its start, the journal, the spool.

    Args:
        folder: the run's folder.
        alive: whether its driver still lives; if not, a run without an end is `interrupted`.

    Raises:
        RecordError: the folder holds no record that can be read.
    """
    skeleton = read_record(os.path.join(folder, "run.json"))
    aggregator = Aggregator(skeleton)
    last_ns = aggregator.start_ns
    for line in read_journal(folder):
        aggregator.transition(line)
        last_ns = max(last_ns, line.at)
    spans = list(read_spool(os.path.join(folder, "spans")))
    if spans:
        last_ns = max(last_ns, *(span.end_ns for span in spans))
    aggregator.ingest(spans)
    fold_task_spans(aggregator, spans)
    record = render(aggregator)
    if record.outcome == "running" and not alive:
        # Steps that ran on wrote neither spans nor transitions: the last sign of life is then the status.
        status = _status(folder)
        last_ns = max(last_ns, (status and from_iso(status.updated_at)) or 0)
        record.outcome = "interrupted"
        record.duration_ns = last_ns - aggregator.start_ns
        record.end_time = to_iso(last_ns)
    return finish(record, last_ns)


def read_run(run: str | None = None, *, prefix: str | None = None) -> RunRecord:
    """Return the record of a run.

    Args:
        run: a run.json, a run's folder, an exec id, a prefix (its latest run), an experiment's name (its latest run), or `None` (the latest run).
        prefix: where runs are looked for; default `OTEL_EXEC_PREFIX`, else `./outputs`.

    Returns:
        The whole record. Of a run that is still going on, or that died, it is made anew from journal and spool.

    Raises:
        RecordError: there is no such run, or its files can't be read.
    """
    if prefix is None:
        prefix = os.environ.get("OTEL_EXEC_PREFIX") or "outputs"
    path = find_run(run, prefix=prefix)
    record = read_record(os.path.join(path, "run.json") if os.path.isdir(path) else path)
    folder = path if os.path.isdir(path) else os.path.dirname(os.path.abspath(path))
    if not os.path.exists(os.path.join(folder, "journal.jsonl")):  # a copy, as the one in the working directory is
        folder = record.run_folder
    if record.outcome == "running" and os.path.isdir(folder):
        record = rebuild(folder, alive=_driver_lives(folder))
    return _with_export(record, folder)


def _driver_lives(folder: str) -> bool:
    """Return whether the driver that status.json names may still live; without one it is taken for dead."""
    from otel_exec.record import locks

    status = _status(folder)
    return status is not None and bool(status.driver) and not locks.holder_dead(status.driver or "")


def _status(folder: str) -> StatusRecord | None:
    """Return a run's status.json; `None` where there is none that can be read."""
    try:
        with open(os.path.join(folder, "status.json"), "rb") as file:
            return msgspec.json.decode(file.read(), type=StatusRecord)
    except (OSError, msgspec.MsgspecError):
        return None


def _with_export(record: RunRecord, folder: str) -> RunRecord:
    """Prefer what export.json knows: an export may have gone on after the record was written."""
    from otel_exec.spans.cursor import read_export

    export = record.export
    if export is not None and export.endpoint is not None:
        state = read_export(folder)
        known = state.endpoints.get(export.endpoint) if state is not None else None
        if known is not None:
            export.spans_acknowledged, export.spans_rejected = known.spans_acknowledged, known.spans_rejected
    return record
