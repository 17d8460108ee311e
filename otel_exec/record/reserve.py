"""Room that is kept for outcomes: a file in the run's folder, given back to the disk piece by piece when that is full.

What comes in: the run's folder, and a write that may find no room. What goes out: the same write, done with room from the reserve (decision 027), and with a descriptor
that was kept (`spare.py`).
Spans, status and record never ask for it: they give up first. Any process of the run may take a piece; nobody else's files are touched.
"""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING, TypeVar

from otel_exec.errors import NO_ROOM, RecordError
from otel_exec.record.spare import with_descriptor

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["RESERVE", "keep_room", "let_go", "no_room", "with_room"]

RESERVE = "/reserve"
# An outcome takes some hundred bytes, and a block of the disk where its file is new: there is room for hundreds.
_SIZE_BYTES = 1 << 20
_PIECE_BYTES = 16 << 10
# A disk that is nearly full at the start is not filled up by what is kept for its being full.
_SHARE = 16

_Result = TypeVar("_Result")


def keep_room(folder: str) -> None:
    """Keep room in a run's folder: a mebibyte, or a sixteenth of what is free. Never raises: a run without a reserve is a run."""
    with suppress(OSError):
        free = os.statvfs(folder)
        size = min(_SIZE_BYTES, free.f_bavail * free.f_frsize // _SHARE) // _PIECE_BYTES * _PIECE_BYTES
        if size:
            descriptor = os.open(folder + RESERVE, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
            try:
                _allocate(descriptor, size)
            except OSError:
                os.unlink(folder + RESERVE)
            finally:
                os.close(descriptor)


def let_go(folder: str) -> None:
    """Give back all that is left of the reserve: the run has ended. Never raises."""
    with suppress(OSError):
        os.unlink(folder + RESERVE)


def with_room(folder: str, write: Callable[[], _Result]) -> _Result:
    """Return what `write` returns; where there is no room it is called again with some from the reserve, until it has enough or the reserve is used up.

    Raises:
        OSError, RecordError: what `write` raised.
    """
    while True:
        try:
            return with_descriptor(write)
        except (OSError, RecordError) as error:
            if not no_room(error) or not _give(folder):
                raise


def no_room(error: BaseException | None) -> bool:
    """Whether an error, or the one that it was made of, says that a disk or a quota is full."""
    cause = error.__cause__ if isinstance(error, RecordError) else error
    return isinstance(cause, OSError) and cause.errno in NO_ROOM


def _allocate(descriptor: int, size: int) -> None:
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(descriptor, 0, size)
    else:  # written, not sparse: a hole keeps no room
        written = 0
        while written < size:
            written += os.write(descriptor, bytes(size - written))


def _give(folder: str) -> bool:
    """Give a piece of the reserve back to the disk; returns whether there was one."""
    try:
        descriptor = os.open(folder + RESERVE, os.O_WRONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        size = os.fstat(descriptor).st_size
        if not size:
            return False
        # Two that do so at once free one piece; who still finds no room comes again. What is larger than ours ever is goes at once: nobody waits for its pieces.
        os.ftruncate(descriptor, max(0, min(size, _SIZE_BYTES) - _PIECE_BYTES))
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return True
