"""The processes executor: long-lived worker processes of our own (decision 009).

What comes in: envelopes. What goes out: notices. A worker that dies takes with it what it was running and nothing else: everything handed over early waits in one queue
that belongs to no worker. The driver never blocks on a worker, and no worker outlives its driver.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import selectors
import shutil
import socket
import tempfile
import time
import weakref
from typing import TYPE_CHECKING

import msgspec

from otel_exec import semconv
from otel_exec.errors import OtelExecError, UsageError
from otel_exec.execute import driver_fork, wire
from otel_exec.execute.base import Beat, Claimed, Output, Reported, WorkerDied, WorkerReady, WorkerStarted, WorkerStopped
from otel_exec.execute.dealing import Dealer
from otel_exec.execute.envelope import TaskReport
from otel_exec.execute.failure import of_exit
from otel_exec.execute.outstanding import Outstanding
from otel_exec.execute.packing import BlobStore, Packer
from otel_exec.execute.process_table import ProcessTable
from otel_exec.execute.salvage import keep_output, last_lines
from otel_exec.execute.wire import Kind, TaskQueue
from otel_exec.execute.worker_process import WorkerProcess
from otel_exec.spans.open_spans import OpenEntry

if TYPE_CHECKING:
    from collections.abc import Sequence

    from otel_exec.clock import Clock
    from otel_exec.execute.base import Notice, RunSettings
    from otel_exec.execute.dealing import Fan
    from otel_exec.execute.envelope import TaskEnvelope
    from otel_exec.execute.outstanding import Sent
    from otel_exec.plan.graph import Step

__all__ = ["ProcessesExecutor"]

_report_decoder = msgspec.msgpack.Decoder(TaskReport)
_beat_decoder = msgspec.msgpack.Decoder(tuple[int, tuple[OpenEntry, ...]])
_encode = msgspec.msgpack.Encoder().encode

# After a worker's death, what is neither in the queue nor in a live worker's hands by then is lost and sent again.
_AUDIT_S = 0.5
# A message that costs this many workers their lives before they even began it is not sent again.
_MAX_LOSSES = 3
# So many workers in a row that end before they are ready: no worker can be started at all.
_MAX_STILLBORN = 3
# Attempts handed over ahead, a worker: with these in the queue the driver may let notices gather instead of waking for each.
_AHEAD = 8
# How long it lets them gather while no worker can run dry (half of what the quickest steps take to empty the queue).
_GATHER_S = 0.0003


class ProcessesExecutor:
    """Runs attempts in worker processes; see `execute.base.Executor` for the contract."""

    kind = "processes"
    can_kill = True
    awaits = ""
    by_value = True

    def __init__(self, workers: int) -> None:
        if workers > wire.MAX_WORKERS:
            raise UsageError(f"--workers {workers} is more worker processes than can be kept: take at most {wire.MAX_WORKERS}")
        self.workers = workers
        self.prefetch = _AHEAD * workers
        self._selector = selectors.DefaultSelector()
        # Calls are packed before anything is started: what can't be sent is a mistake of the plan.
        self._folder = tempfile.mkdtemp(prefix="otel-exec-")
        weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)
        for name in ("blobs", "big"):
            os.mkdir(os.path.join(self._folder, name))
        self._blobs = BlobStore(os.path.join(self._folder, "blobs"))
        self._packer = Packer(self._blobs)
        self._wake_out, self._wake_in = socket.socketpair()
        self._wake_out.setblocking(False)
        self._wake_in.setblocking(False)
        self._selector.register(self._wake_out, selectors.EVENT_READ, None)
        self._notices: list[Notice] = []
        self._workers: dict[str, WorkerProcess] = {}
        self._table = ProcessTable(self)
        self._dealer = Dealer(self._table)
        self._names = itertools.count()
        self._audit_s: float | None = None
        self._suspects: set[int] = set()
        self._stillborn = 0
        self._missing = 0
        self._stopping = False
        self._started = False
        self._stopped = False
        self._queue_watched = False

    # --- the runner's side ------------------------------------------------------------------------------------------------------------------------

    def start(self, settings: RunSettings, clock: Clock) -> None:
        """Start the worker processes."""
        self._settings = settings
        self._clock = clock
        self._out = Outstanding(self._folder)
        self._queue = self._out.queue
        self._started = True
        driver_fork.opened(self)
        for _ in range(self.workers):
            self._start_worker()

    def pack(self, step: Step) -> object:
        """Return the step's call as bytes; raises a `Mistake` when it can't be sent."""
        return self._packer.call(step)

    def submit(self, envelope: TaskEnvelope, packed: object) -> None:
        """Put the attempt into the queue."""
        self._out.enqueue(self._out.add(_encode((envelope, packed)), envelope=envelope))

    def poll(self, timeout_s: float | None) -> Sequence[Notice]:
        """Return what happened; wait for it when nothing did."""
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        woken = False
        while self._missing:  # not before: where the run ends with what its worker's end meant, nobody needs another
            self._missing -= 1
            self._start_worker()
        if len(self._out.queued) > self.workers and timeout_s != 0.0:
            # Nobody waits for us: woken for each notice alone, this process would take the CPU from a worker every time.
            time.sleep(_GATHER_S)
        while True:
            woken = self._turn(0.0 if self._notices or woken else self._wait_s(deadline)) or woken
            if self._notices or woken or (deadline is not None and time.monotonic() >= deadline):
                notices, self._notices = self._notices, []
                return notices

    def wake(self) -> None:
        """End a waiting poll."""
        with contextlib.suppress(OSError):
            self._wake_in.send(b"\0")

    def recall(self) -> Sequence[tuple[str, int]]:
        """Take back all attempts that no worker has taken."""
        taken: list[tuple[str, int]] = []
        for sent in self._out.drain():
            if sent.envelope is not None:
                taken.append((sent.envelope.node_id, sent.envelope.attempt))
                self._out.forget(sent)
            elif sent.fan is not None:
                self._out.forget(sent)
                self._dealer.returned(sent.fan, sent.sequence, sent.body)
        return taken

    def interrupt(self, node_id: str, attempt: int) -> None:
        """Have KeyboardInterrupt raised in the attempt; a worker checks that it is still the one it runs."""
        sequence = self._out.attempts.get((node_id, attempt))
        if sequence is not None:
            self._interrupt(sequence)

    def kill(self, node_id: str, attempt: int) -> None:
        """End the worker that runs the attempt, and all that it started; another takes its place, with the next poll."""
        sequence = self._out.attempts.get((node_id, attempt))
        if sequence is None:
            # Its report may be among the notices that were not fetched yet.
            self._unreport(node_id, attempt)
            return
        if sequence in self._out.queued and self._out.withdraw([sequence]):
            return
        self._kill_sequence(sequence)
        self._unreport(node_id, attempt)

    def open_spans(self, node_id: str, attempt: int) -> Sequence[OpenEntry]:
        """Return what is open in the attempt's worker, its task span first."""
        _, worker = self._worker_of(node_id, attempt)
        return [span for span in worker.open_spans() if span.node_id == node_id] if worker is not None else ()

    def log_tail(self, node_id: str, attempt: int) -> str:
        """Return the last lines of what the attempt has printed so far."""
        sequence, worker = self._worker_of(node_id, attempt)
        in_hand, offset = self._out.in_hand(worker) if worker is not None else (0, 0)
        return last_lines(worker.scratch, offset) if worker is not None and in_hand == sequence else ""

    def stop(self, grace_s: float) -> Sequence[Notice]:
        """Stop the workers, by force those that don't end within the grace."""
        if not self._started or self._stopped:
            return ()
        self._stopping = True
        for sent in self._out.drain():
            self._out.forget(sent)
        self._queue.end(len(self._workers))
        for worker in self._workers.values():
            worker.expected = True
            if worker.own_queue:
                worker.queue.end(1)
        deadline = time.monotonic() + grace_s
        while self._workers and time.monotonic() < deadline:
            self._turn(min(0.05, max(0.0, deadline - time.monotonic())))
        for worker in list(self._workers.values()):
            worker.kill()
            self._on_end(worker)
        self._stopped = True
        self._close()
        notices, self._notices = self._notices, []
        return notices

    # --- one turn of the loop ---------------------------------------------------------------------------------------------------------------------

    def _wait_s(self, deadline: float | None) -> float | None:
        """Return how long nothing needs to be looked at."""
        now = time.monotonic()
        moments = [moment for moment in (deadline, self._audit_s, self._table.next_overdue_s(now) if self._dealer else None) if moment is not None]
        return max(0.0, min(moments) - now) if moments else None

    def _turn(self, wait_s: float | None) -> bool:
        """Wait for the sockets once and see to them; returns whether `wake` was called."""
        woken = False
        if self._queue.full != self._queue_watched:
            self._watch_queue()
        for key, events in self._selector.select(wait_s):
            what = key.data
            if what is None:
                with contextlib.suppress(OSError):
                    self._wake_out.recv(4096)
                woken = True
            elif what is self._queue:
                self._queue.flush()
            elif what.gone:
                continue
            elif key.fd == what.pid_fd:
                self._on_end(what)
            else:
                if events & selectors.EVENT_WRITE:
                    what.flush()
                    if not what.waiting:
                        self._selector.modify(what.sock, selectors.EVENT_READ, what)
                if events & selectors.EVENT_READ:
                    self._on_readable(what)
        if self._audit_s is not None and time.monotonic() >= self._audit_s:
            self._audit()
        if self._dealer:
            self._table.end_overdue()
            self._dealer.deal()
            self._watch_writers()
        return woken

    def _watch_queue(self) -> None:
        self._queue_watched = self._queue.full
        if self._queue_watched:
            self._selector.register(self._queue, selectors.EVENT_WRITE, self._queue)
        else:
            self._selector.unregister(self._queue)

    def _watch_writers(self) -> None:
        for worker in self._workers.values():
            if worker.waiting and not worker.gone:
                self._selector.modify(worker.sock, selectors.EVENT_READ | selectors.EVENT_WRITE, worker)

    def _on_readable(self, worker: WorkerProcess) -> None:
        for kind, payload in worker.receive():
            self._on_frame(worker, kind, payload)
        if worker.closed:
            self._on_end(worker)

    def _on_frame(self, worker: WorkerProcess, kind: int, payload: bytes) -> None:
        if kind == Kind.REPORT:
            self._on_report(worker, payload)
        elif kind == Kind.CLAIMED:
            sequence, at_ns = wire.CLAIM.unpack(payload)
            sent = self._out.claimed(sequence, worker, at_ns)
            if sent is not None and sent.envelope is not None and not sent.silent:
                self._notices.append(Claimed(sent.envelope.node_id, sent.envelope.attempt, worker.worker_id, at_ns))
        elif kind == Kind.ITEM_DONE:
            sent = self._out.ended(wire.U64.unpack_from(payload)[0], worker)
            if sent is not None and sent.fan is not None:
                self._dealer.done(sent.fan, sent.sequence, payload[wire.U64.size :])
                self._watch_writers()
        elif kind == Kind.READY:
            worker.ready = True
            self._stillborn = 0
            self._notices.append(WorkerReady(worker.worker_id, wire.U64.unpack(payload)[0]))
        elif kind == Kind.BEAT:
            at_ns, entries = _beat_decoder.decode(payload)
            self._notices.append(Beat(worker.worker_id, at_ns, entries))
        elif kind == Kind.OUTPUT:
            node_id, text = msgspec.msgpack.decode(payload)
            self._notices.append(Output(worker.worker_id, node_id, text))
        elif kind == Kind.ASK_MAIN:
            name = payload.decode()
            worker.tell(Kind.MAIN, _encode((name, self._packer.of_main(name))))
        else:
            self._dealer.on_frame(worker, kind, payload)

    def _on_report(self, worker: WorkerProcess, payload: bytes) -> None:
        sent = self._out.ended(wire.U64.unpack_from(payload)[0], worker)
        if sent is not None and not sent.silent:
            self._notices.append(Reported(_report_decoder.decode(memoryview(payload)[wire.U64.size :])))

    # --- messages ---------------------------------------------------------------------------------------------------------------------------------

    def _worker_of(self, node_id: str, attempt: int) -> tuple[int, WorkerProcess | None]:
        sequence = self._out.attempts.get((node_id, attempt), 0)
        return sequence, self._holder(sequence) if sequence else None

    def _holder(self, sequence: int) -> WorkerProcess | None:
        return self._out.holder(sequence, self._workers.values())

    def _interrupt(self, sequence: int) -> None:
        worker = self._holder(sequence)
        if worker is not None:
            worker.tell(Kind.INTERRUPT, wire.U64.pack(sequence))

    def _unreport(self, node_id: str, attempt: int) -> None:
        self._notices = [
            notice for notice in self._notices if not (isinstance(notice, Reported) and notice.report.node_id == node_id and notice.report.attempt == attempt)
        ]

    def _audit(self) -> None:
        """After a death: send again what is nowhere.

        A worker notes what it took a microsecond after it took it; so what is nowhere now is only suspected, and lost if it is still nowhere at the next look.
        """
        suspects, self._suspects = self._suspects, set()
        kept = self._out.drain()
        held = {self._out.in_hand(worker)[0] for worker in self._workers.values()}
        for worker in list(self._workers.values()):  # read after the notes: a note is wiped only once the word is out
            for kind, payload in worker.receive():
                self._on_frame(worker, kind, payload)
        nowhere = {sequence for sequence in self._out.queued - held if sequence in self._out.messages}
        for sent in kept:
            self._out.enqueue(sent)
        for sequence in sorted(nowhere & suspects):
            self._out.enqueue(self._out.messages[sequence])
        self._suspects = nowhere - suspects
        self._audit_s = time.monotonic() + _AUDIT_S if self._suspects else None

    # --- ends of workers --------------------------------------------------------------------------------------------------------------------------

    def _start_worker(self, *, only: Fan | None = None) -> WorkerProcess:
        worker_id = str(next(self._names))
        slot = self._out.give_slot()
        queue = TaskQueue(os.path.join(self._folder, "big")) if only is not None else self._queue
        at_ns = self._clock.now_ns()
        worker = WorkerProcess(worker_id, self._settings, self._folder, slot, queue, own_queue=only is not None)
        self._workers[worker_id] = worker
        self._selector.register(worker.sock, selectors.EVENT_READ | (selectors.EVENT_WRITE if worker.waiting else 0), worker)
        if worker.pid_fd >= 0:
            self._selector.register(worker.pid_fd, selectors.EVENT_READ, worker)
        self._notices.append(WorkerStarted(worker_id, at_ns, worker.pid, socket.gethostname()))
        return worker

    def _on_end(self, worker: WorkerProcess) -> None:
        """A worker has ended (or closed its socket, which is the same to us)."""
        if worker.gone:
            return
        for kind, payload in worker.receive():  # what it said before
            self._on_frame(worker, kind, payload)
        in_hand, offset = self._out.in_hand(worker)
        self._selector.unregister(worker.sock)
        if worker.pid_fd >= 0:
            self._selector.unregister(worker.pid_fd)
        returncode = worker.bury()
        worker.mend_spool()
        at_ns = self._clock.now_ns()
        del self._workers[worker.worker_id]
        self._out.take_slot(worker.slot)
        open_spans = tuple(worker.open_spans())
        reason = of_exit(returncode)
        sent = self._out.messages.get(worker.sequence or in_hand)
        attempts: tuple[tuple[str, int], ...] = ()
        tail = ""
        if sent is not None:
            attempts, tail = self._casualty(worker, sent, offset, reason, at_ns)
        self._dealer.worker_gone(worker)
        if worker.expected and not attempts:
            self._notices.append(WorkerStopped(worker.worker_id, at_ns))
        else:
            self._notices.append(WorkerDied(worker.worker_id, at_ns, attempts, reason, open_spans=open_spans, log_tail=tail))
        worker.sweep()
        if not self._stopping:
            self._audit_s = self._audit_s or time.monotonic() + _AUDIT_S
            if not worker.own_queue:
                self._replace(worker, reason)

    def _casualty(self, worker: WorkerProcess, sent: Sent, offset: int, reason: str, at_ns: int) -> tuple[tuple[tuple[str, int], ...], str]:
        """See to what a dead worker had in hand; returns the attempts that the runner must settle, and the last lines printed."""
        if sent.fan is not None:
            self._out.forget(sent)
            error_type = semconv.ERROR_TIMEOUT if sent.silent else semconv.ERROR_WORKER_DIED
            message = f"its timeout of {sent.fan.timeout_s:g} s passed" if sent.silent and sent.fan.timeout_s is not None else reason
            self._dealer.lost(sent.fan, sent.sequence, worker.worker_id, error_type, message, sent.claimed_ns or at_ns, at_ns)
            return (), ""
        envelope = sent.envelope
        assert envelope is not None
        if sent.worker is None and not sent.silent and sent.losses < _MAX_LOSSES:
            sent.losses += 1  # it had not begun: nothing of the user's has run
            self._out.enqueue(sent)
            return (), ""
        self._out.forget(sent)
        tail = keep_output(worker.scratch, offset, envelope.output_path, envelope.attempt, self._settings.log_cap_bytes)
        return (() if sent.silent else ((envelope.node_id, envelope.attempt),)), tail

    def _replace(self, worker: WorkerProcess, reason: str) -> None:
        if not worker.ready:
            self._stillborn += 1
            if self._stillborn >= _MAX_STILLBORN and not any(other.ready for other in self._workers.values()):
                raise OtelExecError(f"no worker process can be started: {reason}; what Python said stands above, on stderr")
        self._missing += 1

    def _kill_sequence(self, sequence: int) -> None:
        """End the worker that runs a message, unless it has ended by itself meanwhile: the process is stopped first, and what it said is read."""
        worker = self._holder(sequence)
        sent = self._out.messages.get(sequence)
        if worker is None or sent is None:
            return
        worker.freeze()
        for kind, payload in worker.receive():
            self._on_frame(worker, kind, payload)
        if sequence not in self._out.messages:
            worker.thaw()
            return
        sent.silent = True
        worker.expected = True
        worker.kill()
        self._on_end(worker)

    def _close(self) -> None:
        driver_fork.closed(self)
        self._selector.close()
        self._out.close()
        self._wake_in.close()
        self._wake_out.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def close_in_child(self) -> None:
        """In a process that the driver forked: let go of the sockets, so that the workers see the driver's end."""
        with contextlib.suppress(OSError):
            for worker in self._workers.values():
                worker.sock.close()
            self._queue.close()
