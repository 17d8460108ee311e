"""Worker, task, level and run metrics, computed from a record.

What comes in: a `RunRecord`, finished or still running. What goes out: small dataclasses, and their JSON. Nothing here measures: a record without a time gives `None` or 0.

Units: `*_ms` whole milliseconds, truncated once from the record's nanoseconds; averages are floats of milliseconds.
"""

from __future__ import annotations

import dataclasses
import math
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Self

import msgspec

from otel_exec.aggregate.tally import Group, Tally, between_ns, counts, total_ns
from otel_exec.clock import from_iso, to_iso
from otel_exec.errors import UsageError, unknown_name
from otel_exec.record import storage
from otel_exec.record.encoding import encode
from otel_exec.record.model import TemplateRecord

if TYPE_CHECKING:
    from otel_exec.record.model import LevelRecord, RunRecord, StepRecord, WorkerRecord

__all__ = ["FeatureMetrics", "LevelMetrics", "MetricsCollector", "TaskMetrics", "WorkerMetrics", "calculate_percentile", "duration_ms", "task_metrics"]

_NS_PER_MS = 1_000_000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class _Metrics:
    """To a dict and back; what a newer writer added is passed over."""

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return {each.name: _plain(getattr(self, each.name)) for each in dataclasses.fields(self)}  # type: ignore[arg-type]  # subclasses are dataclasses

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Return the metrics that `to_dict` gave; unknown keys are ignored, missing ones have their defaults.

        Raises:
            UsageError: a key without a default is missing, or a value is of another type.
        """
        try:
            return msgspec.convert(values, cls)
        except msgspec.ValidationError as error:
            said = str(error)
            raise UsageError(f"these are no {cls.__name__}: {said[:1].lower()}{said[1:]}") from None


@dataclass
class WorkerMetrics(_Metrics):
    """A worker's times and the steps whose last attempt it ran."""

    worker_id: int | str
    initialization_ms: int | None = None
    uptime_ms: int = 0
    tasks_completed: int = 0
    tasks_failed: int = 0
    total_task_duration_ms: int = 0
    avg_task_duration_ms: float = 0.0


@dataclass
class TaskMetrics(_Metrics):
    """A step's times: those of its last attempt, and the total over all."""

    task_id: str
    queue_wait_ms: int | None = None
    execution_duration_ms: int | None = None
    verification_duration_ms: int | None = None
    total_duration_ms: int | None = None


@dataclass
class LevelMetrics(_Metrics):
    """A level's steps, each counted once; averages and percentiles are over those that this run completed."""

    level: int
    duration_ms: int | None = None
    task_count: int = 0
    completed_count: int = 0
    failed_count: int = 0
    avg_task_duration_ms: float = 0.0
    p50_duration_ms: int = 0
    p95_duration_ms: int = 0
    p99_duration_ms: int = 0


@dataclass
class FeatureMetrics(_Metrics):
    """The whole run. `attempts` counts every try at a step; `items_*` are those of all fan-outs."""

    computed_at: datetime
    total_duration_ms: int | None = None
    workers_used: int = 0
    tasks_total: int = 0
    tasks_completed: int = 0
    tasks_failed: int = 0
    levels_completed: int = 0
    worker_metrics: list[WorkerMetrics] = field(default_factory=list)
    level_metrics: list[LevelMetrics] = field(default_factory=list)
    attempts: int = 0
    items_total: int = 0
    items_completed: int = 0
    items_failed: int = 0

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Return the metrics that `to_dict` gave, nested ones included; see `WorkerMetrics.from_dict`. An instant without a time zone is UTC."""
        at = _instant(values.get("computed_at")) if isinstance(values, Mapping) else None
        return super().from_dict(values if at is None else {**values, "computed_at": at})


def duration_ms(start: datetime | str | None, end: datetime | str | None) -> int | None:
    """Return the time from start to end in whole milliseconds.

    Args:
        start: an instant, or its ISO 8601 text; a naive one is UTC.
        end: the same.

    Returns:
        `None` when either is missing or no instant, or when end is before start.
    """
    begun, ended = _instant(start), _instant(end)
    if begun is None or ended is None or ended < begun:
        return None
    return (ended - begun) // timedelta(milliseconds=1)


def calculate_percentile(values: Iterable[float], percentile: float) -> int:
    """Return a percentile by linear interpolation between closest ranks, truncated to an integer; 0 for no values.

    Raises:
        UsageError: the percentile is not between 0 and 100, or a value is no finite number.

    Source: Hyndman and Fan, "Sample Quantiles in Statistical Packages" (1996), definition 7.
    """
    if not isinstance(percentile, int | float) or not 0 <= percentile <= 100:
        raise UsageError("a percentile is a number between 0 and 100")
    known = list(values)
    for index, value in enumerate(known):
        try:
            finite = math.isfinite(value)
        except (TypeError, ValueError, OverflowError):
            finite = False
        if not finite:
            raise UsageError(f"values[{index}] is no finite number, so there is no percentile")
    return _percentile(sorted(known), percentile)


def _percentile(ordered: Sequence[float], percentile: float) -> int:
    if not ordered:
        return 0
    # Hundredths of a rank: exact for whole percentiles and integer values, where a float rank would lose the last digit.
    rank, rest = divmod(percentile * (len(ordered) - 1), 100)
    low = ordered[int(rank)]
    if not rest:
        return int(low)
    step = (ordered[int(rank) + 1] - low) * rest
    return int(low + (step // 100 if isinstance(step, int) else step / 100))


class MetricsCollector:
    """Computes metrics over one record, as it is now: after the record changed, make another.

    Args:
        record: the run.
        now_ns: the present instant, nanoseconds since the Unix epoch; the wall clock's where it is not given. One that no calendar holds raises `UsageError`.
        tally: the sums of the record's steps, where somebody kept them as they came.
        items: how many items of fan-outs there were, completed and failed, where somebody knows better than the record.
    """

    def __init__(self, record: RunRecord, *, now_ns: int | None = None, tally: Tally | None = None, items: tuple[int, int, int] | None = None) -> None:
        self._record = record
        self._now_ns = time.time_ns() if now_ns is None else now_ns
        if to_iso(self._now_ns) is None:
            raise UsageError("now_ns is no instant: it is in nanoseconds since the Unix epoch, between the years 1 and 9999")
        self._tally = Tally(record.steps) if tally is None else tally
        self._items = items

    def compute_worker_metrics(self, worker_id: int | str) -> WorkerMetrics:
        """Return a worker's metrics; raises `UsageError` for a worker that the record doesn't know."""
        for worker in self._record.workers:
            if worker.worker_id == str(worker_id):
                return self._worker(worker)
        raise UsageError(unknown_name("worker", str(worker_id), (worker.worker_id for worker in self._record.workers)))

    def compute_task_metrics(self, task_id: str) -> TaskMetrics:
        """Return a step's metrics by its node id; raises `UsageError` for a step that the record doesn't know."""
        for step in self._record.steps:
            if step.node_id == task_id:
                return task_metrics(step)
        raise UsageError(unknown_name("step", task_id, (step.node_id for step in self._record.steps)))

    def compute_level_metrics(self, level: int | str) -> LevelMetrics:
        """Return a level's metrics (1 is first); raises `UsageError` for a level that the record doesn't know."""
        for found in self._record.levels:
            if str(found.level) == str(level):
                return self._level(found)
        raise UsageError(unknown_name("level", str(level), (str(found.level) for found in self._record.levels)))

    def compute_feature_metrics(self) -> FeatureMetrics:
        """Return the whole run's metrics; `worker_metrics` and `level_metrics` are in the order of the record's workers and levels."""
        record, tally = self._record, self._tally
        items = self._items or _items(record)
        return FeatureMetrics(
            computed_at=_EPOCH + timedelta(microseconds=self._now_ns // 1000),
            total_duration_ms=self._total_ms(),
            workers_used=tally.workers_used,
            tasks_total=tally.all.task_count,
            tasks_completed=tally.all.completed,
            tasks_failed=tally.all.failed,
            levels_completed=sum((group := self._of_level(level)).closed == group.members for level in record.levels),
            worker_metrics=[self._worker(worker) for worker in record.workers],
            level_metrics=[self._level(level) for level in record.levels],
            attempts=tally.attempts,
            items_total=items[0],
            items_completed=items[1],
            items_failed=items[2],
        )

    def template_records(self, most: int | None = None) -> list[TemplateRecord]:
        """Return the numbers of each kind of step, those with most work first, `most` of them; percentiles are null where nothing was completed."""
        groups = [(-group.completed_ns, template, group) for template, group in self._tally.templates.items() if group.task_count]
        groups.sort(key=lambda row: row[:2])
        return [
            TemplateRecord(
                template=template,
                task_count=group.task_count,
                completed_count=group.completed,
                failed_count=group.failed,
                sample_count=len(ran := group.samples),
                total_ns=group.completed_ns,
                min_ns=ran[0] if ran else None,
                max_ns=ran[-1] if ran else None,
                p50_ns=_percentile(ran, 50) if ran else None,
                p95_ns=_percentile(ran, 95) if ran else None,
                p99_ns=_percentile(ran, 99) if ran else None,
            )
            for _, template, group in groups[:most]
        ]

    def fill(self, record: RunRecord, *, templates: int | None = None) -> None:
        """Put the numbers into the record: into the rows of its levels and workers, its templates (as many as are wanted), and those of the whole run."""
        metrics = self.compute_feature_metrics()
        for level, numbers in zip(record.levels, metrics.level_metrics, strict=True):
            for key, value in numbers.to_dict().items():
                setattr(level, key, value)
            group = self._of_level(level)
            ran = group.samples
            level.settled_count, level.sample_count = group.settled, len(ran)
            level.p50_ns, level.p95_ns, level.p99_ns = (_percentile(ran, each) if ran else None for each in (50, 95, 99))
        for worker, worker_numbers in zip(record.workers, metrics.worker_metrics, strict=True):
            for key, value in worker_numbers.to_dict().items():
                if key != "worker_id":
                    setattr(worker, key, value)
            ran = self._of_worker(worker).samples
            worker.sample_count = len(ran)
            worker.p50_ns, worker.p95_ns, worker.p99_ns = (_percentile(ran, each) if ran else None for each in (50, 95, 99))
            worker.p50_duration_ms, worker.p95_duration_ms, worker.p99_duration_ms = (
                (each or 0) // _NS_PER_MS for each in (worker.p50_ns, worker.p95_ns, worker.p99_ns)
            )
        record.templates = self.template_records(templates)
        record.metrics = metrics.to_dict()

    def export_json(self, path: str | os.PathLike[str]) -> None:
        """Write the run's metrics and every step's to a file, whole and atomically.

        The JSON object is `FeatureMetrics.to_dict()` with `exec_id` and `task_metrics` beside it.

        Raises:
            RecordError: the file can't be written.
            UsageError: the path is none.
        """
        path = os.fspath(path)
        if not path or "\0" in path:
            raise UsageError(f"{path!r} is no path: the metrics are written to a file")
        tasks = [task_metrics(step).to_dict() for step in self._record.steps if not step.group]
        content = {"exec_id": self._record.exec_id, **self.compute_feature_metrics().to_dict(), "task_metrics": tasks}
        try:
            storage.write_through(path, encode(content) + b"\n")
        except OSError as error:
            raise storage.refused(path, "written", error) from error

    def _of_level(self, level: LevelRecord) -> Group:
        return self._tally.levels.get(level.level) or Group()

    def _of_worker(self, worker: WorkerRecord) -> Group:
        return self._tally.workers.get(worker.worker_id) or Group()

    def _worker(self, worker: WorkerRecord) -> WorkerMetrics:
        group = self._of_worker(worker)
        return WorkerMetrics(
            worker_id=worker.worker_id,
            initialization_ms=_ms(_ready_in_ns(worker)),
            uptime_ms=_ms(self._up_ns(worker)) or 0,
            tasks_completed=group.completed,
            tasks_failed=group.failed,
            total_task_duration_ms=self._tally.worker_total_ns(worker.worker_id) // _NS_PER_MS,
            avg_task_duration_ms=_average_ms(group),
        )

    def _level(self, level: LevelRecord) -> LevelMetrics:
        group = self._of_level(level)
        ran = group.samples
        return LevelMetrics(
            level=level.level,
            duration_ms=_ms(between_ns(level.start_ns, level.end_ns)),
            task_count=group.task_count,
            completed_count=group.completed,
            failed_count=group.failed,
            avg_task_duration_ms=_average_ms(group),
            p50_duration_ms=_percentile(ran, 50) // _NS_PER_MS,
            p95_duration_ms=_percentile(ran, 95) // _NS_PER_MS,
            p99_duration_ms=_percentile(ran, 99) // _NS_PER_MS,
        )

    def _up_ns(self, worker: WorkerRecord) -> int | None:
        """Return how long a worker was there: until it stopped, the run's end at the latest, and until now while the run goes on."""
        if worker.start_ns is not None and worker.end_ns is not None:
            return between_ns(worker.start_ns, worker.end_ns)
        started, stopped, began = from_iso(worker.started_at), from_iso(worker.stopped_at), _began_ns(self._record)
        if began is not None and worker.start_ns is not None:
            started = began + worker.start_ns
        if stopped is None:
            over = began is not None and self._record.duration_ns is not None
            stopped = (began or 0) + (self._record.duration_ns or 0) if over else self._now_ns
        return between_ns(started, stopped)

    def _total_ms(self) -> int | None:
        if self._record.duration_ns is not None:
            return _ms(max(self._record.duration_ns, 0))
        if self._record.outcome != "running":
            return None
        return _ms(between_ns(_began_ns(self._record), self._now_ns))


def _items(record: RunRecord) -> tuple[int, int, int]:
    """Return how many items the record's fan-outs had, completed and failed."""
    items = [step.items for step in record.steps if step.items is not None and counts(step)]
    return sum(each.count for each in items), sum(each.completed for each in items), sum(each.failed for each in items)


def task_metrics(step: StepRecord) -> TaskMetrics:
    """Return a step's metrics."""
    last = step.attempts[-1] if step.attempts else None
    if last is None:
        return TaskMetrics(step.node_id)
    verification = last.verification_ns
    return TaskMetrics(
        task_id=step.node_id,
        queue_wait_ms=_ms(between_ns(last.created_ns, last.claimed_ns)),
        execution_duration_ms=_ms(between_ns(last.start_ns, last.end_ns)),
        verification_duration_ms=None if verification is None or verification < 0 else _ms(verification),
        total_duration_ms=_ms(total_ns(step)),
    )


def _ready_in_ns(worker: WorkerRecord) -> int | None:
    """Return how long a worker took to be ready; of a record without nanoseconds, to the microsecond."""
    if worker.start_ns is not None and worker.ready_ns is not None:
        return between_ns(worker.start_ns, worker.ready_ns)
    return between_ns(from_iso(worker.started_at), from_iso(worker.ready_at))


def _ms(duration_ns: int | None) -> int | None:
    return None if duration_ns is None else duration_ns // _NS_PER_MS


def _average_ms(group: Group) -> float:
    return group.completed_ns / len(group.samples) / _NS_PER_MS if group.samples else 0.0


def _began_ns(record: RunRecord) -> int | None:
    """Return when the run began, to the nanosecond where the record tells."""
    text = record.start_time_unix_nano
    began = int(text) if text.isascii() and text.isdecimal() and len(text) <= 19 else 0
    return began or from_iso(record.start_time)


def _instant(value: object) -> datetime | None:
    """Return an aware datetime; `None` for what is no instant."""
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value)
        except ValueError:
            return None
    if not isinstance(value, datetime):
        return None
    return value if value.utcoffset() is not None else value.replace(tzinfo=UTC)


def _plain(value: object) -> Any:
    """Return a field's value as JSON has it."""
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, _Metrics):
        return value.to_dict()
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
