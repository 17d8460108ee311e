"""`otel-exec summary`: where the time of a run went."""

from __future__ import annotations

import argparse
import os
import sys

from otel_exec.cli.parser import Parser, positive
from otel_exec.cli.records import load, trace_url_of
from otel_exec.report.summary import SORTS, summary
from otel_exec.report.terminal import COLOUR_CHOICES, look_of

__all__ = ["execute", "parser"]

_ROWS = 15


def parser() -> Parser:
    """Return the command's parser."""
    parser = Parser(
        "summary",
        "Say where the time of a run went: the wall time in parts, the steps,\nthe critical path, the phases, what failed and where to read on.",
        "otel-exec summary                      the latest run\notel-exec summary run.json --top 50\notel-exec summary exec_4bf92f35 --json | jq .critical_path",
    )
    parser.add_argument(
        "run",
        nargs="?",
        metavar="RUN",
        help="a run.json, a run's folder, an exec id, a prefix or an experiment's name (its latest run); default: the latest run under OTEL_EXEC_PREFIX or ./outputs, else ./run.json",
    )
    parser.add_argument("--json", action="store_true", help="the same for machines; all rows unless --top is given")
    parser.add_argument("--sort", choices=SORTS, default="start", help="the order of the steps (default: start)")
    parser.add_argument("--top", type=positive, metavar="N", help=f"rows a list, those that took longest (default: {_ROWS})")
    parser.add_argument("--width", type=positive, metavar="N", help="columns (default: the terminal's, else 80)")
    parser.add_argument("--color", choices=COLOUR_CHOICES, default="auto", help="default: on a terminal, unless NO_COLOR is set")
    return parser


def execute(arguments: argparse.Namespace) -> int:
    """Print the summary."""
    template = trace_url_of(os.environ)
    record, path, export = load(arguments.run, os.environ)
    if arguments.json:
        from otel_exec.report.as_json import as_json

        sections = summary(record, sort=arguments.sort, top=arguments.top, trace_url=template, export=export, record_path=path)
        sys.stdout.flush()
        sys.stdout.buffer.write(as_json(sections))
        return 0
    from otel_exec.report.as_text import as_text

    sections = summary(record, sort=arguments.sort, top=arguments.top or _ROWS, trace_url=template, export=export, record_path=path)
    sys.stdout.write(as_text(sections, look_of(sys.stdout, os.environ, width=arguments.width, colour=arguments.color)))
    return 0
