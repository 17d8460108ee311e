"""A runner small enough to see through: hands envelopes to an executor and gathers what it says."""

from __future__ import annotations

import itertools
import os
import time
import uuid
from typing import Any, Self

import pytest

from otel_exec.clock import AnchoredClock
from otel_exec.execute.base import Claimed, Notice, Reported, RunSettings, WorkerDied, WorkerReady
from otel_exec.execute.envelope import TaskEnvelope, TaskReport
from otel_exec.execute.inline import InlineExecutor
from otel_exec.execute.processes import ProcessesExecutor
from otel_exec.execute.threads import ThreadsExecutor
from otel_exec.plan.graph import Step
from otel_exec.record.locks import driver_id
from otel_exec.record.step_files import read_events
from otel_exec.spans.span_record import SpanRecord
from otel_exec.spans.spool import read_spool

# Only what never comes fails by it: a machine that runs much else takes its time.
DEADLINE_S = 120.0
KINDS = (
    "inline",
    "threads",
    "processes",
    pytest.param("ray", marks=pytest.mark.ray),
)


def make_executor(kind: str, workers: int = 2) -> Any:
    if kind == "inline":
        return InlineExecutor()
    if kind == "ray":
        from otel_exec.execute.on_ray import RayExecutor

        return RayExecutor(workers)
    return ThreadsExecutor(workers) if kind == "threads" else ProcessesExecutor(workers)


def make_step(fn: Any, config: Any = None, *, name: str = "step", **fields: Any) -> Step:
    values: dict[str, Any] = {
        "index": 0,
        "node_id": name,
        "name": name,
        "template": name,
        "fn": fn,
        "fn_name": getattr(fn, "__qualname__", "fn"),
        "config": config,
        "call_style": "config",
        "recorded_config": None,
        "recorded_version": {},
        "output_path": None,
        "depends_on": (),
        "pseudo_depends_on": (),
        "level": 1,
    }
    return Step(**{**values, **fields})


class Rig:
    """An executor that runs, and all it has said so far."""

    def __init__(self, kind: str, folder: str, *, workers: int = 2, **settings: Any) -> None:
        self.folder = str(folder)
        self.clock = AnchoredClock()
        run_folder = os.path.join(self.folder, "run")
        os.makedirs(os.path.join(run_folder, "spans"), exist_ok=True)
        values: dict[str, Any] = {
            # On Ray worker processes outlive a run, and tell runs apart by their ids.
            "exec_id": f"exec_{uuid.uuid4().hex}" if kind == "ray" else "exec_" + "a" * 32,
            "trace_id": "a" * 32,
            "run_span_id": "b" * 16,
            "run_folder": run_folder,
            "lock_holder": driver_id(),
            "clock_offset_ns": self.clock.offset_ns,
        }
        self.settings = RunSettings(**{**values, **settings})
        self.executor = make_executor(kind, workers)
        self.kind = kind
        self.notices: list[Notice] = []
        self._span_ids = itertools.count(1)
        self.executor.start(self.settings, self.clock)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.notices += self.executor.stop(5.0)

    def envelope(self, step: Step, **fields: Any) -> TaskEnvelope:
        now = self.clock.now_ns()
        values: dict[str, Any] = {
            "node_id": step.node_id,
            "name": step.name,
            "template": step.template,
            "fn_name": step.fn_name,
            "level": step.level,
            "attempt": 1,
            "last_attempt": True,
            "locked": False,
            "parent_span_id": "c" * 16,
            "span_id": f"{next(self._span_ids):016x}",
            "created_ns": now,
            "first_created_ns": now,
            "output_path": os.path.join(self.folder, step.node_id),
            "info": b'{"name": "x"}',
            "timeout_s": step.timeout_s,
        }
        return TaskEnvelope(**{**values, **fields})

    def submit(self, fn: Any, config: Any = None, *, name: str = "step", verify: Any = None, call_style: str = "config", **fields: Any) -> TaskEnvelope:
        step = make_step(fn, config, name=name, verify=verify, call_style=call_style)
        envelope = self.envelope(step, **fields)
        self.executor.submit(envelope, self.executor.pack(step))
        return envelope

    def poll(self) -> None:
        self.notices += self.executor.poll(0.2)

    def until(self, done: Any) -> Any:
        """Poll until `done()` gives something; fail after a deadline."""
        deadline = time.monotonic() + DEADLINE_S
        while not (found := done()):
            assert time.monotonic() < deadline, f"nothing came of it: {self.notices}"
            self.poll()
        return found

    def said(self, kind: type, **fields: Any) -> list[Any]:
        return [notice for notice in self.notices if isinstance(notice, kind) and all(getattr(notice, key) == value for key, value in fields.items())]

    def ready(self) -> None:
        if self.kind == "ray":
            return  # Ray starts worker processes when there is something for them; they introduce themselves then
        self.until(lambda: len(self.said(WorkerReady)) >= self.executor.workers)

    def report(self, name: str = "step", attempt: int = 1) -> TaskReport:
        def find() -> TaskReport | None:
            return next((n.report for n in self.said(Reported) if n.report.node_id == name and n.report.attempt == attempt), None)

        return self.until(find)

    def died(self, name: str = "step") -> WorkerDied:
        return self.until(lambda: next((n for n in self.said(WorkerDied) if any(node == name for node, _ in n.attempts)), None))

    def claimed(self, name: str = "step") -> Claimed:
        return self.until(lambda: next(iter(self.said(Claimed, node_id=name)), None))

    def file(self, name: str, node: str = "step") -> str:
        path = os.path.join(self.folder, node, name)
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()

    def has(self, name: str, node: str = "step") -> bool:
        return os.path.exists(os.path.join(self.folder, node, name))

    def spans(self) -> list[SpanRecord]:
        return list(read_spool(os.path.join(self.settings.run_folder, "spans")))


def events(rig: Rig, node: str = "step") -> list[str]:
    """Return the words of a step's status file."""
    return [event.status for event in read_events(os.path.join(rig.folder, node))]


def span_of(report: TaskReport, kind: str) -> SpanRecord:
    return next(span for span in report.spans if span.kind == kind)


def wait_for(path: str) -> None:
    """Wait until a file is there."""
    deadline = time.monotonic() + DEADLINE_S
    while not os.path.exists(path):
        assert time.monotonic() < deadline, f"{path} never came"
        time.sleep(0.005)
