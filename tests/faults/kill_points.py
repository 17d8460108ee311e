"""Kills a process at one point of our own code, so that a death falls where it is wanted and not where luck has it.

A point is `before` or `after` and a method: `before otel_exec.record.run_store:RunStore.close`. The first process that comes there with it armed dies, and no other:
the file that `KILLED` names says that it is done.
"""

from __future__ import annotations

import functools
import importlib
import os
import signal
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["arm"]


def arm(point: str) -> None:
    """Have this process killed when it comes to the point; nothing where one was killed before, or where it is armed already."""
    when, _, where = point.partition(" ")
    module, _, path = where.partition(":")
    holder: Any = importlib.import_module(module)
    *outer, name = path.split(".")
    for each in outer:
        holder = getattr(holder, each)
    plain = getattr(holder, name)
    if not os.path.exists(os.environ["KILLED"]) and not hasattr(plain, "armed"):
        setattr(holder, name, _armed(plain, after=when == "after"))


def _armed(plain: Callable[..., object], *, after: bool) -> Callable[..., object]:
    @functools.wraps(plain)
    def call(*args: object, **kwargs: object) -> object:
        result = plain(*args, **kwargs) if after else None
        try:
            open(os.environ["KILLED"], "xb").close()
        except FileExistsError:  # another process came here first: that one died
            return result if after else plain(*args, **kwargs)
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError("a process that was killed goes on")

    call.armed = True  # type: ignore[attr-defined]  # a mark of our own
    return call
