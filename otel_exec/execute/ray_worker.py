"""What runs in a Ray worker process: attempts at steps and items, each a Ray task of its own.

What comes in: `StepSent` and `ItemSent`, as bytes. What goes out: `StepDone` and `ItemDone`. How an attempt is run is the same as everywhere (`worker.py`, `items.py`).
The process is Ray's and other code of the user's may run in it: what an attempt needs of it (streams, folder, SIGINT, `__main__`, environment) is borrowed and given back.
"""

from __future__ import annotations

import contextlib
import gc
import itertools
import os
import shutil
import signal
import sys
import tempfile
import threading
import time
from typing import TYPE_CHECKING, Any, NoReturn

import msgspec

from otel_exec.clock import System
from otel_exec.execute.context import WorkerContext, current_umask
from otel_exec.execute.door import Door, Hands, NoHands
from otel_exec.execute.interrupts import SignalGuard
from otel_exec.execute.packing import Packer, StandInMain, open_blobs
from otel_exec.execute.process_fan_out import run_remote_item
from otel_exec.execute.ray_blobs import WorkerBlobs
from otel_exec.execute.ray_capture import BorrowingCapture
from otel_exec.execute.ray_presence import presence_of
from otel_exec.execute.ray_wire import Begun, ItemDone, ItemSent, StepDone, StepSent, encode
from otel_exec.execute.rusage import ProcessMeter
from otel_exec.execute.worker import run_attempt
from otel_exec.record.spare import keep_descriptor
from otel_exec.spans import provider

if TYPE_CHECKING:
    from collections.abc import Iterator

    from otel_exec.execute.envelope import TaskEnvelope, TaskReport
    from otel_exec.execute.ray_presence import Presence

__all__ = ["RayWorker", "run_item_task", "run_step_task"]

_step_decoder = msgspec.msgpack.Decoder(StepSent)
_item_decoder = msgspec.msgpack.Decoder(ItemSent)
_TAIL_CHARS = 8192
# How long a process whose attempt is past its timeout waits to be ended before it ends itself.
_PATIENCE_S = 60.0

_worker: RayWorker | None = None


def run_step_task(body: bytes) -> bytes:
    """Run an attempt at a step; what the driver submits to Ray."""
    first_ns = System.wall()
    sent = _step_decoder.decode(body)
    return worker_of(sent.exec_id, first_ns).run_step(sent.envelope, sent.call)


def run_item_task(body: bytes) -> bytes:
    """Run an attempt at an item of a fan-out; what the worker that owns it submits to Ray."""
    first_ns = System.wall()
    sent = _item_decoder.decode(body)
    return worker_of(sent.exec_id, first_ns).run_item(sent)


def worker_of(exec_id: str, first_ns: int) -> RayWorker:
    """Return what this process is for a run; it works for one at a time."""
    global _worker
    if _worker is None or _worker.exec_id != exec_id:
        if _worker is not None:
            _worker.presence.close()
        _worker = RayWorker(exec_id, first_ns)
    return _worker


class RayWorker:
    """This process, as a worker of one run.

    Args:
        exec_id: the run's.
        first_ns: the wall clock when this process first heard of it.
    """

    def __init__(self, exec_id: str, first_ns: int) -> None:
        self.exec_id = exec_id
        self.presence = presence = presence_of(exec_id, first_ns)
        settings, setup = presence.settings, presence.setup
        for path in setup.sys_path:
            if path not in sys.path:
                sys.path.append(path)
        folder = tempfile.mkdtemp(prefix="otel-exec-ray-")
        scratch = os.path.join(folder, "output")
        self.capture = BorrowingCapture(scratch, settings.log_cap_bytes, self._show if settings.show_output else None)
        shutil.rmtree(folder, ignore_errors=True)  # what lies in it is open: nothing is left behind, however this process ends
        self.blobs = WorkerBlobs(
            lambda digest: presence.ask("blob", digest),
            lambda digest, data: presence.ask("put_blob", digest, data),
        )
        open_blobs(self.blobs)
        self.packer = Packer(self.blobs)
        self._main = StandInMain(settings.script, lambda _name: "")
        handler = signal.getsignal(signal.SIGINT)
        self.guard = TimedGuard(presence)
        signal.signal(signal.SIGINT, handler)
        provider.install_global()  # before the user's code is loaded: its own spans join the run
        provider.instrument_with_first_thread()
        self.context = WorkerContext(
            worker_id=presence.worker_id,
            settings=settings,
            clock=presence.clock,
            recorder=presence.recorder,
            capture=self.capture,
            meter=ProcessMeter(peak=True),
            guard=self.guard,
            claimed=self._claimed,
            door=self._door,
            after=self._restore,
            carrier=True,
        )
        self._umask = current_umask()
        keep_descriptor()
        self._sequences = itertools.count(1)
        self._sequence = 0
        self._span_id = ""
        self._node_id = ""
        self._obeyed = ("", "")
        presence.look = self._look
        presence.obey = self._obey
        presence.ready()
        gc.freeze()  # what was imported is never garbage: collections in tasks needn't look at it

    # --- attempts ---------------------------------------------------------------------------------------------------------------------------------

    def run_step(self, envelope: TaskEnvelope, call: bytes) -> bytes:
        """Run an attempt at a step."""
        self._sequence = next(self._sequences)
        self._span_id, self._node_id = envelope.span_id, envelope.node_id
        with self._borrowed():
            report = run_attempt(self.context, envelope, call=call, sequence=self._sequence)
        if report is None:
            self.presence.left()
            time.sleep(_PATIENCE_S)
            _end_process()
        self._span_id = ""  # what ends it now comes too late
        tellings, rest = self.presence.end()
        return _encode_step(tellings, rest, report)

    def run_item(self, sent: ItemSent) -> bytes:
        """Run an attempt at an item."""
        envelope = sent.envelope
        self._sequence = next(self._sequences)
        self._span_id, self._node_id = envelope.span_id, envelope.node_id
        self.presence.begin(Begun(envelope.span_id, envelope.node_id, envelope.attempt, self.presence.clock.now_ns(), item=True))
        with self._borrowed():
            report = run_remote_item(self.context, envelope, self.packer, None, self._sequence)
        self._span_id = ""
        tellings, rest = self.presence.end()
        return encode(ItemDone(report, rest.lines, tellings))

    def _claimed(self, envelope: TaskEnvelope, sequence: int, at_ns: int) -> None:
        del sequence
        self.presence.begin(Begun(envelope.span_id, envelope.node_id, envelope.attempt, at_ns))
        if envelope.timeout_s is not None:
            self.guard.until_ns = at_ns + int(envelope.timeout_s * 1e9)

    @contextlib.contextmanager
    def _borrowed(self) -> Iterator[None]:
        """Make the process ours for the block: folder, umask, arguments, `__main__`, environment, SIGINT, SIGTERM."""
        setup = self.presence.setup
        old_main, old_argv, old_carrier = sys.modules["__main__"], sys.argv[:], os.environ.get("TRACEPARENT")
        handler = signal.getsignal(signal.SIGINT)
        here = os.open(".", os.O_RDONLY | os.O_CLOEXEC)
        self._umask = current_umask()
        sys.modules["__main__"] = self._main
        sys.argv[:] = setup.argv
        with contextlib.suppress(OSError):
            os.chdir(setup.cwd)
        # Ray's own handler raises SystemExit in the step, which would stand in its files as its failure: a process that is told to end, since its driver died say, just ends.
        told_to_end = signal.signal(signal.SIGTERM, signal.SIG_DFL)
        blocked = signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})  # Ray's processes are started with it blocked
        try:
            yield
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
            self._restore()
            with contextlib.suppress(OSError):
                os.fchdir(here)
            os.close(here)
            sys.argv[:] = old_argv
            sys.modules["__main__"] = old_main
            if old_carrier is None:
                os.environ.pop("TRACEPARENT", None)
            else:
                os.environ["TRACEPARENT"] = old_carrier
            signal.signal(signal.SIGINT, handler)
            signal.signal(signal.SIGTERM, told_to_end if told_to_end is not None else signal.SIG_DFL)

    def _restore(self) -> None:
        """Put back what the files of the attempt are written with."""
        os.umask(self._umask)

    def _door(self, context: WorkerContext, attributes: dict[str, Any], node_id: str) -> Door:
        return Door(context, attributes, node_id, self._hands, context.settings.max_task_spans)

    def _hands(self) -> Hands:
        from otel_exec.execute.ray_fan_out import RayHands

        # A child that a step forked can't talk to Ray; nor can a thread of a step wait in the task's name.
        if os.getpid() != self.context.pid or threading.current_thread() is not threading.main_thread():
            return NoHands()
        return RayHands(self)

    # --- the second thread, and those of Ray's -------------------------------------------------------------------------------------------------------

    def _look(self) -> str:
        self.capture.look()
        return self.capture.last_lines()[-_TAIL_CHARS:]

    def _show(self, text: str) -> None:
        self.presence.output.append((self._node_id, text))

    def _obey(self, span_id: str, how: str) -> None:
        if span_id != self._span_id or (span_id, how) == self._obeyed:  # it may be said twice, where the home actor was started again
            return
        self._obeyed = span_id, how
        if how == "interrupt":
            self.guard.request(self._sequence)
        else:
            _end_process()


class TimedGuard(SignalGuard):
    """A guard that abandons a task whose time is up: its driver has settled it, or will at once, and has this process ended; that takes a while to come about.

    Args:
        presence: by which the driver learns that the task runs, if it does not know yet.

    `until_ns`: when the time is up; `None`: never.
    """

    def __init__(self, presence: Presence) -> None:
        super().__init__()
        self._presence = presence
        self.until_ns: int | None = None

    def begin(self, sequence: int) -> None:
        """A task starts."""
        self.until_ns, self.abandoned = None, False
        super().begin(sequence)

    def disarm(self) -> None:
        """The user's code has ended."""
        super().disarm()
        if self.until_ns is not None and not self.abandoned and self._presence.clock.now_ns() > self.until_ns:
            self.abandoned = True
            self._presence.tell_begun()


def _end_process() -> NoReturn:
    """End this process, and all that its attempt started."""
    if os.getpgrp() == os.getpid():
        os.killpg(os.getpid(), signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("SIGKILL ends who sends it to itself")


def _encode_step(tellings: dict[int, int], rest: Any, report: TaskReport) -> bytes:
    try:
        return encode(StepDone(tellings, rest, report))
    except (
        TypeError,
        ValueError,
        OverflowError,
    ) as error:  # a user's attribute that msgpack can't hold: the spans are lines already, the outcome must get home
        message = f"{report.node_id}: the report of attempt {report.attempt} came home without its spans, which are in the spool: {error}"
        return encode(StepDone(tellings, rest, msgspec.structs.replace(report, warnings=[*report.warnings, ("report_cut", message)], spans=[])))
