"""Numbers that no run comes to."""

from __future__ import annotations

from otel_exec.metrics import FeatureMetrics, LevelMetrics
from otel_exec.record.bounds import bound
from otel_exec.record.model import LevelRecord, WorkerRecord
from otel_exec.record.status_model import OpenRecord, Progress, StatusRecord


def test_numbers_that_no_run_comes_to_have_their_defaults():
    """Negative ones and those past 64 bits, in rows at any depth: null where that is the default, else 0; all others stay."""
    status = StatusRecord(
        "1.0",
        "exec_1",
        "running",
        "",
        Progress(done=-1, total=3),
        levels=[LevelRecord(2, start_ns=-5, duration_ms=-1, avg_task_duration_ms=-0.5, task_count=4)],
        workers=[WorkerRecord("0", uptime_ms=10**400, pid=-3, busy_ns=7)],
        open=[OpenRecord("step", "a", None, None, -9)],
        eta_ms=-1,
    )
    bound(status)
    assert status == StatusRecord(
        "1.0",
        "exec_1",
        "running",
        "",
        Progress(total=3),
        levels=[LevelRecord(2, task_count=4)],
        workers=[WorkerRecord("0", busy_ns=7)],
        open=[OpenRecord("step", "a", None, None, 0)],
    )


def test_so_in_metrics():
    """Dataclasses as well as structs; rows too."""
    at = FeatureMetrics.from_dict({"computed_at": "2026-11-27T14:41:14+00:00", "total_duration_ms": -4, "level_metrics": [{"level": 1, "p50_duration_ms": -4}]})
    bound(at)
    assert (at.total_duration_ms, at.level_metrics) == (None, [LevelMetrics(1)])
