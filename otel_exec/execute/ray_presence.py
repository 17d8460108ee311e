"""A run's presence in a Ray worker process: who it is there, its clock, its recorder, and its line home.

What comes in: a run's id. What goes out: finished spans and signs of life to the home actor, about each second while something runs; commands to whoever runs it.
It changes nothing of the process by itself.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import shutil
import socket
import tempfile
import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Any

import msgspec
import psutil
import ray

from otel_exec.clock import AnchoredClock, System
from otel_exec.execute.clock_offset import Offset, RoundTrip, estimate
from otel_exec.execute.ray_outbox import Outbox
from otel_exec.execute.ray_wire import NAMESPACE, Begun, Facts, Setup, Telling, decode, encode, home_name
from otel_exec.record.process_id import boot_id
from otel_exec.spans import provider
from otel_exec.spans.open_spans import OpenSpanTable
from otel_exec.spans.recorder import Recorder

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from concurrent.futures import Future

    from otel_exec.execute.base import RunSettings
    from otel_exec.spans.span_record import SpanRecord

__all__ = ["Guest", "Presence", "guest_of", "is_present", "presence_of"]

# What runs this long is told of; then each second.
_SOON_S = 0.05
_BEAT_S = 1.0
_ROUND_TRIPS = 4
# How long the home actor is waited for, where its process has died.
_PATIENCE_NS = 60_000_000_000
# So often the second thread looks for more before it sleeps: to wake it costs each short attempt the GIL twice (measured: 7 % of a no-op step in its worker).
_IDLE_LOOKS = 20


class Presence:
    """A run in this process.

    `number` is the process's `worker_id`. `look` is called by the second thread before it tells something: it returns the last lines printed and brings logs up to date.
    `obey` takes a command, (span id, `interrupt` or `kill`), in a thread of Ray's.

    Args:
        exec_id: the run's.
        first_ns: the wall clock when this process first heard of the run.
    """

    def __init__(self, exec_id: str, first_ns: int) -> None:
        self.exec_id = exec_id
        self.home: Any = ray.get_actor(home_name(exec_id), namespace=NAMESPACE)
        context = ray.get_runtime_context()
        self.uid = context.get_worker_id()
        number, raw = self.ask("introduce", self.uid)
        self.setup: Setup = decode(raw, type=Setup)
        self.settings: RunSettings = pickle.loads(self.setup.settings)  # noqa: S301  from our own driver
        self.number = number
        self.worker_id = str(number)
        skew = Offset(0, 0)
        if boot_id() == self.setup.boot_id:
            self.clock = AnchoredClock(self.settings.clock_offset_ns)
        else:
            self.clock, skew = self._clock_of_another_kernel()
        folder = os.path.join(self.settings.run_folder, "spans")
        resource = {**dict(self.settings.resource), "host.name": socket.gethostname(), "process.pid": os.getpid()}
        self.outbox = Outbox(folder, f"worker-{number}", resource)
        scratch = tempfile.mkdtemp(prefix="otel-exec-ray-")
        self.table = OpenSpanTable(scratch, "open")
        shutil.rmtree(scratch, ignore_errors=True)  # it is open: nothing is left behind, however this process ends
        self.recorder = Recorder(
            exec_id=exec_id,
            trace_id=self.settings.trace_id,
            clock=self.clock,
            spool=self.outbox,
            open_spans=self.table,
            sampled=self.settings.sampled,
            trace_state=self.settings.trace_state,
            limits=self.settings.limits,
        )
        self.look: Callable[[], str] = str
        self.obey: Callable[[str, str], None] = _ignore
        self.output: list[tuple[str, str]] = []
        self.tellings = 0
        self._before: dict[int, int] = {}
        self._begun: Begun | None = None
        self._begun_told = ""
        self._told_ns = 0
        self._silent = False
        self._undelivered: deque[tuple[Any, ...]] = deque()
        self._lock = threading.Lock()
        self._awake = threading.Event()
        self._sleeping = False
        self._listening = False
        self._thread: threading.Thread | None = None
        self._closed = False
        self._introduced = False
        self._first_ns, self._skew_ns, self._error_ns = first_ns + skew.offset_ns, -skew.offset_ns, skew.error_ns

    def ready(self) -> None:
        """Say that this process takes attempts; once."""
        if self._introduced:
            return
        self._introduced = True
        started_ns = self._first_ns
        with contextlib.suppress(psutil.Error):
            born_ns = int(psutil.Process().create_time() * 1e9) - self._skew_ns
            asked_ns = self.setup.started_ns
            if born_ns >= asked_ns:  # it was started for this run
                started_ns = min(started_ns, born_ns)
        facts = Facts(
            self.number,
            self.uid,
            os.getpid(),
            socket.gethostname(),
            ray.get_runtime_context().get_node_id(),
            started_ns,
            self.clock.now_ns(),
            self._skew_ns,
            self._error_ns,
            os.path.isdir(self.settings.run_folder),
        )
        self._post("ready", facts)
        self._thread = threading.Thread(target=self._tell_on, name="otel-exec-home", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """The process works for another run from now on."""
        self._closed = True
        _present.pop(self.exec_id, None)
        _guests.pop(self.exec_id, None)
        self._awake.set()
        self.table.remove()

    def _clock_of_another_kernel(self) -> tuple[AnchoredClock, Offset]:
        """Return the driver's clock, read by this kernel's monotonic one, and how far that is from our own wall clock: the same for all workers of one kernel."""
        own = AnchoredClock()
        shared = self.ask("offset", boot_id(), None)
        if shared is None:
            trips = []
            for _ in range(_ROUND_TRIPS):
                sent_ns = own.now_ns()
                answered_ns = self.ask("now_ns")
                trips.append(RoundTrip(sent_ns, answered_ns, own.now_ns()))
            found = estimate(trips)
            shared = self.ask("offset", boot_id(), (own.offset_ns + found.offset_ns, found.error_ns))
        offset_ns, error_ns = shared
        return AnchoredClock(offset_ns), Offset(offset_ns - own.offset_ns, error_ns)

    # --- the thread that runs the attempt ---------------------------------------------------------------------------------------------------------

    def begin(self, begun: Begun) -> None:
        """An attempt runs."""
        self._begun = begun
        if self._sleeping:
            self._awake.set()

    def tell_begun(self) -> None:
        """Tell that the attempt runs, unless that was told."""
        with self._lock:
            begun = self._begun
            if begun is not None and self._begun_told != begun.span_id:
                self._begun_told = begun.span_id
                self._send(self._telling("", begun))

    def left(self) -> None:
        """The attempt is its driver's to settle: nothing more is told of it, and its end is listened for."""
        with self._lock:
            self._silent = True

    def goes_before(self, tellings: dict[int, int]) -> None:
        """An item of the attempt's has ended: so many tellings of the workers that ran it go before its result, and so before the attempt's."""
        for number, count in tellings.items():
            self._before[number] = max(count, self._before.get(number, 0))

    def end(self) -> tuple[dict[int, int], Telling]:
        """The attempt has ended; returns how many tellings, by worker, go before what is returned beside it: all that was not told."""
        with self._lock:
            self._begun = None
            before, self._before = self._before, {}
            return {**before, self.number: self.tellings}, self._telling("")

    def tell(self) -> Any:
        """Tell what has finished now; returns what can be waited for until it has arrived at the home actor: before something returns that nobody waits for."""
        with self._lock:
            telling = self._telling("")
            self._send(telling)
        return self.home.has.remote(self.uid, telling.sequence)

    def flush(self) -> None:
        """Do so, and wait."""
        with contextlib.suppress(Exception):
            ray.get(self.tell(), timeout=10)

    def ask(self, method: str, *args: Any) -> Any:
        """Return what the home actor answers; where its process has died, what the next one does."""
        until_ns = System.tick() + _PATIENCE_NS
        while True:
            try:
                return ray.get(getattr(self.home, method).remote(*args))
            except ray.exceptions.ActorUnavailableError:
                if System.tick() > until_ns:
                    raise
            time.sleep(_SOON_S)

    def _post(self, method: str, *args: Any) -> None:
        """Send the home actor what must arrive: where its process dies before the driver has it, it is sent again."""

        def arrived(future: Future[None]) -> None:
            if isinstance(future.exception(), ray.exceptions.ActorUnavailableError):
                self._undelivered.append((method, *args))
                self._awake.set()  # the second thread sends it: nothing may be asked of Ray in here

        getattr(self.home, method).remote(*args).future().add_done_callback(arrived)

    # --- the second thread ------------------------------------------------------------------------------------------------------------------------

    def _tell_on(self) -> None:
        idle = 0
        while not self._closed:
            if self._undelivered:
                self._post_again()
            begun = self._begun
            if begun is None and idle >= _IDLE_LOOKS:
                self._tell_late()
                self._sleeping = True
                if self._begun is None and not self._undelivered:
                    self._awake.wait(_BEAT_S)
                self._awake.clear()
                self._sleeping = False
                idle = 0
                continue
            time.sleep(_SOON_S)
            idle = idle + 1 if begun is None else 0
            if begun is not None and self._begun is begun:
                self._tell_of(begun)

    def _tell_late(self) -> None:
        """Tell what has finished while nothing ran: threads may outlive the code that started them."""
        if self.outbox.waiting:
            with self._lock:
                if self._begun is None:
                    self._send(self._telling(""))

    def _tell_of(self, begun: Begun) -> None:
        new = begun.span_id != self._begun_told
        ran_s = (self.clock.now_ns() - begun.at_ns) / 1e9
        if ran_s >= _SOON_S and not self._listening:
            self._listen()
        if self._silent or (not (new and ran_s >= _SOON_S) and System.tick() - self._told_ns < _BEAT_S * 1e9):
            return
        tail = self.look()
        with self._lock:
            if self._begun is not begun:
                return  # its result takes along what there is
            self._begun_told = begun.span_id
            self._told_ns = System.tick()
            self._send(self._telling(tail, begun))

    def _telling(self, tail: str, begun: Begun | None = None) -> Telling:
        """Return what there is to tell; called with the lock."""
        output, self.output = self.output, []
        return Telling(
            self.uid,
            self.number,
            self.tellings,
            self.clock.now_ns(),
            self.outbox.take(),
            begun,
            self.table.entries() if begun is not None else [],
            tail,
            output,
        )

    def _send(self, telling: Telling) -> None:
        """Send a telling; called with the lock."""
        self.tellings += 1
        self._post("tell", self.uid, telling.sequence, encode(telling), telling.begun)

    def _post_again(self) -> None:
        """Send again what a home actor that has died had not passed on; what runs now is told anew."""
        with self._lock:
            for _ in range(len(self._undelivered)):
                method, *args = self._undelivered.popleft()
                self._post(method, *([*args[:-1], None] if method == "tell" else args))
            self._begun_told = ""

    def _listen(self) -> None:
        """Wait for a command, in a thread of Ray's."""
        self._listening = True

        def heard(future: Future[tuple[str, str]]) -> None:
            self._listening = False  # the second thread listens again: nothing may be asked of Ray in here
            if not self._closed and future.exception() is None:
                self.obey(*future.result())

        self.home.listen.remote(self.uid).future().add_done_callback(heard)


class Guest:
    """The run in code of the user's own that Ray runs: its spans are recorded as the user's are, without `exec.kind`."""

    def __init__(self, presence: Presence) -> None:
        settings = presence.settings
        self.presence = presence
        self.recorder = Recorder(
            exec_id=presence.exec_id,
            trace_id=settings.trace_id,
            clock=presence.clock,
            spool=_Plain(presence.outbox),
            sink=_drop,  # so that spans come as records, whose kind can be left out
            sampled=settings.sampled,
            trace_state=settings.trace_state,
            limits=settings.limits,
        )


class _Plain:
    """An outbox that leaves out what spans stand for."""

    error: Exception | None = None
    lost = 0

    def __init__(self, outbox: Outbox) -> None:
        self._outbox = outbox

    def write(self, records: Sequence[SpanRecord]) -> None:
        """Take in finished spans."""
        self._outbox.write([msgspec.structs.replace(record, kind="") for record in records])

    def line_of(self, record: SpanRecord) -> str:
        """Return a record's line."""
        return self._outbox.line_of(msgspec.structs.replace(record, kind=""))

    def put(self, line: str, at_ns: int) -> None:
        """Take in one line."""
        self._outbox.put(line, at_ns)

    def flush(self) -> None:
        """Nothing waits here."""


_present: dict[str, Presence] = {}
_guests: dict[str, Guest] = {}
_present_lock = threading.Lock()


def presence_of(exec_id: str, first_ns: int) -> Presence:
    """Return a run's presence in this process, made when it is first asked for."""
    with _present_lock:
        presence = _present.get(exec_id)
        if presence is None:
            presence = _present[exec_id] = Presence(exec_id, first_ns)
        return presence


def is_present(exec_id: str) -> bool:
    """Whether a run that has a home actor is in this process."""
    return exec_id in _present


def guest_of(exec_id: str, first_ns: int) -> Guest:
    """Return what code of the user's own needs to be inside a run."""
    guest = _guests.get(exec_id)
    if guest is None:
        presence = presence_of(exec_id, first_ns)
        provider.install_global()
        presence.ready()
        guest = _guests[exec_id] = Guest(presence)
    return guest


def _drop(_records: Sequence[SpanRecord]) -> None:
    """The numbers of steps are not made from the user's own spans."""


def _ignore(_span_id: str, _how: str) -> None:
    """There is nobody to obey."""
