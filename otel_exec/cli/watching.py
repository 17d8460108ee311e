"""Watching a run: its status over and over until it has ended.

What comes in: where the run is, and what was asked for. What goes out: on a terminal one picture, repainted in place; piped a line a change; with `--json` a line of JSON a change.
Nothing is asked of the run: its files are looked at, so it can be killed and its folder taken away at any moment.
"""

from __future__ import annotations

import argparse
import os
import sys
import time

from otel_exec.cli.status import json_line, read, wanted_of
from otel_exec.errors import RecordError
from otel_exec.record.encoding import encode
from otel_exec.record.status_model import StatusRecord
from otel_exec.report.painter import Painter
from otel_exec.report.status import change_line, change_words, status_lines, status_text
from otel_exec.report.terminal import look_of
from otel_exec.schedule.pace import Pace
from otel_exec.status import RunPlace, gone, locate, status_now

__all__ = ["find", "fingerprint", "watch"]

# A person sees no difference below; the files are small.
_LOOK_S = 0.2
# Of the time, for a look that takes long: that at all tasks of a large run.
_SHARE = 0.1
# Files of a run that is being taken away go one after another: what can't be read may be there again, or the folder may be gone, a moment later.
_PATIENCE = 10
# Of a run that has not begun yet: five seconds.
_TRIES = 25


def find(run: str | None, prefix: str) -> RunPlace:
    """Return where the run is; one that is not there is waited for a moment: whoever watches may have been quicker than the run."""
    for _ in range(_TRIES):
        try:
            return locate(run, prefix=prefix)
        except RecordError:
            time.sleep(_LOOK_S)
    return locate(run, prefix=prefix)


def watch(place: RunPlace, arguments: argparse.Namespace) -> int:
    """Show the run until it has ended; returns the exit code. Ctrl-C leaves by KeyboardInterrupt, with the last picture left standing."""
    painter = Painter(sys.stdout)
    terminal = sys.stdout is not None and sys.stdout.isatty() and os.environ.get("TERM") != "dumb" and not arguments.json
    seen = b""
    failures = 0
    pace = Pace(int(_LOOK_S * 1e9), _SHARE)
    while True:
        look = look_of(sys.stdout, os.environ, width=arguments.width, colour=arguments.color)
        began_ns = time.monotonic_ns()
        try:
            status = read(place, arguments)
            pace.done(began_ns, time.monotonic_ns())
            failures = 0
        except RecordError as error:
            failures += 1
            if gone(place) or failures > _PATIENCE:
                raise RecordError(place.folder, "the run's folder was taken away while it was watched" if gone(place) else error.reason) from error
            time.sleep(_LOOK_S)
            continue
        ended = status.state != "running"
        if terminal:
            if ended:
                painter.clear(look.width)
                painter.say(status_text(status, look, wanted_of(arguments)), look.width)
            else:
                painter.paint(status_lines(status, look, wanted_of(arguments), height=_height() - 1), look.width)
        else:
            mark = fingerprint(status) if arguments.json else change_words(status).encode()
            if mark != seen:
                seen = mark
                _say(json_line(status) if arguments.json else (change_line(status, look) + "\n").encode(look.encoding, "backslashreplace"))
            if ended and not arguments.json:
                _say(("\n" + status_text(status, look, wanted_of(arguments))).encode(look.encoding, "backslashreplace"))
        if ended:
            return 0
        time.sleep(_LOOK_S)
        while not pace.due(time.monotonic_ns()) and _goes_on(place):
            time.sleep(_LOOK_S)


def _goes_on(place: RunPlace) -> bool:
    """Whether the run has not ended, as its small status says: that costs next to nothing, where reading all tasks of a large run takes seconds."""
    try:
        return status_now(place, time.time_ns()).state == "running"
    except RecordError:
        return False


def fingerprint(status: StatusRecord) -> bytes:
    """Return what makes a status another one: everything but the time that passes."""
    return encode(
        [
            status.exec_id,
            status.state,
            status.progress,
            [[level.level, level.start_ns, level.end_ns, level.completed_count, level.failed_count, level.settled_count] for level in status.levels],
            [[worker.worker_id, worker.ready_at, worker.stopped_at, worker.tasks_completed, worker.tasks_failed] for worker in status.workers],
            [[span.kind, span.name, span.node_id, span.worker_id, span.attempt] for span in status.open],
            [failure.node_id for failure in status.failures],
            [[each.name, each.why] for each in status.waiting],
        ]
    )


def _say(content: bytes) -> None:
    """Write at once: whoever reads a pipe wants the line now."""
    sys.stdout.flush()
    sys.stdout.buffer.write(content)
    sys.stdout.buffer.flush()


def _height() -> int:
    try:
        return os.get_terminal_size(sys.stdout.fileno()).lines or 24
    except (OSError, ValueError):
        return 24
