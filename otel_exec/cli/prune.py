"""`otel-exec runs --prune`: removes the folders of runs that a rule does not keep.

What comes in: a prefix and a rule. What goes out: a list of what would go, or, told `--yes`, its removal. Outputs of steps are never touched, nor is a run that lives
or whose spans are being sent.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

from otel_exec.clock import to_iso
from otel_exec.errors import RecordError, UsageError
from otel_exec.printable import printable
from otel_exec.record import storage
from otel_exec.record.find import RUNS, list_runs, started_ns
from otel_exec.record.record_file import read_record
from otel_exec.record.retention import Rule, parse_age, remove_run, sweep_halves
from otel_exec.report.durations import bytes_text
from otel_exec.report.steps import plural
from otel_exec.report.summary_record import RunLine

if TYPE_CHECKING:
    import argparse

__all__ = ["add_flags", "prune"]


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags of pruning."""
    parser.add_argument("--prune", action="store_true", help="remove the folders of older runs, never outputs: lists them, and with --yes removes them")
    parser.add_argument("--keep", metavar="N", type=_count, help="with --prune: keep the newest N")
    parser.add_argument("--older-than", metavar="AGE", help="with --prune: only those that began so long ago, such as 30d, 12h, 2w")
    parser.add_argument("--yes", action="store_true", help="with --prune: do it")


def _count(text: str) -> int:
    import argparse

    if not (text.isascii() and text.isdecimal() and len(text) <= 9):
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number")
    return int(text)


def prune(prefix: str, arguments: argparse.Namespace) -> int:
    """List what would go, or remove it; returns the exit code.

    Raises:
        UsageError: there is no rule.
        RecordError: something could not be removed, or the runs lie outside of the prefix.
    """
    if arguments.keep is None and arguments.older_than is None:
        raise UsageError("--prune needs a rule: --keep N, --older-than AGE, or both (then a run goes that neither keeps)")
    rule = Rule(arguments.keep, parse_age(arguments.older_than) if arguments.older_than is not None else None)
    _lies_within(prefix)
    folders = list_runs(prefix)
    starts = [started_ns(folder) for folder in folders]
    going = [(folder, at_ns) for folder, at_ns, goes in zip(folders, starts, rule.goes(starts, time.time_ns()), strict=True) if goes]
    kept: list[str] = []
    gone = size = 0
    problems: list[RecordError] = []
    for folder, at_ns in going:
        why = _in_use(folder)
        if why:
            kept.append(f"kept     {os.path.basename(folder)}  {why}")
            continue
        has = _size(folder)
        print(f"{'removed' if arguments.yes else 'would go'} {os.path.basename(folder)}  {(to_iso(at_ns) or '')[:19].replace('T', ' ')}  {bytes_text(has)}")
        if arguments.yes:
            try:
                remove_run(folder)
            except RecordError as error:
                problems.append(error)
                continue
        gone, size = gone + 1, size + has
    for line in kept:
        print(printable(line))
    if arguments.yes and not storage.is_remote(prefix):
        sweep_halves(storage.join(prefix, *RUNS))
    stay = len(folders) - gone
    if arguments.yes:
        print(f"removed {plural(gone, 'run')} ({bytes_text(size)}), {stay:,} {'stays' if stay == 1 else 'stay'}; outputs were not touched")
    else:
        print(
            f"{plural(gone, 'run')} ({bytes_text(size)}) would go, {stay:,} would stay; nothing was removed: add --yes to remove {'it' if gone == 1 else 'them'}"
        )
    if problems:
        raise problems[0]
    return 0


def _lies_within(prefix: str) -> None:
    """Raise where what would be removed lies elsewhere: anybody who may write to a prefix can put a link there."""
    if storage.is_remote(prefix):
        return
    runs = storage.join(prefix, *RUNS)
    there = os.path.realpath(runs)
    if there != os.path.join(os.path.realpath(prefix), *RUNS):
        raise RecordError(
            runs,
            f"it leads out of the prefix by a symbolic link, to {there}: nothing is removed through it; prune where the runs lie, or remove them there by hand",
        )


def _in_use(folder: str) -> str:
    """Return why a run's folder must stay, "" where it need not."""
    if storage.is_remote(folder):
        try:
            return "it goes on, or did not end in order" if read_record(folder + "/run.json", RunLine).outcome == "running" else ""
        except RecordError:
            return "its record can't be read"
    from otel_exec.recovery import lives
    from otel_exec.spans.cursor import Lease

    if lives(folder):
        return "it goes on"
    try:
        lease = Lease.take(folder)
    except RecordError:
        return ""
    if lease is None:
        return "its spans are being sent"
    lease.release()
    return ""


def _size(folder: str) -> int:
    """Return the bytes in a local folder; 0 for a remote one, where asking takes too long."""
    total = 0
    for base, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.stat(os.path.join(base, name), follow_symlinks=False).st_blocks * 512
            except OSError:
                continue
    return total
