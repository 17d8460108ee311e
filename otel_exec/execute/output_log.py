"""A step's `.executor_log`: what it prints and logs, bounded, with the cut said.

What comes in: bytes that a task printed. What goes out: the file in its output folder, kept current while it runs, and the last lines for a report.
Memory and disk are bounded whatever is printed: the first and the last half of the cap are kept.
"""

from __future__ import annotations

import os

from otel_exec.record import storage
from otel_exec.record.step_files import LOG

__all__ = ["TAIL_LINES", "Bounded", "LogFile"]

TAIL_LINES = 20
_TAIL_BYTES = 8_192


class Bounded:
    """The first and the last half of `cap_bytes` of a stream. `total` counts all of it."""

    __slots__ = ("_half", "_tail", "_tail_bytes", "head", "total")

    def __init__(self, cap_bytes: int) -> None:
        self._half = max(1, cap_bytes // 2)
        self.head = bytearray()
        self._tail: list[bytes] = []
        self._tail_bytes = 0
        self.total = 0

    @property
    def half(self) -> int:
        """How many bytes each end may hold."""
        return self._half

    def feed(self, data: bytes) -> None:
        """Take in the stream's next bytes."""
        self.total += len(data)
        room = self._half - len(self.head)
        if room > 0:
            self.head += data[:room]
            data = data[room:]
        if data:
            data = data[-self._half :]
            self._tail.append(data)
            self._tail_bytes += len(data)
            if self._tail_bytes > 2 * self._half or len(self._tail) > 4096:
                whole = b"".join(self._tail)[-self._half :]
                self._tail = [whole]
                self._tail_bytes = len(whole)

    def skip(self, count: int) -> None:
        """Count bytes of the stream's middle that nobody read."""
        self.total += count
        self._tail = []
        self._tail_bytes = 0

    def tail(self) -> bytes:
        """Return what is kept after the head."""
        return b"".join(self._tail)[-self._half :]

    def content(self) -> bytes:
        """Return all that is kept, with the cut said in the middle."""
        return bytes(self.head) + self.rest()

    def rest(self) -> bytes:
        """Return what comes after the head: the cut, if any, and the tail."""
        tail = self.tail()
        cut = self.total - len(self.head) - len(tail)
        return b"\n... (%d bytes left out) ...\n%b" % (cut, tail) if cut > 0 else tail

    @property
    def ends_line(self) -> bool:
        """Whether the stream is at the start of a line."""
        return self.total == 0 or (self._tail[-1] if self._tail else self.head).endswith(b"\n")

    def last_lines(self) -> str:
        """Return the last lines, as text."""
        end = (bytes(self.head[-_TAIL_BYTES:]) + self.rest())[-_TAIL_BYTES:]
        return "\n".join(end.decode("utf-8", "replace").splitlines()[-TAIL_LINES:])


class LogFile:
    """The `.executor_log` of one attempt. The first attempt begins the file anew, later ones go on in it.

    Nothing is touched before the first byte. Raises `OSError` where it can't be written.
    """

    def __init__(self, output_path: str, attempt: int) -> None:
        self.path = output_path + LOG
        self._attempt = attempt
        self._fd = -1
        self._base = 0
        self._head_done = 0
        self._total_done = 0
        self._remote = storage.is_remote(output_path)

    def update(self, kept: Bounded) -> None:
        """Bring a local file up to date; a remote one is written at the end alone."""
        if self._remote or kept.total == self._total_done:
            return
        if self._fd < 0:
            self._open()
        head = len(kept.head)
        if head > self._head_done:
            os.pwrite(self._fd, kept.head[self._head_done :], self._base + self._head_done)
            self._head_done = head
        rest = kept.rest()
        if rest:
            end = self._base + head + os.pwrite(self._fd, rest, self._base + head)
            os.ftruncate(self._fd, end)
        self._total_done = kept.total

    def finish(self, kept: Bounded) -> str | None:
        """Write what is left and close; returns the file's path, `None` where the attempt printed nothing."""
        try:
            if kept.total == 0:
                return None
            if self._remote:
                before = storage.read_bytes(self.path) + self._title() if self._attempt > 1 and storage.exists(self.path) else b""
                storage.replace(self.path, before + kept.content())
            else:
                self.update(kept)
            self._total_done = kept.total
            return self.path
        finally:
            self.close()

    def close(self) -> None:
        """Close the file. Safe to call twice."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _title(self) -> bytes:
        return b"--- attempt %d ---\n" % self._attempt

    def _open(self) -> None:
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK | (os.O_TRUNC if self._attempt == 1 else 0)
        self._fd = os.open(self.path, flags, 0o666)
        if self._attempt > 1:
            size = os.fstat(self._fd).st_size
            self._base = size + os.pwrite(self._fd, self._title(), size)
