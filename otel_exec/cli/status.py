"""`otel-exec status`: how far a run has come, while it runs and after."""

from __future__ import annotations

import argparse
import os
import sys
import time

from otel_exec.cli.parser import Parser, positive
from otel_exec.cli.records import prefix_of
from otel_exec.errors import UsageError, unknown_name
from otel_exec.record.encoding import encode
from otel_exec.record.status_model import StatusRecord
from otel_exec.report.status import Wanted, status_text
from otel_exec.report.terminal import COLOUR_CHOICES, look_of
from otel_exec.status import RunPlace, locate, status_now

__all__ = ["execute", "json_line", "narrowed", "parser"]


def parser() -> Parser:
    """Return the command's parser."""
    parser = Parser(
        "status",
        "Say how far a run has come: its levels, its workers, what is open now, what failed.\nIt works from another terminal while the run goes on, and after it has ended or was killed.",
        "otel-exec status                        the latest run\notel-exec status --watch                until it ends\notel-exec status exec_4bf92f35 --json | jq .progress\notel-exec status --level 2 --tasks",
    )
    parser.add_argument(
        "run",
        nargs="?",
        metavar="RUN",
        help="a run.json, a run's folder, an exec id, a prefix or an experiment's name (its latest run); default: the latest run under OTEL_EXEC_PREFIX or ./outputs, else ./run.json",
    )
    parser.add_argument("--watch", action="store_true", help="go on until the run ends; Ctrl-C leaves (exit code 130), the run goes on")
    parser.add_argument("--json", action="store_true", help="one JSON document; with --watch one line of JSON per change")
    parser.add_argument("--level", type=positive, metavar="N", help="this level alone, with its percentiles and its tasks")
    parser.add_argument("--tasks", action="store_true", help="every task with its times, CPU and memory")
    parser.add_argument("--workers", action="store_true", help="every worker with what it does, how busy it was, pid and host")
    parser.add_argument("--width", type=positive, metavar="N", help="columns (default: the terminal's, else 80)")
    parser.add_argument("--color", choices=COLOUR_CHOICES, default="auto", help="default: on a terminal, unless NO_COLOR is set")
    return parser


def execute(arguments: argparse.Namespace) -> int:
    """Print the status."""
    if arguments.watch:
        from otel_exec.cli.watching import find, watch

        return watch(find(arguments.run, prefix_of(os.environ)), arguments)
    place = locate(arguments.run, prefix=prefix_of(os.environ))
    status = read(place, arguments)
    if arguments.json:
        sys.stdout.flush()
        sys.stdout.buffer.write(json_line(status, indent=2))
        return 0
    look = look_of(sys.stdout, os.environ, width=arguments.width, colour=arguments.color)
    sys.stdout.write(status_text(status, look, wanted_of(arguments)))
    return 0


def read(place: RunPlace, arguments: argparse.Namespace) -> StatusRecord:
    """Return the run's status now, as much of it as was asked for."""
    status = status_now(place, time.time_ns(), tasks=arguments.tasks or arguments.level is not None)
    return narrowed(status, arguments.level)


def wanted_of(arguments: argparse.Namespace) -> Wanted:
    """Return how much of a status was asked for."""
    return Wanted(tasks=arguments.tasks, workers=arguments.workers, level=arguments.level)


def narrowed(status: StatusRecord, level: int | None) -> StatusRecord:
    """Return the status with one level, its tasks and what is open in them alone, where one was asked for; raises `UsageError` for a level that the run doesn't have."""
    if level is None:
        return status
    levels = [each for each in status.levels if each.level == level]
    if not levels and (status.levels or status.state != "running"):  # a run that has just begun has not said yet which levels it has
        raise UsageError(unknown_name("level", str(level), (str(each.level) for each in status.levels)))
    status.levels = levels
    if isinstance(status.tasks, list):
        status.tasks = [task for task in status.tasks if task.level == level]
        of_level = {task.task_id for task in status.tasks}
        status.open = [span for span in status.open if span.node_id is None or span.node_id in of_level]
    return status


def json_line(status: StatusRecord, *, indent: int = 0) -> bytes:
    """Return the status as JSON with nothing in it that a terminal obeys, ending in a newline; on one line unless indented."""
    from otel_exec.report.as_json import formatted

    return formatted(encode(status), indent=indent)
