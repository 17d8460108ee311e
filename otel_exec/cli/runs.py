"""`otel-exec runs`: the runs under a prefix, listed or pruned."""

from __future__ import annotations

import argparse
import os
import sys
import time

from otel_exec.cli.parser import Parser, positive
from otel_exec.cli.prune import add_flags, prune
from otel_exec.cli.records import prefix_of, run_line
from otel_exec.errors import RecordError, UsageError
from otel_exec.record import storage
from otel_exec.record.find import list_runs
from otel_exec.report.runs import runs
from otel_exec.report.summary_record import RunLine
from otel_exec.report.terminal import COLOUR_CHOICES, look_of

__all__ = ["execute", "parser"]


def parser() -> Parser:
    """Return the command's parser."""
    parser = Parser(
        "runs",
        "List the runs under a prefix, newest first.\nWith --json one line of JSON a run, with its metrics, for notebooks: pandas.read_json(path, lines=True).",
        "otel-exec runs\notel-exec runs --json | jq -r '[.start_time, .tasks_completed, .total_duration_ms] | @tsv'\notel-exec runs --prune --keep 20 --older-than 30d",
    )
    parser.add_argument("prefix", nargs="?", metavar="PREFIX", help="default: OTEL_EXEC_PREFIX, else ./outputs")
    parser.add_argument("--json", action="store_true", help="one line of JSON a run: which it was, what it came to, its metrics")
    add_flags(parser)
    parser.add_argument("--width", type=positive, metavar="N", help="columns (default: the terminal's, else 80)")
    parser.add_argument("--color", choices=COLOUR_CHOICES, default="auto", help="default: on a terminal, unless NO_COLOR is set")
    return parser


def execute(arguments: argparse.Namespace) -> int:
    """Print the list."""
    prefix = arguments.prefix or prefix_of(os.environ)
    if arguments.prefix and "://" not in prefix and not os.path.isdir(prefix):
        raise RecordError(prefix, "there is no such folder; a prefix is where an experiment's outputs go")
    if arguments.prune:
        return prune(prefix, arguments)
    if arguments.yes or arguments.keep is not None or arguments.older_than is not None:
        raise UsageError("--keep, --older-than and --yes go with --prune")
    if arguments.json:
        return _lines_of_json(prefix)
    lines: list[RunLine] = []
    unreadable: list[str] = []
    for folder in reversed(list_runs(prefix)):
        try:
            lines.append(run_line(folder))
        except RecordError as error:
            unreadable.append(str(error))
    sections = runs(lines, prefix, unreadable)
    from otel_exec.report.as_text import as_text

    sys.stdout.write(as_text(sections, look_of(sys.stdout, os.environ, width=arguments.width, colour=arguments.color)))
    return 0


def _lines_of_json(prefix: str) -> int:
    """Print a line a run: who it is, and its FeatureMetrics. What can't be read is told on stderr and hides no other."""
    from otel_exec.printable import printable
    from otel_exec.record.encoding import encode
    from otel_exec.report.as_json import formatted
    from otel_exec.report.text_safety import encodable
    from otel_exec.status import RunPlace, status_now

    sys.stdout.flush()
    now_ns = time.time_ns()
    for folder in reversed(list_runs(prefix)):
        try:
            status = status_now(RunPlace(folder, f"{folder}/run.json"), now_ns)
        except RecordError as error:
            said = f"otel-exec: can't be read: {printable(str(error))}"
            print(encodable(said, getattr(sys.stderr, "encoding", None) or "ascii"), file=sys.stderr)
            continue
        line = {
            "exec_id": status.exec_id,
            "experiment": status.experiment,
            "outcome": status.state,
            "start_time": status.start_time,
            "run_folder": folder if storage.is_remote(folder) else os.path.abspath(folder),
            **(status.metrics or {}),
        }
        sys.stdout.buffer.write(formatted(encode(line), indent=0))
    return 0
