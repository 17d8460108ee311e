"""A run's own folder, `<prefix>/.otel_exec/runs/<exec_id>/`, and how a run is found again.

What comes in: records and transitions. What goes out: run.json, status.json, journal.jsonl and `latest`, each appended a line at a time or replaced whole and atomically, each by one writer.
For a remote prefix the live files lie in a local folder and are uploaded at the end.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from collections.abc import Sequence

    from otel_exec.record.model import RunRecord, StatusRecord

__all__ = ["JournalLine", "RunStore", "find_run", "list_runs", "read_journal", "read_record", "write_record"]


class JournalLine(msgspec.Struct, omit_defaults=True):
    """One state transition. `at` is an instant in nanoseconds since the Unix epoch, `what` the transition: `began created claimed ended waiting settled worker gate cancel ended_run`."""

    at: int
    what: str
    node: str | None = None
    attempt: int | None = None
    worker: str | None = None
    outcome: str | None = None
    cause: str | None = None
    span: str | None = None
    error: dict[str, str | None] | None = None
    data: dict[str, object] | None = None


class RunStore:
    """Writes one run's folder. `folder` is where the live files are (local); `run_folder` is where they are found later (under the prefix)."""

    folder: str
    run_folder: str

    def __init__(self, prefix: str, exec_id: str) -> None:
        """Make the folder; raises `RecordError` when it can't be made."""
        raise NotImplementedError

    def journal(self, lines: Sequence[JournalLine]) -> None:
        """Append transitions with one write."""
        raise NotImplementedError

    def write_status(self, status: StatusRecord) -> None:
        """Replace status.json."""
        raise NotImplementedError

    def write_run(self, encoded: bytes, also: str | None = None) -> None:
        """Replace run.json in the folder and, where `also` is given, at that path too."""
        raise NotImplementedError

    def publish_latest(self) -> None:
        """Name this run in `<prefix>/.otel_exec/latest`."""
        raise NotImplementedError

    def close(self) -> None:
        """Close files; upload what belongs under a remote prefix."""
        raise NotImplementedError


def read_record(path: str, type_: type | None = None) -> RunRecord:
    """Read a run.json. Raises `RecordError` with one sentence when it is missing, truncated, foreign or of a newer major schema."""
    raise NotImplementedError


def write_record(record: RunRecord) -> bytes:
    """Return the record as JSON, valid in every reader (no NaN, no lone surrogates)."""
    raise NotImplementedError


def read_journal(folder: str) -> list[JournalLine]:
    """Return a run folder's transitions in order; torn and foreign lines are passed over."""
    raise NotImplementedError


def list_runs(prefix: str) -> list[str]:
    """Return the run folders under a prefix, newest last."""
    raise NotImplementedError


def find_run(run: str | None, *, prefix: str | None = None) -> str:
    """Return the path of the run.json (or, for a dead run without one, the run's folder) that RUN names: a run.json, a run's folder, an exec id, a prefix, an experiment's name, or nothing (requirement F).

    Raises:
        RecordError: nothing of that name; it lists the closest.
    """
    raise NotImplementedError
