"""Ids of spans and traces.

What comes in: nothing but the system's entropy. What goes out: lower-case hex that nothing in a user's code can make repeat.
"""

from __future__ import annotations

import os
import random
import weakref

__all__ = ["IdGenerator"]


class IdGenerator:
    """Random ids from a generator of its own, so that `random.seed(0)` in a step changes nothing; seeded anew after a fork. Thread-safe."""

    def __init__(self) -> None:
        self._random = random.Random()  # noqa: S311  ids need to differ, not to be secret
        self._bits = self._random.getrandbits
        _generators.add(self)

    def span_id(self) -> str:
        """Return 16 hex digits, not all zero."""
        return f"{self._bits(64) or 1:016x}"

    def trace_id(self) -> str:
        """Return 32 hex digits, not all zero."""
        return f"{self._bits(128) or 1:032x}"

    def _after_fork(self) -> None:
        self._random.seed()


_generators: weakref.WeakSet[IdGenerator] = weakref.WeakSet()


def _in_child() -> None:
    for generator in list(_generators):
        generator._after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)
