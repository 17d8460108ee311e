"""Keeps run.json and status.json up to date while a run goes on, at a pace that costs at most 1 % of it.

What comes in: the aggregator's live record, what is open now. What goes out: files, through the run's store. A file that can't be written is a warning
while the run goes on (a step's outcome is never lost for it) and an error at its end.
"""

from __future__ import annotations

from itertools import islice
from types import MappingProxyType
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from otel_exec.aggregate.assemble import render, render_rows
from otel_exec.aggregate.tally import Tally
from otel_exec.clock import AnchoredClock
from otel_exec.complete import MOST_ROWS, finish, status_of
from otel_exec.errors import RecordError
from otel_exec.metrics import MetricsCollector
from otel_exec.record.model import Export, MetricsExport
from otel_exec.record.run_store import write_record
from otel_exec.record.status_model import OpenRecord, WaitingRecord
from otel_exec.schedule.pace import Pace
from otel_exec.semconv import Kind

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from otel_exec.aggregate.aggregator import Aggregator
    from otel_exec.clock import Clock
    from otel_exec.record.run_store import RunStore
    from otel_exec.report.eta import Eta
    from otel_exec.schedule.runner import Runner
    from otel_exec.spans.exporter import ExportSummary

__all__ = ["Keeper", "exported", "open_records"]

# Rewriting costs at most 1 % of a run, half of it each.
_SHARE = 0.005
_STATUS_INTERVAL_NS = 500_000_000
_RUN_INTERVAL_NS = 10_000_000_000


def open_records(runner: Runner, now_ns: int) -> list[OpenRecord]:
    """Return what is open now: the steps that workers have, the phases that their last beats named, and the gate that runs."""
    records = []
    for (node_id, _), running in runner.attempts.running.items():
        if running.claimed_ns is None:
            continue
        elapsed_ms = max(0, now_ns - running.claimed_ns) // 1_000_000
        records.append(OpenRecord(Kind.STEP, running.step.name, node_id, running.worker_id, elapsed_ms, running.attempt))
        records += [
            OpenRecord(Kind.PHASE, entry.name, node_id, running.worker_id, max(0, now_ns - entry.start_ns) // 1_000_000)
            for entry in runner.beats.get(running.worker_id, ())
            if entry.kind == Kind.PHASE and entry.node_id == node_id
        ]
    if runner.gate is not None:
        name, start_ns = runner.gate
        records.append(OpenRecord(Kind.GATE, name, None, None, max(0, now_ns - start_ns) // 1_000_000))
    return records


class Keeper:
    """Writes one run's record.

    Args:
        store: the run's folder.
        aggregator: the live record.
        clock: the run's.
        driver: this process, as it stands in locks.
        also: where run.json is kept beside the folder, or `None`.
        eta: returns how long the run will still take, `None` without a basis.
        waits: what steps wait for, by name, as it is now.
    """

    def __init__(
        self,
        store: RunStore,
        aggregator: Aggregator,
        clock: Clock,
        *,
        driver: str,
        also: str | None,
        eta: Callable[[], Eta | None],
        waits: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self._store = store
        self._aggregator = aggregator
        self._clock = clock
        self._driver = driver
        self._also = also
        self._eta = eta
        self._waits = waits
        self._tally = Tally(aggregator.record.steps)
        self._levels_ended = 0
        self._status_pace = Pace(_STATUS_INTERVAL_NS, _SHARE)
        self._run_pace = Pace(_RUN_INTERVAL_NS, _SHARE)

    def begin(self) -> None:
        """Write the record that says `running`. Raises `RecordError`: a run that can't be recorded is not begun."""
        began_ns = self._clock.now_ns()
        encoded = write_record(self._aggregator.record)
        finish(render(self._aggregator), began_ns, tally=self._tally)
        # First: a record that says `running` is believed where a status says whose it is. Of its cost only what each status has counts: the next is due soon.
        self._write_status([], self._clock.now_ns(), self._tally)
        self._store.write_run(encoded, also=self._also)
        self._run_pace.done(began_ns, self._clock.now_ns())

    def keep(self, runner: Runner) -> None:
        """Write what is due. Called by the runner after each round; cheap when nothing is."""
        if self._aggregator.record.outcome != "running":
            return  # it has just ended: the next record is the whole one
        now_ns = self._clock.now_ns()
        try:
            if self._status_pace.due(now_ns) or (self._a_level_ended(runner) and self._status_pace.affords(now_ns)):
                self._levels_ended = runner.levels_ended
                self._live_status(runner, now_ns)
            if self._run_pace.due(now_ns):
                finish(render(self._aggregator), now_ns)
                self._store.write_run(write_record(self._aggregator.record), also=self._also)
                self._run_pace.done(now_ns, self._clock.now_ns())
        except RecordError as error:
            self._aggregator.warn("record_not_written", str(error))
            later_ns = self._clock.now_ns()
            self._status_pace.done(now_ns, later_ns)
            self._run_pace.done(now_ns, later_ns)

    def beat(self, opened: list[OpenRecord]) -> None:
        """Write the status where it is due, of a run that no runner drives: `opened` is what is open in it now."""
        now_ns = self._clock.now_ns()
        if not self._status_pace.due(now_ns):
            return
        try:
            finish(render(self._aggregator), now_ns, tally=self._tally)
            self._write_status(opened, now_ns, self._tally)
        except RecordError as error:
            self._aggregator.warn("record_not_written", str(error))
            self._status_pace.done(now_ns, self._clock.now_ns())

    def _a_level_ended(self, runner: Runner) -> bool:
        return runner.levels_ended > self._levels_ended

    def _live_status(self, runner: Runner, now_ns: int) -> None:
        """Write the status from what was tallied: it costs as much as levels, workers and templates are many, and of the steps only those that are new."""
        aggregator, tally = self._aggregator, self._tally
        for step in aggregator.touched.values():
            if step.outcome is None:
                tally.claimed(step)
            else:
                tally.settled(step)
        aggregator.touched.clear()
        record = render_rows(aggregator)
        MetricsCollector(record, now_ns=now_ns, tally=tally, items=aggregator.items_counts()).fill(record, templates=MOST_ROWS)
        self._write_status(open_records(runner, now_ns), now_ns, tally, self._eta())

    def end(self, export: Export | None = None) -> None:
        """Write the whole record; raises `RecordError` when it can't be kept."""
        now_ns = self._clock.now_ns()
        tally = Tally(self._aggregator.record.steps)  # of what is known now: measurements may have come after the live one counted a step
        record = finish(render(self._aggregator), now_ns, tally=tally)
        if export is not None:
            record.export = export
        self._store.let_reserve_go()
        self._store.write_run(write_record(record), also=self._also)
        self._write_status([], now_ns, tally)

    def _write_status(self, opened: list[OpenRecord], began_ns: int, tally: Tally, left: Eta | None = None) -> None:
        eta = (left.left_ns // 1_000_000, left.basis) if left is not None else None
        status = status_of(self._aggregator.record, now_ns=began_ns, opened=opened, eta=eta, driver=self._driver, tally=tally)
        if isinstance(self._clock, AnchoredClock):
            status.clock_offset_ns = str(self._clock.offset_ns)
        if status.state == "running":
            status.waiting = [WaitingRecord(name, why) for name, why in islice(self._waits.items(), MOST_ROWS)]
        self._store.write_status(status)
        self._status_pace.done(began_ns, self._clock.now_ns())


def exported(summary: ExportSummary, aggregator: Aggregator) -> Export:
    """Return what the record says of the export; what is still in the spool, or was refused, is a warning with its reason."""
    for endpoint in summary.endpoints:
        if endpoint.error:
            aggregator.warn("export", f"{endpoint.acknowledged} of {endpoint.total} spans were acknowledged by {endpoint.url}: {endpoint.error}")
    if summary.problem:
        aggregator.warn("export", summary.problem)
    export = Export()
    if summary.endpoints:
        first = summary.endpoints[0]
        export = Export(endpoint=first.url, protocol=first.protocol, spans=first.total, spans_acknowledged=first.acknowledged, spans_rejected=first.rejected)
    if summary.metrics:
        export.metrics = _metrics_exported(summary, aggregator)
    return export


def _metrics_exported(summary: ExportSummary, aggregator: Aggregator) -> MetricsExport:
    """Return what the record says of the export of metrics.

    A receiver of spans alone (as Jaeger is) is no fault: that is noted and not warned of. Nor is one warned of twice, where the same host took no spans.
    """
    first = summary.metrics[0]
    silent = {urlsplit(endpoint.url).netloc for endpoint in summary.endpoints if endpoint.error}
    if first.error and not first.absent and not summary.problem and urlsplit(first.url).netloc not in silent:
        aggregator.warn("metrics_export", f"{first.acknowledged} of {first.total} data points were acknowledged by {first.url}: {first.error}")
    note = f"no metrics are taken there: {first.error}" if first.absent else first.error or None
    return MetricsExport(first.url, first.protocol, first.total, first.acknowledged, first.rejected, note)
