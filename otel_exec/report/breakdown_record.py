"""What `otel-exec metrics` needs of a run.json, and nothing else: reading 10,000 steps so takes a fraction of the time of the whole record.

What comes in: the bytes of a run.json. What goes out: `BreakdownRecord`, whose fields are a part of `RunRecord`'s under the same names (a test holds them to it).
"""

from __future__ import annotations

import msgspec

from otel_exec.record.model import CriticalPath, ExecutorRecord, Experiment, ItemsRecord, NodeAttempt, NodeRecord, PhaseRecord, RunRecord, StepRecord, Wall

__all__ = ["AnyBreakdown", "AnyNode", "BreakdownAttempt", "BreakdownNode", "BreakdownRecord", "BreakdownStep", "BreakdownWorker"]


class BreakdownAttempt(msgspec.Struct, gc=False):
    """An attempt's durations and phases."""

    attempt: int
    outcome: str | None = None
    queue_ns: int | None = None
    execution_ns: int | None = None
    cpu_ns: int | None = None
    node_time_ns: int | None = None
    phases: dict[str, PhaseRecord] = {}


class BreakdownStep(msgspec.Struct, gc=False):
    """A step without its config and version."""

    node_id: str
    name: str
    template: str | None = None
    group: bool = False
    attempts: list[BreakdownAttempt] = []
    items: ItemsRecord | None = None
    node_time_ns: int | None = None
    phases: dict[str, PhaseRecord] = {}
    token_usage: dict[str, int] = {}


class BreakdownNode(msgspec.Struct, gc=False):
    """A node of phases that is not a step."""

    node_id: str
    name: str
    total_ns: int = 0
    phases: dict[str, PhaseRecord] = {}
    token_usage: dict[str, int] = {}
    attempts: list[NodeAttempt] = []


class BreakdownWorker(msgspec.Struct, gc=False):
    """When a worker started and was ready."""

    start_ns: int | None = None
    ready_ns: int | None = None


class BreakdownRecord(msgspec.Struct, gc=False):
    """A run."""

    schema_version: str
    exec_id: str
    outcome: str
    experiment: Experiment
    executor: ExecutorRecord
    run_folder: str
    start_time_unix_nano: str = "0"
    duration_ns: int | None = None
    steps: list[BreakdownStep] = []
    nodes: list[BreakdownNode] = []
    workers: list[BreakdownWorker] = []
    critical_path: CriticalPath | None = None
    wall: Wall | None = None
    alias: str | None = None


AnyBreakdown = RunRecord | BreakdownRecord
AnyNode = NodeRecord | BreakdownNode
AnyBreakdownStep = StepRecord | BreakdownStep
