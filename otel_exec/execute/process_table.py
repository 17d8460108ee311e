"""What the dealer of fan-outs needs of the pool of worker processes (`dealing.Table`): who is idle, sending items, ending them.

What comes in: the dealer's wishes. What goes out: messages and extra workers. Decides nothing about which item goes where.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from otel_exec.execute.wire import Message

if TYPE_CHECKING:
    from otel_exec.execute.dealing import Fan
    from otel_exec.execute.processes import ProcessesExecutor
    from otel_exec.execute.worker_process import WorkerProcess

__all__ = ["ProcessTable"]


class ProcessTable:
    """The pool, as the dealer sees it."""

    def __init__(self, pool: ProcessesExecutor) -> None:
        self._pool = pool

    def idle(self) -> int:
        """Return how many workers have nothing to do and nothing waiting for them."""
        workers = self._pool._workers.values()
        free = sum(1 for worker in workers if worker.ready and worker.sequence == 0 and not worker.own_queue and not worker.expected)
        return free - len(self._pool._out.queued)

    def deal(self, fan: Fan, index: int, body: bytes, worker: WorkerProcess | None) -> int:
        """Send an item."""
        sent = self._pool._out.add(body, fan=fan, index=index)
        if worker is None:
            self._pool._out.enqueue(sent)
        else:
            worker.sequence = sent.sequence
            worker.queue.put(sent.sequence, Message.ITEM, body)
        return sent.sequence

    def extra_worker(self, fan: Fan) -> WorkerProcess | None:
        """Start a worker for one fan-out alone, where there is room for one."""
        return self._pool._start_worker(only=fan) if self._pool._out.has_slot() else None

    def dismiss(self, worker: WorkerProcess) -> None:
        """End an extra worker in order."""
        if not worker.gone:
            worker.expected = True
            worker.queue.end(1)

    def end_item(self, sequence: int, *, kill: bool) -> None:
        """Interrupt or kill whoever runs an item."""
        if kill:
            self._pool._kill_sequence(sequence)
        else:
            self._pool._interrupt(sequence)

    def withdraw(self, sequences: list[int]) -> list[int]:
        """Take messages back that no worker has taken."""
        return self._pool._out.withdraw(sequences)

    def next_overdue_s(self, now_s: float) -> float | None:
        """Return when the next item's time runs out, on the clock that says `now_s`; `None` when there is none."""
        due = [due_ns for _, due_ns in self._pool._out.deadlines()]
        return now_s + max(0.0, (min(due) - self._pool._clock.now_ns()) / 1e9) + 0.001 if due else None

    def end_overdue(self) -> None:
        """Kill items whose time ran out."""
        now_ns = self._pool._clock.now_ns()
        for sequence, due_ns in list(self._pool._out.deadlines()):
            if now_ns > due_ns:
                self._pool._kill_sequence(sequence)
