"""The cursor: how far each endpoint has acknowledged each file of a run, kept in `<run folder>/export.json`.

What comes in: acknowledgements. What goes out: positions to go on from, and the same numbers for reports. Imports no OpenTelemetry.
The file is replaced whole and atomically after each acknowledgement, so that a kill at any moment leaves the state before or after it: one batch at
most is sent again. A lease (`export.lock`) lets one exporter at a time move it.

Units: positions are bytes from the file's start, always a line's end.
"""

from __future__ import annotations

import fcntl
import os
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

from otel_exec.clock import System, to_iso
from otel_exec.errors import RecordError
from otel_exec.regular_file import read_regular
from otel_exec.spans.signal import Signal

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

__all__ = ["CURSOR_FILE", "Cursor", "EndpointProgress", "ExportState", "FileProgress", "Lease", "MetricsProgress", "Move", "read_export"]

CURSOR_FILE = "export.json"
_LOCK_FILE = "export.lock"
_VERSION = "1.0"


class FileProgress(msgspec.Struct):
    """How far one file went to one endpoint. `acknowledged` and `rejected` count spans, or data points; `skipped` counts lines that held none."""

    bytes: int = 0
    acknowledged: int = 0
    rejected: int = 0
    skipped: int = 0


class EndpointProgress(msgspec.Struct, rename={"acknowledged": "spans_acknowledged", "rejected": "spans_rejected"}):
    """What one endpoint has acknowledged, in spans. `last_error` is why nothing goes out at the moment, `last_rejection` why some were refused for good.

    `absent`: the receiver has no service for this signal.
    """

    protocol: str = ""
    acknowledged: int = 0
    rejected: int = 0
    lines_skipped: int = 0
    last_acknowledged_at: str | None = None
    last_error: str | None = None
    last_rejection: str | None = None
    absent: bool = False
    files: dict[str, FileProgress] = {}


class MetricsProgress(EndpointProgress, rename={"acknowledged": "points_acknowledged", "rejected": "points_rejected"}):
    """The same of metrics, in data points."""

    acknowledged: int = 0
    rejected: int = 0


class ExportState(msgspec.Struct):
    """`export.json`: `endpoints` for spans, `metrics` for metrics. Endpoints are named by their address without secrets, files by their path in the run's folder."""

    schema_version: str = _VERSION
    updated_at: str | None = None
    endpoints: dict[str, EndpointProgress] = {}
    metrics: dict[str, MetricsProgress] = {}

    def entries(self, signal: Signal) -> Mapping[str, EndpointProgress]:
        """Return what is known of a signal, by endpoint."""
        return self.metrics if signal is Signal.METRICS else self.endpoints

    def entry(self, signal: Signal, endpoint: str) -> EndpointProgress:
        """Return an endpoint's entry, made where there is none."""
        if signal is Signal.METRICS:
            return self.metrics.setdefault(endpoint, MetricsProgress())
        return self.endpoints.setdefault(endpoint, EndpointProgress())


@dataclass(frozen=True, slots=True)
class Move:
    """Lines of one file that are settled: `file` up to the byte `end`."""

    file: str
    end: int
    acknowledged: int = 0
    rejected: int = 0
    skipped: int = 0


class Lease:
    """The right to move a run's cursor; the kernel takes it back when its holder dies."""

    def __init__(self, descriptor: int | None) -> None:
        self._descriptor = descriptor

    @classmethod
    def take(cls, run_folder: str) -> Lease | None:
        """Return the lease, or `None` while another exporter has it."""
        path = f"{run_folder}/{_LOCK_FILE}"
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, 0o644)
        except OSError as error:
            raise RecordError(path, f"can't be opened: {error.strerror}") from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return None
        except OSError:  # a file system without locks: better exported than not
            os.close(descriptor)
            return cls(None)
        return cls(descriptor)

    def release(self) -> None:
        """Give the lease back."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


class Cursor:
    """Moves `export.json`; thread-safe.

    Raises:
        RecordError: the file that is there can't be read; going on would send everything again.
    """

    def __init__(self, run_folder: str) -> None:
        self._path = f"{run_folder}/{CURSOR_FILE}"
        self._lock = threading.Lock()
        self._state = read_export(run_folder) or ExportState()
        self._closed = False
        self.save_error: str | None = None

    def progress(self, endpoint: str, signal: Signal = Signal.TRACES) -> EndpointProgress:
        """Return an endpoint's entry, made where there is none. Only the endpoint's own thread reads it."""
        with self._lock:
            return self._state.entry(signal, endpoint)

    def position(self, endpoint: str, file: str, signal: Signal = Signal.TRACES) -> int:
        """Return the byte that the endpoint goes on from."""
        entry = self.progress(endpoint, signal).files.get(file)
        return entry.bytes if entry else 0

    def settled(self, endpoints: Iterable[str], signal: Signal = Signal.TRACES) -> int:
        """Return how many spans these endpoints have acknowledged or refused for good, together."""
        with self._lock:
            return sum(entry.acknowledged + entry.rejected for entry in (self._state.entry(signal, endpoint) for endpoint in endpoints))

    def forget(self, endpoint: str) -> None:
        """Begin again with the spans of an endpoint, as if it had acknowledged none; written down at once, so that what goes on later goes on from there."""
        with self._lock:
            self._state.endpoints.pop(endpoint, None)
            self._save()

    def advance(self, endpoint: str, moves: Iterable[Move], *, signal: Signal = Signal.TRACES, rejection: str | None = None) -> None:
        """Note lines as settled, and write it down before anything else is sent."""
        with self._lock:
            if self._closed:
                return
            entry = self._state.entry(signal, endpoint)
            for move in moves:
                file = entry.files.setdefault(move.file, FileProgress())
                file.bytes = max(file.bytes, move.end)
                file.acknowledged += move.acknowledged
                file.rejected += move.rejected
                file.skipped += move.skipped
                entry.acknowledged += move.acknowledged
                entry.rejected += move.rejected
                entry.lines_skipped += move.skipped
            entry.last_error, entry.absent = None, False
            entry.last_acknowledged_at = to_iso(System.wall())
            if rejection:
                entry.last_rejection = rejection
            self._save()

    def note(self, endpoint: str, error: str | None, *, signal: Signal = Signal.TRACES, absent: bool = False) -> None:
        """Write down why nothing goes out; `absent`: because the receiver has no service for the signal."""
        with self._lock:
            entry = self._state.entry(signal, endpoint)
            if self._closed or (entry.last_error, entry.absent) == (error, absent):
                return
            entry.last_error, entry.absent = error, absent
            self._save()

    def close(self) -> None:
        """Move nothing any more: what is acknowledged from now on counts as not acknowledged."""
        with self._lock:
            self._closed = True

    def _save(self) -> None:
        self._state.updated_at = to_iso(System.wall())
        scratch = f"{self._path}.{os.getpid()}.tmp"
        try:
            with open(scratch, "wb") as file:
                file.write(msgspec.json.encode(self._state))
            os.replace(scratch, self._path)
        except OSError as error:  # a full disk: the positions in memory stay right, the next save may succeed
            self.save_error = str(error)
        else:
            self.save_error = None


def read_export(run_folder: str) -> ExportState | None:
    """Return a run's `export.json`; `None` when there is none.

    Raises:
        RecordError: it can't be read, is not one, or is of a newer major version.
    """
    path = f"{run_folder}/{CURSOR_FILE}"
    try:
        content = read_regular(path)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise RecordError(path, f"can't be read: {error.strerror or error}") from error
    try:
        state = msgspec.json.decode(content, type=ExportState)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise RecordError(path, f"is not an export cursor ({error}); moved away, everything is sent again") from None
    if state.schema_version.partition(".")[0] != _VERSION.partition(".")[0]:
        raise RecordError(path, f"has schema version {state.schema_version}, this program reads {_VERSION}")
    return state
