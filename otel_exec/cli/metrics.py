"""`otel-exec metrics`: where the time of each node went, phase by phase."""

from __future__ import annotations

import argparse
import os
import sys
import time

from otel_exec.cli.parser import Parser, positive
from otel_exec.cli.records import read_as
from otel_exec.errors import UsageError
from otel_exec.report.breakdown import breakdown
from otel_exec.report.breakdown_record import BreakdownRecord
from otel_exec.report.terminal import COLOUR_CHOICES, look_of

__all__ = ["execute", "parser"]

_NODES = 15


def parser() -> Parser:
    """Return the command's parser."""
    parser = Parser(
        "metrics",
        "Say where the time of each node went: its phases, the longest first, and what no\nphase covered. Shares of a node add up to 100 %.",
        "otel-exec metrics                            the latest run\notel-exec metrics --latest --breakdown\notel-exec metrics run.json --node train --bottlenecks\notel-exec metrics exec_4bf92f35 --json | jq .bottlenecks",
    )
    parser.add_argument(
        "run",
        nargs="?",
        metavar="RUN",
        help="a run.json, a run's folder, an exec id, a prefix or an experiment's name (its latest run); default: the latest run under OTEL_EXEC_PREFIX or ./outputs, else ./run.json",
    )
    parser.add_argument("--latest", action="store_true", help="the latest run; so without RUN")
    parser.add_argument("--breakdown", action="store_true", help="the nodes without phases too; counts, percentiles, self time, attempts and CPU")
    parser.add_argument("--bottlenecks", action="store_true", help="the phases by what each could save of the run's wall time at most")
    parser.add_argument("--json", action="store_true", help="the same for machines; all nodes, each by itself")
    parser.add_argument("--node", metavar="NAME", help="these nodes alone: a name, a node id or a template")
    parser.add_argument("--top", type=positive, metavar="N", help=f"nodes and bottlenecks, those that took longest (default: {_NODES})")
    parser.add_argument("--width", type=positive, metavar="N", help="columns (default: the terminal's, else 80)")
    parser.add_argument("--color", choices=COLOUR_CHOICES, default="auto", help="default: on a terminal, unless NO_COLOR is set")
    return parser


def execute(arguments: argparse.Namespace) -> int:
    """Print the breakdown."""
    if arguments.latest and arguments.run:
        raise UsageError(f"--latest and {arguments.run!r} name two runs: give one of them")
    record = read_as(arguments.run, os.environ, BreakdownRecord)
    view = breakdown(record, now_ns=time.time_ns(), every=arguments.breakdown, node=arguments.node, tries=arguments.json)
    if arguments.json:
        from otel_exec.report.breakdown_json import breakdown_json

        sys.stdout.flush()
        sys.stdout.buffer.write(breakdown_json(view))
        return 0
    from otel_exec.report.breakdown_text import breakdown_text

    look = look_of(sys.stdout, os.environ, width=arguments.width, colour=arguments.color)
    top = arguments.top or _NODES
    sys.stdout.write(breakdown_text(view, look, details=arguments.breakdown, bottlenecks=arguments.bottlenecks, top=top))
    return 0
