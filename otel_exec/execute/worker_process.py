"""One worker process, from the driver's side: started, talked to, watched, ended.

What comes in: a hello, frames to send. What goes out: frames received, and how it ended. Each worker is a session of its own: Ctrl-C in the terminal does not reach it, and ending it ends what it started.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from typing import TYPE_CHECKING

import msgspec

from otel_exec.execute import wire
from otel_exec.execute.failure import CUT_OFF
from otel_exec.semconv import Kind
from otel_exec.spans.open_spans import OPEN_SUFFIX, read_open
from otel_exec.spans.spool import mend_spool

if TYPE_CHECKING:
    from collections.abc import Iterator

    from otel_exec.execute.base import RunSettings
    from otel_exec.execute.wire import TaskQueue
    from otel_exec.spans.open_spans import OpenEntry

__all__ = ["WorkerProcess"]

_PACKAGE_PARENT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
# The current folder does not belong on the path of a worker unless the driver has it there; sys.path itself comes with the hello.
_BOOT = (
    "import sys\n"
    "if sys.path and sys.path[0] == '': del sys.path[0]\n"
    "if {parent!r} not in sys.path: sys.path.append({parent!r})\n"
    "from otel_exec.execute.worker_main import main\n"
    "main({link}, {queue})\n"
)
_RECEIVE_BYTES = 256 * 1024
# How long a process may take to stop when it is told to (it may sit in the kernel); then it is killed without a further look.
_FREEZE_S = 0.05
_LAST_WORDS_S = 0.25


class WorkerProcess:
    """A worker process.

    `sequence`: the message it is known to run, 0 for none. `ready`: it said so. `expected`: it is being ended on purpose.
    `queue`: where it takes its messages; `own_queue`: that is its alone. `scratch`: the file that holds what it printed.
    """

    def __init__(self, worker_id: str, settings: RunSettings, folder: str, slot: int, queue: TaskQueue, *, own_queue: bool = False) -> None:
        self.worker_id = worker_id
        self.scratch = os.path.join(folder, f"output-{worker_id}")
        self._open_path = os.path.join(settings.run_folder, "spans", f"worker-{worker_id}.open")
        self.slot = slot
        self.queue = queue
        self.own_queue = own_queue
        self.ready = False
        self.expected = False
        self.gone = False
        self.sequence = 0
        self.sock, theirs = socket.socketpair()
        self.sock.setblocking(False)
        self._frames = wire.Frames()
        self._out: deque[memoryview] = deque()
        hello = wire.Hello(
            worker_id=worker_id,
            settings=pickle.dumps(settings),
            folder=folder,
            slot=slot,
            driver_pid=os.getpid(),
            tied=threading.current_thread() is threading.main_thread(),
            sys_path=[path if isinstance(path, str) else str(path) for path in sys.path],
            argv=list(sys.argv),
        )
        boot = _BOOT.format(parent=_PACKAGE_PARENT, link=theirs.fileno(), queue=queue.receive.fileno())
        flags = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined]  # what multiprocessing uses, too
        try:
            self.popen = subprocess.Popen(
                [sys.executable, *flags, "-c", boot],
                stdin=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(), queue.receive.fileno()),
                start_new_session=True,
            )
        finally:
            theirs.close()
        self.pid = self.popen.pid
        self.pid_fd = -1
        with contextlib.suppress(AttributeError, OSError):  # Linux; elsewhere the socket's end must do
            self.pid_fd = os.pidfd_open(self.pid)
        self.tell(wire.Kind.HELLO, msgspec.msgpack.encode(hello))

    # --- its files --------------------------------------------------------------------------------------------------------------------------------

    def open_spans(self) -> list[OpenEntry]:
        """Return what is open in it, by its mapped memory; task spans first."""
        return sorted(read_open(self._open_path), key=lambda span: (span.kind != Kind.TASK, span.start_ns))

    def mend_spool(self) -> None:
        """Take what it had finished and not yet written into its spool file: it is gone."""
        folder, name = os.path.split(self._open_path)
        mend_spool(folder, name.removesuffix(OPEN_SUFFIX))

    def sweep(self) -> None:
        """Remove its files: it is gone."""
        wire.remove(self.scratch)
        wire.remove(self._open_path)

    # --- talking ----------------------------------------------------------------------------------------------------------------------------------

    @property
    def waiting(self) -> bool:
        """Whether frames wait for room in the socket."""
        return bool(self._out)

    def tell(self, kind: int, payload: bytes = b"") -> None:
        """Send a frame, or keep it until there is room. One to a worker that is gone is dropped."""
        if self.gone:
            return
        self._out.append(memoryview(wire.frame(kind, payload)))
        if len(self._out) == 1:
            self.flush()

    def flush(self) -> None:
        """Send what there is room for."""
        try:
            while self._out:
                sent = self.sock.send(self._out[0])
                if sent < len(self._out[0]):
                    self._out[0] = self._out[0][sent:]
                else:
                    self._out.popleft()
        except (BlockingIOError, InterruptedError):
            pass
        except OSError:  # it is ending: its end of the socket is closed
            self._out.clear()

    def receive(self) -> Iterator[tuple[int, bytes]]:
        """Yield the frames that are there; none when it has closed its end."""
        while True:
            try:
                data = self.sock.recv(_RECEIVE_BYTES)
            except (BlockingIOError, InterruptedError):
                return
            except OSError:
                return
            if not data:
                self.closed = True
                return
            yield from self._frames.feed(data)
            if len(data) < _RECEIVE_BYTES:
                return

    closed = False

    # --- ending -----------------------------------------------------------------------------------------------------------------------------------

    def freeze(self) -> None:
        """Stop the process where it is, so that what it has said can be read before it is judged."""
        with contextlib.suppress(OSError):
            os.kill(self.pid, signal.SIGSTOP)
        deadline = time.monotonic() + _FREEZE_S
        while time.monotonic() < deadline:
            try:
                found = os.waitid(os.P_PID, self.pid, os.WSTOPPED | os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except (OSError, AttributeError):
                return
            if found is not None:
                return
            os.sched_yield() if hasattr(os, "sched_yield") else time.sleep(0)

    def thaw(self) -> None:
        """Let it go on."""
        with contextlib.suppress(OSError):
            os.kill(self.pid, signal.SIGCONT)

    def kill(self) -> None:
        """End it and all of its session's first group, now."""
        with contextlib.suppress(OSError):
            os.killpg(self.pid, signal.SIGKILL)
        with contextlib.suppress(OSError):
            self.popen.kill()

    def ended(self) -> bool:
        """Whether the process has ended; then it is reaped."""
        return self.popen.poll() is not None

    def bury(self) -> int | None:
        """The process has ended (or is about to): reap it, end what it left behind, close the sockets; returns its return code, `CUT_OFF` where it had to be ended here."""
        with contextlib.suppress(subprocess.TimeoutExpired):  # it may have closed its socket on its way out
            self.popen.wait(_LAST_WORDS_S)
        cut_off = self.popen.poll() is None
        if cut_off:
            self.kill()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.popen.wait(5)
        with contextlib.suppress(OSError):  # children that it left behind
            os.killpg(self.pid, signal.SIGKILL)
        self.gone = True
        self.sock.close()
        if self.pid_fd >= 0:
            os.close(self.pid_fd)
            self.pid_fd = -1
        if self.own_queue:
            self.queue.close()
        return CUT_OFF if cut_off else self.popen.returncode
