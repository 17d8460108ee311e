"""The parts of one run, wired: its ids and folder, the record's first half, and everything that fills it.

What comes in: an order (plan, decisions, settings) and an executor. What goes out: `Wired`, with a runner that is ready to go. Starts nothing.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from otel_exec import config as configuration
from otel_exec.aggregate.aggregator import Aggregator
from otel_exec.aggregate.assemble import step_skeletons
from otel_exec.clock import to_iso
from otel_exec.driver.earlier import earlier_means
from otel_exec.driver.environment import describe, instance_resource
from otel_exec.driver.keeper import Keeper
from otel_exec.driver.meter import Meter
from otel_exec.driver.resume import look_back
from otel_exec.driver.step_info import cached_from, look_up, static_info
from otel_exec.execute.base import RunSettings
from otel_exec.record import locks
from otel_exec.record.model import SCHEMA_VERSION, ExecutorRecord, Experiment, Export, RunRecord, StepRecord
from otel_exec.record.run_store import JournalLine, RunStore
from otel_exec.schedule.driver_spans import DriverSpans
from otel_exec.schedule.runner import Runner, RunnerParts
from otel_exec.semconv import Outcome
from otel_exec.spans.recorder import Recorder
from otel_exec.spans.span_record import SpanLimits
from otel_exec.spans.spool import SpoolWriter

if TYPE_CHECKING:
    from collections.abc import Callable

    from otel_exec.clock import AnchoredClock
    from otel_exec.config import Config
    from otel_exec.driver.live import LiveListener
    from otel_exec.execute.base import Executor
    from otel_exec.plan.graph import Plan
    from otel_exec.schedule.gates import Gate
    from otel_exec.schedule.select import Decision, Selection
    from otel_exec.schedule.state import RunState
    from otel_exec.spans.ids import IdGenerator


__all__ = ["Order", "Wired", "first_half", "settle_in", "spool_of", "wire"]


@dataclass(frozen=True, slots=True)
class Order:
    """What is to be run: the plan, what was decided of each step, and how."""

    plan: Plan
    selection: Selection
    config: Config
    experiment: Experiment
    gates: tuple[Gate, ...] = ()


@dataclass(frozen=True, slots=True)
class Wired:
    """The parts of one run, wired."""

    runner: Runner
    keeper: Keeper
    aggregator: Aggregator
    recorder: Recorder
    spool: SpoolWriter
    store: RunStore
    meter: Meter | None


def settle_in(config: Config, experiment: Experiment, clock: AnchoredClock, ids: IdGenerator) -> tuple[RunSettings, RunStore]:
    """Give the run its ids and its folder."""
    script = experiment.script
    parent = config.parent
    trace_id = parent[0] if parent else ids.trace_id()
    exec_id = f"exec_{ids.trace_id() if parent else trace_id}"
    service_name = config.service_name or experiment.name
    store = RunStore(config.prefix, exec_id)
    settings = RunSettings(
        exec_id=exec_id,
        trace_id=trace_id,
        run_span_id=ids.span_id(),
        run_folder=store.folder,
        lock_holder=locks.driver_id(exec_id),
        clock_offset_ns=clock.offset_ns,
        sampled=configuration.should_sample(config, trace_id),
        trace_state=config.trace_state,
        resource=tuple(instance_resource(service_name, exec_id, config.resource_attributes, script).items()),
        show_output=config.show_output,
        max_task_spans=config.max_task_spans,
        script=script,
        limits=SpanLimits(config.attribute_value_length_limit, config.attribute_count_limit, config.event_count_limit, config.link_count_limit),
    )
    return settings, store


def first_half(
    config: Config, experiment: Experiment, executor: ExecutorRecord, settings: RunSettings, store: RunStore, start_ns: int, steps: list[StepRecord]
) -> Aggregator:
    """Return the aggregator of a run that begins, with the record's first half and what is to be said of the settings."""
    record = RunRecord(
        schema_version=SCHEMA_VERSION,
        exec_id=settings.exec_id,
        trace_id=settings.trace_id,
        root_span_id=settings.run_span_id,
        outcome="running",
        experiment=experiment,
        executor=executor,
        prefix=config.prefix,
        run_folder=store.run_folder,
        start_time=to_iso(start_ns) or "",
        start_time_unix_nano=str(start_ns),
        steps=steps,
        export=Export(),
        environment=describe(experiment.script),
        config=configuration.recordable(config),
    )
    aggregator = Aggregator(record)
    for text in config.warnings:
        aggregator.warn("configuration", text)
    return aggregator


def spool_of(settings: RunSettings, store: RunStore) -> SpoolWriter:
    """Return the driver's own spool."""
    return SpoolWriter(store.spans_folder, "driver", {**dict(settings.resource), "process.pid": os.getpid()})


def wire(
    order: Order,
    state: RunState,
    executor: Executor,
    packed: dict[int, object],
    settings: RunSettings,
    store: RunStore,
    clock: AnchoredClock,
    ids: IdGenerator,
    listener: LiveListener,
    start_ns: int,
    startup_ns: int | None,
) -> Wired:
    """Make the record's first half and everything that fills it.

    The run began at `start_ns`, and its executor took `startup_ns` to start, `None` where it was not started.
    """
    plan, config, decisions = order.plan, order.config, order.selection.decisions
    resumed = look_back(order, settings.exec_id)
    how = ExecutorRecord(executor.kind, executor.workers, config.max_concurrent, state.barrier, startup_ns)
    aggregator = first_half(config, order.experiment, how, settings, store, start_ns, step_skeletons(plan))
    aggregator.record.config["workers"] = config.workers or executor.workers  # those of a cluster were not known before
    aggregator.record.resumed_from = resumed.earlier
    for step, decision in zip(aggregator.record.steps, decisions, strict=True):
        if decision.action == "cached" and decision.earlier is not None:
            step.cached_from = cached_from(decision.earlier)
        _take_as_decided(aggregator, step.node_id, decision, start_ns)
    for warning in (*plan.warnings, *order.selection.warnings, *resumed.warnings):
        aggregator.warn(warning.code, warning.message)
    spool = spool_of(settings, store)
    recorder = Recorder(
        exec_id=settings.exec_id,
        trace_id=settings.trace_id,
        clock=clock,
        spool=spool,
        sink=aggregator.ingest,
        sampled=settings.sampled,
        trace_state=config.trace_state,
        ids=ids,
        limits=settings.limits,
    )
    parent_span_id = config.parent[1] if config.parent else ""
    at_once = min(executor.workers, config.max_concurrent or executor.workers)
    listener.reckons_with(at_once, lambda: earlier_means(plan, decisions, config.prefix, not_in=settings.exec_id))
    keeper = Keeper(
        store, aggregator, clock, driver=settings.lock_holder, also=config.run_json or os.path.abspath("run.json"), eta=listener.eta, waits=listener.waits
    )
    meter = None
    if config.metrics or config.console_metrics:
        templates = [step.template for step, decision in zip(plan.steps, decisions, strict=True) if not step.group and decision.action != "skip"]
        meter = Meter(store.folder, config, aggregator, clock, {**dict(settings.resource), "process.pid": os.getpid()}, templates, sampled=settings.sampled)
    spans = DriverSpans(recorder, plan, root_span_id=settings.run_span_id, parent_span_id=parent_span_id, start_ns=start_ns)
    spans.links.extend(resumed.links)
    listener.warn = aggregator.warn
    parts = RunnerParts(
        plan=plan,
        decisions=decisions,
        state=state,
        executor=executor,
        settings=settings,
        spans=spans,
        spool_folder=store.spans_folder,
        recorder=recorder,
        aggregator=aggregator,
        store=store,
        clock=clock,
        listener=listener,
        info_of=static_info(plan),
        look_up=look_up,
        packed=packed,
        keep=keeper.keep if meter is None else _both(keeper.keep, meter.keep),
        gates=order.gates,
        grace_s=config.grace_s,
        timeout_s=config.timeout_s,
    )
    return Wired(Runner(parts), keeper, aggregator, recorder, spool, store, meter)


def _take_as_decided(aggregator: Aggregator, node_id: str, decision: Decision, start_ns: int) -> None:
    """Settle a step that the run has nothing to do for, as the scheduler will when it begins: so the first record and status already count it rightly."""
    if decision.action == "cached":
        aggregator.transition(JournalLine(start_ns, "settled", node=node_id, outcome=Outcome.SUCCESS, cause="cached"))
    elif decision.action == "skip" and decision.cause != "upstream_failed":
        aggregator.transition(JournalLine(start_ns, "settled", node=node_id, outcome=Outcome.SKIP, cause=decision.cause))


def _both(first: Callable[[Runner], None], second: Callable[[Runner], None]) -> Callable[[Runner], None]:
    def keep(runner: Runner) -> None:
        first(runner)
        second(runner)

    return keep
