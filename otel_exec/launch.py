"""`executor_main` and `run`: wire the rooms for one run. The only place that knows them all.

What comes in: the steps that the user wants, arguments, the environment. What goes out: a `RunRecord`, files, an exit code.
"""

from __future__ import annotations

import os
import random
import sys
from contextlib import nullcontext
from typing import TYPE_CHECKING

from otel_exec import config as configuration
from otel_exec.clock import AnchoredClock, to_iso
from otel_exec.complete import fold_forked
from otel_exec.cpus import usable_cpus
from otel_exec.driver import arguments as command_line
from otel_exec.driver.ending import Result, complain, first_cause, headline, print_failures
from otel_exec.driver.environment import experiment_of
from otel_exec.driver.executors import make_executor
from otel_exec.driver.followers import Followers
from otel_exec.driver.garbage import collector_spared
from otel_exec.driver.joining import joined_here
from otel_exec.driver.keeper import exported
from otel_exec.driver.live import LiveListener, TerminalListener
from otel_exec.driver.machine import usable_memory_bytes, visible_gpus
from otel_exec.driver.signals import cancelling
from otel_exec.driver.step_info import look_up
from otel_exec.driver.wiring import Order, Wired, settle_in, wire
from otel_exec.errors import Mistake, OtelExecError, PlanError, RecordError, StepsFailed, UsageError
from otel_exec.execute.base import RunSettings
from otel_exec.plan.build import build_plan
from otel_exec.record.model import SCHEMA_VERSION, Experiment, RunRecord
from otel_exec.record.record_file import keep_foreign
from otel_exec.record.status_model import Progress, StatusRecord, WaitingRecord
from otel_exec.refused import cant_go_on
from otel_exec.report.terminal import look_of
from otel_exec.schedule.capacity import Capacity, oversized
from otel_exec.schedule.gates import parse_gate
from otel_exec.schedule.retries import RetryPolicy
from otel_exec.schedule.select import select
from otel_exec.schedule.state import RunState
from otel_exec.semconv import Outcome
from otel_exec.spans.ids import IdGenerator

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from otel_exec.config import Config
    from otel_exec.execute.base import Executor
    from otel_exec.plan.graph import Plan, Step
    from otel_exec.plan.refs import StepRef
    from otel_exec.record.run_store import RunStore

    Gate = Sequence[str] | str | Callable[[int], object]

__all__ = ["executor_main", "run"]


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
    if tracer_provider is not None:
        from otel_exec.spans.forward import check_provider

        check_provider(tracer_provider)
    if config.dry_run:
        raise UsageError("run() runs: a dry run is the command line's, python exp.py --dry-run")
    order = _order(_as_list(steps), config, experiment_of(name, description, sys.argv[1:]), gates)
    listener = LiveListener(order.plan, order.selection.decisions)
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
        SystemExit: with the exit codes of docs/concepts.md, unless the run succeeded: then it returns.
    """
    script = os.path.basename(sys.argv[0] if sys.argv and sys.argv[0] else "exp.py")
    try:
        words = list(sys.argv[1:] if argv is None else argv)
        given = command_line.parse(words, prog=script, description=description)
        config = configuration.resolve({**settings, **{name: value for name, value in given.items() if value is not None}}, os.environ)
        order = _order(_as_list(steps), config, experiment_of(name, description, words), gates)
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
            complain(str(mistake))
        count = len(error.mistakes)
        complain(f"the plan could not be built: {count} mistake{'s' if count != 1 else ''}, nothing was run")
        raise SystemExit(error.exit_code) from None
    except OtelExecError as error:
        complain(str(error))
        raise SystemExit(error.exit_code) from None
    except KeyboardInterrupt:
        complain("interrupted before anything was run")
        raise SystemExit(130) from None
    except OSError as error:
        complain(cant_go_on(error))
        raise SystemExit(RecordError.exit_code) from None
    code = print_failures(result)
    if code:
        raise SystemExit(code)


def _as_list(steps: Sequence[StepRef] | StepRef) -> list[StepRef]:
    return list(steps) if isinstance(steps, (list, tuple, set, frozenset)) else [steps]  # type: ignore[list-item]  # a single reference


def _order(steps: list[StepRef], config: Config, experiment: Experiment, gates: Sequence[object]) -> Order:
    parsed = tuple(parse_gate(gate) for gate in gates)
    plan = build_plan(steps, prefix=config.prefix)
    _check_names(plan)
    selection = select(plan, look_up, run_only=config.run_only, force=config.force, rerun_failed=config.rerun_failed)
    return Order(plan, selection, config, experiment, parsed)


def _check_names(plan: Plan) -> None:
    """Raise `UsageError` where a step's path can't be a file's name here: under `LC_ALL=C` without UTF-8 mode Python knows ASCII names alone."""
    encoding = sys.getfilesystemencoding()
    if encoding.lower().replace("-", "") == "utf8":
        return
    for step in plan.steps:
        try:
            os.fsencode(step.output_path or "")
        except UnicodeEncodeError:
            raise UsageError(
                f"step {step.name!r} can't have a folder of its name: file names are {encoding} here; set LC_ALL=C.UTF-8 or PYTHONUTF8=1, or rename it"
            ) from None


def _execute(order: Order, listener: LiveListener, *, tracer_provider: object = None, install_provider: bool = False) -> Result:
    """Run what was ordered; returns when the record is written and the exporter has had its time."""
    plan, config, decisions = order.plan, order.config, order.selection.decisions
    to_run = [step for step in plan.steps if not step.group and decisions[step.index].action in {"run", "wait"}]
    executor = make_executor(config)
    _check_places(executor, config.prefix, to_run)
    keep_foreign(config.run_json or "run.json")
    packed = _pack(executor, to_run)
    clock, ids = AnchoredClock(), IdGenerator()
    settings, store = settle_in(config, order.experiment, clock, ids)
    start_ns = clock.now_ns()
    try:
        if to_run:
            _say_what_it_awaits(executor, order, settings, store, listener, clock)
            executor.start(settings, clock)  # workers take a while to be ready: they begin before the record does
        startup_ns = clock.now_ns() - start_ns if to_run else None
        capacity = _capacity(config, executor)  # how many workers a cluster has is known now
        state = RunState(
            plan,
            decisions,
            capacity=capacity,
            retries=RetryPolicy(jitter=random.Random().random, retry_timeouts=executor.can_kill),  # noqa: S311  a back-off is no secret
            barrier=config.barrier,
            gates=bool(order.gates),
            fail_fast=config.fail_fast,
        )
        wired = wire(order, state, executor, packed, settings, store, clock, ids, listener, start_ns, startup_ns)
        for warning in oversized(plan, decisions, capacity):
            wired.aggregator.warn(warning.code, warning.message)
        wired.keeper.begin()
    except BaseException:
        executor.stop(0.0)
        store.discard()
        raise
    try:
        with (
            cancelling(wired.runner.cancel) as received,
            nullcontext() if executor.by_value else joined_here(install_provider=install_provider),
            collector_spared(),
        ):
            _drive(order, wired, settings, tracer_provider)
    finally:
        executor.stop(0.0)  # stopped already, unless something was raised
    failures = tuple((plan.steps[index], error, "" if config.show_output else wired.runner.last_words[index]) for index, error in wired.runner.errors.items())
    return Result(wired.aggregator.record, failures, received.number)


def _say_what_it_awaits(executor: Executor, order: Order, settings: RunSettings, store: RunStore, listener: LiveListener, clock: AnchoredClock) -> None:
    """Say what the run waits for before it has a record: on the terminal, and as its first status."""
    awaits = executor.awaits
    if not awaits:
        return
    listener.starting(awaits)
    now = to_iso(clock.now_ns()) or ""
    store.write_status(
        StatusRecord(
            SCHEMA_VERSION,
            settings.exec_id,
            "running",
            now,
            Progress(total=listener.total),
            experiment=order.experiment.name,
            driver=settings.lock_holder,
            start_time=now,
            clock_offset_ns=str(clock.offset_ns),
            waiting=[WaitingRecord("", awaits, 0)],
        )
    )


def _drive(order: Order, wired: Wired, settings: RunSettings, tracer_provider: object) -> None:
    """Run to the end; then close what is open, write the whole record and give the exporter its time."""
    config, runner, aggregator, store = order.config, wired.runner, wired.aggregator, wired.store
    problem: BaseException | None = None
    if wired.meter is not None:
        wired.meter.begin()
    followers = Followers(config, store.folder, sampled=settings.sampled, tracer_provider=tracer_provider)
    try:
        store.publish_latest()
        outcome = runner.run()
    except BaseException as error:  # ours, or the machine's: what is known of the run is kept before it is raised
        problem = error
        outcome = aggregator.record.outcome = "interrupted"
    runner.close()
    spans = runner.parts.spans
    spans.close_run(order.experiment.name, runner.parts.clock.now_ns(), outcome)
    wired.recorder.finish(spans.take())
    wired.spool.close()
    of_children = fold_forked(aggregator, store.spans_folder)
    if wired.meter is not None:
        wired.meter.end(of_children)
    for code, message, count in wired.recorder.take_warnings():
        aggregator.warn(code, message, count)
    followers.finish_readers(aggregator.record)
    try:
        wired.keeper.end()
    except RecordError as error:
        problem = problem or error
    finally:
        summary = followers.finish_export()
    try:
        if summary is not None:
            wired.keeper.end(exported(summary, aggregator))
        followers.print_to_console()
        store.close()
    except RecordError as error:
        problem = problem or error
    if problem is not None:
        raise problem


def _check_places(executor: Executor, prefix: str, steps: Sequence[Step]) -> None:
    """Raise `UsageError` where the workers could not see what the driver writes, or the other way round."""
    if executor.by_value:
        for path in (prefix, *(step.output_path or "" for step in steps)):
            if path.startswith("memory://"):
                raise UsageError(
                    f"{path} lies in this process's memory, where workers of the {executor.kind} executor can't see it: take threads or inline, or another prefix"
                )


def _capacity(config: Config, executor: Executor) -> Capacity:
    """Return what may run at once: of the CPUs, those that this process may use; what a cluster has is the cluster's to give out."""
    if executor.kind == "ray":
        return Capacity(
            workers=executor.workers, prefetch=executor.prefetch, max_concurrent=config.max_concurrent, cpus=None, gpus=None, memory_bytes=None, custom=None
        )
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
