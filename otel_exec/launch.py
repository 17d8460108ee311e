"""`executor_main` and `run`: wire the rooms for one run. The only place that knows them all.

What comes in: the steps that the user wants, arguments, the environment. What goes out: a `RunRecord`, files, an exit code.
"""

from __future__ import annotations

import os
import random
import sys
import threading
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

from otel_exec import config as configuration
from otel_exec.aggregate.aggregator import Aggregator
from otel_exec.aggregate.assemble import step_skeletons
from otel_exec.clock import AnchoredClock, to_iso
from otel_exec.cpus import usable_cpus
from otel_exec.driver import arguments as command_line
from otel_exec.driver.ending import Result, first_cause, headline, print_failures
from otel_exec.driver.environment import describe, instance_resource, masked_argv
from otel_exec.driver.executors import make_executor
from otel_exec.driver.keeper import Keeper, exported
from otel_exec.driver.live import LiveListener, TerminalListener
from otel_exec.driver.machine import usable_memory_bytes, visible_gpus
from otel_exec.driver.signals import cancelling
from otel_exec.driver.step_info import cached_from, look_up, static_info
from otel_exec.errors import Mistake, OtelExecError, PlanError, StepsFailed, UsageError
from otel_exec.execute.base import RunSettings
from otel_exec.plan.build import build_plan
from otel_exec.record import locks
from otel_exec.record.model import SCHEMA_VERSION, ExecutorRecord, Experiment, Export, RunRecord
from otel_exec.record.run_store import RunStore
from otel_exec.report.terminal import look_of
from otel_exec.schedule.capacity import Capacity, oversized
from otel_exec.schedule.driver_spans import DriverSpans
from otel_exec.schedule.retries import RetryPolicy
from otel_exec.schedule.runner import Runner, RunnerParts
from otel_exec.schedule.select import Selection, select
from otel_exec.schedule.state import RunState
from otel_exec.semconv import Outcome
from otel_exec.spans.ids import IdGenerator
from otel_exec.spans.recorder import Recorder
from otel_exec.spans.spool import SpoolWriter

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from otel_exec.config import Config
    from otel_exec.execute.base import Executor
    from otel_exec.plan.graph import Plan, Step
    from otel_exec.plan.refs import StepRef
    from otel_exec.spans.exporter import ExporterHandle
    from otel_exec.spans.forward import SpoolForwarder

    Gate = Sequence[str] | str | Callable[[int], object]

__all__ = ["executor_main", "run"]

# Runs in this process whose steps run in it: threads are instrumented while there are any.
_runs_lock = threading.Lock()
_runs_here = 0


@dataclass(frozen=True, slots=True)
class _Order:
    """What is to be run: the plan, what was decided of each step, and how."""

    plan: Plan
    selection: Selection
    config: Config
    experiment: Experiment
    gates: tuple[Gate, ...] = ()


def run(
    steps: Sequence[StepRef] | StepRef,
    *,
    description: str | None = None,
    name: str | None = None,
    gates: Sequence[Gate] = (),
    tracer_provider: object = None,
    **settings: object,
) -> RunRecord:
    """Run steps and those that they depend on, and return the record.

    Args:
        steps: what outermost step calls returned.
        description: of the experiment.
        name: of the experiment; default the script's stem.
        gates: what must pass between each two levels (implies `barrier`).
        tracer_provider: an OpenTelemetry SDK provider that our spans go through instead of our own exporter.
        settings: any field of `otel_exec.config.Config`, e.g. `prefix=...`, `workers=4`, `executor="threads"`; what is not given comes from the environment.

    Raises:
        PlanError: the plan could not be built.
        StepsFailed: steps failed, or the run's timeout passed; `record` holds everything, `__cause__` is the first failure's own exception.
        UsageError: a setting can't be used.
        RecordError: the record could not be written.
        KeyboardInterrupt: the run was interrupted; its record was written.
    """
    config = configuration.resolve(settings, os.environ)
    order = _order(_as_list(steps), config, _experiment(name, description), tuple(gates))
    listener = LiveListener(order.plan, order.selection.decisions, config.workers)
    result = _execute(order, listener, tracer_provider=tracer_provider)
    if result.signal is not None:
        raise KeyboardInterrupt
    if result.record.outcome != Outcome.SUCCESS:
        message = headline(result)
        raise StepsFailed(message, result.record) from first_cause(result)
    return result.record


def executor_main(
    steps: Sequence[StepRef] | StepRef,
    description: str | None = None,
    *,
    gates: Sequence[Gate] = (),
    name: str | None = None,
    argv: Sequence[str] | None = None,
    **settings: object,
) -> None:
    """Run an experiment from the command line: parse flags, run, print progress and the short summary.

    Args:
        steps: what outermost step calls returned.
        description: shown in `--help` and kept in the record.
        gates: what must pass between each two levels (implies `--barrier`).
        name: the experiment's name; default the script's stem.
        argv: the flags; default `sys.argv[1:]`.
        settings: any field of `otel_exec.config.Config`; a flag on the command line goes before it, the environment after.

    Raises:
        SystemExit: with the exit codes of requirement A, unless the run succeeded: then it returns.
    """
    script = os.path.basename(sys.argv[0] or "exp.py")
    try:
        given = command_line.parse(sys.argv[1:] if argv is None else argv, prog=script, description=description)
        config = configuration.resolve({**settings, **{name: value for name, value in given.items() if value is not None}}, os.environ)
        order = _order(_as_list(steps), config, _experiment(name, description), tuple(gates))
        if config.dry_run:
            from otel_exec.driver.dry_run import dry_run_lines

            for line in dry_run_lines(order.plan, order.selection.decisions, look_of(sys.stdout, os.environ)):
                print(line)
            return
        listener = TerminalListener(order.plan, order.selection.decisions, config, order.experiment.name)
        result = _execute(order, listener, install_provider=True)
        listener.finish(result.record)
    except PlanError as error:
        for mistake in error.mistakes:
            print(f"otel-exec: {mistake}", file=sys.stderr)
        count = len(error.mistakes)
        print(f"otel-exec: the plan could not be built: {count} mistake{'s' if count != 1 else ''}, nothing was run", file=sys.stderr)
        raise SystemExit(error.exit_code) from None
    except OtelExecError as error:
        print(f"otel-exec: {error}", file=sys.stderr)
        raise SystemExit(error.exit_code) from None
    code = print_failures(result)
    if code:
        raise SystemExit(code)


def _as_list(steps: Sequence[StepRef] | StepRef) -> list[StepRef]:
    return list(steps) if isinstance(steps, (list, tuple, set, frozenset)) else [steps]  # type: ignore[list-item]  # a single reference


def _experiment(name: str | None, description: str | None) -> Experiment:
    main = sys.modules.get("__main__")
    script = getattr(main, "__file__", None)
    stem = os.path.splitext(os.path.basename(script))[0] if script else None
    return Experiment(
        name=name or stem or "experiment",
        description=description,
        script=os.path.abspath(script) if script else None,
        argv=masked_argv(sys.argv[1:]),
    )


def _order(steps: list[StepRef], config: Config, experiment: Experiment, gates: tuple[Gate, ...]) -> _Order:
    for gate in gates:
        if not callable(gate) and not isinstance(gate, (str, list, tuple)):
            raise UsageError(f"gate {gate!r} is neither an argv list, a string nor a function of the level")
    plan = build_plan(steps, prefix=config.prefix)
    selection = select(plan, look_up, run_only=config.run_only, force=config.force, rerun_failed=config.rerun_failed)
    return _Order(plan, selection, config, experiment, gates)


def _execute(order: _Order, listener: LiveListener, *, tracer_provider: object = None, install_provider: bool = False) -> Result:
    """Run what was ordered; returns when the record is written and the exporter has had its time."""
    plan, config, decisions = order.plan, order.config, order.selection.decisions
    to_run = [step for step in plan.steps if not step.group and decisions[step.index].action in {"run", "wait"}]
    executor = make_executor(config.executor, workers=max(1, min(config.workers, len(to_run))))
    _check_places(executor, config.prefix, to_run)
    capacity = _capacity(config, executor)
    state = RunState(
        plan,
        decisions,
        capacity=capacity,
        retries=RetryPolicy(jitter=random.Random().random, retry_timeouts=executor.can_kill),  # noqa: S311  a back-off is no secret
        barrier=config.barrier,
        gates=bool(order.gates),
        fail_fast=config.fail_fast,
    )
    packed = _pack(executor, to_run)

    clock = AnchoredClock()
    ids = IdGenerator()
    parent = config.parent
    trace_id = parent[0] if parent else ids.trace_id()
    exec_id = f"exec_{ids.trace_id() if parent else trace_id}"
    sampled = configuration.should_sample(config, trace_id)
    script = order.experiment.script
    service_name = config.service_name or order.experiment.name
    resource = instance_resource(service_name, exec_id, config.resource_attributes, script)
    store = RunStore(config.prefix, exec_id)
    start_ns = clock.now_ns()
    settings = RunSettings(
        exec_id=exec_id,
        trace_id=trace_id,
        run_span_id=ids.span_id(),
        prefix=config.prefix,
        run_folder=store.folder,
        service_name=service_name,
        lock_holder=locks.driver_id(exec_id),
        clock_offset_ns=clock.offset_ns,
        sampled=sampled,
        trace_state=config.trace_state,
        resource=tuple(resource.items()),
        timing_log=config.timing or config.debug,
        show_output=config.show_output,
        script=script,
    )
    record = RunRecord(
        schema_version=SCHEMA_VERSION,
        exec_id=exec_id,
        trace_id=trace_id,
        root_span_id=settings.run_span_id,
        outcome="running",
        experiment=order.experiment,
        executor=ExecutorRecord(executor.kind, executor.workers, config.max_concurrent, state.barrier),
        prefix=config.prefix,
        run_folder=store.run_folder,
        start_time=to_iso(start_ns) or "",
        start_time_unix_nano=str(start_ns),
        steps=step_skeletons(plan),
        export=Export(),
        environment=describe(script),
        config=configuration.recordable(config),
    )
    for step, decision in zip(record.steps, decisions, strict=True):
        if decision.action == "cached" and decision.earlier is not None:
            step.cached_from = cached_from(decision.earlier)
    aggregator = Aggregator(record)
    for warning in (*plan.warnings, *order.selection.warnings, *oversized(plan, decisions, capacity)):
        aggregator.warn(warning.code, warning.message)
    for text in config.warnings:
        aggregator.warn("configuration", text)
    spool_folder = os.path.join(store.folder, "spans")
    spool = SpoolWriter(spool_folder, "driver", {**resource, "process.pid": os.getpid()})
    recorder = Recorder(
        exec_id=exec_id, trace_id=trace_id, clock=clock, spool=spool, sink=aggregator.ingest, sampled=sampled, trace_state=config.trace_state, ids=ids
    )
    spans = DriverSpans(recorder, plan, root_span_id=settings.run_span_id, parent_span_id=parent[1] if parent else "", start_ns=start_ns)
    keeper = Keeper(store, aggregator, clock, driver=settings.lock_holder, also=config.run_json or "run.json", eta=listener.eta_ms)
    runner = Runner(
        RunnerParts(
            plan=plan,
            decisions=decisions,
            state=state,
            executor=executor,
            settings=settings,
            spans=spans,
            spool_folder=spool_folder,
            recorder=recorder,
            aggregator=aggregator,
            store=store,
            clock=clock,
            listener=listener,
            info_of=static_info(plan),
            look_up=look_up,
            packed=packed,
            keep=keeper.keep,
            gates=order.gates,
            grace_s=config.grace_s,
            timeout_s=config.timeout_s,
        )
    )
    problem: BaseException | None = None
    with cancelling(runner.cancel) as received, nullcontext() if executor.by_value else _joined_here(install_provider=install_provider):
        keeper.begin()
        store.publish_latest()
        exporter = _start_exporter(config, store.folder, sampled=sampled and tracer_provider is None)
        forward = _forwarder(spool_folder, tracer_provider)
        try:
            if to_run:
                executor.start(settings, clock)
            outcome = runner.run()
        except BaseException as error:  # ours, or the machine's: what is known of the run is kept before it is raised
            problem = error
            outcome = record.outcome = "interrupted"
        if to_run:
            runner.close()
        spans.close_run(order.experiment.name, clock.now_ns(), outcome)
        recorder.finish(spans.take())
        spool.close()
        for code, count in recorder.warnings.items():
            aggregator.warn("telemetry", code, count)
        if spool.error is not None:
            aggregator.warn("spool", f"spans could not be written to the spool: {spool.error}", max(1, spool.lost))
        if forward is not None:
            forward.finish()
        keeper.end()
        if exporter is not None:
            keeper.end(exported(exporter.finish(), aggregator))
        if config.console and sampled:
            _print_spans(store.folder)
        store.close()
    if problem is not None:
        raise problem
    failures = tuple((plan.steps[index], error) for index, error in sorted(runner.errors.items()))
    return Result(record, failures, received.number)


def _check_places(executor: Executor, prefix: str, steps: Sequence[Step]) -> None:
    """Raise `UsageError` where the workers could not see what the driver writes, or the other way round."""
    if executor.by_value:
        for path in (prefix, *(step.output_path or "" for step in steps)):
            if path.startswith("memory://"):
                raise UsageError(
                    f"{path} lies in this process's memory, where workers of the {executor.kind} executor can't see it: take threads or inline, or another prefix"
                )


def _capacity(config: Config, executor: Executor) -> Capacity:
    """Return what may run at once: of the CPUs, those that this process may use."""
    return Capacity(
        workers=executor.workers,
        prefetch=executor.prefetch,
        max_concurrent=config.max_concurrent,
        cpus=usable_cpus(),
        gpus=visible_gpus(),
        memory_bytes=usable_memory_bytes(),
        custom=dict(config.resources),
    )


def _pack(executor: Executor, steps: Sequence[Step]) -> dict[int, object]:
    """Make ready what goes to workers, before anything runs.

    Raises:
        PlanError: all functions and configs that can't be sent, together.
    """
    packed: dict[int, object] = {}
    mistakes: list[Mistake] = []
    for step in steps:
        try:
            packed[step.index] = executor.pack(step)
        except Mistake as mistake:
            mistakes.append(mistake)
    if mistakes:
        raise PlanError(mistakes)
    return packed


def _start_exporter(config: Config, folder: str, *, sampled: bool) -> ExporterHandle | None:
    if not sampled or config.sdk_disabled or not config.traces:
        return None
    from otel_exec.spans.exporter import ExporterHandle

    return ExporterHandle.start(folder, config.traces, exit_timeout_s=config.exit_timeout_s)


def _print_spans(folder: str) -> None:
    from otel_exec.spans.exporter import print_spans

    print_spans(folder, sys.stdout)


def _forwarder(spool_folder: str, tracer_provider: object) -> SpoolForwarder | None:
    if tracer_provider is None:
        return None
    from otel_exec.spans.forward import SpoolForwarder

    return SpoolForwarder(spool_folder, tracer_provider)


@contextmanager
def _joined_here(*, install_provider: bool) -> Iterator[None]:
    """Let the spans and threads of steps that run in this process join the run, for the block. Of several runs at once the last one cleans up."""
    global _runs_here
    from otel_exec.spans import provider

    if install_provider:
        provider.install_global()
    with _runs_lock:
        _runs_here += 1
        provider.instrument_with_first_thread()
    try:
        yield
    finally:
        with _runs_lock:
            _runs_here -= 1
            if not _runs_here:
                provider.uninstrument_threads()
