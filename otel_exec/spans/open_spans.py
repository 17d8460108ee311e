"""Open spans in mapped memory beside the spool, so that whoever survives a process knows what was open in it.

What comes in: id, parent, kind, name, node, start of a span that opened. What goes out: the same, read by another process from `<run folder>/spans/<writer>.open`.
A fixed number of fixed-width slots; when all are taken further spans are simply not listed. Cost: about a microsecond a span. Imports no OpenTelemetry.

A slot's first byte says whether it holds a span; it is cleared before the rest is written and set after, and a sequence number beside it changes with
each span, so a reader that sees the same eight bytes before and after copying a slot has a whole one. The file is memory shared with the system: a
process that is killed leaves it as it was.
"""

from __future__ import annotations

import itertools
import mmap
import os
import struct
import threading
import weakref

import msgspec

from otel_exec.regular_file import read_regular

__all__ = ["MOST_NODE_BYTES", "OPEN_SUFFIX", "OpenEntry", "OpenSpanTable", "WrittenOpenTable", "listing", "read_all_open", "read_open"]

OPEN_SUFFIX = ".open"
_MAGIC = b"otelopn1"
_SLOT = 512
_LONGEST = 1 << 24
_KIND, _NAME, MOST_NODE_BYTES = 16, 184, 255
# Sequence (with the state byte before it), start, ids, three texts, each with its length before it; of an item of a fan-out its number, from 1, and its try.
_TEXTS = struct.Struct(f"<B{_KIND}sB{_NAME}sB{MOST_NODE_BYTES}s")
_BODY = struct.Struct(f"<Iq16s16s{_TEXTS.size}sIH")
_BODY_AT = 4
_MOST_ITEM, _MOST_TRIES = 0xFFFFFFFF - 1, 0xFFFF


class OpenEntry(msgspec.Struct, frozen=True, gc=False):
    """A span that has not ended. Ids are hex; `start_ns` nanoseconds since the Unix epoch; long names are cut at a character's edge.

    `item`: of a task that is one of a fan-out's items, which (from 0), and `attempt` the try at it (from 1); `None` and 0 of all others, a step's own task among them.
    """

    span_id: str
    parent_span_id: str
    kind: str
    name: str
    node_id: str
    start_ns: int
    item: int | None = None
    attempt: int = 0


class OpenSpanTable:
    """The writer's side; thread-safe; never raises (a table that can't be mapped lists nothing).

    After a fork the child has no table: what is open there is its parent's to list, and its own spans are not listed.
    """

    def __init__(self, folder: str, writer: str, slots: int = 128) -> None:
        self.path = os.path.join(folder, writer + OPEN_SUFFIX)
        self._lock = threading.RLock()
        self._sequence = itertools.count(1)
        self._memory: mmap.mmap | bytearray | None = None
        self._free: list[int] = []
        try:
            os.makedirs(folder, exist_ok=True)
            self._memory = self._make(slots)
            self._free = list(range(slots, 0, -1))
        except (OSError, ValueError):
            self._memory = None
        _tables.add(self)

    def _make(self, slots: int) -> mmap.mmap | bytearray:
        fd = _create(self.path, slots)
        try:
            return mmap.mmap(fd, (slots + 1) * _SLOT)
        except BaseException:
            os.unlink(self.path)
            raise
        finally:
            os.close(fd)

    def open(self, entry: OpenEntry) -> int:
        """List a span; returns its slot, -1 when there is none left."""
        return self.open_span(
            entry.span_id, entry.parent_span_id, entry.kind, entry.name, entry.node_id, entry.start_ns, item=entry.item, attempt=entry.attempt
        )

    def open_span(
        self, span_id: str, parent_span_id: str, kind: str, name: str, node_id: str, start_ns: int, *, item: int | None = None, attempt: int = 0
    ) -> int:
        """`open` without an `OpenEntry` in between."""
        try:
            numbers = (0, 0) if item is None else (min(item, _MOST_ITEM) + 1, min(attempt, _MOST_TRIES))
            return self.open_listing(listing(kind, name, node_id), span_id, parent_span_id, start_ns, numbers)
        except Exception:
            return -1

    def open_listing(self, texts: bytes, span_id: str, parent_span_id: str, start_ns: int, numbers: tuple[int, int] = (0, 0)) -> int:
        """`open_span` with the texts made before by `listing`, for the hot path."""
        try:
            memory = self._memory
            slot = self._free.pop()  # one step: no two threads get the same
        except IndexError:
            return -1
        try:
            at = slot * _SLOT
            _BODY.pack_into(memory, at + _BODY_AT, next(self._sequence) & 0xFFFFFFFF, start_ns, span_id.encode(), parent_span_id.encode(), texts, *numbers)  # type: ignore[arg-type]  # slots are free only of memory that is there
            memory[at] = 1  # type: ignore[index]  # as above
        except Exception:
            return -1
        return slot

    def close(self, slot: int) -> None:
        """Take a span off the list; -1 is ignored."""
        if slot <= 0:
            return
        try:
            memory = self._memory
            if memory is not None and memory[slot * _SLOT]:
                memory[slot * _SLOT] = 0
                self._free.append(slot)
        except Exception:
            return

    def entries(self) -> list[OpenEntry]:
        """Return what is open now, oldest first."""
        with self._lock:
            return _entries(bytes(self._memory)) if self._memory is not None else []

    def remove(self) -> None:
        """Unmap and delete the file: the writer ended in order."""
        with self._lock:
            memory, self._memory = self._memory, None
            self._free.clear()
        if memory is None:
            return
        try:
            if isinstance(memory, mmap.mmap):
                memory.close()
            os.unlink(self.path)
        except (OSError, BufferError):
            return

    def _after_fork(self) -> None:
        self._lock = threading.RLock()
        self._free = []
        # The mapping is shared with the parent; forgetting it unmaps it here alone.
        self._memory = None


class WrittenOpenTable(OpenSpanTable):
    """A table that a process keeps for others: written with plain writes, when it is told to.

    Memory that is mapped from a disk which goes away, a network's say, ends the process with a signal; a write fails, and is passed over.
    """

    def __init__(self, folder: str, writer: str, slots: int = 128) -> None:
        self._changed: set[int] = set()
        super().__init__(folder, writer, slots)

    def _make(self, slots: int) -> bytearray:
        os.close(_create(self.path, slots))
        return bytearray(_MAGIC.ljust((slots + 1) * _SLOT, b"\0"))

    def open_listing(self, texts: bytes, span_id: str, parent_span_id: str, start_ns: int, numbers: tuple[int, int] = (0, 0)) -> int:
        """As of every table; not written yet."""
        slot = super().open_listing(texts, span_id, parent_span_id, start_ns, numbers)
        if slot > 0:
            self._changed.add(slot)
        return slot

    def close(self, slot: int) -> None:
        """Take a span off the list; not written yet."""
        super().close(slot)
        if slot > 0:
            self._changed.add(slot)

    def write(self) -> None:
        """Write what has changed since the last time. Never raises."""
        memory, changed = self._memory, self._changed
        self._changed = set()
        if memory is None or not changed:
            return
        try:
            fd = os.open(self.path, os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
            try:
                for slot in sorted(changed):
                    os.pwrite(fd, memory[slot * _SLOT : (slot + 1) * _SLOT], slot * _SLOT)
            finally:
                os.close(fd)
        except OSError:
            self._changed |= changed  # the next time


def read_open(path: str) -> list[OpenEntry]:
    """Return what is open according to a table's file, oldest first; [] when it is missing or broken."""
    try:
        first = read_regular(path, _LONGEST)
        second = read_regular(path, _LONGEST)
    except OSError:
        return []
    if not first.startswith(_MAGIC) or len(first) != len(second):
        return []
    # A slot that changed between the two reads was being written: the writer lives, and the span is as good as not yet listed.
    stable = bytearray(second)
    for at in range(_SLOT, len(second) - _SLOT + 1, _SLOT):
        if first[at : at + _SLOT] != second[at : at + _SLOT]:
            stable[at] = 0
    return _entries(bytes(stable))


def read_all_open(folder: str) -> list[OpenEntry]:
    """Return what is open according to all tables of a run's `spans` folder; [] when it is missing."""
    try:
        names = sorted(name for name in os.listdir(folder) if name.endswith(OPEN_SUFFIX))
    except OSError:
        return []
    return [entry for name in names for entry in read_open(os.path.join(folder, name))]


def _create(path: str, slots: int) -> int:
    """Make an empty table; returns its descriptor."""
    size = (slots + 1) * _SLOT
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
    try:
        # Written, not sparse: a full disk is told now, not by a SIGBUS when the first span opens.
        image = _MAGIC.ljust(size, b"\0")
        while image:
            image = image[os.write(fd, image) :]
    except BaseException:
        os.close(fd)
        os.unlink(path)
        raise
    return fd


def listing(kind: str, name: str, node_id: str) -> bytes:
    """Return the texts of an entry, as `open_listing` takes them."""
    texts = _cut(kind, _KIND), _cut(name, _NAME), _cut(node_id, MOST_NODE_BYTES)
    return _TEXTS.pack(*(part for text in texts for part in (len(text), text)))


def _cut(text: str, limit: int) -> bytes:
    data = text.encode("utf-8", "replace")
    if len(data) <= limit:
        return data
    return data[:limit].decode("utf-8", "ignore").encode()


def _entries(data: bytes) -> list[OpenEntry]:
    found: list[tuple[int, OpenEntry]] = []
    for at in range(_SLOT, len(data) - _SLOT + 1, _SLOT):
        if data[at] != 1:
            continue
        sequence, start_ns, span_id, parent, texts, item, attempt = _BODY.unpack_from(data, at + _BODY_AT)
        kind_n, kind, name_n, name, node_n, node = _TEXTS.unpack(texts)
        try:
            entry = OpenEntry(
                span_id.rstrip(b"\0").decode("ascii"),
                parent.rstrip(b"\0").decode("ascii"),
                kind[:kind_n].decode(),
                name[:name_n].decode(),
                node[:node_n].decode(),
                start_ns,
                item - 1 if item else None,
                attempt,
            )
        except UnicodeDecodeError:
            continue
        found.append((sequence, entry))
    found.sort(key=lambda pair: (pair[1].start_ns, pair[0]))
    return [entry for _, entry in found]


_tables: weakref.WeakSet[OpenSpanTable] = weakref.WeakSet()


def _in_child() -> None:
    for table in list(_tables):
        table._after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)
