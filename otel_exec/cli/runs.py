"""`otel-exec runs`: the runs under a prefix, listed or pruned."""

from __future__ import annotations

import argparse
import os
import sys

from otel_exec.cli.parser import Parser, positive
from otel_exec.cli.prune import add_flags, prune
from otel_exec.cli.records import prefix_of, run_line
from otel_exec.errors import RecordError, UsageError
from otel_exec.record.find import list_runs
from otel_exec.report.runs import runs
from otel_exec.report.summary_record import RunLine
from otel_exec.report.terminal import COLOUR_CHOICES, look_of

__all__ = ["execute", "parser"]


def parser() -> Parser:
    """Return the command's parser."""
    parser = Parser(
        "runs",
        "List the runs under a prefix, newest first.",
        "otel-exec runs\notel-exec runs /data/outputs --json | jq '.runs[0].exec_id'\notel-exec runs --prune --keep 20 --older-than 30d",
    )
    parser.add_argument("prefix", nargs="?", metavar="PREFIX", help="default: OTEL_EXEC_PREFIX, else ./outputs")
    parser.add_argument("--json", action="store_true", help="the same for machines")
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
    lines: list[RunLine] = []
    unreadable: list[str] = []
    for folder in reversed(list_runs(prefix)):
        try:
            lines.append(run_line(folder))
        except RecordError as error:
            unreadable.append(str(error))
    sections = runs(lines, prefix, unreadable)
    if arguments.json:
        from otel_exec.report.as_json import as_json

        sys.stdout.flush()
        sys.stdout.buffer.write(as_json(sections))
        return 0
    from otel_exec.report.as_text import as_text

    sys.stdout.write(as_text(sections, look_of(sys.stdout, os.environ, width=arguments.width, colour=arguments.color)))
    return 0
