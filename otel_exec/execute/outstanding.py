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

if TYPE_CHECKING:
    from collections.abc import Iterable

    from otel_exec.execute.dealing import Fan
    from otel_exec.execute.envelope import TaskEnvelope
    from otel_exec.execute.worker_process import WorkerProcess

__all__ = ["Job", "Outstanding"]


@dataclass(eq=False, slots=True)
class Job:
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
    """All messages that are out. `jobs` by sequence number; `queued`: those of them in the shared queue, as far as is known; `attempts`: (node id, attempt) -> sequence.

    Args:
        folder: the pool's.
    """

    def __init__(self, folder: str) -> None:
        path = os.path.join(folder, "slots")
        with open(path, "w+b") as file:
            file.truncate(wire.SLOTS * wire.SLOT.size)
            self._page = mmap.mmap(file.fileno(), wire.SLOTS * wire.SLOT.size)
        self._slots = list(range(wire.SLOTS - 1, -1, -1))
        self._sequences = itertools.count(1)
        self.queue = TaskQueue(os.path.join(folder, "big"))
        self.jobs: dict[int, Job] = {}
        self.queued: set[int] = set()
        self.attempts: dict[tuple[str, int], int] = {}

    def close(self) -> None:
        """Close the queue and the page."""
        self.queue.close()
        self._page.close()

    # --- messages ---------------------------------------------------------------------------------------------------------------------------------

    def add(self, body: bytes, *, envelope: TaskEnvelope | None = None, fan: Fan | None = None, index: int = 0) -> Job:
        """Take in a new message; it is not sent yet."""
        job = Job(next(self._sequences), body, envelope=envelope, fan=fan, index=index)
        self.jobs[job.sequence] = job
        if envelope is not None:
            self.attempts[envelope.node_id, envelope.attempt] = job.sequence
        return job

    def enqueue(self, job: Job) -> None:
        """Send a message to whoever is free."""
        self.queued.add(job.sequence)
        self.queue.put(job.sequence, Message.STEP if job.envelope is not None else Message.ITEM, job.body)

    def claimed(self, sequence: int, worker: WorkerProcess, at_ns: int) -> Job | None:
        """A worker has begun with a message."""
        job = self.jobs.get(sequence)
        if job is not None:
            self.queued.discard(sequence)
            job.worker, job.claimed_ns = worker, at_ns
            worker.sequence = sequence
        return job

    def ended(self, sequence: int, worker: WorkerProcess) -> Job | None:
        """A worker has ended a message: return it, forgotten."""
        if worker.sequence == sequence:
            worker.sequence = 0
        job = self.jobs.get(sequence)
        if job is not None:
            self.forget(job)
        return job

    def forget(self, job: Job) -> None:
        """A message is over."""
        self.jobs.pop(job.sequence, None)
        self.queued.discard(job.sequence)
        if job.envelope is not None:
            self.attempts.pop((job.envelope.node_id, job.envelope.attempt), None)

    def drain(self) -> list[Job]:
        """Take everything out of the queue that nobody took; returns it in order."""
        jobs = []
        for sequence in self.queue.drain():
            self.queued.discard(sequence)
            job = self.jobs.get(sequence)
            if job is not None:
                jobs.append(job)
        return jobs

    def withdraw(self, sequences: Iterable[int]) -> list[int]:
        """Take messages back that nobody took; returns the numbers of those that could be."""
        wanted = self.queued.intersection(sequences)
        if not wanted:
            return []
        taken = []
        for job in self.drain():
            if job.sequence in wanted:
                self.forget(job)
                taken.append(job.sequence)
            else:
                self.enqueue(job)
        return taken

    # --- hands ------------------------------------------------------------------------------------------------------------------------------------

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
        job = self.jobs.get(sequence)
        if job is not None and job.worker is not None:
            return job.worker
        return next((worker for worker in workers if self.in_hand(worker)[0] == sequence), None)
