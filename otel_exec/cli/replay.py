"""`otel-exec replay`: sends what a run's endpoints never acknowledged.

What comes in: a run, and endpoints from the environment or the command line. What goes out: requests, their acknowledgements in the run's export.json, and how many
spans they were. A span that an endpoint has acknowledged is never sent to it again; nothing is taken out of the spool.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, TextIO

import msgspec

from otel_exec import config as configuration
from otel_exec.cli.parser import Parser
from otel_exec.cli.records import prefix_of
from otel_exec.errors import ConfigError, RecordError, UsageError
from otel_exec.printable import printable
from otel_exec.record import storage
from otel_exec.record.find import RUNS, find_run, list_runs
from otel_exec.record.record_file import read_record
from otel_exec.report.steps import plural
from otel_exec.spans.spool import mend_folder

if TYPE_CHECKING:
    from otel_exec.config import Config
    from otel_exec.spans.exporter import EndpointSummary

__all__ = ["execute", "parser"]

_ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"
# What would speak against an address that is given on the command line, or go before it.
_OVERRIDDEN = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_TRACES_EXPORTER", "OTEL_SDK_DISABLED")
# Longer than at the end of a run: whoever replays waits for this and nothing else.
_PATIENCE_S = 10.0


class _RunFolder(msgspec.Struct):
    schema_version: str
    exec_id: str
    run_folder: str


def parser() -> Parser:
    """Return the command's parser."""
    parser = Parser(
        "replay",
        "Send the spans of a run that were never acknowledged, each once. Where they go\nis said by OTEL_EXPORTER_OTLP_ENDPOINT and its kin, as for the run itself.\n"
        "What a killed run left open is closed first, so that its trace is whole.",
        "otel-exec replay run.json\notel-exec replay outputs --endpoint http://localhost:4317\notel-exec replay exec_4bf92f35 --dry-run",
    )
    which = parser.add_mutually_exclusive_group()
    which.add_argument(
        "run",
        nargs="?",
        metavar="RUN",
        help="a run.json, a run's folder, an exec id, an experiment's name (its latest run), or a prefix: all its runs; "
        "default: the latest run under OTEL_EXEC_PREFIX or ./outputs, else ./run.json",
    )
    which.add_argument("--latest", action="store_true", help="the latest run, said in so many words")
    parser.add_argument("--endpoint", metavar="URL", help="where to, instead of the environment's endpoint; protocol, headers and certificates are still its")
    parser.add_argument("--all", action="store_true", help="send what was acknowledged too, to a backend that lost it (one that did not counts it twice)")
    parser.add_argument("--dry-run", action="store_true", help="send nothing; say what would be sent")
    return parser


def execute(arguments: argparse.Namespace) -> int:
    """Send, and print what came of it; raises `RecordError` (exit code 4) where spans are left."""
    settings = _settings(arguments.endpoint, os.environ)
    for warning in settings.warnings:
        print(f"otel-exec: {warning}", file=sys.stderr)
    folders = runs_under(arguments.run) if arguments.run and not arguments.run.endswith(".json") else []
    if len(folders) <= 1:
        _replay(folders[0] if folders else _run_folder(arguments.run, os.environ), settings, arguments)
        return 0
    problems: list[RecordError] = []
    for number, folder in enumerate(folders):
        print(f"{os.path.basename(folder)}: ", end="", flush=True)
        try:
            _replay(folder, settings, arguments)
        except NothingTaken as error:  # every other run would wait as long for the same answer
            left = len(folders) - number - 1
            untried = f"; {plural(left, 'run')} after it not tried" if left else ""
            raise RecordError(error.path, error.reason + untried) from None
        except RecordError as error:
            print(printable(str(error)))
            problems.append(error)
    if problems:
        raise (
            problems[0]
            if len(problems) == 1
            else RecordError(arguments.run, f"{len(problems)} of {plural(len(folders), 'run')} are not out whole; the first: {problems[0]}")
        )
    return 0


class NothingTaken(RecordError):
    """An endpoint took none of what it was sent."""


def runs_under(path: str) -> list[str]:
    """Return the folders of the runs under a local prefix, oldest first; [] for what is none."""
    if storage.is_remote(path) or not os.path.isdir(os.path.join(path, *RUNS)):
        return []
    return [folder for folder in list_runs(path) if os.path.isdir(os.path.join(folder, "spans"))]


def _replay(folder: str, settings: Config, arguments: argparse.Namespace) -> None:
    """Send what is left of one run."""
    from otel_exec.spans.exporter import export_once, summarize

    opened = 0
    if arguments.dry_run:
        opened = _still_open(folder)
    else:
        _recovered(folder)
        mend_folder(os.path.join(folder, "spans"))
    before = summarize(folder, settings.traces)
    if before.problem:
        raise RecordError(folder, before.problem)
    entries = [_again(entry) if arguments.all else entry for entry in before.endpoints]
    entries = [replace(entry, total=entry.total + opened) for entry in entries]
    waiting = [entry for entry in entries if entry.waiting]
    for entry in entries:
        if not entry.waiting:
            print(_nothing_left(entry, folder))
        elif arguments.dry_run:
            print(f"would send {entry.waiting:,} of {plural(entry.total, 'span')} to {entry.url}; {_settled(entry)}")
    if not waiting or arguments.dry_run:
        return
    endpoints = [endpoint for endpoint, entry in zip(settings.traces, entries, strict=True) if entry.waiting]
    progress = Progress(sum(entry.total for entry in waiting), sys.stderr)
    try:
        after = export_once(folder, endpoints, patience_s=settings.exit_timeout_s, again=arguments.all, progress=progress)
    finally:
        progress.clear()
    for old, new in zip(waiting, after.endpoints, strict=True):
        print(_said(old, new))
    if after.problem:
        raise RecordError(folder, after.problem)
    _complain_of_what_is_left(folder, waiting, after.endpoints)


def _still_open(folder: str) -> int:
    """Return how many spans a killed run left open, which would be closed and sent, too; 0 where that can't be read."""
    from otel_exec.recovery import left_open

    try:
        return left_open(folder)
    except RecordError:
        return 0


def _recovered(folder: str) -> None:
    """Close what a killed run left open; said in a line where there was something."""
    from otel_exec.recovery import forget, recover

    try:
        closed = recover(folder)
    except RecordError as error:  # what had ended can be sent all the same
        print(f"otel-exec: what the run left open can't be closed: {printable(str(error))}", file=sys.stderr)
        return
    if closed is not None:
        forget(folder)
    if closed:
        print(f"the run was killed: {plural(closed, 'span')} that it left open {'is' if closed == 1 else 'are'} closed at its last sign of life")


def _again(entry: EndpointSummary) -> EndpointSummary:
    """Return an entry as it is before anything was sent."""
    return replace(entry, acknowledged=0, rejected=0, error="")


class Progress:
    """Says on a terminal how far a replay has come; called from any thread, shown ten times a second at most. Piped, it says nothing: the counts follow.

    Args:
        total: how many spans there are to settle.
        stream: where to.
    """

    def __init__(self, total: int, stream: TextIO) -> None:
        self._total = total
        self._stream = stream
        self._shown = stream.isatty()
        self._next_s = 0.0

    def __call__(self, settled: int) -> None:
        """So many are settled."""
        now_s = time.monotonic()
        if self._shown and now_s >= self._next_s:
            self._next_s = now_s + 0.1
            self._stream.write(f"\r\x1b[K{settled:,} of {self._total:,} spans")
            self._stream.flush()

    def clear(self) -> None:
        """Take the line away."""
        if self._shown:
            self._stream.write("\r\x1b[K")
            self._stream.flush()


def _settings(endpoint: str | None, environ: Mapping[str, str]) -> Config:
    """Return the settings, in which there is an endpoint."""
    if endpoint is not None:
        environ = {**{name: value for name, value in environ.items() if name not in _OVERRIDDEN}, _ENDPOINT: endpoint}
    try:
        settings = configuration.resolve({}, environ, defaults={"exit_timeout_s": _PATIENCE_S})
    except ConfigError as error:
        if endpoint is not None and error.setting == _ENDPOINT:
            raise ConfigError("--endpoint", error.value, error.accepted) from None
        raise
    if not settings.traces:
        raise UsageError(f"no endpoint is known: set {_ENDPOINT}, or give --endpoint URL, e.g. http://localhost:4317")
    if settings.sdk_disabled:
        raise UsageError("OTEL_SDK_DISABLED switches exporting off: unset it, or give --endpoint URL")
    return settings


def _run_folder(run: str | None, environ: Mapping[str, str]) -> str:
    """Return the local folder of a run."""
    path = find_run(run, prefix=prefix_of(environ))
    folder = path
    if storage.is_remote(path) or not os.path.isdir(path):
        # The folder that the file lies in, where it is one: it may have been moved since. Else it is a copy, beside the script say.
        beside = os.path.dirname(os.path.abspath(path))
        folder = beside if os.path.isdir(os.path.join(beside, "spans")) else read_record(path, _RunFolder).run_folder
    if storage.is_remote(folder):
        raise RecordError(folder, "the run's spans are not on this machine: copy its folder here and give it as RUN")
    if not os.path.isdir(folder):
        raise RecordError(folder, "the run's folder is gone, and with it its spans")
    return folder


def _nothing_left(entry: EndpointSummary, folder: str) -> str:
    if not entry.total:
        return f"nothing to send: there are no spans in {os.path.join(folder, 'spans')}"
    if entry.rejected:
        return f"nothing to send: {entry.url} has acknowledged {entry.acknowledged:,} of {plural(entry.total, 'span')} and refused {entry.rejected:,} for good"
    return f"nothing to send: {entry.url} has acknowledged {'the only span' if entry.total == 1 else f'all {entry.total:,} spans'}"


def _settled(entry: EndpointSummary) -> str:
    were = f"{entry.acknowledged:,} {'was' if entry.acknowledged == 1 else 'were'} there already"
    return were + (f", {entry.rejected:,} refused for good" if entry.rejected else "")


def _said(old: EndpointSummary, new: EndpointSummary) -> str:
    refused = f"; {new.rejected - old.rejected:,} refused for good ({new.error})" if new.rejected > old.rejected and not new.waiting else ""
    return f"sent {new.acknowledged - old.acknowledged:,} of {plural(old.waiting, 'span')} to {new.url}; {_settled(old)}{refused}"


def _complain_of_what_is_left(folder: str, before: Sequence[EndpointSummary], after: Sequence[EndpointSummary]) -> None:
    """Raise where spans wait still, or where an endpoint took none of those that it was sent."""
    reasons = []
    taken = False
    for old, new in zip(before, after, strict=True):
        if new.waiting:
            reasons.append(f"{plural(new.waiting, 'span')} {'stays' if new.waiting == 1 else 'stay'} in the spool: {new.error}")
        elif new.acknowledged == old.acknowledged:
            reasons.append(f"{new.url} took none of {plural(old.waiting, 'span')}: {new.error}")
        taken = taken or new.acknowledged > old.acknowledged
    if reasons:
        raise (RecordError if taken else NothingTaken)(folder, "; ".join(reasons))
