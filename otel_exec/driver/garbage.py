"""Sparing Python's garbage collector the plan and the record while a run goes on, without keeping it from what is garbage after that.

What comes in: the beginning and the end of a run. What goes out: objects that are frozen meanwhile; now and then a full collection. Touches no object itself.
"""

from __future__ import annotations

import gc
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["collector_spared"]

# How many objects there were after the last full collection of ours, or when a run first began.
_known = 0


@contextmanager
def collector_spared() -> Iterator[None]:
    """Freeze what there is for the block: it is no garbage, and the collector would look at it again and again.

    What was frozen and thawed does not count in the collector's own rule for when to look at everything, so that a program with run after run would never get rid
    of a plan. Here everything is looked at, before the block, when there are twice as many objects as there were.
    """
    global _known
    ours = gc.get_freeze_count() == 0
    if ours:
        gc.freeze()
        count = gc.get_freeze_count()
        if _known and count > 2 * _known and gc.isenabled():
            gc.unfreeze()
            gc.collect()
            gc.freeze()
            _known = gc.get_freeze_count()
        else:
            _known = min(_known or count, count)
    try:
        yield
    finally:
        if ours:
            gc.unfreeze()
