"""otel_exec runs experiments written as plain functions and shows where the time went.

User code (`deferred`, `@step`) is traced into a plan (`otel_exec.plan`); a pure state machine says what to do next
(`otel_exec.schedule`); an executor does it (`otel_exec.execute`); everything that happens is a span (`otel_exec.spans`),
written to a local spool first and exported by OTLP from there; the same spans are folded into numbers (`otel_exec.aggregate`),
the numbers stand in run.json and beside each step's output (`otel_exec.record`), and reports are made from that record alone
(`otel_exec.report`, `otel-exec summary run.json`).

Names are imported when they are first used: `import otel_exec` costs next to nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from otel_exec.complete import read_run as read_run
    from otel_exec.driver.execution import execution as execution
    from otel_exec.errors import ConfigError as ConfigError
    from otel_exec.errors import FanOutError as FanOutError
    from otel_exec.errors import Mistake as Mistake
    from otel_exec.errors import OtelExecError as OtelExecError
    from otel_exec.errors import PlanError as PlanError
    from otel_exec.errors import RecordError as RecordError
    from otel_exec.errors import StepsFailed as StepsFailed
    from otel_exec.errors import UsageError as UsageError
    from otel_exec.execute.fan_out import map_tasks as map_tasks
    from otel_exec.launch import executor_main as executor_main
    from otel_exec.launch import run as run
    from otel_exec.plan.refs import StepRef as StepRef
    from otel_exec.plan.refs import versioned as versioned
    from otel_exec.plan.step import DeferredCall as DeferredCall
    from otel_exec.plan.step import deferred as deferred
    from otel_exec.plan.step import output as output
    from otel_exec.plan.step import step as step
    from otel_exec.record.model import RunRecord as RunRecord
    from otel_exec.timing import TimingCollector as TimingCollector
    from otel_exec.timing import atime_phase as atime_phase
    from otel_exec.timing import atimed as atimed
    from otel_exec.timing import phase as phase
    from otel_exec.timing import time_phase as time_phase
    from otel_exec.timing import timed as timed
    from otel_exec.timing import timing_collector as timing_collector

__version__ = "0.1.0"

_HOME = {
    "ConfigError": "errors",
    "DeferredCall": "plan.step",
    "FanOutError": "errors",
    "Mistake": "errors",
    "OtelExecError": "errors",
    "PlanError": "errors",
    "RecordError": "errors",
    "RunRecord": "record.model",
    "StepRef": "plan.refs",
    "StepsFailed": "errors",
    "TimingCollector": "timing",
    "UsageError": "errors",
    "atime_phase": "timing",
    "atimed": "timing",
    "deferred": "plan.step",
    "execution": "driver.execution",
    "executor_main": "launch",
    "map_tasks": "execute.fan_out",
    "output": "plan.step",
    "phase": "timing",
    "read_run": "complete",
    "run": "launch",
    "step": "plan.step",
    "time_phase": "timing",
    "timed": "timing",
    "timing_collector": "timing",
    "versioned": "plan.refs",
}

__all__ = [
    "ConfigError",
    "DeferredCall",
    "FanOutError",
    "Mistake",
    "OtelExecError",
    "PlanError",
    "RecordError",
    "RunRecord",
    "StepRef",
    "StepsFailed",
    "TimingCollector",
    "UsageError",
    "__version__",
    "atime_phase",
    "atimed",
    "deferred",
    "execution",
    "executor_main",
    "map_tasks",
    "output",
    "phase",
    "read_run",
    "run",
    "step",
    "time_phase",
    "timed",
    "timing_collector",
    "versioned",
]


def __getattr__(name: str) -> object:
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module 'otel_exec' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"otel_exec.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*globals(), *_HOME]
