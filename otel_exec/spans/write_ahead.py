"""Lines on their way into a spool file, in mapped memory: a SIGKILL of the process loses none of them (decision 013).

What comes in: whole lines, at a memory copy each. What goes out: the same bytes, many at a time, for the file's one writer to append; and, after the writer's
death, for whoever reads or mends the file. Imports no OpenTelemetry.

The memory is the end of the file as it is going to be: the byte at position `p` of the file stands at `p` modulo the capacity, and one aligned word says up to
where lines are whole. So the file's own size says which of them it has already: nothing has to be taken out, and nothing can be in it twice. A line counts
from the moment in which that word is stored, which is after its bytes; a process that dies in between has not finished it.

Units: sizes and positions are bytes.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import struct

from otel_exec.regular_file import read_regular

__all__ = ["AHEAD_SUFFIX", "LinesAhead", "WriteAhead", "mend"]

AHEAD_SUFFIX = ".ahead"
_MAGIC = b"otelahd1"
_HEAD = 64
# Magic, capacity, the position up to which lines are whole.
_FIELDS = struct.Struct("=8sQQ")
_END_WORD = 2
_LONGEST = 1 << 24
CAPACITY = 256 * 1024


class WriteAhead:
    """The writer's side. Not thread-safe by itself: its caller holds a lock. After a fork the child must not touch it.

    Args:
        path: of the file to map; a file that is there is replaced.
        position: the size of the spool file.

    Raises:
        OSError: there is no room for it, or no mapping there. Its blocks are allocated here and now, so that no later store can find the disk full.
        ValueError: the system refuses the mapping.
    """

    def __init__(self, path: str, position: int, capacity: int = CAPACITY) -> None:
        self.path = path
        self.capacity = capacity
        self.end = position
        self.flushed = position
        self._limit = position + capacity
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
        try:
            image = _FIELDS.pack(_MAGIC, capacity, position).ljust(_HEAD, b"\0") + bytes(capacity)
            while image:
                image = image[os.write(fd, image) :]
            self._memory = mmap.mmap(fd, _HEAD + capacity)
        except BaseException:
            os.unlink(path)
            raise
        finally:
            os.close(fd)
        self._words = memoryview(self._memory)[:_HEAD].cast("Q")

    def put(self, data: bytes) -> bool:
        """Take whole lines; returns whether there was room."""
        stop = self.end + len(data)
        if stop > self._limit:
            return False
        at = _HEAD + self.end % self.capacity
        room = _HEAD + self.capacity - at
        if len(data) <= room:
            self._memory[at : at + len(data)] = data
        else:
            self._memory[at:] = data[:room]
            self._memory[_HEAD : _HEAD + len(data) - room] = data[room:]
        self.end = self._words[_END_WORD] = stop
        return True

    def pending(self) -> bytes:
        """Return what the file does not have yet."""
        return _between(self._memory, self.capacity, self.flushed, self.end)

    def moved(self, size: int) -> None:
        """The file has grown by `size`: by pending bytes first, then by others that never were here."""
        self.flushed += size
        self._limit = self.flushed + self.capacity
        self.end = max(self.end, self.flushed)

    def remove(self) -> None:
        """Unmap and delete it: the file has everything."""
        self._words.release()
        self._memory.close()
        os.unlink(self.path)

    def forget(self) -> None:
        """Unmap it and leave the file to the parent process, after a fork."""
        self._words.release()
        self._memory.close()


class LinesAhead:
    """The reader's side: what the memory held at one instant. Nothing where it is gone, foreign or broken.

    Args:
        path: of the mapped file.
    """

    def __init__(self, path: str) -> None:
        self._image = b""
        self._capacity = self._end = 0
        try:
            image = read_regular(path, _LONGEST)
            magic, capacity, end = _FIELDS.unpack_from(image)
        except (OSError, struct.error):
            return
        if magic == _MAGIC and len(image) == _HEAD + capacity:
            self._image, self._capacity, self._end = image, capacity, end

    def beyond(self, position: int) -> bytes:
        """Return what the writer had finished beyond a position of its spool file, which was read after this was made."""
        if not position < self._end <= position + self._capacity:
            return b""
        return _between(self._image, self._capacity, position, self._end)


def mend(spool_path: str, path: str) -> None:
    """Append to a dead writer's spool file what it had finished, and delete the mapped file. Never raises; safe to call twice.

    A writer that lives is left alone.

    Args:
        spool_path: the spool file.
        path: of the mapped file.
    """
    try:
        if not os.path.exists(path):
            return
        fd = os.open(spool_path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)  # a writer holds it for as long as it lives
            data = LinesAhead(path).beyond(os.fstat(fd).st_size)
            while data:
                data = data[os.write(fd, data) :]
            os.unlink(path)
        finally:
            os.close(fd)
    except OSError:
        return


def _between(image: bytes | mmap.mmap, capacity: int, start: int, end: int) -> bytes:
    at, size = start % capacity, end - start
    first = bytes(image[_HEAD + at : _HEAD + min(at + size, capacity)])
    return first if len(first) == size else first + bytes(image[_HEAD : _HEAD + size - len(first)])
