"""In a process that the driver forked: pools of workers are let go of, so that the workers still see the driver's end.

What comes in: pools that are open. What goes out: a call of `close_in_child` for each, in the child alone. Holds no pool that is closed.
"""

from __future__ import annotations

import os
from typing import Protocol

__all__ = ["ForkedPool", "closed", "opened"]


class ForkedPool(Protocol):
    """A pool with lines to its workers."""

    def close_in_child(self) -> None:
        """Let go of the lines, in the child."""
        ...


_open: set[ForkedPool] = set()


def opened(pool: ForkedPool) -> None:
    """The pool has workers."""
    _open.add(pool)


def closed(pool: ForkedPool) -> None:
    """The pool has none any more."""
    _open.discard(pool)


def _after_fork_in_child() -> None:
    # Never the thread of the runner, never a worker: just a copy that must not keep the workers' line to the driver open.
    for pool in list(_open):
        pool.close_in_child()
    _open.clear()


os.register_at_fork(after_in_child=_after_fork_in_child)
