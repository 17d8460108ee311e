"""What the summary needs of a run.json, and nothing else: reading 10,000 steps so takes a fraction of the time of the whole record.

What comes in: the bytes of a run.json. What goes out: `SummaryRecord`, whose fields are a part of `RunRecord`'s under the same names (a test holds them to it).
"""

from __future__ import annotations

import msgspec

from otel_exec.record.model import (
    CriticalPath,
    EarlierRun,
    ExecutorRecord,
    Experiment,
    Export,
    GateRecord,
    ItemsRecord,
    RecordWarning,
    RunRecord,
    StepRecord,
    Wall,
)

__all__ = ["AnyRecord", "AnyStep", "RunLine", "SummaryRecord", "SummaryStep"]


class SummaryPhase(msgspec.Struct, gc=False):
    """A phase's sums."""

    count: int = 0
    total_ns: int = 0
    self_ns: int = 0
    share_ns: int = 0
    max_ns: int | None = None
    errors: int = 0


class SummaryError(msgspec.Struct, gc=False):
    """An error without its traceback."""

    type: str
    message: str
    where: str | None = None
    log: str | None = None


class SummaryCachedFrom(msgspec.Struct, gc=False):
    """The run that made a cached step's output, and how long it took there."""

    exec_id: str | None = None
    trace_id: str | None = None
    duration_seconds: float | None = None


class SummaryAttempt(msgspec.Struct, gc=False):
    """An attempt's durations."""

    attempt: int
    worker_id: str | None = None
    outcome: str | None = None
    claimed_ns: int | None = None
    start_ns: int | None = None
    wait_ns: int | None = None
    queue_ns: int | None = None
    load_ns: int | None = None
    execution_ns: int | None = None
    verification_ns: int | None = None
    store_ns: int | None = None
    backoff_ns: int | None = None
    cpu_ns: int | None = None
    peak_rss_bytes: int | None = None


# gc=False: a record is a tree and lives as long as its reader; without it the collector walks 10,000 steps again and again.
class SummaryStep(msgspec.Struct, gc=False):
    """A step without its config and version."""

    node_id: str
    name: str
    level: int | None = None
    group: bool = False
    output_path: str | None = None
    outcome: str | None = None
    reason: str | None = None
    cached: bool = False
    cached_from: SummaryCachedFrom | None = None
    start_ns: int | None = None
    end_ns: int | None = None
    attempts: list[SummaryAttempt] = []
    items: ItemsRecord | None = None
    node_time_ns: int | None = None
    phases: dict[str, SummaryPhase] = {}
    error: SummaryError | None = None


class SummaryNode(msgspec.Struct):
    """A node of phases that is not a step."""

    node_id: str
    name: str
    total_ns: int = 0
    phases: dict[str, SummaryPhase] = {}


class SummaryWorker(msgspec.Struct):
    """A worker: when it was there and how long it worked."""

    worker_id: str
    host: str | None = None
    busy_ns: int = 0
    started_at: str | None = None
    stopped_at: str | None = None
    initialization_ms: int | None = None
    start_ns: int | None = None
    ready_ns: int | None = None
    tasks_completed: int = 0
    tasks_failed: int = 0
    died: str | None = None


class SummaryRecord(msgspec.Struct):
    """A run."""

    schema_version: str
    exec_id: str
    trace_id: str
    outcome: str
    experiment: Experiment
    executor: ExecutorRecord
    prefix: str
    run_folder: str
    start_time: str
    end_time: str | None = None
    start_time_unix_nano: str = "0"
    duration_ns: int | None = None
    steps: list[SummaryStep] = []
    nodes: list[SummaryNode] = []
    workers: list[SummaryWorker] = []
    gates: list[GateRecord] = []
    critical_path: CriticalPath | None = None
    wall: Wall | None = None
    export: Export | None = None
    resumed_from: EarlierRun | None = None
    warnings: list[RecordWarning] = []
    alias: str | None = None


class RunLine(msgspec.Struct):
    """What a list of runs says of one."""

    schema_version: str
    exec_id: str
    outcome: str
    experiment: Experiment
    run_folder: str
    start_time: str
    duration_ns: int | None = None


AnyRecord = RunRecord | SummaryRecord
AnyStep = StepRecord | SummaryStep
