"""The home actor: one for each run on Ray, on the driver's node. Everything that is not the result of a Ray task goes through it.

What comes in: workers that introduce themselves, what they tell while they run something, the driver's commands. What goes out: the same, to whoever asks; calls wait here
until there is something to say. It judges nothing and keeps nothing for long. It costs no CPU slot.

Its process may die at any moment: Ray starts it again, and nothing is lost. What a worker tells is acknowledged when the driver has it, and told again until it is; what only
the driver knows (numbers, places, commands that stand) it says again, and no worker is answered before it has.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from otel_exec.clock import AnchoredClock
from otel_exec.execute.ray_wire import Running, Setup, Taken, encode

if TYPE_CHECKING:
    from otel_exec.execute.ray_wire import Begun, Facts, Known, Lost

__all__ = ["Home"]

# A command for an attempt that nobody has begun is kept; for so many at most.
_MOST_WANTED = 10_000
# So many tellings are acknowledged late; where the driver is away for longer, at once: each that waits takes one of the calls that may be under way here.
_MOST_HELD = 1_000


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
        self._places: dict[str, tuple[int, str]] = {}
        self._asking: dict[str, asyncio.Event] = {}  # worker processes without a number
        self._new = Taken()  # for the driver's next call
        self._ticket = 0
        self._news = asyncio.Event()
        self._batch = asyncio.Event()  # set when the driver has what comes in now
        self._given = asyncio.Event()  # the same of what its last call brought
        self._open = asyncio.Event()
        self._last: dict[str, int] = {}  # uid -> the last telling that came
        self._came = asyncio.Condition()
        self._commands: dict[str, asyncio.Queue[tuple[str, str]]] = {}
        self._running: dict[str, tuple[str, Begun]] = {}  # span id -> who runs it
        self._of_worker: dict[str, str] = {}
        self._wanted: dict[str, str] = {}
        self._offsets: dict[str, tuple[int, int]] = {}  # boot id -> (offset, error) of that kernel's monotonic clock

    async def resume(self, known: Known, blobs: dict[str, bytes]) -> None:
        """The driver, at the start and after a restart: what it knows, and the functions and classes that travel by value, by digest."""
        await self.number(known.numbers)
        self._places.update(known.places)
        self._blobs.update(blobs)
        for span_id, how in known.commands.items():
            await self.end(span_id, how)
        self._open.set()

    # --- workers ----------------------------------------------------------------------------------------------------------------------------------

    async def introduce(self, uid: str) -> tuple[int, bytes]:
        """Give a worker process its number, by the driver, and what it must know of the run."""
        await self._open.wait()
        if uid not in self._numbers:
            if uid not in self._asking:
                self._asking[uid] = asyncio.Event()
                self._new.asking.append(uid)
                self._news.set()
            await self._asking[uid].wait()
        return self._numbers[uid], encode(self._setup)

    async def ready(self, facts: Facts) -> None:
        """A worker process takes attempts; returns when the driver knows."""
        self._places[facts.uid] = (facts.pid, facts.node)
        self._new.facts.append(facts)
        self._news.set()
        await self._batch.wait()

    async def now_ns(self) -> int:
        """Return the instant by the driver's clock."""
        return self._clock.now_ns()

    async def offset(self, boot_id: str, found: tuple[int, int] | None) -> tuple[int, int] | None:
        """Return what to add to a kernel's monotonic clock to read the driver's, and the error, ns: as the first of its workers that has found it says, so that all have one clock."""
        if found is not None:
            self._offsets.setdefault(boot_id, found)
        return self._offsets.get(boot_id)

    async def tell(self, uid: str, sequence: int, telling: bytes, begun: Begun | None) -> None:
        """Take in what a worker tells; returns when the driver has it. Where this fails, the worker tells it again."""
        self._new.told.append(telling)
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
        batch = self._batch
        async with self._came:
            self._last[uid] = max(sequence, self._last.get(uid, sequence))
            self._came.notify_all()
        if len(self._new.told) <= _MOST_HELD:
            await batch.wait()

    async def lost(self, died: Lost) -> None:
        """The owner of an item says that the worker which ran it has gone."""
        self._new.lost.append(died)
        self._news.set()

    async def has(self, uid: str, sequence: int) -> None:
        """Return when a worker's telling of that number has come here."""
        async with self._came:
            await self._came.wait_for(lambda: self._last.get(uid, -1) >= sequence)

    async def listen(self, uid: str) -> tuple[str, str]:
        """Return the next command for a worker, (span id, `interrupt` or `kill`); waits for it."""
        return await self._commands.setdefault(uid, asyncio.Queue()).get()

    async def who_runs(self, span_ids: list[str]) -> list[Running | None]:
        """Return for each span who began it, as far as was told."""
        found = [self._running.get(span_id) for span_id in span_ids]
        return [None if pair is None else Running(self._numbers.get(pair[0], -1), pair[1], *self._places.get(pair[0], ())) for pair in found]

    async def blob(self, digest: str) -> bytes | None:
        """Return a function or class that travels by value."""
        await self._open.wait()
        return self._blobs.get(digest)

    async def put_blob(self, digest: str, data: bytes) -> None:
        """Keep a function or class of a fan-out; returns when the driver has it, too."""
        self._blobs[digest] = self._new.blobs[digest] = data
        self._news.set()
        await self._batch.wait()

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

    async def number(self, numbers: dict[str, int]) -> None:
        """Worker processes that asked for a number have got one."""
        self._numbers.update(numbers)
        for uid in numbers:
            if uid in self._asking:
                self._asking.pop(uid).set()

    async def poke(self, ticket: int) -> None:
        """Have the driver's pending call answered: what that brings says that it comes after this."""
        self._ticket = max(self._ticket, ticket)
        self._news.set()

    async def take(self) -> Taken:
        """Return what was told since the last call; waits for something. One call at a time: then nothing is overtaken, and a call says that what the last one brought has arrived."""
        if not self._open.is_set():
            return Taken(anew=True)
        self._given.set()
        await self._news.wait()
        self._news.clear()
        self._given, self._batch = self._batch, asyncio.Event()
        new, self._new = self._new, Taken()
        return Taken(new.facts, new.told, self._ticket, new.asking, new.blobs, lost=new.lost)
