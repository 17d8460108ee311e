"""Finished spans on their way home from a Ray worker: lines in memory, until somebody takes them along.

What comes in: `SpanRecord`s of a recorder; lines that came with the items of a fan-out. What goes out: lines. It is a recorder's spool (`spans.recorder.Spool`).
In a child that a step forked there is nobody to take them: there they go to a file of the run's folder, where that can be seen.
"""

from __future__ import annotations

import os
import threading
import weakref
from typing import TYPE_CHECKING

from otel_exec.spans.line_codec import LineEncoder, to_bytes
from otel_exec.spans.spool import SpoolWriter

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from otel_exec.spans.span_record import AttributeValue, SpanRecord

__all__ = ["Outbox"]

# Where the home actor is out of reach for long, lines gather; past this they are counted as lost.
_MAX_BYTES = 64 * 1024 * 1024


class Outbox:
    """Gathers lines; thread-safe; never raises.

    Args:
        folder: the run's `spans` folder, for forked children.
        writer: this process's name there.
        resource: attributes of what writes, on every line.
    """

    error: Exception | None
    lost: int

    def __init__(self, folder: str, writer: str, resource: Mapping[str, AttributeValue]) -> None:
        self.error = None
        self.lost = 0
        self._folder = folder
        self._writer = writer
        self._resource = dict(resource)
        self._encoder = LineEncoder(resource)
        self._lock = threading.Lock()
        self._lines: list[bytes] = []
        self._size = 0
        self._file: SpoolWriter | None = None
        self._pid = os.getpid()
        _outboxes.add(self)

    def write(self, records: Sequence[SpanRecord]) -> None:
        """Take in finished spans."""
        if not records:
            return
        if self._pid != os.getpid():
            self._write_in_child(records)
            return
        try:
            data = self._encoder.encode(records)
        except Exception as error:
            self.error = self.error or error
            self.lost += len(records)
            return
        self.add(data, len(records))

    def line_of(self, record: SpanRecord) -> str:
        """Return a record's line, as `put` takes it."""
        return self._encoder.encode((record,)).decode()

    def put(self, line: str, at_ns: int) -> None:
        """Take in one line."""
        if self._pid == os.getpid():
            self.add(to_bytes(line))
            return
        self._open_in_child()
        if self._file is None:
            self.lost += 1
        else:
            self._file.put(line, at_ns)

    def flush(self) -> None:
        """Write what waits for a child's file; what waits here is taken."""
        if self._file is not None:
            self._file.flush()

    def add(self, data: bytes, count: int = 1) -> None:
        """Take in lines."""
        if not data:
            return
        with self._lock:
            if self._size + len(data) > _MAX_BYTES:
                self.lost += count
                self.error = self.error or MemoryError("too many finished spans wait for the run's home actor")
                return
            self._lines.append(data)
            self._size += len(data)

    @property
    def waiting(self) -> bool:
        """Whether lines wait to be taken."""
        return bool(self._lines)

    def take(self) -> bytes:
        """Return all lines and forget them."""
        if not self._lines:
            return b""
        with self._lock:
            lines, self._lines, self._size = self._lines, [], 0
        return lines[0] if len(lines) == 1 else b"".join(lines)

    def _write_in_child(self, records: Sequence[SpanRecord]) -> None:
        self._open_in_child()
        if self._file is None:
            self.lost += len(records)
        else:
            self._file.write(records)

    def _open_in_child(self) -> None:
        if self._file is None and os.path.isdir(self._folder):
            self._file = SpoolWriter(self._folder, f"{self._writer}-fork-{os.getpid()}", {**self._resource, "process.pid": os.getpid()})

    def _after_fork(self) -> None:
        """What waits here is the parent's to hand over."""
        self._lock = threading.Lock()
        self._lines, self._size = [], 0
        self._file = None


_outboxes: weakref.WeakSet[Outbox] = weakref.WeakSet()


def _in_child() -> None:
    for outbox in list(_outboxes):
        outbox._after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)
