"""The lock of a step's output: `<output>/.executor_status.lock`.

What comes in: an output path and who asks. What goes out: the lock, or the word on who has it. Stale after 90 s without a heartbeat,
taken over at once from a holder that is provably dead on this host. Safe among any number of processes on one local disk.

How it stays safe. The lock is the file's existence: it is created exclusively. Whoever writes to a lock file or removes it (creation, heartbeat, release, takeover)
first holds `flock` on it, checks that the path still names that very file, and reads it again; so of many that find a lock stale one takes it over,
and a holder that slept through its lease finds out before it writes anything. Nothing is renamed. A file that is empty or torn is one that its creator
is writing now, or died writing: it is judged by when it was last written. Where a file system has no `flock`, stale locks are not taken over: the error says what to do.

On a remote store (fsspec) a lock is created exclusively where the store can; a takeover there is exact among the threads of this process and otherwise
last writer wins, checked by reading again. `memory://` has one process, so there it is exact.
"""

from __future__ import annotations

import errno
import fcntl
import math
import os
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import msgspec

from otel_exec.clock import System
from otel_exec.errors import RecordError
from otel_exec.record import storage
from otel_exec.record.encoding import encode
from otel_exec.record.process_id import driver_id, holder_dead, holder_text, of_this_host

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = [
    "HEARTBEAT_S",
    "LOCK",
    "STALE_S",
    "UNKNOWN",
    "LockState",
    "acquire",
    "driver_id",
    "heartbeat",
    "holder_dead",
    "lost_to",
    "of_this_host",
    "peek",
    "release",
]

LOCK = "/.executor_status.lock"
HEARTBEAT_S = 30.0
STALE_S = 90.0
# The holder's name while a lock can't be read: its creator is writing it.
UNKNOWN = "unknown"

# A pipe in a lock's place must not hold anybody up.
_LOOK = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
_OPEN = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
_NEW = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
# A lock file is some hundred bytes; what is longer is none.
_SIZE_BYTES = 4096
# How often a lock that changes under our hands is looked at again before we call it held.
_TRIES = 20
# `flock` is held for microseconds, unless its holder is stopped (Ctrl-Z) just then: nobody waits for that longer than this.
_PATIENCE_S = 0.5
_NO_FLOCK = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS)
# `flock` on a network file system may be a lock of the process, not of the descriptor: threads are kept apart here.
_in_process = threading.RLock()


class LockState(msgspec.Struct, frozen=True, gc=False):
    """What came of asking for a lock. `taken`: it is ours; `taken_over_from`: from whom, when it was stale; else `holder` has it since `since_s` (Unix seconds).

    `since_s` is the holder's last sign of life.
    """

    taken: bool
    holder: str = ""
    since_s: float | None = None
    taken_over_from: str = ""


class _Content(msgspec.Struct):
    """What stands in a lock file."""

    worker_id: str
    timestamp: float


class _Lease(msgspec.Struct, frozen=True, gc=False):
    """A lock as read: who holds it ("" when the file doesn't tell) and the last sign of life, in Unix seconds."""

    holder: str
    seen_s: float

    def over(self, now_s: float) -> bool:
        """Whether it may be taken over."""
        return now_s - self.seen_s > STALE_S or (self.holder != "" and holder_dead(self.holder))


def acquire(output_path: str, worker_id: str) -> LockState:
    """Take the lock if it is free, ours, stale or its holder provably dead; never waits.

    A lock is ours when its `worker_id` is exactly the one given. The output folder is made where it is missing.

    Raises:
        RecordError: the file can't be created, read or locked.
    """
    path = output_path + LOCK
    try:
        for _ in range(_TRIES):
            if _create(path, worker_id):
                return LockState(taken=True)
            state = _take_remote(path, worker_id) if storage.is_remote(path) else _take(path, worker_id)
            if state is not None:
                return state
    except OSError as error:
        raise storage.refused(path, "taken", error) from error
    return LockState(taken=False, holder=UNKNOWN)


def heartbeat(output_path: str, worker_id: str) -> bool:
    """Renew the lock's timestamp; `False` when it is no longer ours (the lease is lost).

    Raises:
        RecordError: the store refuses; whether the lease is lost can't be told. Try again within `STALE_S` of the last success, then count it as lost.
    """
    path = output_path + LOCK
    try:
        if storage.is_remote(path):
            with _in_process:
                lease = _read_remote(path)
                if lease is None or lease.holder != worker_id:
                    return False
                storage.replace(path, _encode(worker_id))
                return True
        with _held(path) as descriptor:
            if descriptor is None or _parse(os.pread(descriptor, _SIZE_BYTES, 0), 0.0).holder != worker_id:
                return False
            _rewrite(descriptor, worker_id)
            return True
    except OSError as error:
        raise storage.refused(path, "renewed", error) from error


def release(output_path: str, worker_id: str) -> None:
    """Remove the lock if it is ours; never raises for a lock that is gone."""
    path = output_path + LOCK
    try:
        if storage.is_remote(path):
            with _in_process:
                lease = _read_remote(path)
                if lease is not None and lease.holder == worker_id:
                    storage.remove(path)
            return
        with _held(path) as descriptor:
            if descriptor is not None and _parse(os.pread(descriptor, _SIZE_BYTES, 0), 0.0).holder == worker_id:
                os.unlink(path)
    except OSError as error:
        raise storage.refused(path, "removed", error) from error


def peek(output_path: str) -> str:
    """Return the live holder's id, "" when there is none (no lock, stale, dead), `UNKNOWN` when a live lock doesn't say. Changes nothing."""
    path = output_path + LOCK
    try:
        if storage.is_remote(path):
            lease = _read_remote(path)
        else:
            descriptor = os.open(path, _LOOK)
            try:
                lease = _parse(os.pread(descriptor, _SIZE_BYTES, 0), os.fstat(descriptor).st_mtime)
            finally:
                os.close(descriptor)
    except (FileNotFoundError, NotADirectoryError):
        return ""
    except OSError as error:
        raise storage.refused(path, "read", error) from error
    if lease is None or lease.over(_now_s()):
        return ""
    return lease.holder or UNKNOWN


def lost_to(output_path: str) -> str:
    """Return in words where a lock went that is no longer ours."""
    try:
        holder = peek(output_path)
    except RecordError:
        holder = ""
    how = f"was taken over by {holder_text(holder)}" if holder else "is gone: it was removed, or another run took it over and has let it go"
    return f"its lock {how}; the lease was lost"


def _now_s() -> float:
    """Return the wall clock, in Unix seconds: the system's own, whatever the step has patched that runs in this process."""
    return System.wall() / 1e9


def _encode(worker_id: str) -> bytes:
    # One line that ends with a newline: readers go no further, so an overwritten longer line does not disturb them.
    return b'{"worker_id": %b, "timestamp": %.6f}\n' % (encode(worker_id), _now_s())


def _parse(content: bytes, modified_s: float) -> _Lease:
    """Return the lease in a lock file. A timestamp in the future (a clock that is off) gives way to the file's own time."""
    try:
        found = _decoder.decode(content.partition(b"\n")[0])
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return _Lease("", modified_s)
    plausible = math.isfinite(found.timestamp) and found.timestamp <= _now_s() + STALE_S
    return _Lease(found.worker_id, found.timestamp if plausible else modified_s)


def _create(path: str, worker_id: str) -> bool:
    """Create the lock, with us as its holder; `False` when there is one."""
    if storage.is_remote(path):
        return storage.create_exclusive(path, _encode(worker_id))
    try:
        descriptor = os.open(path, _NEW, 0o666)
    except FileExistsError:
        return False
    except FileNotFoundError:
        storage.make_folder(path.removesuffix(LOCK))
        try:
            descriptor = os.open(path, _NEW, 0o666)
        except FileExistsError:
            return False
    try:
        # Had we slept for 90 s since the line above, another might rightly have written here.
        locked = _try_flock(descriptor)
        if locked is False or os.fstat(descriptor).st_size:
            return False
        try:
            os.write(descriptor, _encode(worker_id))
        except OSError:  # a full disk: an empty lock would hold up the next run until it is stale
            os.unlink(path)
            raise
        if locked:
            fcntl.flock(descriptor, fcntl.LOCK_UN)
        return True
    finally:
        os.close(descriptor)


def _take(path: str, worker_id: str) -> LockState | None:
    """Take over a lock that is there, or say who has it; `None` when it changed meanwhile: ask again."""
    try:
        descriptor = os.open(path, _LOOK)
    except FileNotFoundError:
        return None
    try:
        lease = _parse(os.pread(descriptor, _SIZE_BYTES, 0), os.fstat(descriptor).st_mtime)
    finally:
        os.close(descriptor)
    held_by = LockState(taken=False, holder=lease.holder or UNKNOWN, since_s=lease.seen_s)
    if lease.holder != worker_id and not lease.over(_now_s()):
        return held_by
    try:
        with _held(path, must_lock=lease.holder != worker_id) as held:
            if held is None:
                return None
            # Read again: between the look above and the `flock` another may have taken it over, or its holder come back.
            lease = _parse(os.pread(held, _SIZE_BYTES, 0), os.fstat(held).st_mtime)
            if lease.holder != worker_id and not lease.over(_now_s()):
                return LockState(taken=False, holder=lease.holder or UNKNOWN, since_s=lease.seen_s)
            _rewrite(held, worker_id)
            return LockState(taken=True, taken_over_from="" if lease.holder == worker_id else lease.holder or UNKNOWN)
    except TimeoutError:
        return held_by


@contextmanager
def _held(path: str, *, must_lock: bool = False) -> Iterator[int | None]:
    """Yield an open descriptor of the lock file with `flock` held on it; `None` when there is no such file, or no longer.

    Args:
        path: the lock file.
        must_lock: raise where the file system has no `flock`. A lock's own holder may go on without: nobody takes over there.

    Raises:
        TimeoutError: another holds the `flock` and does not go on.
    """
    try:
        descriptor = os.open(path, _OPEN)
    except FileNotFoundError:
        yield None
        return
    try:
        with _in_process:
            locked = _flock(path, descriptor, must_lock=must_lock)
            try:
                yield descriptor if _still(path, descriptor) else None
            finally:
                if locked:  # said aloud: a child forked by another thread just now would keep it until it ends
                    fcntl.flock(descriptor, fcntl.LOCK_UN)
    finally:
        os.close(descriptor)


def _try_flock(descriptor: int) -> bool | None:
    """Return whether `flock` is ours now; `None` where the file system has none."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno in _NO_FLOCK:
            return None
        raise
    return True


def _flock(path: str, descriptor: int, *, must_lock: bool) -> bool:
    """Hold `flock` on a lock file; return `False` where the file system has none."""
    deadline_ns = System.tick() + int(_PATIENCE_S * 1e9)
    while True:
        locked = _try_flock(descriptor)
        if locked:
            return True
        if locked is None:
            if must_lock:
                hint = "give a prefix on another file system; if the run that held it is gone, remove the file"
                raise RecordError(path, f"the file system has no flock, so that this stale lock can't be taken over safely ({hint})")
            return False
        if System.tick() > deadline_ns:
            raise TimeoutError(errno.ETIMEDOUT, "another process holds the file and does not go on")
        time.sleep(0.001)


def _still(path: str, descriptor: int) -> bool:
    """Whether the path names the file that is open."""
    try:
        there = os.stat(path, follow_symlinks=False)
    except FileNotFoundError:
        return False
    ours = os.fstat(descriptor)
    return (there.st_ino, there.st_dev) == (ours.st_ino, ours.st_dev)


def _rewrite(descriptor: int, worker_id: str) -> None:
    """Put our line over the one that is there, in one write; then cut what is left of a longer one."""
    content = _encode(worker_id)
    os.pwrite(descriptor, content, 0)
    os.ftruncate(descriptor, len(content))


def _read_remote(path: str) -> _Lease | None:
    try:
        content = storage.read_head(path, _SIZE_BYTES)
        lease = _parse(content, math.inf)
        if lease.seen_s == math.inf:  # asking for the time costs a request: only where it is needed
            lease = _Lease(lease.holder, storage.modified_s(path) or _now_s())
    except FileNotFoundError:
        return None
    return lease


def _take_remote(path: str, worker_id: str) -> LockState | None:
    with _in_process:
        lease = _read_remote(path)
        if lease is None:
            return None
        if lease.holder != worker_id and not lease.over(_now_s()):
            return LockState(taken=False, holder=lease.holder or UNKNOWN, since_s=lease.seen_s)
        storage.replace(path, _encode(worker_id))
        after = _read_remote(path)
        if after is None or after.holder != worker_id:  # another was later, and has it
            return None
        return LockState(taken=True, taken_over_from="" if lease.holder == worker_id else lease.holder or UNKNOWN)


_decoder = msgspec.json.Decoder(_Content)
