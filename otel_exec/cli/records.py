"""From what a person typed as RUN to a record: the short way for a run that ended, the long way for one that goes on or died.

What comes in: RUN and the environment. What goes out: a record, its path, and the newest counts of its export.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from typing import TypeVar

from otel_exec.errors import ConfigError, RecordError
from otel_exec.record import storage
from otel_exec.record.find import find_run
from otel_exec.record.model import Experiment, Export, RunRecord
from otel_exec.record.record_file import decode_record, read_record
from otel_exec.report.breakdown_record import BreakdownRecord
from otel_exec.report.summary_record import AnyRecord, RunLine, SummaryRecord

__all__ = ["load", "prefix_of", "read_as", "run_line", "trace_url_of"]

_Narrow = TypeVar("_Narrow", SummaryRecord, BreakdownRecord)
_HEAD_BYTES = 65_536
_STEPS_KEY = b',"steps":'


def prefix_of(environ: Mapping[str, str]) -> str:
    """Return where runs are looked for when nobody said."""
    return environ.get("OTEL_EXEC_PREFIX") or "./outputs"


def trace_url_of(environ: Mapping[str, str]) -> str | None:
    """Return the template of a trace's address, `None` when no backend is known."""
    template = environ.get("OTEL_EXEC_TRACE_URL")
    if template and "{trace_id}" not in template:
        raise ConfigError("OTEL_EXEC_TRACE_URL", template, "an address with {trace_id} in it, such as http://localhost:16686/trace/{trace_id}")
    return template or None


def load(run: str | None, environ: Mapping[str, str]) -> tuple[AnyRecord, str, Export | None]:
    """Return a run's record, the path of its run.json, and what its export.json says, where there is one.

    Raises:
        RecordError: there is no such run, or it can't be read.
    """
    path, record = _find(run, environ, SummaryRecord)
    if isinstance(record, RunRecord):
        return record, path, None
    return record, path, _newest_export(record)


def read_as(run: str | None, environ: Mapping[str, str], narrow: type[_Narrow]) -> _Narrow | RunRecord:
    """Return a run's record, of the narrow kind where it has ended; whole, made anew, where it goes on or died.

    Raises:
        RecordError: there is no such run, or it can't be read.
    """
    return _find(run, environ, narrow)[1]


def _find(run: str | None, environ: Mapping[str, str], narrow: type[_Narrow]) -> tuple[str, _Narrow | RunRecord]:
    path = find_run(run, prefix=prefix_of(environ))
    if os.path.isdir(path):
        return os.path.join(path, "run.json"), _completed(path)
    record = read_record(path, narrow)
    return path, _completed(path) if record.outcome == "running" else record


def run_line(folder: str) -> RunLine:
    """Return what a list says of the run in a folder; one that says `running` though its driver is gone is `interrupted`.

    Raises:
        RecordError: its run.json can't be read, and it is none that has not begun yet.
    """
    try:
        line = _head(f"{folder}/run.json")
    except RecordError:
        early = _before_its_record(folder)
        if early is None:
            raise
        return early
    if line.outcome == "running":
        whole = _completed(folder)
        line.outcome, line.duration_ns = whole.outcome, whole.duration_ns
    return line


def _before_its_record(folder: str) -> RunLine | None:
    """Return the line of a run that waits, or died while it waited, for what it needs to begin: it has a status alone. `None` of every other."""
    from otel_exec.record.status_file import read_status
    from otel_exec.status import RunPlace, status_now

    known = read_status(folder)
    if known is None or not known.waiting or known.start_time is None or storage.exists(f"{folder}/run.json"):
        return None
    state = status_now(RunPlace(folder, f"{folder}/run.json"), time.time_ns()).state
    return RunLine(known.schema_version, known.exec_id, state, Experiment(known.experiment or "-"), folder, known.start_time)


def _head(path: str) -> RunLine:
    """Return the facts before a record's steps from its first bytes, so that a list of large runs costs little; the whole is read where they are not in order."""
    try:
        content = storage.read_head(path, _HEAD_BYTES)
    except OSError:  # said in one sentence by the reader of the whole
        return read_record(path, RunLine)
    # Within a string the quotes would be escaped: these bytes are a key of an object.
    head, key, _ = content.partition(_STEPS_KEY)
    if key:
        try:
            return decode_record(path, head + b"}", RunLine)
        except RecordError:  # a `steps` within something else
            pass
    return read_record(path, RunLine)


def _completed(path: str) -> RunRecord:
    """Return the record made anew from journal and spool: run.json is behind, or the run died."""
    from otel_exec.complete import read_run

    return read_run(path)


def _newest_export(record: SummaryRecord) -> Export | None:
    """Return the export's counts with what `export.json` has acknowledged since the record was written; `None` where there is no such file.

    How many spans there are only the record knows. A cursor that can't be read is no reason not to show the rest.
    """
    if not os.path.isfile(os.path.join(record.run_folder, "export.json")):
        return None
    from otel_exec.spans.cursor import read_export

    try:
        known = read_export(record.run_folder)
    except RecordError:
        return None
    if known is None or not known.endpoints:
        return None
    said = record.export or Export()
    # Of several endpoints, after a replay to another one say, the one that has most tells how far the spans have come; the run's own goes first.
    endpoint = max(known.endpoints, key=lambda name: (known.endpoints[name].acknowledged, name == said.endpoint))
    progress = known.endpoints[endpoint]
    settled = progress.acknowledged + progress.rejected
    return Export(
        endpoint=endpoint,
        protocol=progress.protocol or said.protocol,
        spans=max(said.spans, settled),
        spans_acknowledged=progress.acknowledged,
        spans_rejected=progress.rejected,
        metrics=said.metrics,
    )
