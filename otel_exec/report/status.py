"""A run's status as text: how far it has come, its levels, its workers, what is open now, what failed.

What comes in: a `StatusRecord`, how much of it is wanted, and a `Look`. What goes out: lines that fit the width. Pure: the times in it are those that it was given.
"""

from __future__ import annotations

from typing import Any

import msgspec

from otel_exec.aggregate.tally import between_ns
from otel_exec.record.model import LevelRecord, WorkerRecord
from otel_exec.record.status_model import OpenRecord, StatusRecord, TaskStatus
from otel_exec.report.boxed import BoxColumn, boxed_lines
from otel_exec.report.durations import bytes_text
from otel_exec.report.eta import basis_text
from otel_exec.report.look import Look
from otel_exec.report.status_words import and_more, average_text, exact_text, first_known, ms_as_ns, ms_text, run_ms, wrapped
from otel_exec.report.steps import plural
from otel_exec.report.table import Column, Table
from otel_exec.report.text_safety import display_width, pad, shorten, wrap
from otel_exec.semconv import error_text

__all__ = ["Wanted", "change_line", "change_words", "status_lines", "status_text"]

_BAR = 20
_MS = 1_000_000
_LEAST_ETA_MS = 1
_ROWS = 10
_STATES = {"success": "green", "failure": "red", "timeout": "red", "interrupted": "red", "cancellation": "yellow", "running": "blue"}


class Wanted(msgspec.Struct, frozen=True):
    """How much of a status is wanted: all tasks, all workers with more columns, one level alone. `rows` bounds each list; `None`: all of it."""

    tasks: bool = False
    workers: bool = False
    level: int | None = None
    rows: int | None = _ROWS


def status_text(status: StatusRecord, look: Look, wanted: Wanted) -> str:
    """Return the whole status as text, ending in a newline."""
    return "\n".join(status_lines(status, look, wanted)) + "\n"


def status_lines(status: StatusRecord, look: Look, wanted: Wanted, *, height: int | None = None) -> list[str]:
    """Return the status; with a `height` no more lines than that, lists shortened first."""
    lines = _lines(status, look, wanted)
    if height is None:
        return lines
    for rows in (8, 5, 3, 2, 1):
        if len(lines) <= height:
            return lines
        lines = _lines(status, look, msgspec.structs.replace(wanted, rows=rows))
    return lines[: max(1, height)]


def _lines(status: StatusRecord, look: Look, wanted: Wanted) -> list[str]:
    title = shorten(f"otel-exec status: {look.text(status.experiment or status.exec_id)}", look.width, look.signs.ellipsis)
    blocks: list[list[str]] = [
        [look.styled(title, "bold"), look.signs.double_line * display_width(title)],
        [*_progress_line(status, look), *_state_lines(status, look)],
        _waiting_lines(status, look, wanted),
        _level_lines(status, look, wanted),
        _open_lines(status, look, wanted),
        _worker_lines(status, look, wanted),
        _failure_lines(status, look, wanted),
        _task_lines(status, look, wanted),
        _total_lines(status, look),
    ]
    lines: list[str] = []
    for block in blocks:
        if block:
            lines += ([""] if lines else []) + block
    return lines


def change_line(status: StatusRecord, look: Look) -> str:
    """Return the status in one line, for a stream in which lines follow each other: `12:00:03 running 6/10 tasks, 1 failed, 2 running, ETA 12s`."""
    eta = f", ETA {ms_text(status.eta_ms)}" if status.eta_ms is not None and status.eta_ms >= _LEAST_ETA_MS else ""
    return f"{look.text(status.updated_at[11:19])} {look.text(change_words(status))}{eta}"


def change_words(status: StatusRecord) -> str:
    """Return what makes one line of changes another than the one before: not the instant, nor the ETA, which go on by themselves."""
    steps = sum(span.kind == "step" for span in status.open)
    parts = ["no steps" if _no_steps(status) else f"{status.progress.done:,}/{status.progress.total:,} tasks", *_apart(status)]
    parts += [f"{steps:,} running"] if steps and status.state == "running" else []
    waiting = [each for each in status.waiting if each.name]
    parts += [f"{len(waiting):,} waiting"] if waiting else []
    parts += [f"waiting for {each.why}" for each in status.waiting if not each.name]
    return f"{status.state} {', '.join(parts)}"


# The parts.


def _apart(status: StatusRecord) -> list[str]:
    """Return the counts that stand apart from what is done, in words."""
    progress = status.progress
    dead = status.state == "interrupted"
    cut_off = sum(span.kind == "step" for span in status.open) if dead else 0
    settled = progress.done + progress.failed + progress.skipped + progress.cancelled
    counts = (
        (progress.failed, "failed"),
        (progress.cached, "cached"),
        (progress.skipped, "not run"),
        (progress.cancelled, "cancelled"),
        (progress.retries, "retry" if progress.retries == 1 else "retries"),
        (cut_off, "cut off"),
        (progress.total - settled - cut_off if dead else 0, "never begun"),
    )
    return [f"{count:,} {word}" for count, word in counts if count > 0]


def _progress_line(status: StatusRecord, look: Look) -> list[str]:
    done, total = max(0, status.progress.done), max(0, status.progress.total)
    if _no_steps(status):
        return ["Progress: no steps"]
    if status.state == "running" and not status.levels:
        return ["Progress: starting"]
    share = min(1.0, done / total) if total else 1.0
    counts = ", ".join([f"{done:,}/{total:,} tasks", *_apart(status)])
    # From the whole truth to what a narrow terminal has room for.
    for said in (f" {int(share * 100)}% ({counts})", f" {int(share * 100)}% ({done:,}/{total:,} tasks)", f" {int(share * 100)}%"):
        width = min(_BAR, look.width - len("Progress: ") - len(said))
        if width >= 5:
            break
    full = max(0, int(share * width))
    style = "red" if status.progress.failed else "green"
    bar = look.styled(look.signs.bar * full, style) + look.signs.rest * max(0, width - full)
    line = f"Progress: {bar}{said}"
    rest = [f"  {part}" for part in wrap(counts, look.width - 2)] if counts not in said else []
    return [line, *rest]


def _state_lines(status: StatusRecord, look: Look) -> list[str]:
    """Return what there is to say of the run's state: nothing while it runs, but for the ETA."""
    state = status.state
    if state == "running":
        if status.eta_ms is None or status.eta_ms < _LEAST_ETA_MS:
            return []
        basis = basis_text(status.eta_basis)
        return wrapped(f"ETA: {ms_text(status.eta_ms)}{f' ({basis})' if basis else ''}", look)
    heard = look.text(status.updated_at[:19].replace("T", " "))
    said = {
        "interrupted": f"State: interrupted. Its driver is gone; the last sign of life was at {heard} UTC.",
        "cancellation": f"State: cancelled at {heard} UTC.",
        "timeout": f"State: timeout: the run's time was over at {heard} UTC.",
    }.get(state, f"State: {look.text(state)}, ended at {heard} UTC.")
    return [look.styled(line, _STATES.get(state, "")) for line in wrapped(said, look)]


def _waiting_lines(status: StatusRecord, look: Look, wanted: Wanted) -> list[str]:
    """Return what steps, or the run itself, wait for."""
    waiting = status.waiting
    if not waiting:
        return []
    shown = waiting if wanted.rows is None else waiting[: wanted.rows]
    lines = ["Waiting:"]
    for each in shown:
        elapsed = "" if each.elapsed_ms is None else f" ({ms_text(each.elapsed_ms)})"
        lines += wrapped(look.text(f"{each.name}: {each.why}{elapsed}" if each.name else f"for {each.why}{elapsed}"), look, indent="  ", most=3)
    return lines + ([and_more(len(waiting) - len(shown), "more", look)] if len(shown) < len(waiting) else [])


def _level_lines(status: StatusRecord, look: Look, wanted: Wanted) -> list[str]:
    levels = status.levels
    if not levels:
        return []
    shown = _around_the_front(status, wanted.rows) if wanted.level is None else [level for level in levels if level.level == wanted.level]
    lines = ["Level Status:"]
    edge = max((len(str(level.level)) for level in shown), default=1)
    states = [_level_state(level, status, look) for level in shown]
    broad = max([9, *(display_width(state) for state, _, _, _ in states)])
    for level, state in zip(shown, states, strict=True):
        lines += _level_line(f"  Level {level.level:>{edge}}: ", state, broad, look)
        if wanted.level is not None:
            lines += wrapped(
                f"p50={exact_text(level.p50_ns, level.p50_duration_ms)}, p95={exact_text(level.p95_ns, level.p95_duration_ms)}, "
                f"p99={exact_text(level.p99_ns, level.p99_duration_ms)} of {plural(level.sample_count, 'completed task')}"
                if level.sample_count
                else "no task of it was completed by this run yet",
                look,
                indent="    ",
            )
    if wanted.level is None and len(shown) < len(levels):
        lines.append(and_more(len(levels) - len(shown), "more level", look))
    return lines


def _around_the_front(status: StatusRecord, rows: int | None) -> list[LevelRecord]:
    """Return the levels, of many those around the first that has not settled."""
    levels = status.levels
    if rows is None or len(levels) <= rows:
        return list(levels)
    front = next((index for index, level in enumerate(levels) if not _settled(level, status)), len(levels))
    first = max(0, min(front - rows // 3, len(levels) - rows))
    return list(levels[first : first + rows])


def _settled(level: LevelRecord, status: StatusRecord) -> bool:
    """Whether all of a level's steps have come to something; that its span has ended says so too, but where it was a recovery that ended it."""
    return (level.end_ns is not None and status.state != "interrupted") or (level.task_count > 0 and level.settled_count >= level.task_count)


def _level_state(level: LevelRecord, status: StatusRecord, look: Look) -> tuple[str, str, str, list[str]]:
    """Return a level's state in words, its style, its duration so far, and what there is to say of its tasks."""
    over = status.state != "running"
    tasks = plural(level.task_count, "task")
    failed = [f"{level.failed_count:,} failed"] if level.failed_count else []
    if _settled(level, status):
        left_out = level.task_count - level.completed_count - level.failed_count
        ran = level.completed_count > 0 or level.failed_count > 0 or bool(level.duration_ms)  # a step that was cancelled had run, for a while
        parts = [tasks, *failed, *([f"{left_out:,} {'cut short or not run' if ran else 'not run'}"] if left_out > 0 else [])]
        if level.sample_count:
            parts += [f"avg={average_text(level.avg_task_duration_ms)}", f"p95={exact_text(level.p95_ns, level.p95_duration_ms)}"]
        took = _took(level) if ran else ""
        if level.failed_count:
            return f"{look.signs.bad} FAILED", "red", took, parts
        if left_out > 0:
            return ("CUT SHORT" if ran else "NOT RUN"), "yellow", took, parts
        return f"{look.signs.good} DONE", "green", took, parts
    if level.start_ns is None:
        return ("NOT RUN" if over else "PENDING"), "dim", "", [tasks] if over else []
    so_far_ms = run_ms(status)
    took = _took(level)
    if level.duration_ms is None and so_far_ms is not None:
        took = ms_text(max(0, so_far_ms - level.start_ns // _MS))
    return ("INTERRUPTED" if over else "RUNNING"), ("red" if over else "blue"), took, [f"{level.completed_count:,}/{tasks}", *failed]


def _level_line(head: str, level: tuple[str, str, str, list[str]], broad: int, look: Look) -> list[str]:
    state, style, took, parts = level
    rest = "".join((f" {took}" if took else "", f" ({', '.join(parts)})" if parts else ""))
    if display_width(head) + broad + display_width(rest) <= look.width:
        return [f"{head}{look.styled(state, style)}{' ' * (broad - display_width(state))}{rest}".rstrip()]
    first = shorten(f"{head}{state} {took}".rstrip(), look.width, look.signs.ellipsis)
    return [look.styled(first, style), *wrapped(", ".join(parts), look, indent="    ")]


def _open_lines(status: StatusRecord, look: Look, wanted: Wanted) -> list[str]:
    if not status.open:
        return []
    steps = [span for span in status.open if span.kind == "step"]
    inside: dict[str | None, list[OpenRecord]] = {}
    for span in status.open:
        if span.kind != "step":
            inside.setdefault(span.node_id, []).append(span)
    known = {span.node_id for span in steps}
    lines = ["Running:" if status.state == "running" else "Open when it died:"]
    steps.sort(key=lambda span: (-span.elapsed_ms, span.name))
    shown = steps if wanted.rows is None else steps[: wanted.rows]
    for span in shown:
        attempt = f" (attempt {span.attempt})" if (span.attempt or 1) > 1 else ""
        worker = f" on worker {look.text(span.worker_id)}" if span.worker_id else ""
        lines.append(_timed(span.elapsed_ms, look.text(span.name), f"{worker}{attempt}", look, "  "))
        within = inside.get(span.node_id, [])
        cut = 0 if wanted.rows is None else max(0, len(within) - max(3, wanted.rows // 2))
        for each in within[cut:]:
            elsewhere = f" on worker {look.text(each.worker_id)}" if each.worker_id and each.worker_id != span.worker_id else ""
            lines.append(_timed(each.elapsed_ms, f"{look.signs.arrow} {look.text(each.name)}", elsewhere, look, "    "))
        if cut:
            lines.append("  " + and_more(cut, "more open", look, width=look.width - 2))
    if len(shown) < len(steps):
        lines.append(and_more(len(steps) - len(shown), "more", look))
    gates = [span for span in status.open if span.kind != "step" and span.node_id not in known]
    return lines + [_timed(span.elapsed_ms, f"{look.text(span.kind)} {look.text(span.name)}", "", look, "  ") for span in gates]


def _timed(elapsed_ms: int, name: str, after: str, look: Look, indent: str) -> str:
    head = f"{indent}{pad(ms_text(elapsed_ms), 6, right=True)}  "
    room = look.width - display_width(head) - display_width(after)
    if room < 8:
        return shorten(head + name, look.width, look.signs.ellipsis)
    return head + shorten(name, room, look.signs.ellipsis) + after


def _worker_lines(status: StatusRecord, look: Look, wanted: Wanted) -> list[str]:
    workers = status.workers
    if not workers or (wanted.level is not None and not wanted.workers):
        return []
    shown = workers if wanted.workers or wanted.rows is None else workers[: wanted.rows]
    columns = [
        BoxColumn("Worker", [look.text(worker.worker_id) for worker in shown]),
        BoxColumn("Init", [exact_text(between_ns(worker.start_ns, worker.ready_ns), worker.initialization_ms) for worker in shown], 4, 5),
        BoxColumn("Tasks", [f"{worker.tasks_completed + worker.tasks_failed:,}" for worker in shown], 1),
        BoxColumn("Avg", [average_text(worker.avg_task_duration_ms) if worker.tasks_completed else "-" for worker in shown], 2, 6),
        BoxColumn("Uptime", [exact_text(between_ns(worker.start_ns, worker.end_ns), worker.uptime_ms) for worker in shown], 3, 9),
    ]
    if wanted.workers:
        has = {span.worker_id: span.name for span in status.open if span.kind == "step" and span.worker_id}
        columns += [
            BoxColumn("Failed", [f"{worker.tasks_failed:,}" for worker in shown], 7),
            BoxColumn("p95", [exact_text(worker.p95_ns, worker.p95_duration_ms) if worker.sample_count else "-" for worker in shown], 8),
            BoxColumn("Busy", [_busy(worker) for worker in shown], 5),
            BoxColumn("Now", [look.text(shorten(_doing(worker, has, status), 24, look.signs.ellipsis)) for worker in shown], 6),
            BoxColumn("Pid", ["-" if worker.pid is None else str(worker.pid) for worker in shown], 9),
            BoxColumn("Host", [look.text(worker.host or "-") for worker in shown], 10),
        ]
    lines = ["Worker Metrics:", *boxed_lines(columns, look)]
    if len(shown) < len(workers):
        lines.append(and_more(len(workers) - len(shown), "more worker", look, "; --workers shows all"))
    return lines


def _busy(worker: WorkerRecord) -> str:
    """Return the share of its uptime that a worker was busy, by the tasks that it has ended."""
    return f"{min(100, worker.busy_ns // _MS * 100 // worker.uptime_ms)}%" if worker.uptime_ms > 0 else "-"


def _doing(worker: WorkerRecord, has: dict[str, str], status: StatusRecord) -> str:
    if worker.died:
        return "died"
    if worker.stopped_at is not None:
        return "stopped"
    if worker.worker_id in has:
        return has[worker.worker_id]
    return "starting" if worker.ready_at is None else "idle" if status.state == "running" else "-"


def _failure_lines(status: StatusRecord, look: Look, wanted: Wanted) -> list[str]:
    failures = status.failures
    if not failures:
        return []
    shown = failures if wanted.rows is None else failures[: wanted.rows]
    lines = ["Failures:"]
    for failure in shown:
        more = f" after {plural(failure.attempts, 'attempt')}" if failure.attempts > 1 else ""
        said = error_text(failure.type, failure.message)
        lines += [
            look.styled(line, "red" if index == 0 else "")
            for index, line in enumerate(wrapped(f"{look.signs.bad} {look.text(failure.name)}{more}: {look.text(said)}", look, indent="  ", most=2))
        ]
    hidden = max(len(failures), status.progress.failed) - len(shown)
    if hidden > 0:
        lines.append(and_more(hidden, "more", look))
    return lines


def _task_lines(status: StatusRecord, look: Look, wanted: Wanted) -> list[str]:
    tasks = status.tasks
    if isinstance(tasks, msgspec.UnsetType) or not (wanted.tasks or wanted.level is not None):
        return []
    if not tasks:
        return ["Tasks:", "  none"]
    from otel_exec.report.as_text import table_lines

    columns = (
        Column("name", "Task", "name", min_width=10),
        Column("level", "Lvl", "count", priority=6),
        Column("state", "State", "outcome", priority=1),
        Column("attempts", "Try", "count", priority=7),
        Column("worker", "Worker", "name", priority=8, min_width=6),
        Column("queue", "Queue", "duration", priority=4),
        Column("execution", "Exec", "duration"),
        Column("verification", "Verify", "duration", priority=9, sparse=True),
        Column("total", "Total", "duration", priority=3),
        Column("cpu", "CPU", "duration", priority=10, sparse=True),
        Column("rss", "RSS", "right", priority=11, sparse=True),
        Column("error", "Error", "name", priority=12, min_width=12, sparse=True),
    )
    rows = [_task_cells(task) for task in tasks]
    return ["Tasks:", *table_lines(Table("tasks", columns, rows), look)]


def _task_cells(task: TaskStatus) -> tuple[Any, ...]:
    running_ns = None if task.elapsed_ms is None or task.execution_duration_ms is not None else task.elapsed_ms * _MS
    return (
        task.name,
        task.level,
        task.state,
        task.attempts,
        task.worker_id,
        first_known(task.queue_ns, ms_as_ns(task.queue_wait_ms)),
        running_ns if running_ns is not None else first_known(task.execution_ns, ms_as_ns(task.execution_duration_ms)),
        first_known(task.verification_ns, ms_as_ns(task.verification_duration_ms)),
        first_known(task.total_ns, ms_as_ns(task.total_duration_ms)),
        ms_as_ns(task.cpu_ms),
        bytes_text(task.peak_rss_bytes) if task.peak_rss_bytes is not None else None,
        task.error,
    )


def _total_lines(status: StatusRecord, look: Look) -> list[str]:
    if _no_steps(status):
        return [f"Total: {exact_text(status.duration_ns, run_ms(status))}"]
    parts = [
        f"Total: {exact_text(status.duration_ns, run_ms(status))}",
        f"Workers: {_workers_said(status)}",
        f"Tasks: {status.progress.done:,}/{status.progress.total:,}",
    ]
    line = " | ".join(parts)
    return [line] if len(line) <= look.width else [shorten(part, look.width, look.signs.ellipsis) for part in parts]


def _no_steps(status: StatusRecord) -> bool:
    """Whether the run has no steps, as an execution has none; in its first moment a run has not said so."""
    return status.progress.total <= 0 and not status.levels and not status.workers and status.metrics is not None


def _workers_said(status: StatusRecord) -> str:
    """Return how many workers there are while the run goes on; of one that is over how many of those that are listed ran steps."""
    used = (status.metrics or {}).get("workers_used")
    if status.state != "running" and isinstance(used, int):
        there = len(status.workers)
        return f"{used:,} of {there:,} ran steps" if 0 <= used < there else f"{max(0, used):,}"
    return f"{sum(worker.stopped_at is None for worker in status.workers):,}"


# Words.


def _took(level: LevelRecord) -> str:
    return "" if level.duration_ms is None else exact_text(between_ns(level.start_ns, level.end_ns), level.duration_ms)
