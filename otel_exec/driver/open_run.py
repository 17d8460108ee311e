"""A run without steps, from its beginning to its end: what `execution` opens and closes.

What comes in: settings, a name, the exception that ended the block. What goes out: spans, a record, the run's files. Nothing that goes wrong here reaches the
user's code once the block has begun: it is logged.
"""

from __future__ import annotations

import logging
import os
import threading
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING

from otel_exec import semconv
from otel_exec.aggregate.task_fold import TaskFold
from otel_exec.aggregate.timing_collector import say_dropped, timing_collector
from otel_exec.clock import AnchoredClock
from otel_exec.complete import fold_forked
from otel_exec.driver.followers import Followers
from otel_exec.driver.joining import joined_here
from otel_exec.driver.keeper import Keeper, exported
from otel_exec.driver.wiring import first_half, settle_in, spool_of
from otel_exec.errors import OtelExecError
from otel_exec.guarded_log import warn
from otel_exec.known_secrets import doubt
from otel_exec.record.model import EXECUTION, ExecutorRecord
from otel_exec.record.run_store import JournalLine
from otel_exec.record.status_model import OpenRecord
from otel_exec.schedule.driver_spans import run_span
from otel_exec.semconv import Kind, Outcome
from otel_exec.spans.failure import outcome_of
from otel_exec.spans.ids import IdGenerator
from otel_exec.spans.open_spans import OpenSpanTable
from otel_exec.spans.recorder import Recorder
from otel_exec.spans.scope import TaskScope, enter_scope

if TYPE_CHECKING:
    from collections.abc import Callable

    from otel_exec.config import Config
    from otel_exec.execute.base import RunSettings
    from otel_exec.record.model import Experiment
    from otel_exec.record.run_store import RunStore
    from otel_exec.spans.span_record import SpanRecord

__all__ = ["OpenRun", "begin"]

_BEAT_S = 0.5
_log = logging.getLogger("otel_exec.execution")


def begin(config: Config, experiment: Experiment, *, alias: str | None) -> OpenRun | None:
    """Begin a run; `None` where its folder can't be written: that is said once, and the program goes on without a record."""
    clock, ids = AnchoredClock(), IdGenerator()
    store: RunStore | None = None
    try:
        settings, store = settle_in(config, experiment, clock, ids)
        return OpenRun(config, experiment, settings, store, clock, ids, alias)
    except Exception as error:  # that there is no thread to be had among them
        where = "" if isinstance(error, OtelExecError) else f" under {config.prefix}"  # ours name it themselves
        warn(_log, "%s is not recorded%s, the program goes on: %s", experiment.name, where, error)
        if store is not None:
            store.discard()
        return None


class OpenRun:
    """A run that is open in this process: the code's context is inside of it from here to `leave`; `settle` writes what it came to."""

    def __init__(
        self, config: Config, experiment: Experiment, settings: RunSettings, store: RunStore, clock: AnchoredClock, ids: IdGenerator, alias: str | None
    ) -> None:
        self.exec_id = settings.exec_id
        self._pid = os.getpid()
        self._name = experiment.name
        self._store = store
        self._clock = clock
        self._ids = ids
        self._parent = config.parent[1] if config.parent else ""
        self._root, self._task = settings.run_span_id, ids.span_id()
        self._start_ns = start_ns = clock.now_ns()
        self._aggregator = first_half(config, experiment, ExecutorRecord(EXECUTION, 0), settings, store, start_ns, [])
        self._aggregator.record.alias = alias
        with ExitStack() as undo:
            self._begin(config, settings, undo)
            undo.pop_all()

    def _begin(self, config: Config, settings: RunSettings, undo: ExitStack) -> None:
        """Start what a run has; `undo` ends what was started so far, where something can't be."""
        store, clock, start_ns = self._store, self._clock, self._start_ns
        self._spool = spool_of(settings, store)
        undo.callback(self._spool.close)
        self._table = OpenSpanTable(store.spans_folder, "driver")
        undo.callback(self._table.remove)
        self._recorder = Recorder(
            exec_id=settings.exec_id,
            trace_id=settings.trace_id,
            clock=clock,
            spool=self._spool,
            open_spans=self._table,
            sampled=settings.sampled,
            trace_state=config.trace_state,
            ids=self._ids,
            limits=settings.limits,
        )
        self._keeper = Keeper(store, self._aggregator, clock, driver=settings.lock_holder, also=config.run_json, eta=lambda: None)
        store.journal([JournalLine(start_ns, "began")])
        self._slot = self._table.open_span(self._task, self._root, Kind.TASK, f"task {self._name}", self._name, start_ns)
        self._followers = Followers(config, store.folder, sampled=settings.sampled, alias=self._aggregator.record.alias)
        undo.callback(self._followers.abandon)
        self._begun, self._over = threading.Event(), threading.Event()
        self._beats = threading.Thread(target=self._beat, name="otel_exec execution", daemon=True)
        self._beats.start()
        undo.callback(self._begun.set)
        undo.callback(self._over.set)
        # Once there are threads: what is written outside of the folder can't be taken back.
        self._keeper.begin()
        store.publish_latest()
        doubt()
        self._fold = TaskFold(self._task, start_ns)
        self._scope = TaskScope(
            self._recorder,
            span_id=self._task,
            node_id=self._name,
            sink=self._fold,
            attributes={semconv.NODE_ID: self._name, semconv.NODE_NAME: self._name, semconv.EXEC_ATTEMPT: 1},
            max_spans=settings.max_task_spans,
        )
        self._end_ns = start_ns
        self._finished: list[SpanRecord] = []
        self._left: list[SpanRecord] = []
        self._unspanned = self._dropped = 0
        self._entered = ExitStack()
        undo.callback(self._entered.close)
        self._entered.enter_context(joined_here(install_provider=False))
        self._entered.enter_context(enter_scope(self._scope))
        self._begun.set()

    def close(self, error: BaseException | None) -> None:
        """Leave the run and settle it. Never raises but for an interrupt meanwhile."""
        self.leave(error)
        self.settle()

    def leave(self, error: BaseException | None) -> None:
        """The block has ended, with `error` if it did not end by itself: close its spans. In the context of the block; never raises."""
        if os.getpid() != self._pid:
            return  # a child that was forked inside the block: the run is its parent's
        outcome, error_type, message = _outcome(error)
        self._aggregator.record.outcome = str(outcome)
        try:
            with ExitStack() as then:  # the fold ends, and is told of, whatever leaving the block comes to
                then.callback(self._fold_ends)
                then.callback(self._entered.close)
                self._cut()
            end_ns = self._end_ns
            self._table.close(self._slot)
            attributes = {**self._scope.base, semconv.EXEC_TASK_ID: self._name, semconv.CODE_FUNCTION: self._name}
            task = self._recorder.make(
                Kind.TASK,
                f"task {self._name}",
                self._start_ns,
                end_ns,
                span_id=self._task,
                parent=self._root,
                attributes=attributes,
                outcome=outcome,
                error_type=error_type or None,
                message=message,
            )
            run = run_span(self._recorder, self._name, self._start_ns, end_ns, outcome, span_id=self._root, parent=self._parent)
            self._recorder.finish([*self._left, task, run])
            self._finished = [task, run]
        except Exception as problem:
            warn(_log, "the end of %s could not be recorded: %s", self._name, problem)

    def settle(self) -> None:
        """Write the record and give the exporter its time, once the block was left. From any thread; never raises."""
        if os.getpid() != self._pid:
            return
        closings = (
            self._stop_beats,
            self._spool.close,
            self._table.remove,
            self._fold_in,
            self._say_ended,
            partial(self._followers.finish_readers, self._aggregator.record),
            self._keeper.end,
            self._export,
            self._followers.print_to_console,
            self._store.close,
        )
        with ExitStack() as stack:  # an interrupt in one of them, too, leaves none of those after it undone
            for closing in reversed(closings):
                stack.callback(self._try, closing)

    def _try(self, closing: Callable[[], object]) -> None:
        try:
            closing()
        except Exception as problem:
            warn(_log, "the record of %s may not be whole: %s", self._name, problem)

    def _cut(self) -> None:
        """Close the phases that threads which outlive the block have open, at the block's end: that is how far they belong to it."""
        scope, fold = self._scope, self._fold
        with scope.lock:
            self._end_ns = end_ns = self._clock.now_ns()
            left = [entry for entry in self._table.entries() if entry.kind == Kind.PHASE and fold.is_open(entry.span_id)]
            scope.end(frozenset(entry.span_id for entry in left))
            self._unspanned, self._dropped = scope.unspanned, scope.dropped
        for entry in sorted(left, key=lambda entry: entry.start_ns, reverse=True):
            fold.closed(entry.span_id, end_ns, error=False)
            attributes = {**scope.base, semconv.NODE_ID: entry.node_id, semconv.NODE_NAME: entry.node_id, semconv.EXEC_PHASE: entry.name}
            self._left.append(
                self._recorder.make(
                    Kind.PHASE,
                    entry.name,
                    entry.start_ns,
                    end_ns,
                    span_id=entry.span_id,
                    parent=entry.parent_span_id,
                    attributes=attributes,
                    outcome=Outcome.SUCCESS,
                )
            )

    def _fold_ends(self) -> None:
        fold = self._fold
        if self._end_ns == self._start_ns:
            self._end_ns = self._clock.now_ns()
        fold.finish(self._end_ns)
        say_dropped(fold.dropped)
        timing_collector.add_task(self.exec_id, self._name, fold.sums, fold.foreign_ids)

    def _stop_beats(self) -> None:
        self._over.set()
        self._beats.join()

    def _fold_in(self) -> None:
        aggregator, unspanned = self._aggregator, self._unspanned
        aggregator.ingest(self._finished)
        aggregator.fold(self._name, 1, self._fold.sums)
        if unspanned:
            aggregator.unspanned.add((self._name, 1))
            aggregator.warn("phases_without_span", f"{self._name}: phases past the limit of spans a task were only counted", unspanned)
        if self._dropped:
            aggregator.warn("spans_dropped", f"{self._name}: spans of the code's own past the limit of spans a task were left out", self._dropped)
        for code, message, count in self._recorder.take_warnings():
            aggregator.warn(code, message, count)
        fold_forked(aggregator, self._store.spans_folder)

    def _say_ended(self) -> None:
        self._store.journal([JournalLine(self._end_ns, "ended_run", outcome=self._aggregator.record.outcome)])

    def _export(self) -> None:
        summary = self._followers.finish_export()
        if summary is not None:
            export = exported(summary, self._aggregator)
            self._keeper.end(export)
            left = export.spans - export.spans_acknowledged - export.spans_rejected
            if left:
                warn(_log, "%s of %s spans of %s did not get out; otel-exec replay %s sends them", left, export.spans, self._name, self._store.run_folder)

    def _beat(self) -> None:
        """Until the block has ended: bring finished spans from memory to the spool's file, where the exporter sees them, and keep the status up to date."""
        self._begun.wait()
        while not self._over.wait(_BEAT_S):
            self._recorder.flush()
            now_ns = self._clock.now_ns()
            self._keeper.beat(
                [
                    OpenRecord(entry.kind, entry.name, entry.node_id, None, max(0, now_ns - entry.start_ns) // 1_000_000)
                    for entry in self._table.entries()
                    if entry.kind == Kind.PHASE
                ]
            )


def _outcome(error: BaseException | None) -> tuple[Outcome, str, str]:
    """Return outcome, `error.type` and message; a program that ends itself with exit code 0 has succeeded."""
    if error is None or (isinstance(error, SystemExit) and error.code in {None, 0}):
        return Outcome.SUCCESS, "", ""
    return outcome_of(error)
