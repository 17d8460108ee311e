"""The record of a run: run.json and its kin, declared once.

What comes in: numbers and words. What goes out: msgspec structs; the JSON Schemas beside this file are generated from them (`python -m otel_exec.record.schema`).
Keys are promises: they stay, new ones may come. Every key is written, `null` where nothing is known. Readers pass over keys that they don't know;
nothing rewrites a file from what it read of it, so none is lost: a run's record is always made whole, from its plan, journal and spans.

Units: `*_ns` integer nanoseconds; instants `*_ns` count from the run's start (`start_time_unix_nano`, a string of nanoseconds since the Unix epoch);
`*_time` and `*_at` are ISO 8601 UTC with microseconds; `*_seconds` floats; `*_ms` milliseconds; `*_bytes` bytes.
"""

from __future__ import annotations

from typing import Any

import msgspec

__all__ = ["EXECUTION", "SCHEMA_VERSION", "RunRecord", "TemplateRecord"]

SCHEMA_VERSION = "1.0"
# The executor's kind of a run without steps, whose one task is the program's own block.
EXECUTION = "execution"


class RecordedError(msgspec.Struct, gc=False):
    """An error: `type` is `error.type`, `where` the user's `file:line`, `traceback` the user's own frames, `log` the step's `.executor_log`."""

    type: str
    message: str
    where: str | None = None
    traceback: str | None = None
    log: str | None = None


class PhaseRecord(msgspec.Struct, gc=False):
    """One phase's numbers over all attempts and items of a step (or node). Percentiles are over occurrences."""

    count: int = 0
    total_ns: int = 0
    union_ns: int = 0
    self_ns: int = 0
    share_ns: int = 0
    min_ns: int | None = None
    max_ns: int | None = None
    p50_ns: int | None = None
    p95_ns: int | None = None
    p99_ns: int | None = None
    errors: int = 0


class CachedFrom(msgspec.Struct, gc=False):
    """The run that made a cached step's output, and the times it had there (`null` where its files don't tell)."""

    exec_id: str | None = None
    trace_id: str | None = None
    span_id: str | None = None
    scheduled_time: str | None = None
    execution_start_time: str | None = None
    execution_end_time: str | None = None
    duration_seconds: float | None = None
    total_duration_seconds: float | None = None


class AttemptRecord(msgspec.Struct, gc=False):
    """One try at a step. `start_ns` and `end_ns` are the task span's, started to completed; the other instants as in docs/concepts.md."""

    attempt: int
    worker_id: str | None = None
    outcome: str | None = None
    created_ns: int | None = None
    claimed_ns: int | None = None
    settled_ns: int | None = None
    start_ns: int | None = None
    end_ns: int | None = None
    span_id: str | None = None
    wait_ns: int | None = None
    queue_ns: int | None = None
    load_ns: int | None = None
    execution_ns: int | None = None
    verification_ns: int | None = None
    store_ns: int | None = None
    backoff_ns: int | None = None
    cpu_ns: int | None = None
    peak_rss_bytes: int | None = None
    node_time_ns: int | None = None
    phases: dict[str, PhaseRecord] = {}
    error: RecordedError | None = None


class ItemsRecord(msgspec.Struct, gc=False):
    """A step's fan-outs, folded."""

    count: int = 0
    completed: int = 0
    failed: int = 0
    cancelled: int = 0
    attempts: int = 0
    busy_ns: int = 0
    p50_ns: int | None = None
    p95_ns: int | None = None
    p99_ns: int | None = None


class StepRecord(msgspec.Struct, gc=False):
    """A step of the run. `status` is the word in its status file, `outcome` ours (`null` while it is open). `start_ns` to `end_ns` is the step span: created to settled.

    `node_time_ns`: the sum of its tasks and items, all attempts, each less its waiting in `map_tasks`; the shares of `phases` and what no phase covered add up to it.
    `token_usage`: the numbers that its phases gave as `tokens`, `input_tokens` and `output_tokens`, summed over all attempts.
    `span_id` is the step span's. `reason` says why a step was not run.
    """

    node_id: str
    name: str
    fn_name: str | None = None
    template: str | None = None
    level: int | None = None
    description: str | None = None
    config: Any = None
    version: Any = None
    dependencies: list[str] = []
    output_path: str | None = None
    override_output_path: str | None = None
    group: bool = False
    depends_on: list[str] = []
    pseudo_depends_on: list[str] = []
    status: str | None = None
    outcome: str | None = None
    reason: str | None = None
    cached: bool = False
    cached_from: CachedFrom | None = None
    scheduled_time: str | None = None
    execution_start_time: str | None = None
    execution_end_time: str | None = None
    duration_seconds: float | None = None
    total_duration_seconds: float | None = None
    start_ns: int | None = None
    end_ns: int | None = None
    span_id: str | None = None
    attempts: list[AttemptRecord] = []
    items: ItemsRecord | None = None
    node_time_ns: int | None = None
    phases: dict[str, PhaseRecord] = {}
    token_usage: dict[str, int] = {}
    error: RecordedError | None = None


class NodeAttempt(msgspec.Struct, gc=False):
    """What a node had of one attempt at a step, its items' with it: `node_id` is the step's."""

    node_id: str
    attempt: int
    total_ns: int = 0
    phases: dict[str, PhaseRecord] = {}


class NodeRecord(msgspec.Struct, gc=False):
    """A node id of phases that is not a step. `total_ns` is the union of its phases in each task, summed; an execution's own node has the time of the execution."""

    node_id: str
    name: str
    total_ns: int = 0
    phases: dict[str, PhaseRecord] = {}
    token_usage: dict[str, int] = {}
    attempts: list[NodeAttempt] = []


class LevelRecord(msgspec.Struct, gc=False):
    """A topological generation: its span and its LevelMetrics. `start_ns` is known from its first step on, `end_ns` once all have settled.

    `settled_count` counts the steps that have come to anything, `sample_count` those that averages and percentiles are over; the latter to the nanosecond
    are `p50_ns` to `p99_ns`, `null` without samples.
    """

    level: int
    start_ns: int | None = None
    end_ns: int | None = None
    span_id: str | None = None
    duration_ms: int | None = None
    task_count: int = 0
    completed_count: int = 0
    failed_count: int = 0
    avg_task_duration_ms: float = 0.0
    p50_duration_ms: int = 0
    p95_duration_ms: int = 0
    p99_duration_ms: int = 0
    settled_count: int = 0
    sample_count: int = 0
    p50_ns: int | None = None
    p95_ns: int | None = None
    p99_ns: int | None = None


class WorkerRecord(msgspec.Struct, gc=False):
    """A worker: where it was and its WorkerMetrics. `busy_ns` is the union of its task and item spans.

    `start_ns`, `ready_ns` and `end_ns` are `started_at`, `ready_at` and `stopped_at` to the nanosecond. Percentiles, as the average, are over the `sample_count` steps that it completed; to the nanosecond as of levels.
    """

    worker_id: str
    pid: int | None = None
    host: str | None = None
    node: str | None = None
    busy_ns: int = 0
    started_at: str | None = None
    ready_at: str | None = None
    stopped_at: str | None = None
    last_task_completed_at: str | None = None
    initialization_ms: int | None = None
    uptime_ms: int = 0
    tasks_completed: int = 0
    tasks_failed: int = 0
    total_task_duration_ms: int = 0
    avg_task_duration_ms: float = 0.0
    died: str | None = None
    p50_duration_ms: int = 0
    p95_duration_ms: int = 0
    p99_duration_ms: int = 0
    sample_count: int = 0
    start_ns: int | None = None
    ready_ns: int | None = None
    end_ns: int | None = None
    p50_ns: int | None = None
    p95_ns: int | None = None
    p99_ns: int | None = None


class TemplateRecord(msgspec.Struct, gc=False):
    """The steps of one kind: those that were made from one name template. Times are of completed steps' last attempts, `sample_count` of them; cached steps have none.

    Averages and percentiles are exact: the record has every step.
    """

    template: str
    task_count: int = 0
    completed_count: int = 0
    failed_count: int = 0
    sample_count: int = 0
    total_ns: int = 0
    min_ns: int | None = None
    max_ns: int | None = None
    p50_ns: int | None = None
    p95_ns: int | None = None
    p99_ns: int | None = None


class GateRecord(msgspec.Struct, gc=False):
    """A gate that was run after `level`; `output` is the tail of what it printed."""

    name: str
    level: int
    outcome: str
    start_ns: int
    end_ns: int
    span_id: str | None = None
    output: str | None = None


class CriticalPath(msgspec.Struct, gc=False):
    """The heaviest chain over blocking edges, and every step's slack."""

    steps: list[str] = []
    duration_ns: int = 0
    slack_ns: dict[str, int] = {}


class Wall(msgspec.Struct, gc=False):
    """Where the wall time went: the parts add up to the run's `duration_ns`."""

    executing_ns: int = 0
    verifying_ns: int = 0
    storing_ns: int = 0
    loading_ns: int = 0
    worker_startup_ns: int = 0
    queued_ns: int = 0
    waiting_ns: int = 0
    backoff_ns: int = 0
    gates_ns: int = 0
    driver_ns: int = 0


class MetricsExport(msgspec.Struct, gc=False):
    """What was exported of the run's metrics, in data points. `note`: one sentence on why not all of them were taken, `null` where they were."""

    endpoint: str
    protocol: str
    points: int = 0
    points_acknowledged: int = 0
    points_rejected: int = 0
    note: str | None = None


class Export(msgspec.Struct, gc=False):
    """What was exported, as known when written; `export.json` in the run's folder is newer. `endpoint` has no secrets in it.

    `spans_rejected` were refused for good; what is neither that nor acknowledged is in the spool. `metrics`: `null` where none were to go out.
    """

    endpoint: str | None = None
    protocol: str | None = None
    spans: int = 0
    spans_acknowledged: int = 0
    spans_rejected: int = 0
    metrics: MetricsExport | None = None


class RecordWarning(msgspec.Struct, gc=False):
    """Something the user should know; said once, counted."""

    code: str
    message: str
    count: int = 1


class Experiment(msgspec.Struct, gc=False):
    """What was run."""

    name: str
    description: str | None = None
    script: str | None = None
    argv: list[str] = []


class ExecutorRecord(msgspec.Struct, gc=False):
    """What ran it. `startup_ns`: how long the run waited, from its start on, until attempts could be handed over: for a cluster to start or to answer. `null` where nothing was started."""

    kind: str
    workers: int
    max_concurrent: int | None = None
    barrier: bool = False
    startup_ns: int | None = None


class EarlierRun(msgspec.Struct, gc=False):
    """A run that this one goes on from."""

    exec_id: str
    trace_id: str | None = None


class RunRecord(msgspec.Struct, gc=False):
    """A whole run. `outcome`: success, failure, timeout, cancellation, interrupted or running. `alias`: the id that an `execution` was given by its caller."""

    schema_version: str
    exec_id: str
    trace_id: str
    root_span_id: str
    outcome: str
    experiment: Experiment
    executor: ExecutorRecord
    prefix: str
    run_folder: str
    start_time: str
    end_time: str | None = None
    start_time_unix_nano: str = "0"
    duration_ns: int | None = None
    steps: list[StepRecord] = []
    nodes: list[NodeRecord] = []
    levels: list[LevelRecord] = []
    workers: list[WorkerRecord] = []
    gates: list[GateRecord] = []
    templates: list[TemplateRecord] = []
    metrics: dict[str, Any] | None = None
    critical_path: CriticalPath | None = None
    wall: Wall | None = None
    export: Export | None = None
    resumed_from: EarlierRun | None = None
    warnings: list[RecordWarning] = []
    environment: dict[str, Any] = {}
    config: dict[str, Any] = {}
    alias: str | None = None
