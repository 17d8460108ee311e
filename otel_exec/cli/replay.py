"""`otel-exec replay`: sends what a run's endpoints never acknowledged.

What comes in: a run, and endpoints from the environment or the command line. What goes out: requests, their acknowledgements in the run's export.json, and how many
spans they were. A span that an endpoint has acknowledged is never sent to it again; nothing is taken out of the spool.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import msgspec

from otel_exec import config as configuration
from otel_exec.cli.parser import Parser
from otel_exec.cli.records import prefix_of
from otel_exec.errors import ConfigError, RecordError, UsageError
from otel_exec.record import storage
from otel_exec.record.find import find_run
from otel_exec.record.record_file import read_record
from otel_exec.report.steps import plural

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
        "Send the spans of a run that were never acknowledged, each once. Where they go\nis said by OTEL_EXPORTER_OTLP_ENDPOINT and its kin, as for the run itself.",
        "otel-exec replay run.json\notel-exec replay --latest --endpoint http://localhost:4317\notel-exec replay exec_4bf92f35 --dry-run",
    )
    which = parser.add_mutually_exclusive_group()
    which.add_argument(
        "run",
        nargs="?",
        metavar="RUN",
        help="a run.json, a run's folder, an exec id, a prefix or an experiment's name (its latest run); default: the latest run under OTEL_EXEC_PREFIX or ./outputs, else ./run.json",
    )
    which.add_argument("--latest", action="store_true", help="the latest run, said in so many words")
    parser.add_argument("--endpoint", metavar="URL", help="where to, instead of the environment's endpoint; protocol, headers and certificates are still its")
    parser.add_argument("--dry-run", action="store_true", help="send nothing; say what would be sent")
    return parser


def execute(arguments: argparse.Namespace) -> int:
    """Send, and print what came of it; raises `RecordError` (exit code 4) where spans are left."""
    settings = _settings(arguments.endpoint, os.environ)
    for warning in settings.warnings:
        print(f"otel-exec: {warning}", file=sys.stderr)
    folder = _run_folder(arguments.run, os.environ)
    from otel_exec.spans.exporter import export_once, summarize

    before = summarize(folder, settings.traces)
    if before.problem:
        raise RecordError(folder, before.problem)
    waiting = [entry for entry in before.endpoints if entry.waiting]
    for entry in before.endpoints:
        if not entry.waiting:
            print(_nothing_left(entry, folder))
        elif arguments.dry_run:
            print(f"would send {entry.waiting:,} of {plural(entry.total, 'span')} to {entry.url}; {_settled(entry)}")
    if not waiting or arguments.dry_run:
        return 0
    endpoints = [endpoint for endpoint, entry in zip(settings.traces, before.endpoints, strict=True) if entry.waiting]
    after = export_once(folder, endpoints, patience_s=settings.exit_timeout_s)
    for old, new in zip(waiting, after.endpoints, strict=True):
        print(_said(old, new))
    if after.problem:
        raise RecordError(folder, after.problem)
    _complain_of_what_is_left(folder, waiting, after.endpoints)
    return 0


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
    for old, new in zip(before, after, strict=True):
        if new.waiting:
            reasons.append(f"{plural(new.waiting, 'span')} {'stays' if new.waiting == 1 else 'stay'} in the spool: {new.error}")
        elif new.acknowledged == old.acknowledged:
            reasons.append(f"{new.url} took none of {plural(old.waiting, 'span')}: {new.error}")
    if reasons:
        raise RecordError(folder, "; ".join(reasons))
