"""Live progress of a run as text: a block of lines for a terminal, one line per event for a pipe.

What comes in: frozen values of what is the matter now. What goes out: lines. Never touches a clock or a stream: `Painter` writes, its caller decides when.

Units: `*_ns` nanoseconds.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from otel_exec.report.durations import duration_text
from otel_exec.report.eta import basis_text
from otel_exec.report.look import Look
from otel_exec.report.text_safety import display_width, one_line, pad, shorten, wrap

__all__ = ["LevelProgress", "ProgressView", "RunningStep", "StepEvent", "event_line", "output_lines", "progress_lines"]

_BAR = 20
_LEAST_ETA_NS = 1_000_000
_WAITING = 3
_STYLES = {"finished": "green", "cached": "cyan", "failed": "red", "timeout": "red", "cancelled": "yellow", "retrying": "yellow", "waiting": "yellow"}


class LevelProgress(msgspec.Struct, frozen=True):
    """A level: `done` of its `total` steps have settled, `running` have begun."""

    level: int
    done: int
    total: int
    running: int = 0
    failed: int = 0


class RunningStep(msgspec.Struct, frozen=True):
    """A step that a worker has, since `elapsed_ns`; `phase` is the innermost open one that is known."""

    name: str
    worker_id: str
    elapsed_ns: int
    phase: str | None = None
    attempt: int = 1


class ProgressView(msgspec.Struct, frozen=True):
    """What is the matter now. `done` counts steps that succeeded, cached ones included, `failed` is apart; `waiting`: steps by name with what each waits for; `note` is said at the end, e.g. that the run is being stopped."""

    name: str
    done: int
    total: int
    elapsed_ns: int
    failed: int = 0
    cached: int = 0
    levels: Sequence[LevelProgress] = ()
    running: Sequence[RunningStep] = ()
    eta_ns: int | None = None
    eta_basis: str | None = None
    waiting: Sequence[tuple[str, str]] = ()
    note: str = ""


class StepEvent(msgspec.Struct, frozen=True):
    """Something that happened to a step. `what`: started, finished, cached, failed, timeout, cancelled, skipped, retrying, waiting.

    `settled` of `total` steps have settled with it. `detail` is an error's message, why it was skipped, or who holds the lock.
    """

    what: str
    name: str
    settled: int
    total: int
    worker_id: str | None = None
    duration_ns: int | None = None
    attempt: int = 1
    detail: str = ""


def progress_lines(view: ProgressView, look: Look, *, height: int = 24) -> list[str]:
    """Return the block: a headline, the levels that are not finished (or, where they are too many, the first of them), the running steps, longest first.

    Each line fits the width, and all of them fit the height but one, where the cursor rests.
    """
    room = max(1, height - 1)
    lines = [_headline(view, look)]
    running = sorted(view.running, key=lambda step: (-step.elapsed_ns, step.name))
    note = [look.styled(_cut(look.text(view.note), look), "yellow")] if view.note else []
    waiting = [
        look.styled(_begins(f"{look.text(name)} waits: {look.text(one_line(why))}", look, indent="  "), "yellow") for name, why in view.waiting[:_WAITING]
    ]
    waiting = waiting[: max(0, room - len(lines) - len(note) - 1)]
    room -= len(lines) + len(note) + len(waiting)
    open_levels = [level for level in view.levels if level.done + level.failed < level.total]
    if len(view.levels) > 1:
        shown = open_levels[: max(0, min(3, room - min(len(running), 1)))]
        lines += [_level_line(level, look) for level in shown]
        room -= len(shown)
    if len(running) > room:
        running, hidden = running[: max(0, room - 1)], len(running) - max(0, room - 1)
    else:
        hidden = 0
    lines += _running_lines(running, look)
    if hidden and room > 0:
        lines.append(look.styled(_cut(f"  {look.signs.ellipsis} and {hidden:,} more running", look), "dim"))
    return lines + waiting + note


def _headline(view: ProgressView, look: Look) -> str:
    share = min(1.0, view.done / view.total) if view.total else 1.0
    times, basis = [duration_text(view.elapsed_ns)], ""
    # Less than a millisecond left while steps run means that they took longer than usual, and nobody knows how much longer.
    if view.eta_ns is not None and view.eta_ns >= _LEAST_ETA_NS:
        times.append(f"ETA {duration_text(view.eta_ns)}")
        basis = basis_text(view.eta_basis)
    done = f"{int(share * 100)}%", f"{view.done:,}/{view.total:,}"
    failed = [f"{view.failed:,} failed"] if view.failed else []
    cached = [f"{view.cached:,} cached"] if view.cached else []
    # From the whole truth to what a narrow terminal has room for.
    tails = [
        "  ".join(parts)
        for parts in (
            *([[*done, *failed, *cached, *times[:-1], f"{times[-1]} ({basis})"]] if basis else []),
            [*done, *failed, *cached, *times],
            [*done, *failed, *times],
            [*done, *failed, times[0]],
            [*done, *failed],
            [done[1]],
        )
    ]
    name = look.text(view.name)
    least = min(display_width(name), 12)
    # What the ETA rests on is said where the bar has its room besides.
    tail = next((tail for tail in tails if least + (_BAR + 4 if basis and tail is tails[0] else 2) + display_width(tail) <= look.width), tails[-1])
    spare = look.width - display_width(tail) - 4
    width = min(_BAR, spare - least)
    if width < 5:
        return _cut(f"{shorten(name, max(4, spare + 2), look.signs.ellipsis)}  {tail}", look)
    full = int(share * width)
    drawn = look.styled(look.signs.bar * full, "green" if not view.failed else "red") + look.signs.rest * (width - full)
    return f"{look.styled(shorten(name, spare - width, look.signs.ellipsis), 'bold')}  {drawn}  {tail}"


def _level_line(level: LevelProgress, look: Look) -> str:
    parts = [f"  level {level.level}: {level.done:,}/{level.total:,} done"]
    parts += [f"{number:,} {word}" for number, word in ((level.running, "running"), (level.failed, "failed")) if number]
    return look.styled(_cut(", ".join(parts), look), "dim")


def _running_lines(running: Sequence[RunningStep], look: Look) -> list[str]:
    if not running:
        return []
    elapsed = [duration_text(step.elapsed_ns) for step in running]
    edge = max(display_width(text) for text in elapsed)
    lines = []
    for step, text in zip(running, elapsed, strict=True):
        more = f" (attempt {step.attempt})" if step.attempt > 1 else ""
        if step.phase:
            more += f" {look.signs.arrow} {look.text(step.phase)}"
        more = shorten(more, max(0, look.width // 3), look.signs.ellipsis) if more else ""
        room = look.width - edge - 4 - display_width(more)
        lines.append(_cut(f"  {pad(text, edge, right=True)}  {shorten(look.text(step.name), max(1, room), look.signs.ellipsis)}{more}", look))
    return lines


def _cut(line: str, look: Look) -> str:
    return shorten(line, look.width, look.signs.ellipsis)


def _begins(line: str, look: Look, *, indent: str) -> str:
    """Return a sentence's beginning where not all of it fits: what it is about stands there."""
    if display_width(indent + line) <= look.width:
        return indent + line
    first = wrap(line, max(1, look.width - display_width(indent + look.signs.ellipsis)))[0]
    return _cut(indent + first + look.signs.ellipsis, look)


def event_line(event: StepEvent, look: Look) -> str:
    """Return what happened as one line: `[ 3/12] finished  train/big in 4m30s`. It is as long as it needs to be: a pipe has no width."""
    width = len(str(event.total))
    head = f"[{event.settled:>{width}}/{event.total}] "
    attempt = f" (attempt {event.attempt})" if event.attempt > 1 else ""
    said = look.text(event.name)
    if event.what == "started":
        said += f" on worker {look.text(event.worker_id)}{attempt}" if event.worker_id is not None else attempt
    elif event.what == "retrying":
        said += f" in {duration_text(event.duration_ns)}, attempt {event.attempt} is next"
    elif event.what == "finished":
        said += f" in {duration_text(event.duration_ns)}{attempt}"
    elif event.duration_ns is not None:
        said += f" after {duration_text(event.duration_ns)}{attempt}"
    detail = look.text(one_line(event.detail))
    if detail:
        said += f": {detail}"
    return head + look.styled(f"{event.what:<9}", _STYLES.get(event.what, "")) + " " + said


def output_lines(name: str, text: str, look: Look) -> list[str]:
    """Return what a step printed, each line with the step's name in front."""
    head = look.styled(f"{look.text(name)} |", "dim")
    return [f"{head} {look.text(line.rstrip())}" for line in text.splitlines()]
