"""Completing a record: what is computed from a whole one, and how one is made again from a run's files.

What comes in: an aggregator that was fed, or a run's folder (journal, spool, the record of its start). What goes out: a whole `RunRecord`, of a dead run too.
The live run, `read_run` and every command come through here, so there is one set of numbers.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from otel_exec.aggregate.aggregator import Aggregator
from otel_exec.aggregate.assemble import render
from otel_exec.aggregate.rebuild import attempts_of, fold_task_spans, full_tasks, open_so_far, slim
from otel_exec.aggregate.tally import Tally, tries
from otel_exec.clock import to_iso
from otel_exec.metrics import MetricsCollector
from otel_exec.record.model import Export, RunRecord
from otel_exec.record.run_store import find_run, read_journal, read_record
from otel_exec.record.status_file import read_status
from otel_exec.record.status_model import FailedStep, OpenRecord, Progress, StatusRecord
from otel_exec.recovery import close_open_ends, last_sign_ns, lives
from otel_exec.report.critical_path import of_record
from otel_exec.report.text_safety import one_line
from otel_exec.report.wall import wall
from otel_exec.semconv import Kind
from otel_exec.spans.open_spans import read_all_open
from otel_exec.spans.spool import forked_files, read_spool, read_spool_file

if TYPE_CHECKING:
    from collections.abc import Iterable

    from otel_exec.spans.span_record import SpanRecord

__all__ = ["MOST_ROWS", "finish", "fold_forked", "progress", "read_run", "rebuild", "status_of"]

# A status is small: of lists that grow with the plan it has so many rows.
MOST_ROWS = 100


def finish(record: RunRecord, now_ns: int, *, tally: Tally | None = None) -> RunRecord:
    """Fill in what follows from the rest: level, worker and run metrics, the critical path, where the wall time went.

    Args:
        record: a rendered record; it is changed in place.
        now_ns: the present instant (nanoseconds since the Unix epoch), for what is still open.
        tally: the sums of its steps, where somebody kept them.
    """
    MetricsCollector(record, now_ns=now_ns, tally=tally).fill(record)
    if record.duration_ns is not None:
        record.critical_path = of_record(record)
        record.wall = wall(record)
    return record


def progress(record: RunRecord) -> Progress:
    """Return the counts of steps that this run has to settle: groups never count, nor do ancestors that nobody needed."""
    return progress_of(Tally(record.steps))


def progress_of(tally: Tally) -> Progress:
    """Return the counts of a tally."""
    return Progress(
        done=tally.all.completed,
        total=tally.all.task_count,
        failed=tally.all.failed,
        cached=tally.cached,
        skipped=tally.skipped,
        cancelled=tally.cancelled,
        retries=tally.retries,
    )


def status_of(
    record: RunRecord, *, now_ns: int, opened: Iterable[OpenRecord], eta: tuple[int, str] | None, driver: str | None, tally: Tally | None = None
) -> StatusRecord:
    """Return the small live status of a rendered and finished record.

    Args:
        record: the run.
        now_ns: the present instant.
        opened: what is open now.
        eta: how many milliseconds it will still take, and what that was reckoned from; `None` without a basis.
        driver: the run's driver as it stands in locks.
        tally: the sums of its steps, where somebody kept them.
    """
    tally = tally or Tally(record.steps)
    return StatusRecord(
        schema_version=record.schema_version,
        exec_id=record.exec_id,
        state=record.outcome,
        updated_at=to_iso(now_ns) or "",
        progress=progress_of(tally),
        levels=record.levels,
        workers=record.workers,
        metrics=record.metrics,
        open=list(opened),
        eta_ms=eta and eta[0],
        experiment=record.experiment.name,
        driver=driver,
        alias=record.alias,
        eta_basis=eta and eta[1],
        start_time=record.start_time,
        failures=_failures(tally),
        templates=record.templates[:MOST_ROWS],
        duration_ns=record.duration_ns,
    )


def _failures(tally: Tally) -> list[FailedStep]:
    """Return the first failed steps, in the order in which they settled (of a record that was read: of the plan)."""
    return [
        FailedStep(
            node_id=step.node_id,
            name=step.name,
            outcome=step.outcome or "",
            type=step.error.type if step.error else step.outcome or "",
            message=one_line(step.error.message) if step.error else "",
            where=step.error.where if step.error else None,
            attempts=tries(step),
            worker_id=step.attempts[-1].worker_id if step.attempts else None,
        )
        for step in tally.failures[:MOST_ROWS]
    ]


def rebuild(folder: str, *, alive: bool = False) -> RunRecord:
    """Return a run's record made from its folder: the record of its start, the journal, the spool.

    Args:
        folder: the run's folder.
        alive: whether its driver still lives; if not, a run without an end is `interrupted`, and what it left open is closed at its last sign of life.

    Raises:
        RecordError: the folder holds no record that can be read.
    """
    skeleton = read_record(os.path.join(folder, "run.json"))
    aggregator = Aggregator(skeleton)
    # First what is open, then what has finished: what ends in between is in both, and counts once.
    opened = read_all_open(os.path.join(folder, "spans")) if alive else []
    journal = read_journal(folder)
    for line in journal:
        aggregator.transition(line)
    spans = list(slim(read_spool(os.path.join(folder, "spans"))))
    if not alive:
        spans += close_open_ends(folder, skeleton, journal, spans)
    signs = (*(span.end_ns for span in spans), *(entry.start_ns for entry in opened))
    last_ns = max([last_sign_ns(journal, read_status(folder), aggregator.start_ns), *signs])
    # A step after its parts, as in the run: whether it was given up before a worker took it is judged when it ends. Recovery's file is read before the workers'.
    for steps in (False, True):
        aggregator.ingest(span for span in spans if (span.kind == Kind.STEP) is steps)
    spans += open_so_far(aggregator, spans, opened, last_ns)
    fold_task_spans(aggregator, spans)
    _say_full(aggregator, spans)
    record = render(aggregator)
    if record.outcome == "running" and not alive:
        record.outcome = "interrupted"
        record.duration_ns = last_ns - aggregator.start_ns
        record.end_time = to_iso(last_ns)
    return finish(record, last_ns)


def _say_full(aggregator: Aggregator, spans: Iterable[SpanRecord]) -> None:
    """Warn of tasks that have as many spans as a task may have: what was only counted past that is in their report, and of a run without one nowhere."""
    limit = aggregator.record.config.get("max_task_spans")
    if isinstance(limit, int):
        for name, count in full_tasks(spans, limit).items():
            aggregator.state(
                "spans_at_limit",
                f"{name}: tasks with {limit:,} spans, the most that one may have: further phases, if there were any, are not counted here",
                count,
            )


def fold_forked(aggregator: Aggregator, spans_folder: str) -> list[SpanRecord]:
    """Fold again, from the spool, the attempts whose phases no report has: a forked child's, and those of an item whose worker died.

    What such a process folds dies with it, and its file has the spans.

    Attempts past their limit of spans are left as their own process folded them: the spool does not have all of theirs.

    Returns:
        The children's phases that came into the record by this.
    """
    forked = [span for path in forked_files(spans_folder) for span in read_spool_file(path)]
    lost = {key for key, items in aggregator.items.items() if items.lost} - aggregator.unspanned
    if not forked and not lost:
        return []
    spans = list(read_spool(spans_folder))
    if lost:
        fold_task_spans(aggregator, spans, only=lost, items=False)  # of items that were never begun the spool knows nothing
    if not forked:
        return []
    homes = attempts_of(forked, spans)
    again = set(homes.values()) - aggregator.unspanned
    fold_task_spans(aggregator, spans, only=again)
    return [span for span in {span.span_id: span for span in forked}.values() if span.kind == Kind.PHASE and homes.get(span.span_id) in again]


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
        record = rebuild(folder, alive=lives(folder))
    return _with_export(record, folder)


def _with_export(record: RunRecord, folder: str) -> RunRecord:
    """Prefer what export.json knows: an export may have gone on after the record was written, and of a run that was killed it alone knows."""
    from otel_exec.spans.cursor import read_export
    from otel_exec.spans.exporter import items_waiting

    export = record.export
    state = read_export(folder)
    if state is None or not state.endpoints:
        return record
    if export is None or export.endpoint is None:
        # Of several endpoints the one that has most tells how far the spans have come.
        name = max(state.endpoints, key=lambda each: state.endpoints[each].acknowledged)
        known = state.endpoints[name]
        settled = known.acknowledged + known.rejected
        record.export = Export(name, known.protocol, settled + items_waiting(folder, known), known.acknowledged, known.rejected)
    elif export.endpoint in state.endpoints:
        known = state.endpoints[export.endpoint]
        export.spans_acknowledged, export.spans_rejected = known.acknowledged, known.rejected
    return record
