"""A status as text: the promised picture, at any width, of any names."""

from __future__ import annotations

import msgspec
import pytest

from otel_exec.record.model import LevelRecord, WorkerRecord
from otel_exec.record.status_model import FailedStep, OpenRecord, Progress, StatusRecord, TaskStatus, WaitingRecord
from otel_exec.report.look import ASCII, UNICODE, Look
from otel_exec.report.status import Wanted, change_line, status_lines, status_text
from otel_exec.report.text_safety import display_width

S = 1_000_000_000


def status(**more) -> StatusRecord:
    values = {
        "schema_version": "1.0",
        "exec_id": "exec_1",
        "experiment": "demo",
        "state": "running",
        "updated_at": "2026-11-27T14:45:00.000000+00:00",
        "progress": Progress(6, 10),
        "levels": [
            LevelRecord(1, 0, 135 * S, "a", 135_000, 4, 4, 0, 34_000.4, 30_000, 58_000, 59_000, 4, 4),
            LevelRecord(2, 136 * S, task_count=5, completed_count=2, settled_count=2),
            LevelRecord(3, task_count=1),
        ],
        "workers": [
            WorkerRecord(str(number), initialization_ms=init, tasks_completed=2, avg_task_duration_ms=avg, uptime_ms=up, sample_count=2)
            for number, (init, avg, up) in enumerate([(1200, 40_000.0, 225_000), (1100, 38_000.0, 225_000), (1300, 35_000.0, 224_000)])
        ],
        "metrics": {"total_duration_ms": 226_000},
    }
    return StatusRecord(**{**values, **more})


PICTURE = """\
otel-exec status: demo
══════════════════════

Progress: ████████████░░░░░░░░ 60% (6/10 tasks)

Level Status:
  Level 1: ✓ DONE    2m15s (4 tasks, avg=34s, p95=58s)
  Level 2: RUNNING   1m30s (2/5 tasks)
  Level 3: PENDING

Worker Metrics:
┌────────┬───────┬───────┬────────┬───────────┐
│ Worker │ Init  │ Tasks │ Avg    │ Uptime    │
├────────┼───────┼───────┼────────┼───────────┤
│ 0      │ 1.2s  │ 2     │ 40s    │ 3m45s     │
│ 1      │ 1.1s  │ 2     │ 38s    │ 3m45s     │
│ 2      │ 1.3s  │ 2     │ 35s    │ 3m44s     │
└────────┴───────┴───────┴────────┴───────────┘

Total: 3m46s | Workers: 3 | Tasks: 6/10
"""


def test_it_is_the_promised_picture():
    """Heading, progress, levels, workers, total, as promised."""
    assert status_text(status(), Look(80, signs=UNICODE), Wanted()) == PICTURE


OPEN = [
    OpenRecord("step", "train/big", "train/big-1", "1", 12_000, 2),
    OpenRecord("phase", "llm_call", "train/big-1", "1", 3_200),
    OpenRecord("task", "task shard", "train/big-1", "0", 1_000),
    OpenRecord("gate", "check.sh", None, None, 512),
]


def test_what_runs_is_named_with_its_phase_its_worker_and_its_elapsed_time():
    """Under a step, what is open in it; what another worker does for it says so; a gate is open by itself."""
    lines = status_lines(status(open=OPEN), Look(80), Wanted())
    at = lines.index("Running:")
    assert lines[at : at + 5] == [
        "Running:",
        "     12s  train/big on worker 1 (attempt 2)",
        "      3.2s  -> llm_call",
        "      1.0s  -> task shard on worker 0",
        "   512ms  gate check.sh",
    ]


def test_an_eta_says_what_it_rests_on_and_is_not_told_without():
    """In words; nothing where there is none, nor of what is overdue, nor of a run that is over."""
    told = [
        [line for line in status_lines(status(**more), Look(80), Wanted()) if "ETA" in line]
        for more in (
            {"eta_ms": 90_000, "eta_basis": "earlier runs"},
            {"eta_ms": 90_000, "eta_basis": "both"},
            {},
            {"eta_ms": 0, "eta_basis": "both"},
            {"eta_ms": 90_000, "state": "interrupted"},
        )
    ]
    assert told == [["ETA: 1m30s (from earlier runs)"], ["ETA: 1m30s (from this run and earlier ones)"], [], [], []]


def test_failures_have_their_first_line():
    """What failed, after how many tries, and the first line of why."""
    failures = [FailedStep("a-1", "a", "failure", "ValueError", "no luck", attempts=3), FailedStep("b-1", "b", "timeout", "timeout", "it took over 5 s")]
    lines = status_lines(status(failures=failures, progress=Progress(3, 10, failed=9, retries=2)), Look(80), Wanted())
    at = lines.index("Failures:")
    assert lines[at : at + 4] == ["Failures:", "  x a after 3 attempts: ValueError: no luck", "  x b: it took over 5 s", "  ... and 7 more"]
    assert "Progress: ######.............. 30% (3/10 tasks, 9 failed, 2 retries)" in lines


def test_a_run_that_died_says_so():
    """Interrupted, since when, and what was open."""
    lines = status_lines(status(state="interrupted", open=OPEN[:1]), Look(100), Wanted())
    assert "State: interrupted. Its driver is gone; the last sign of life was at 2026-11-27 14:45:00 UTC." in lines
    assert "Open when it died:" in lines
    assert any("Level 2: INTERRUPTED" in line for line in lines)


@pytest.mark.parametrize(
    ("level", "said"),
    [
        (LevelRecord(1, 0, S, "a", 1000, 4, 3, 1, 10.0, 10, 10, 10, 4, 3), "x FAILED  1.0s (4 tasks, 1 failed, avg=10ms, p95=10ms)"),
        (LevelRecord(1, 0, S, "a", 1000, 4, 3, 0, 10.0, 10, 10, 10, 4, 3), "CUT SHORT 1.0s (4 tasks, 1 cut short or not run, avg=10ms, p95=10ms)"),
        (LevelRecord(1, 0, S, "a", 1000, 4, 0, 0, settled_count=4), "CUT SHORT 1.0s (4 tasks, 4 cut short or not run)"),
        (LevelRecord(1, 0, 0, "a", 0, 4, 0, 0, settled_count=4), "NOT RUN   (4 tasks, 4 not run)"),
        (LevelRecord(1, 0, 0, "a", 0, 1, 1, 0, settled_count=1), "+ DONE    0ms (1 task)"),
        (LevelRecord(1, task_count=2), "PENDING"),
        (LevelRecord(1, 500 * S, task_count=2), "RUNNING   0ms (0/2 tasks)"),
    ],
)
def test_a_level_says_what_became_of_it(level, said):
    """Done, failed, cut short, not run, pending, running; a level that begins after what is known of the run has run for no time, not for less."""
    assert f"  Level 1: {said}" in status_lines(status(levels=[level]), Look(80), Wanted())


def test_one_level_alone_has_percentiles_and_tasks():
    """`--level`: its line, its percentiles with how many samples, its tasks."""
    one = status()
    one.levels = one.levels[:1]
    one.tasks = [TaskStatus("a-1", 5, 512, None, 600, "a", level=1, state="success", attempts=1, worker_id="0", cpu_ms=30, peak_rss_bytes=2**25)]
    text = status_text(one, Look(100), Wanted(level=1))
    assert "p50=30s, p95=58s, p99=59s of 4 completed tasks" in text
    assert [line.split() for line in text.splitlines() if line.startswith("  a ")] == [
        ["a", "1", "success", "1", "0", "5.0ms", "512ms", "600ms", "30ms", "32M"]
    ]


def test_all_workers_have_what_they_do():
    """`--workers`: what each does now, how busy it was, where it is."""
    workers = [
        WorkerRecord(
            "0", pid=11, host="h", busy_ns=5 * S, uptime_ms=10_000, tasks_completed=1, tasks_failed=1, sample_count=1, p95_duration_ms=40, ready_at="x"
        ),
        WorkerRecord("1", uptime_ms=0, died="signal 9"),
        WorkerRecord("2", stopped_at="2026-11-27T14:45:00+00:00"),
        WorkerRecord("3"),
    ]
    lines = status_lines(status(workers=workers, open=[OpenRecord("step", "train", "t-1", "0", 1)]), Look(120), Wanted(workers=True))
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("| ")]
    assert rows[0] == ["Worker", "Init", "Tasks", "Avg", "Uptime", "Failed", "p95", "Busy", "Now", "Pid", "Host"]
    assert rows[1] == ["0", "-", "2", "0ms", "10s", "1", "40ms", "50%", "train", "11", "h"]
    assert [row[8] for row in rows[2:]] == ["died", "stopped", "starting"]


HOSTILE = "x\x1b[2J\n\u202ecba<b>日本語🚀" * 3


def hostile() -> StatusRecord:
    return status(
        experiment=HOSTILE,
        state="running",
        progress=Progress(6, 10, 1, 1, 1, 1, 1_000_000),
        open=[OpenRecord("step", HOSTILE, HOSTILE, HOSTILE, 10**15, 2), OpenRecord("phase", HOSTILE, HOSTILE, HOSTILE, 0)] * 30,
        failures=[FailedStep("a", HOSTILE, "failure", HOSTILE, HOSTILE, attempts=2)] * 30,
        waiting=[WaitingRecord(HOSTILE, HOSTILE)] * 30,
        workers=[WorkerRecord(HOSTILE, host=HOSTILE, died=HOSTILE)] * 30,
        levels=[LevelRecord(number, 0, None, task_count=10**6, completed_count=1) for number in range(1, 200)],
        eta_ms=10**12,
        eta_basis="both",
        tasks=[TaskStatus(HOSTILE, name=HOSTILE, state=HOSTILE, error=HOSTILE, worker_id=HOSTILE, attempts=10**6)] * 30,
    )


@pytest.mark.parametrize("width", [20, 33, 80, 200])
@pytest.mark.parametrize("signs", [UNICODE, ASCII])
@pytest.mark.parametrize("state", ["running", "interrupted", "success", "failure", "timeout", "cancellation"])
def test_it_fits_any_width_whatever_the_names_hold(width, signs, state):
    """No line is wider than asked for, and none holds anything that a terminal obeys."""
    one = msgspec.structs.replace(hostile(), state=state)
    for wanted in (Wanted(), Wanted(tasks=True, workers=True), Wanted(level=3)):
        for line in status_lines(one, Look(width, "utf-8", signs), wanted):
            assert display_width(line) <= width, line
            assert line.isprintable()
    assert all(line.isascii() for line in status_lines(one, Look(width, "ascii", ASCII), Wanted(tasks=True)))
    assert change_line(one, Look(width)).isprintable()


@pytest.mark.parametrize("height", [5, 10, 24, 50])
def test_it_fits_a_terminals_height(height):
    """Lists are shortened first; what is left is cut."""
    assert len(status_lines(hostile(), Look(80), Wanted(), height=height)) <= height


def test_an_empty_status_is_told():
    """A run whose first moment it is, or that had no steps."""
    bare = StatusRecord("1.0", "exec_1", "running", "", Progress())
    assert status_text(bare, Look(80), Wanted(tasks=True, workers=True)) == (
        "otel-exec status: exec_1\n========================\n\nProgress: starting\n\nTotal: - | Workers: 0 | Tasks: 0/0\n"
    )
    assert "Progress: #################### 100% (0/0 tasks)" in status_lines(msgspec.structs.replace(bare, state="success"), Look(80), Wanted())


def test_a_change_is_one_line():
    """For streams in which lines follow each other."""
    one = status(open=OPEN, progress=Progress(6, 10, failed=1), eta_ms=12_000)
    assert change_line(one, Look(80)) == "14:45:00 running 6/10 tasks, 1 failed, 1 running, ETA 12s"


def test_the_workers_of_a_total_are_those_there_are_then_those_that_ran_something():
    """While the run goes on those that have not stopped, however; after it how many of those that are listed ran a step."""
    workers = [WorkerRecord("0"), WorkerRecord("1", stopped_at="2026-11-27T14:45:00+00:00", died="signal 9"), WorkerRecord("2", stopped_at="x")]
    one = status(workers=workers, metrics={"total_duration_ms": 1000, "workers_used": 2})
    assert status_lines(one, Look(80), Wanted())[-1] == "Total: 1.0s | Workers: 1 | Tasks: 6/10"
    assert status_lines(msgspec.structs.replace(one, state="success"), Look(80), Wanted())[-1] == "Total: 1.0s | Workers: 2 of 3 ran steps | Tasks: 6/10"
    one.workers.pop()
    assert status_lines(msgspec.structs.replace(one, state="success"), Look(80), Wanted())[-1] == "Total: 1.0s | Workers: 2 | Tasks: 6/10"


def test_what_is_cut_of_a_step_is_said():
    """Of many things open in a step the innermost are shown, and how many more there are."""
    opened = [OpenRecord("step", "a", "a-1", "0", 100), *(OpenRecord("phase", f"ask {number}", "a-1", "0", 100 - number) for number in range(8))]
    lines = status_lines(status(open=opened), Look(80, "ascii", ASCII), Wanted())
    assert [line.split("-> ")[-1].strip() for line in lines if "-> ask" in line] == [f"ask {number}" for number in range(3, 8)]
    assert "    ... and 3 more open" in lines
    assert sum("ask " in line for line in status_lines(status(open=opened), Look(80), Wanted(rows=None))) == 8


def test_a_run_without_steps_says_so():
    """An execution has no steps: there is no bar, no count and no workers, while it runs and after."""
    for state in ("running", "success"):
        one = status(state=state, levels=[], workers=[], progress=Progress(), metrics={"total_duration_ms": 1500, "workers_used": 0})
        lines = status_lines(one, Look(80), Wanted())
        assert "Progress: no steps" in lines
        assert lines[-1] == "Total: 1.5s"
        assert change_line(one, Look(80)) == f"14:45:00 {state} no steps"


def test_one_level_alone_leaves_the_workers_out():
    """They are the whole run's; `--workers` has them all the same."""
    text, both = (status_text(status(), Look(80), Wanted(level=1, workers=workers)) for workers in (False, True))
    assert "Worker Metrics" not in text
    assert "Worker Metrics" in both


def test_durations_read_as_in_every_other_report():
    """From the nanoseconds, rounded: a mean of one is its percentile, also below a millisecond; of a status without nanoseconds its milliseconds are told."""
    numbers = {"task_count": 1, "completed_count": 1, "settled_count": 1, "sample_count": 1}
    exact = LevelRecord(1, 0, 2_999_999, duration_ms=2, avg_task_duration_ms=1.9996, p95_duration_ms=1, p95_ns=1_999_600, **numbers)
    bare = LevelRecord(2, duration_ms=2, avg_task_duration_ms=1.0, p95_duration_ms=1, end_ns=2_999_999, **numbers)
    worker = WorkerRecord(
        "0", initialization_ms=1, uptime_ms=2, start_ns=0, ready_ns=1_999_600, end_ns=2_999_999, p95_duration_ms=0, p95_ns=512_000, sample_count=1
    )
    told = status(state="success", progress=Progress(2, 2), levels=[exact, bare], workers=[worker], metrics={"total_duration_ms": 2}, duration_ns=2_999_999)
    text = status_text(told, Look(200, signs=ASCII), Wanted(workers=True))
    assert "Level 1: + DONE    3.0ms (1 task, avg=2.0ms, p95=2.0ms)" in text
    assert "Level 2: + DONE    2.0ms (1 task, avg=1.0ms, p95=1.0ms)" in text
    assert "Total: 3.0ms |" in text
    (row,) = [line for line in text.splitlines() if line.startswith("| 0 ")]
    assert [cell.strip() for cell in row.split("|")[1:5]] == ["0", "2.0ms", "0", "-"]
    assert "3.0ms" in row
    assert "512us" in row


def test_the_counts_of_a_dead_run_add_up():
    """What had settled, what was cut off and what was never begun are all of its tasks."""
    text = status_text(status(state="interrupted", progress=Progress(2, 14, failed=1), open=[OPEN[0], OPEN[1]]), Look(100, signs=ASCII), Wanted())
    assert "(2/14 tasks, 1 failed, 1 cut off, 10 never begun)" in text


def test_what_is_waited_for_is_said():
    """By a run that has not begun yet, and by steps that no worker has; of many the first are shown."""
    early = StatusRecord("1.0", "exec_1", "running", "", Progress(total=3), waiting=[WaitingRecord("", "a local Ray cluster to start", 4600)])
    text = status_text(early, Look(80, signs=ASCII), Wanted())
    assert "Progress: starting\n\nWaiting:\n  for a local Ray cluster to start (4.6s)\n" in text
    assert change_line(early, Look(80)).endswith("running 0/3 tasks, waiting for a local Ray cluster to start")
    steps = [WaitingRecord(f"gpu/{number}", "no node of the Ray cluster has 1 of GPU\x1b[2J") for number in range(12)]
    text = status_text(status(waiting=steps), Look(80, signs=ASCII), Wanted())
    assert "Waiting:\n  gpu/0: no node of the Ray cluster has 1 of GPU\\x1b[2J\n" in text
    assert "  ... and 2 more\n" in text
    assert change_line(status(waiting=steps), Look(80)).endswith("6/10 tasks, 12 waiting")
