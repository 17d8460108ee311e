"""The spool: finished spans, appended to their writer's own file before anything else happens to them.

What comes in: `SpanRecord`s. What goes out: OTLP/JSON lines in `<run folder>/spans/<writer>.jsonl`, and records read back from them.
One writer a file, one `os.write` a call (a SIGKILL loses nothing that was finished). Imports no OpenTelemetry.
A writer holds its file with `flock` for as long as it lives, so that others can tell whether more is to come.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import threading
import weakref
from typing import TYPE_CHECKING

from otel_exec.regular_file import open_regular
from otel_exec.spans.line_codec import LineEncoder, decode

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from otel_exec.spans.span_record import AttributeValue, SpanRecord

__all__ = ["SPOOL_SUFFIX", "SpoolWriter", "decode_line", "forked_files", "read_spool", "read_spool_file"]

SPOOL_SUFFIX = ".jsonl"
_FORK = "-fork-"


def decode_line(line: bytes) -> list[SpanRecord]:
    """Return the spans of one line; raises `ValueError` on what is not one."""
    return decode(line)


def read_spool(folder: str) -> Iterator[SpanRecord]:
    """Yield every span of all `*.jsonl` in a run's `spans` folder, file by file in the order of their names.

    Torn or foreign lines are passed over (and counted by the caller through `decode_line` if it cares). A span written twice is yielded twice.
    A folder that is missing holds nothing.
    """
    try:
        names = sorted(name for name in os.listdir(folder) if name.endswith(SPOOL_SUFFIX))
    except OSError:
        return
    for name in names:
        yield from read_spool_file(os.path.join(folder, name))


def forked_files(folder: str) -> list[str]:
    """Return the paths of the files that forked children of writers made in a run's `spans` folder."""
    try:
        names = sorted(name for name in os.listdir(folder) if _FORK in name and name.endswith(SPOOL_SUFFIX))
    except OSError:
        return []
    return [os.path.join(folder, name) for name in names]


def read_spool_file(path: str) -> Iterator[SpanRecord]:
    """Yield every span of one spool file, as `read_spool` does for a folder's; a file that is missing or can't be read holds nothing more."""
    try:
        with os.fdopen(open_regular(path, follow=False), "rb") as file:
            while line := file.readline(_LONGEST_LINE):
                if len(line) == _LONGEST_LINE:  # nothing of ours: a giant in our file's place
                    return
                try:
                    records = decode(line)
                except ValueError:
                    continue
                yield from records
    except OSError:
        return


class SpoolWriter:
    """Appends finished spans to one file. Never raises: the first error is kept in `error`, later ones are counted in `lost`.

    Thread-safe. After a fork the child's writes go to a file of its own, `<writer>-fork-<pid>.jsonl`, made when it first writes.

    Args:
        folder: the run's `spans` folder; made when missing.
        writer: the file's stem: `driver`, `worker-0`.
        resource: attributes of what writes, on every line.
    """

    error: Exception | None
    written: int
    lost: int

    def __init__(self, folder: str, writer: str, resource: Mapping[str, AttributeValue]) -> None:
        self.error = None
        self.written = 0
        self.lost = 0
        self.path = os.path.join(folder, writer + SPOOL_SUFFIX)
        self._folder = folder
        self._writer = writer
        self._encoder = LineEncoder(resource)
        self._lock = threading.Lock()
        self._closed = False
        self._torn = False
        self._fd = -1
        _writers.add(self)
        try:
            os.makedirs(folder, exist_ok=True)
            self._open()
        except OSError as error:
            self.error = error

    def write(self, records: Sequence[SpanRecord]) -> None:
        """Append the records with one system call."""
        if not records:
            return
        try:
            data = self._encoder.encode(records)
            with self._lock:
                self._append(data, len(records))
        except Exception as error:
            if self.error is None:
                self.error = error
            self.lost += len(records)

    def close(self) -> None:
        """Close the file; later writes are counted as lost. Safe to call twice."""
        with self._lock:
            self._closed = True
            fd, self._fd = self._fd, -1
        if fd >= 0:
            try:
                os.close(fd)
            except OSError as error:
                self.error = self.error or error

    def _open(self) -> None:
        self._fd = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
        with contextlib.suppress(OSError):  # a file system without, or somebody who looks just now
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def _append(self, data: bytes, count: int) -> None:
        """Write, under the lock. A line that could not be written whole is ended by the newline that the next write begins with."""
        if self._closed:
            self.lost += count
            return
        whole = count
        try:
            if self._fd < 0:
                self._open()
            if self._torn:
                data = b"\n" + data
            size = os.write(self._fd, data)
            self._torn = False
            while size < len(data):
                # A full disk or a signal cut it short: what is left is written, or the disk says why not.
                rest = data[size:]
                whole = count - rest.count(b"\n")
                self._torn = data[size - 1] != _NEWLINE
                size += os.write(self._fd, rest)
            self._torn = False
            self.written += count
        except OSError as error:
            if self.error is None:
                self.error = error
            written = whole if whole < count else 0
            self.written += written
            self.lost += count - written

    def _after_fork(self) -> None:
        """Leave the parent's file to the parent."""
        self._lock = threading.Lock()
        self._torn = False
        self.written = self.lost = 0
        self.path = os.path.join(self._folder, f"{self._writer}{_FORK}{os.getpid()}{SPOOL_SUFFIX}")
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)


_NEWLINE = ord("\n")
# A line is one write of one process: what a task hands over at once, some megabytes at most.
_LONGEST_LINE = 64 << 20
_writers: weakref.WeakSet[SpoolWriter] = weakref.WeakSet()


def _in_child() -> None:
    for writer in list(_writers):
        try:
            writer._after_fork()
        except OSError as error:
            writer.error = writer.error or error


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)
