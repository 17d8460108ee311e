"""A file descriptor that is kept for outcomes: given up for one write of ours where the user's code has used up all others.

What comes in: a write that may find no descriptor. What goes out: the same write, done with the one that was kept; then one is kept again. For the disk's room see `reserve.py`.
"""

from __future__ import annotations

import errno
import os
import stat
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, TypeVar

from otel_exec.errors import RecordError

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["keep_descriptor", "was_needed", "with_descriptor"]

_Result = TypeVar("_Result")
_SHORT = frozenset({errno.EMFILE, errno.ENFILE})

_lock = threading.Lock()
_kept = -1
_needed = False


def keep_descriptor() -> None:
    """Keep a descriptor in this process, unless one is kept. Never raises: a process that has none to spare goes on without."""
    global _kept
    with _lock, suppress(OSError):
        if _kept < 0:
            _kept = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)


def was_needed() -> bool:
    """Return whether a write has found no descriptor since this was asked last."""
    global _needed
    needed, _needed = _needed, False
    return needed


def with_descriptor(write: Callable[[], _Result]) -> _Result:
    """Return what `write` returns; where it finds no descriptor it is called once more, with the one that was kept. It needs one at a time.

    Raises:
        OSError, RecordError: what `write` raised.
    """
    try:
        return write()
    except (OSError, RecordError) as error:
        cause = error.__cause__ if isinstance(error, RecordError) else error
        if not isinstance(cause, OSError) or cause.errno not in _SHORT or not _give_up():
            raise
    try:
        return write()
    finally:
        keep_descriptor()


def _give_up() -> bool:
    """Close the descriptor that was kept; returns whether there was one."""
    global _kept, _needed
    with _lock:
        _needed = True
        kept, _kept = _kept, -1
        if kept < 0:
            return False
        try:
            # Somebody may have closed it and been given its number for a file of theirs.
            if stat.S_ISCHR(os.fstat(kept).st_mode):
                os.close(kept)
        except OSError:
            return False
        return True
