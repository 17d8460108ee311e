"""What is out: messages handed to worker processes that have not come back, and who has which.

What comes in: attempts and items, claims, ends. What goes out: the messages, in the shared queue; what can be taken back; what is in whose hands.
Each worker notes in a shared page what it took from the queue, before it looks at it; so even a worker that died without a word tells what it had.
"""

from __future__ import annotations

import itertools
import mmap
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from otel_exec.execute import wire
from otel_exec.execute.wire import Message, TaskQueue
from otel_exec.record.storage import refused

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from otel_exec.execute.dealing import Fan
    from otel_exec.execute.envelope import TaskEnvelope
    from otel_exec.execute.worker_process import WorkerProcess

__all__ = ["Outstanding", "Sent"]


@dataclass(eq=False, slots=True)
class Sent:
    """A message that is out: an attempt, or an item of a fan-out. `worker`: who claimed it."""

    sequence: int
    body: bytes
    envelope: TaskEnvelope | None = None
    fan: Fan | None = None
    index: int = 0
    worker: WorkerProcess | None = None
    claimed_ns: int = 0
    losses: int = 0
    silent: bool = False  # the runner has settled it: tell nothing more of it


class Outstanding:
    """All messages that are out. `messages` by sequence number; `queued`: those of them in the shared queue, as far as is known; `attempts`: (node id, attempt) -> sequence.

    Args:
        folder: the pool's.
    """

    def __init__(self, folder: str) -> None:
        path = os.path.join(folder, "slots")
        with open(path, "w+b") as file:
            try:
                file.write(bytes(wire.SLOTS * wire.SLOT.size))  # written, not sparse: a full disk is told now, not by SIGBUS later
                file.flush()
            except OSError as error:
                raise refused(path, "written", error) from error
            self._page = mmap.mmap(file.fileno(), wire.SLOTS * wire.SLOT.size)
        self._slots = list(range(wire.SLOTS - 1, -1, -1))
        self._sequences = itertools.count(1)
        self.queue = TaskQueue(os.path.join(folder, "big"))
        self.messages: dict[int, Sent] = {}
        self.queued: set[int] = set()
        self.attempts: dict[tuple[str, int], int] = {}

    def close(self) -> None:
        """Close the queue and the page."""
        self.queue.close()
        self._page.close()

    # --- messages ---------------------------------------------------------------------------------------------------------------------------------

    def add(self, body: bytes, *, envelope: TaskEnvelope | None = None, fan: Fan | None = None, index: int = 0) -> Sent:
        """Take in a new message; it is not sent yet."""
        sent = Sent(next(self._sequences), body, envelope=envelope, fan=fan, index=index)
        self.messages[sent.sequence] = sent
        if envelope is not None:
            self.attempts[envelope.node_id, envelope.attempt] = sent.sequence
        return sent

    def enqueue(self, sent: Sent) -> None:
        """Send a message to whoever is free."""
        self.queued.add(sent.sequence)
        self.queue.put(sent.sequence, Message.STEP if sent.envelope is not None else Message.ITEM, sent.body)

    def claimed(self, sequence: int, worker: WorkerProcess, at_ns: int) -> Sent | None:
        """A worker has begun with a message."""
        sent = self.messages.get(sequence)
        if sent is not None:
            self.queued.discard(sequence)
            sent.worker, sent.claimed_ns = worker, at_ns
            worker.sequence = sequence
        return sent

    def ended(self, sequence: int, worker: WorkerProcess) -> Sent | None:
        """A worker has ended a message: return it, forgotten."""
        if worker.sequence == sequence:
            worker.sequence = 0
        sent = self.messages.get(sequence)
        if sent is not None:
            self.forget(sent)
        return sent

    def forget(self, sent: Sent) -> None:
        """A message is over."""
        self.messages.pop(sent.sequence, None)
        self.queued.discard(sent.sequence)
        if sent.envelope is not None:
            self.attempts.pop((sent.envelope.node_id, sent.envelope.attempt), None)

    def drain(self) -> list[Sent]:
        """Take everything out of the queue that nobody took; returns it in order."""
        messages = []
        for sequence in self.queue.drain():
            self.queued.discard(sequence)
            sent = self.messages.get(sequence)
            if sent is not None:
                messages.append(sent)
        return messages

    def deadlines(self) -> Iterator[tuple[int, float]]:
        """Yield the items that run and have a timeout: (sequence, when it runs out, nanoseconds since the Unix epoch)."""
        for sent in self.messages.values():
            if sent.fan is not None and sent.fan.timeout_s is not None and sent.claimed_ns:
                yield sent.sequence, sent.claimed_ns + sent.fan.timeout_s * 1e9

    def withdraw(self, sequences: Iterable[int]) -> list[int]:
        """Take messages back that nobody took; returns the numbers of those that could be."""
        wanted = self.queued.intersection(sequences)
        if not wanted:
            return []
        taken = []
        for sent in self.drain():
            if sent.sequence in wanted:
                self.forget(sent)
                taken.append(sent.sequence)
            else:
                self.enqueue(sent)
        return taken

    # --- hands ------------------------------------------------------------------------------------------------------------------------------------

    def has_slot(self) -> bool:
        """Whether there is a place in the page for one more worker."""
        return bool(self._slots)

    def give_slot(self) -> int:
        """Return a place in the page for a new worker."""
        slot = self._slots.pop()
        wire.SLOT.pack_into(self._page, slot * wire.SLOT.size, 0, 0)
        return slot

    def take_slot(self, slot: int) -> None:
        """The place of a worker that is gone is free."""
        self._slots.append(slot)

    def in_hand(self, worker: WorkerProcess) -> tuple[int, int]:
        """Return what the worker has taken, by its own note (0: nothing), and where in its scratch file that began to print."""
        sequence, offset = wire.SLOT.unpack_from(self._page, worker.slot * wire.SLOT.size)
        return int(sequence), int(offset)

    def holder(self, sequence: int, workers: Iterable[WorkerProcess]) -> WorkerProcess | None:
        """Return the worker that has a message in hand."""
        sent = self.messages.get(sequence)
        if sent is not None and sent.worker is not None:
            return sent.worker
        return next((worker for worker in workers if self.in_hand(worker)[0] == sequence), None)
