"""Ids of spans and traces.

What comes in: nothing but the system's entropy. What goes out: lower-case hex that nothing in a user's code can make repeat.
"""

from __future__ import annotations

import os
import random
import weakref

__all__ = ["IdGenerator"]


_AT_ONCE = 128
_NONE = "0" * 16


class IdGenerator:
    """Random ids from a generator of its own, so that `random.seed(0)` in a step changes nothing; seeded anew after a fork. Thread-safe."""

    def __init__(self) -> None:
        self._random = random.Random()  # noqa: S311  ids need to differ, not to be secret
        self._bits = self._random.getrandbits
        self._ready: list[str] = []
        _generators.add(self)

    def span_id(self) -> str:
        """Return 16 hex digits, not all zero."""
        # Made many at a time: a third of the cost (measured: bench/phases.py). Of threads that find none at once each makes its own.
        ready = self._ready
        try:
            return ready.pop()
        except IndexError:
            digits = self._random.randbytes(8 * _AT_ONCE).hex()
            made = [digits[at : at + 16] for at in range(0, 16 * _AT_ONCE, 16)]
            ready.extend(each for each in made[1:] if each != _NONE)
            return made[0] if made[0] != _NONE else self.span_id()

    def trace_id(self) -> str:
        """Return 32 hex digits, not all zero."""
        return f"{self._bits(128) or 1:032x}"

    def _after_fork(self) -> None:
        self._random.seed()
        self._ready.clear()


_generators: weakref.WeakSet[IdGenerator] = weakref.WeakSet()


def _in_child() -> None:
    for generator in list(_generators):
        generator._after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)
