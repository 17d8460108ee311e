"""The home actor: one for each run on Ray, on the driver's node. Everything that is not the result of a Ray task goes through it.

What comes in: workers that introduce themselves, what they tell while they run something, the driver's commands. What goes out: the same, to whoever asks; calls wait here
until there is something to say. It judges nothing and keeps nothing for long. It costs no CPU slot.

When its process dies Ray starts it again; like a new one it answers no worker until the driver has told it which numbers are given out.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from otel_exec.clock import AnchoredClock
from otel_exec.execute.ray_wire import Setup, encode

if TYPE_CHECKING:
    from otel_exec.execute.ray_wire import Begun, Facts

__all__ = ["Home"]

# A command for an attempt that nobody has begun is kept; for so many at most.
_MOST_WANTED = 10_000


class Home:
    """See the module. Every method is called through Ray, from any process of the run.

    Args:
        setup: what workers are told.
        clock_offset_ns: of the driver's clock, whose kernel is this process's, too.
    """

    def __init__(self, setup: Setup, clock_offset_ns: int) -> None:
        self._setup = setup
        self._clock = AnchoredClock(clock_offset_ns)
        self._blobs: dict[str, bytes] = {}
        self._numbers: dict[str, int] = {}
        self._told: list[bytes] = []
        self._ticket = 0
        self._facts: list[Facts] = []
        self._news = asyncio.Event()
        self._open = asyncio.Event()
        self._commands: dict[str, asyncio.Queue[tuple[str, str]]] = {}
        self._running: dict[str, tuple[str, Begun]] = {}  # span id -> who runs it
        self._of_worker: dict[str, str] = {}
        self._wanted: dict[str, str] = {}

    async def resume(self, numbers: dict[str, int], blobs: dict[str, bytes]) -> None:
        """The driver, at the start and after a restart: which worker has which number, and the functions and classes that travel by value, by digest."""
        self._numbers.update(numbers)
        self._blobs.update(blobs)
        self._open.set()

    # --- workers ----------------------------------------------------------------------------------------------------------------------------------

    async def introduce(self, uid: str) -> tuple[int, bytes]:
        """Give a worker process its number and what it must know of the run."""
        await self._open.wait()
        return self._numbers.setdefault(uid, len(self._numbers)), encode(self._setup)

    async def ready(self, facts: Facts) -> None:
        """A worker process takes attempts."""
        self._facts.append(facts)
        self._news.set()

    async def now_ns(self) -> int:
        """Return the instant by the driver's clock."""
        return self._clock.now_ns()

    async def tell(self, uid: str, telling: bytes, begun: Begun | None) -> None:
        """Take in what a worker tells; the driver fetches it."""
        self._told.append(telling)
        self._news.set()
        if begun is not None:
            old = self._of_worker.get(uid)
            if old is not None and old != begun.span_id:
                self._running.pop(old, None)
            self._of_worker[uid] = begun.span_id
            self._running[begun.span_id] = (uid, begun)
            how = self._wanted.pop(begun.span_id, None)
            if how is not None:
                self._command(uid, begun.span_id, how)

    async def listen(self, uid: str) -> tuple[str, str]:
        """Return the next command for a worker, (span id, `interrupt` or `kill`); waits for it."""
        return await self._commands.setdefault(uid, asyncio.Queue()).get()

    async def who_runs(self, span_ids: list[str]) -> list[tuple[int, Begun] | None]:
        """Return for each span who began it, as far as was told."""
        found = [self._running.get(span_id) for span_id in span_ids]
        return [None if pair is None else (self._numbers.get(pair[0], -1), pair[1]) for pair in found]

    async def blob(self, digest: str) -> bytes | None:
        """Return a function or class that travels by value."""
        await self._open.wait()
        return self._blobs.get(digest)

    async def put_blob(self, digest: str, data: bytes) -> None:
        """Keep a function or class of a fan-out."""
        self._blobs[digest] = data

    # --- whoever ends an attempt --------------------------------------------------------------------------------------------------------------------

    async def end(self, span_id: str, how: str) -> None:
        """Have an attempt interrupted or killed by its own process; where nobody has begun it yet, as soon as somebody says that he did."""
        pair = self._running.get(span_id)
        if pair is not None:
            self._command(pair[0], span_id, how)
        else:
            while len(self._wanted) >= _MOST_WANTED:
                del self._wanted[next(iter(self._wanted))]
            self._wanted[span_id] = how

    def _command(self, uid: str, span_id: str, how: str) -> None:
        self._commands.setdefault(uid, asyncio.Queue()).put_nowait((span_id, how))

    # --- the driver -------------------------------------------------------------------------------------------------------------------------------

    async def poke(self, ticket: int) -> None:
        """Have the driver's pending call answered: what that brings says that it comes after this."""
        self._ticket = max(self._ticket, ticket)
        self._news.set()

    async def take(self, *, wait: bool) -> tuple[list[Facts], list[bytes], int]:
        """Return what was told since the last call, and the last ticket; `wait` for something where there is nothing. One call at a time: then nothing is overtaken."""
        if wait:
            await self._news.wait()
        self._news.clear()
        facts, self._facts = self._facts, []
        told, self._told = self._told, []
        return facts, told, self._ticket
