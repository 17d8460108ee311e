"""A worker process: takes messages from the queue that all workers share, runs them, reports on a socket of its own.

What comes in: a hello, then attempts and items, one at a time in the main thread. What goes out: frames to the driver. A second thread listens to the driver, gives a sign
of life each second while something runs, and ends the whole process group when the driver is gone, whatever the main thread is doing.

Starting is quick because little is imported: no SDK, no exporter, no cloudpickle until a function needs it.
"""

from __future__ import annotations

import contextlib
import errno
import gc
import logging
import mmap
import os
import pickle
import select
import signal
import socket
import sys
import threading
import time
from typing import TYPE_CHECKING, Any, NoReturn

import msgspec

from otel_exec.clock import AnchoredClock
from otel_exec.execute import wire
from otel_exec.execute.capture import ScratchCapture
from otel_exec.execute.context import WorkerContext, current_umask
from otel_exec.execute.door import Door, Hands, NoHands
from otel_exec.execute.envelope import TaskEnvelope
from otel_exec.execute.failure import CUT_OFF, SPENT
from otel_exec.execute.interrupts import SignalGuard
from otel_exec.execute.items import ItemEnvelope
from otel_exec.execute.packing import BlobStore, Packer, StandInMain, open_blobs
from otel_exec.execute.process_fan_out import FanOuts, run_remote_item
from otel_exec.execute.rusage import ProcessMeter
from otel_exec.execute.wire import Hello, Kind, Link, Message, frame
from otel_exec.execute.worker import run_attempt
from otel_exec.record.spare import keep_descriptor, was_needed
from otel_exec.record.storage import is_remote
from otel_exec.spans import provider
from otel_exec.spans.open_spans import OpenSpanTable
from otel_exec.spans.recorder import Recorder
from otel_exec.spans.spool import SpoolWriter

if TYPE_CHECKING:
    from otel_exec.execute.base import RunSettings
    from otel_exec.execute.envelope import TaskReport

__all__ = ["main"]

_BEAT_S = 1.0
_SOON_S = 0.1
_ANSWER_S = 30.0
_PR_SET_PDEATHSIG = 1
# How long an attempt that has closed its worker's line to the driver may go on: as long as the driver waits for a process that hangs up to end.
_LAST_WORDS_S = 0.2
# What is said of a descriptor that somebody has closed, or put another file in the place of.
_CLOSED = frozenset({errno.EBADF, errno.ENOTSOCK, errno.ENOTCONN})

_step_decoder = msgspec.msgpack.Decoder(tuple[TaskEnvelope, bytes])
_item_decoder = msgspec.msgpack.Decoder(ItemEnvelope)
_encoder = msgspec.msgpack.Encoder()


def writer_name(worker_id: str) -> str:
    """Return the spool writer's name of a worker."""
    return f"worker-{worker_id}"


def main(link_fd: int, queue_fd: int) -> None:
    """Be a worker until the driver says that it is over."""
    for fd in (link_fd, queue_fd):
        os.set_inheritable(fd, False)
    sock = socket.socket(fileno=link_fd)
    queue = socket.socket(fileno=queue_fd)
    hello, rest = _read_hello(sock)
    sys.path[:] = hello.sys_path
    sys.argv[:] = hello.argv
    worker = Worker(hello, Link(sock), queue)
    worker.listen(rest)
    worker.serve()


def _read_hello(sock: socket.socket) -> tuple[Hello, list[tuple[int, bytes]]]:
    frames = wire.Frames()
    while True:
        data = sock.recv(65536)
        if not data:
            os._exit(0)  # the driver was gone before it said a word
        found = list(frames.feed(data))
        if found:
            return msgspec.msgpack.decode(found[0][1], type=Hello), found[1:]


class Worker:
    """The state of a worker process."""

    def __init__(self, hello: Hello, link: Link, queue: socket.socket) -> None:
        settings: RunSettings = pickle.loads(hello.settings)  # noqa: S301  from our own driver
        self.hello = hello
        self.link = link
        self.queue = queue
        self.clock = AnchoredClock(settings.clock_offset_ns)
        self.pending: list[bytes] = []
        self._node_id = ""
        self._busy = False
        self._answers: dict[str, str] = {}
        self._answered = threading.Condition()
        with open(os.path.join(hello.folder, "slots"), "r+b") as file:
            self._page = mmap.mmap(file.fileno(), wire.SLOTS * wire.SLOT.size)
        self._slot_at = hello.slot * wire.SLOT.size
        blobs = open_blobs(BlobStore(os.path.join(hello.folder, "blobs")))
        self.packer = Packer(blobs)
        sys.modules["__main__"] = StandInMain(settings.script, self._ask_main)
        self.capture = ScratchCapture(
            os.path.join(hello.folder, f"output-{hello.worker_id}"),
            settings.log_cap_bytes,
            self._show if settings.show_output else None,
        )
        null = os.open(os.devnull, os.O_RDONLY)
        os.dup2(null, 0)
        os.close(null)
        _log_to_stderr()
        self._cwd = os.open(".", os.O_RDONLY | os.O_CLOEXEC)
        self._umask = current_umask()
        keep_descriptor()
        folder = os.path.join(settings.run_folder, "spans")
        writer = writer_name(hello.worker_id)
        self.spool = SpoolWriter(folder, writer, {**dict(settings.resource), "process.pid": os.getpid()})
        self.table = OpenSpanTable(folder, writer)
        self.recorder = Recorder(
            exec_id=settings.exec_id,
            trace_id=settings.trace_id,
            clock=self.clock,
            spool=self.spool,
            open_spans=self.table,
            sampled=settings.sampled,
            trace_state=settings.trace_state,
            limits=settings.limits,
        )
        self.guard = link.guard = SignalGuard()
        provider.install_global()  # before the user's code is loaded: its own spans join the run
        self.fan_outs = FanOuts(link, self.packer, hello.worker_id, hello.folder)
        self.context = WorkerContext(
            worker_id=hello.worker_id,
            settings=settings,
            clock=self.clock,
            recorder=self.recorder,
            capture=self.capture,
            meter=ProcessMeter(peak=True),
            guard=self.guard,
            claimed=self._claimed,
            door=self._door,
            after=self._restore,
            carrier=True,
        )

    # --- the main thread --------------------------------------------------------------------------------------------------------------------------

    def serve(self) -> None:
        """Take messages and run them until there are no more."""
        self.link.send(frame(Kind.READY, wire.U64.pack(self.clock.now_ns())))
        gc.freeze()  # what was imported is never garbage: collections in tasks needn't look at it
        while True:
            try:
                data = self._receive()
            except OSError:  # the code that it ran has closed the queue
                self._leave(CUT_OFF)
            if not data:
                break
            sequence, kind, body = wire.read_message(data)
            if kind == Message.STOP:
                break
            if kind == Message.STEP:
                self._run_step(sequence, body)
            else:
                self._run_item(sequence, body)
        self._flush()
        self.spool.close()
        self.table.remove()

    def _receive(self) -> bytes:
        """Return the next message. What is to be told of the last one is told with the next one's claim, if that is there already."""
        try:
            data = self.queue.recv(65536, socket.MSG_DONTWAIT)
        except BlockingIOError:
            self._flush()
            wire.SLOT.pack_into(self._page, self._slot_at, 0, 0)  # only now that the word is out
            while True:
                try:
                    data = self.queue.recv(65536)
                    break
                except InterruptedError:
                    continue
        if data:
            # Before anything else: a worker that dies now has this message in hand.
            wire.SLOT.pack_into(self._page, self._slot_at, wire.sequence_of(data), self.capture.position())
        return data

    def _flush(self) -> None:
        if self.pending:
            data = b"".join(self.pending)
            self.pending.clear()
            self.link.send(data)

    def _run_step(self, sequence: int, body: bytes) -> None:
        envelope, call = _step_decoder.decode(body)
        if is_remote(envelope.output_path):
            self._flush()  # its lock may take a while
        self._node_id = envelope.node_id
        self._busy = True
        report = run_attempt(self.context, envelope, call=call, sequence=sequence)
        self._busy = False
        assert report is not None, "a process is never abandoned"
        self._done(Kind.REPORT, sequence, _encode_report(report))
        if report.error is not None or report.warnings or was_needed():
            self._look_at_descriptors()

    def _run_item(self, sequence: int, body: bytes) -> None:
        self._flush()
        envelope = _item_decoder.decode(body)
        self._node_id = envelope.node_id
        if envelope.timeout_s is not None:
            self.link.send(frame(Kind.CLAIMED, wire.CLAIM.pack(sequence, self.clock.now_ns())))
        self._busy = True
        report = run_remote_item(self.context, envelope, self.packer, self.hello.folder, sequence)
        self._busy = False
        self._restore()
        self._done(Kind.ITEM_DONE, sequence, _encoder.encode(report))
        if report.error is not None:
            self._look_at_descriptors()

    def _look_at_descriptors(self) -> None:
        """After something went wrong: where the code that ran has left this process no descriptor to open a file with, or none to work with, another takes its place."""
        try:
            os.close(os.dup(self._cwd))
            self.capture.position()
        except OSError:
            self._leave(SPENT if self._has_line() else CUT_OFF)

    def _has_line(self) -> bool:
        try:
            self.link.sock.getpeername()
        except OSError:
            return False
        return True

    def _leave(self, code: int) -> NoReturn:
        """End the process, after what there is to tell is told."""
        self._flush()
        self.spool.close()
        os._exit(code)

    def _done(self, kind: int, sequence: int, body: bytes) -> None:
        self.pending.append(frame(kind, wire.U64.pack(sequence) + body))

    def _claimed(self, _envelope: TaskEnvelope, sequence: int, at_ns: int) -> None:
        self.pending.append(frame(Kind.CLAIMED, wire.CLAIM.pack(sequence, at_ns)))
        self._flush()

    def _door(self, context: WorkerContext, attributes: dict[str, Any], node_id: str) -> Door:
        return Door(context, attributes, node_id, self._hands, context.settings.max_task_spans)

    def _hands(self) -> Hands:
        # A child that a step forked has no line to the driver.
        return self.fan_outs.hands() if os.getpid() == self.context.pid else NoHands()

    def _restore(self) -> None:
        """Put the process back as it was before a task; what a task did to its streams is the capture's."""
        os.umask(self._umask)
        with contextlib.suppress(OSError):
            os.fchdir(self._cwd)

    def _show(self, text: str) -> None:
        self.link.send(frame(Kind.OUTPUT, _encoder.encode((self._node_id, text))))

    # --- the second thread ------------------------------------------------------------------------------------------------------------------------

    def listen(self, first: list[tuple[int, bytes]]) -> None:
        """Start listening to the driver."""
        threading.Thread(target=self._listen, args=(first,), name="otel-exec-driver-link", daemon=True).start()
        provider.instrument_with_first_thread()

    def _listen(self, first: list[tuple[int, bytes]]) -> None:
        try:
            for kind, payload in first:
                self._on_frame(kind, payload)
            self._listen_on()
        except OSError as error:
            if error.errno in _CLOSED:
                self._cut_off()
        finally:  # the driver is gone, or we can't hear it any more
            os.killpg(os.getpid(), signal.SIGKILL)

    def _cut_off(self) -> NoReturn:
        """The code that runs has closed our line to the driver, who takes us for dead: it may just end yet, and write down how."""
        deadline_ns = self.clock.now_ns() + int(_LAST_WORDS_S * 1e9)
        while self._busy and self.clock.now_ns() < deadline_ns:
            time.sleep(0.01)
        os._exit(CUT_OFF)

    def _listen_on(self) -> None:
        frames = wire.Frames()
        poll = select.poll()
        poll.register(self.link.sock.fileno(), select.POLLIN)
        wait_s = _SOON_S
        tied = False
        beat_ns = self.clock.now_ns()
        while True:
            if poll.poll(int(wait_s * 1000)):
                data = self.link.sock.recv(65536)
                if not data:
                    return
                for kind, payload in frames.feed(data):
                    self._on_frame(kind, payload)
                continue
            if os.getppid() != self.hello.driver_pid:
                return
            flood = False
            with contextlib.suppress(Exception):  # the code that runs may have used up descriptors or memory: nothing of this is worth its worker
                tied = tied or not self.hello.tied or _die_with_parent()
                self.spool.flush()
                flood = self.capture.look()
                if self.capture.cut:
                    wire.SLOT.pack_into(self._page, self._slot_at, wire.U64.unpack_from(self._page, self._slot_at)[0], wire.NO_OFFSET)
                now_ns = self.clock.now_ns()
                if self._busy and now_ns - beat_ns >= _BEAT_S * 0.9e9:
                    beat_ns = now_ns
                    self.link.send(frame(Kind.BEAT, _encoder.encode((now_ns, self.table.entries()))))
            wait_s = _SOON_S if flood else _BEAT_S if not self._busy else _BEAT_S / 2

    def _on_frame(self, kind: int, payload: bytes) -> None:
        if kind == Kind.INTERRUPT:
            self.guard.request(wire.U64.unpack(payload)[0])
        elif kind == Kind.MAIN:
            name, digest = msgspec.msgpack.decode(payload)
            with self._answered:
                self._answers[name] = digest
                self._answered.notify_all()
        else:
            self.fan_outs.on_frame(kind, payload)

    def _ask_main(self, name: str) -> str:
        """Ask the driver for a function or class of its `__main__`; returns the blob's digest, "" where there is none."""
        if os.getpid() != self.context.pid or threading.current_thread().name == "otel-exec-driver-link":
            return ""
        with self._answered:
            if name not in self._answers:
                self.link.send(frame(Kind.ASK_MAIN, name.encode()))
                self._answered.wait_for(lambda: name in self._answers, _ANSWER_S)
            return self._answers.get(name, "")


def _encode_report(report: TaskReport) -> bytes:
    try:
        return _encoder.encode(report)
    except (TypeError, ValueError, OverflowError) as error:  # a user's attribute that msgpack can't hold: the spans are in the spool, the outcome must get home
        message = f"{report.node_id}: the report of attempt {report.attempt} came home without its spans, which are in the spool: {error}"
        return _encoder.encode(msgspec.structs.replace(report, warnings=[*report.warnings, ("report_cut", message)], spans=[]))


def _log_to_stderr() -> None:
    """Have what the user's code logs at INFO shown, unless it sets logging up by itself."""
    if logging.lastResort is not None:  # used only where there is no handler; a user's own basicConfig still works
        logging.lastResort.setLevel(logging.INFO)
        logging.lastResort.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.root.setLevel(logging.INFO)


def _die_with_parent() -> bool:
    """Have the kernel kill this process with the driver's main thread: also while C code holds the GIL. Linux alone. Returns whether it is done with: imports may fail for now."""
    if sys.platform != "linux":
        return True
    try:
        import ctypes

        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    except AttributeError:
        return True
    except (OSError, ImportError):
        return False
    return True
