"""The spool: finished spans, appended to their writer's own file before anything else happens to them.

What comes in: `SpanRecord`s. What goes out: OTLP/JSON lines in `<run folder>/spans/<writer>.jsonl`, and records read back from them.
One writer a file. What is finished is in the file, or in mapped memory beside it, when the call returns: a SIGKILL loses none of it. Imports no OpenTelemetry.
A writer holds its file with `flock` for as long as it lives, so that others can tell whether more is to come.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import threading
import time
import weakref
from collections import deque
from typing import TYPE_CHECKING

from otel_exec.errors import NO_ROOM
from otel_exec.regular_file import open_regular
from otel_exec.spans.line_codec import LineEncoder, decode
from otel_exec.spans.write_ahead import AHEAD_SUFFIX, LinesAhead, WriteAhead, mend

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from otel_exec.spans.span_record import AttributeValue, SpanRecord

__all__ = ["SPOOL_SUFFIX", "SpoolWriter", "decode_line", "forked_files", "mend_folder", "mend_spool", "read_spool", "read_spool_file"]

SPOOL_SUFFIX = ".jsonl"
_FORK = "-fork-"
# Lines that were put wait at most so long for the next one to take them into the file; `flush` does it where no next one comes.
_WAIT_NS = 50_000_000
# How long a writer leaves a disk that is full alone.
_PAUSE_S = 1.0


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
    # Of a writer that lives, or was killed, the last lines may be in mapped memory alone. Looked at first: what the file has by then is not read twice.
    ahead = LinesAhead(_ahead_of(path))
    size = 0
    last = b""
    try:
        with os.fdopen(open_regular(path, follow=False), "rb") as file:
            while line := file.readline(_LONGEST_LINE):
                if len(line) == _LONGEST_LINE:  # nothing of ours: a giant in our file's place
                    return
                size += len(line)
                last = line
                if line.endswith(b"\n"):
                    yield from _records(line)
    except OSError:
        return
    rest = ahead.beyond(size)
    if not last.endswith(b"\n"):  # killed while it wrote: the line goes on in memory, or is torn
        rest = last + rest
    for whole in rest.splitlines(keepends=True):
        yield from _records(whole)


def mend_spool(folder: str, writer: str) -> None:
    """Append to a dead writer's file what it had finished and not yet written. Never raises; safe to call twice.

    Args:
        folder: the run's `spans` folder.
        writer: the file's stem.
    """
    path = os.path.join(folder, writer + SPOOL_SUFFIX)
    mend(path, _ahead_of(path))


def mend_folder(folder: str) -> None:
    """Do as `mend_spool` for every writer of a run that is over. Never raises."""
    try:
        names = os.listdir(folder)
    except OSError:
        return
    for name in names:
        if name.endswith(AHEAD_SUFFIX):
            mend_spool(folder, name.removesuffix(AHEAD_SUFFIX))


def _ahead_of(path: str) -> str:
    return path.removesuffix(SPOOL_SUFFIX) + AHEAD_SUFFIX


def _records(line: bytes) -> list[SpanRecord]:
    try:
        return decode(line)
    except ValueError:
        return []


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
        # Both locks may be taken again by the thread that has them: a finaliser or a signal handler may end a span in the midst of a change. `_busy` and
        # `_filing_busy` say that there is one under way (to who has the lock); what comes then waits in `_late`, with its number of spans, until it is over.
        self._lock = threading.RLock()
        self._busy = False
        self._late: deque[tuple[bytes, int]] = deque()
        self._closed = False
        self._torn = False
        self._full_until_s = 0.0
        self._fd = -1
        # Who holds it may change the file; `_lock` guards the rest, and is never held during a system call but a direct write's.
        self._filing = threading.RLock()
        self._filing_busy = False
        self._ahead: WriteAhead | None = None
        self._ahead_wanted = True
        self._filed_ns = 0
        _writers.add(self)
        try:
            os.makedirs(folder, exist_ok=True)
            self._open()
        except OSError as error:
            self.error = error

    def line_of(self, record: SpanRecord) -> str:
        """Return a record's line, as `put` takes it."""
        return self._encoder.encode((record,)).decode()

    def put(self, line: str, at_ns: int) -> None:
        """Take one line into mapped memory (into the file, where there is none): for spans that come by the thousand.

        Args:
            line: as `line_of` makes it.
            at_ns: the present instant. Lines wait for the file until one comes 50 ms later, or there is no room, or `flush` or `write` is called.
        """
        try:
            data = line.encode()
            with self._lock:
                if self._busy:
                    self._late.append((data, 1))
                    return
                self._busy = True
                try:
                    ahead = self._ahead
                    kept = ahead is not None and not self._torn and ahead.put(data)
                    self.written += kept
                finally:
                    self._busy = False
            if not kept:
                self._put_slowly(data)
                self._filed_ns = at_ns
            elif at_ns - self._filed_ns > _WAIT_NS:
                self._filed_ns = at_ns
                self.flush()
            elif self._late:
                self.flush()
        except Exception as error:
            self.error = self.error or error
            self.lost += 1

    def flush(self) -> None:
        """Write what was put into the file. One thread at a time; others go on. Never raises."""
        if self._filing_busy or self._amid():
            return
        try:
            with self._filed() as free:
                if free:
                    self._file()
        except Exception as error:
            self.error = self.error or error

    def write(self, records: Sequence[SpanRecord]) -> None:
        """Append the records, and what was put before them, with one system call."""
        if not records:
            return
        try:
            data = self._encoder.encode(records)
        except Exception as error:
            self.error = self.error or error
            self.lost += len(records)
        else:
            self.add(data, len(records))

    def add(self, data: bytes, count: int) -> None:
        """Append lines that are made already, so many, as `write` does."""
        try:
            if self._amid():
                self._late.append((data, count))
                return
            with self._filed() as free:
                if not free:
                    self._late.append((data, count))
                    return
                with self._changed():
                    self._append(data, count)
        except Exception as error:
            self.error = self.error or error
            self.lost += count

    def close(self) -> None:
        """Close the file; later writes are counted as lost. Lines that the disk had no room for stay in mapped memory beside it. Safe to call twice."""
        try:
            with self._filed():
                try:
                    self._file()
                except OSError as error:  # a full disk: what is left stays in memory
                    self.error = self.error or error
                with self._changed():
                    self._closed = True
                    fd, self._fd = self._fd, -1
                    ahead, self._ahead = self._ahead, None
            if ahead is not None:
                if ahead.flushed < ahead.end:
                    ahead.forget()  # its file stays: who reads or mends the spool finds the lines there
                else:
                    ahead.remove()
            if fd >= 0:
                os.close(fd)
        except Exception as error:
            self.error = self.error or error

    def _open(self) -> None:
        self._fd = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
        with contextlib.suppress(OSError):  # a file system without, or somebody who looks just now
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def _put_slowly(self, data: bytes) -> None:
        """Take a line that did not fit, or is the first one."""
        with self._filed() as free:
            if not free:
                self._late.append((data, 1))
                return
            if self._ahead is not None:
                self._file()
            with self._changed():
                if self._ahead_wanted and not self._closed:
                    self._ahead_wanted = False
                    self._map()
                if self._ahead is not None and not self._torn and self._ahead.put(data):
                    self.written += 1
                else:
                    self._append(data, 1)

    def _map(self) -> None:
        if self._fd < 0:
            self._open()
        try:
            self._ahead = WriteAhead(_ahead_of(self.path), os.fstat(self._fd).st_size)
        except (OSError, ValueError):
            self._ahead = None  # a write each, then

    def _amid(self) -> bool:
        """Return whether this thread is in the midst of a change further up."""
        with self._lock:
            return self._busy

    @contextlib.contextmanager
    def _filed(self) -> Iterator[bool]:
        """Hold `_filing` for the block; gives whether the file may be changed: not by who was called in the midst of such a change. Late lines are taken in."""
        with self._filing:
            free = not self._filing_busy
            if free:
                self._filing_busy = True
                try:
                    yield True
                    while self._late:
                        data, count = self._late.popleft()
                        with self._changed():
                            self._append(data, count)
                finally:
                    self._filing_busy = False
            else:
                yield False

    @contextlib.contextmanager
    def _changed(self) -> Iterator[None]:
        """Hold `_lock` for the block, which changes what `put` changes. Under `_filed`."""
        with self._lock:
            self._busy = True
            try:
                yield
            finally:
                self._busy = False

    def _file(self) -> None:
        """Append what was put, outside of the lock: meanwhile others may put more."""
        with self._changed():
            ahead = self._ahead
            data = b"" if ahead is None or ahead.flushed == ahead.end else ahead.pending()
        while data and ahead is not None and not self._full():
            try:
                size = self._write(data)
            except OSError as error:
                self._pause(error)
                raise
            data = data[size:]
            with self._changed():
                ahead.moved(size)

    def _append(self, data: bytes, count: int) -> None:
        """Write, under both locks. A line that could not be written whole is ended by the newline that the next write begins with."""
        if self._closed or self._full():
            self.lost += count
            return
        ahead = self._ahead
        before = b"" if ahead is None or ahead.flushed == ahead.end else ahead.pending()
        if self._torn:  # then nothing was put
            before = b"\n"
        todo = before + data
        sent = 0
        try:
            if self._fd < 0:
                self._open()
            while sent < len(todo):  # a signal or a full disk may cut it short: what is left is written, or the disk says why not
                size = self._write(todo[sent:] if sent else todo)
                sent += size
                if ahead is not None:
                    ahead.moved(size)
        except OSError as error:
            self.error = self.error or error
            self._pause(error)
        written = count
        if sent == len(todo):
            self._torn = False
        elif sent >= len(before):
            written -= todo.count(b"\n", sent)
            self._torn = sent > 0 and todo[sent - 1] != _NEWLINE
        else:
            written = 0
        self.written += written
        self.lost += count - written

    def _write(self, data: bytes) -> int:
        try:
            return os.write(self._fd, data)
        except OSError as error:
            if error.errno != errno.EBADF:
                raise
        self._open()  # the code that is measured has closed it
        return os.write(self._fd, data)

    def _full(self) -> bool:
        """Whether the disk had no room a moment ago: what there is by now is for outcomes first."""
        return self._full_until_s > 0 and time.monotonic() < self._full_until_s

    def _pause(self, error: OSError) -> None:
        if error.errno in NO_ROOM:
            self._full_until_s = time.monotonic() + _PAUSE_S

    def _after_fork(self) -> None:
        """Leave the parent's file to the parent."""
        self._lock = threading.RLock()
        self._filing = threading.RLock()
        self._busy = self._filing_busy = self._torn = False
        self._late.clear()
        self._ahead_wanted = False  # a child may end in any way; nobody would mend its file
        ahead, self._ahead = self._ahead, None
        if ahead is not None:
            ahead.forget()
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
