"""The status of a run: status.json, declared once.

What comes in: numbers and words. What goes out: msgspec structs, as in `model.py`, whose rows of levels, workers and templates stand in it too.

Units: `*_ms` whole milliseconds; instants are ISO 8601 UTC.
"""

from __future__ import annotations

from typing import Any

import msgspec

from otel_exec.record.model import LevelRecord, TemplateRecord, WorkerRecord

__all__ = ["FailedStep", "OpenRecord", "Progress", "StatusRecord", "TaskStatus", "WaitingRecord"]


class Progress(msgspec.Struct, gc=False):
    """Counts of steps, each once; groups never count.

    `done` are those with success, cached ones included; `failed`, `skipped` (not run) and `cancelled` are apart. `retries` counts tries after a step's first.
    """

    done: int = 0
    total: int = 0
    failed: int = 0
    cached: int = 0
    skipped: int = 0
    cancelled: int = 0
    retries: int = 0


class OpenRecord(msgspec.Struct, gc=False):
    """A span that is open now, or was when an interrupted run died. `attempt` is a step's."""

    kind: str
    name: str
    node_id: str | None
    worker_id: str | None
    elapsed_ms: int
    attempt: int | None = None


class FailedStep(msgspec.Struct, gc=False):
    """A step that failed; `message` is the first line of its error's."""

    node_id: str
    name: str
    outcome: str
    type: str
    message: str
    where: str | None = None
    attempts: int = 0
    worker_id: str | None = None


class WaitingRecord(msgspec.Struct, gc=False):
    """What something waits for, in words, while it does: a step, or ("") the run itself. `elapsed_ms`: for how long, where that is known."""

    name: str
    why: str
    elapsed_ms: int | None = None


class TaskStatus(msgspec.Struct, gc=False):
    """One step in `status --json --tasks`: its TaskMetrics and its times. `state` is its outcome, `cached`, or of a step without an outcome `pending`, `running` (created; a worker has it where `elapsed_ms` is known), `interrupted` or `not run`.

    Times are those of the last attempt; `elapsed_ms` is how long a worker has had it now; the other four have their nanoseconds beside them.
    """

    task_id: str
    queue_wait_ms: int | None = None
    execution_duration_ms: int | None = None
    verification_duration_ms: int | None = None
    total_duration_ms: int | None = None
    name: str = ""
    template: str | None = None
    level: int | None = None
    state: str = "pending"
    outcome: str | None = None
    cached: bool = False
    attempts: int = 0
    worker_id: str | None = None
    scheduled_time: str | None = None
    execution_start_time: str | None = None
    execution_end_time: str | None = None
    elapsed_ms: int | None = None
    cpu_ms: int | None = None
    peak_rss_bytes: int | None = None
    error: str | None = None
    queue_ns: int | None = None
    execution_ns: int | None = None
    verification_ns: int | None = None
    total_ns: int | None = None


class StatusRecord(msgspec.Struct, gc=False):
    """status.json: small and live. `state` is an outcome of `RunRecord`; `driver`, a lock holder's id, tells readers whether the driver still lives.

    `eta_basis` says what `eta_ms` was reckoned from: `this run`, `earlier runs` or `both`. `failures` and `templates` have the first hundred.
    `waiting` has the first hundred. `duration_ns` is the record's: `null` while the run goes on. `clock_offset_ns` is the run's clock minus its host's monotonic one, as text: with it a reader on that host has the run's own present.
    `tasks` is never in the file: `status --json --tasks` adds it.
    """

    schema_version: str
    exec_id: str
    state: str
    updated_at: str
    progress: Progress
    levels: list[LevelRecord] = []
    workers: list[WorkerRecord] = []
    metrics: dict[str, Any] | None = None
    open: list[OpenRecord] = []
    eta_ms: int | None = None
    experiment: str | None = None
    driver: str | None = None
    alias: str | None = None
    eta_basis: str | None = None
    start_time: str | None = None
    failures: list[FailedStep] = []
    templates: list[TemplateRecord] = []
    clock_offset_ns: str | None = None
    duration_ns: int | None = None
    waiting: list[WaitingRecord] = []
    tasks: list[TaskStatus] | msgspec.UnsetType = msgspec.UNSET
