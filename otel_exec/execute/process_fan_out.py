"""Fan-outs among worker processes, the workers' side: the owner ships items to the driver as it is granted room, idle workers run them.

What comes in: fan-outs and frames from the driver. What goes out: frames to the driver; on who runs one, the report of an item. The driver's side is `dealing.py`.
"""

from __future__ import annotations

import itertools
import os
import pickle
import threading
from typing import TYPE_CHECKING, Any

import msgspec

from otel_exec import semconv
from otel_exec.errors import FanOutError, RecordError, qualified_name
from otel_exec.execute.context import leave_if_forked
from otel_exec.execute.door import LocalHands
from otel_exec.execute.failure import describe
from otel_exec.execute.fan_out import BLAMELESS_TRIES
from otel_exec.execute.items import ItemReport, run_item
from otel_exec.execute.packing import unpack
from otel_exec.execute.wire import MESSAGE_BYTES, Kind, Link, frame, remove
from otel_exec.semconv import Outcome

if TYPE_CHECKING:
    from otel_exec.execute.context import WorkerContext
    from otel_exec.execute.fan_out import FanOut
    from otel_exec.execute.items import ItemEnvelope
    from otel_exec.execute.packing import Packer

__all__ = ["FanOuts", "run_remote_item", "unpacked"]

# A result longer than this goes through a file, not through the driver.
_RESULT_BYTES = 512 * 1024

_encode = msgspec.msgpack.Encoder().encode
_result_decoder = msgspec.msgpack.Decoder(tuple[str, ItemReport])
_files = itertools.count()


def _spill(folder: str, data: bytes) -> str:
    path = os.path.join(folder, f"item-{os.getpid()}-{next(_files)}")
    with open(path, "wb") as file:
        file.write(data)
    return path


def _read_spilled(path: str) -> bytes:
    with open(path, "rb") as file:
        data = file.read()
    remove(path)
    return data


class FanOuts:
    """All open fan-outs of a worker process: makes their hands and gives them what the driver says."""

    def __init__(self, link: Link, packer: Packer, worker_id: str, folder: str) -> None:
        self.link = link
        self.packer = packer
        self.folder = folder
        self._worker_id = worker_id
        self._numbers = itertools.count()
        self.open: dict[str, _Shipping] = {}

    def hands(self) -> _Shipping:
        """Return the hands of a new fan-out."""
        return _Shipping(self, f"{self._worker_id}.{next(self._numbers)}")

    def on_frame(self, kind: int, payload: bytes) -> None:
        """Take in a frame of the driver; called by the thread that listens."""
        if kind == Kind.ITEM_RESULT:
            fid, report = _result_decoder.decode(payload)
            if fid in self.open:
                self.open[fid].result(report)
            return
        fid, *rest = msgspec.msgpack.decode(payload)
        shipping = self.open.get(fid)
        if shipping is None:
            return
        if kind == Kind.GRANT:
            shipping.grant(*rest)
        elif kind == Kind.ITEM_LOST:
            shipping.lost(*rest)
        elif kind == Kind.GIVEN_BACK:
            shipping.given_back(*rest)
        elif kind == Kind.STILL_RUNNING:
            shipping.still_running(*rest)


class _Shipping(LocalHands):
    """The hands of one fan-out: workers that the driver knows to be idle."""

    def __init__(self, fan_outs: FanOuts, fid: str) -> None:
        self._all = fan_outs
        self._fid = fid
        self._fan_out: FanOut | None = None
        self._fn = b""
        self._lock = threading.Lock()
        self._room = 0
        self._asked = False
        self._all_begun = True

    # --- the owner's thread -----------------------------------------------------------------------------------------------------------------------

    def opened(self, fan_out: FanOut) -> None:
        """Tell the driver, which grants room for items when workers are idle."""
        if fan_out.hands_limit < 1:
            return
        try:
            self._fn = self._all.packer.passing(fan_out.fn)
        except Exception as error:
            name = getattr(fan_out.fn, "__qualname__", type(fan_out.fn).__qualname__)
            raise TypeError(f"map_tasks: {name} can't be sent to other workers: {error}; make what it refers to inside it, or give max_workers=1") from error
        self._fan_out = fan_out
        self._all.open[self._fid] = self
        self._say(Kind.FAN_OPEN, fan_out.door.node_id, fan_out.hands_limit, fan_out.timeout_s)

    def more(self, fan_out: FanOut) -> None:
        """Ship what there is room for."""
        while True:
            with self._lock:
                if self._room < 1:
                    return
                envelope = fan_out.take(owner=False)
                if envelope is None:
                    return
                self._room -= 1
                self._all_begun = False
            self._ship(fan_out, envelope)

    def reclaim(self, fan_out: FanOut) -> None:
        """Ask for one item that no worker has begun."""
        del fan_out
        with self._lock:
            ask = not self._asked and not self._all_begun
            self._asked = self._asked or ask
        if ask:
            self._say(Kind.FAN_RECLAIM)

    def cancel(self, fan_out: FanOut, *, interrupt: bool) -> None:
        """Have the driver deal no more of it; its answer says what runs."""
        del fan_out
        if self._fan_out is not None:
            self._say(Kind.FAN_CANCEL, interrupt)

    def closed(self, fan_out: FanOut) -> None:
        """Tell the driver that it is over."""
        del fan_out
        if self._all.open.pop(self._fid, None) is not None:
            self._say(Kind.FAN_CLOSE)

    def wait_s(self, fan_out: FanOut) -> float | None:
        """Wait for frames: the driver watches timeouts."""
        del fan_out
        return None

    def _say(self, kind: int, *payload: object) -> None:
        self._all.link.send(frame(kind, _encode((self._fid, *payload))))

    def _ship(self, fan_out: FanOut, envelope: ItemEnvelope) -> None:
        try:
            item = self._all.packer.value(fan_out.items[envelope.index])
        except Exception as error:
            self._keep(fan_out, envelope, error)
            return
        file = ""
        if len(item) + len(self._fn) > MESSAGE_BYTES - 4096:
            file, item = _spill(self._all.folder, item), b""
        whole = msgspec.structs.replace(envelope, fn=self._fn, item=item, file=file)
        self._say(Kind.FAN_ITEM, envelope.index, envelope.attempt, _encode(whole))

    def _keep(self, fan_out: FanOut, envelope: ItemEnvelope, error: Exception) -> None:
        """An item that can't be sent: the owner runs it by itself, and all that are left; where it must not, the item fails."""
        if fan_out.owner_runs:
            fan_out.hands_limit = 0
            fan_out.give_back([envelope.index])
            return
        now = fan_out.door.context.clock.now_ns()
        message = f"it can't be sent to another worker: {error}"
        fan_out.lose(envelope.index, fan_out.door.context.worker_id, "not_sendable", message, now, now, final=True)

    # --- the thread that listens to the driver ----------------------------------------------------------------------------------------------------

    def grant(self, room: int) -> None:
        """The driver has room for more items."""
        with self._lock:
            self._room += room
        if self._fan_out is not None:
            self.more(self._fan_out)

    def result(self, report: ItemReport) -> None:
        """An item has ended on another worker."""
        if self._fan_out is None:
            return

        def arrival() -> tuple[ItemReport, Any, BaseException | None]:
            return unpacked(report)

        self._fan_out.arrived(report.index, report.attempt, arrival)

    def lost(self, index: int, worker_id: str, error_type: str, message: str, start_ns: int, end_ns: int) -> None:
        """An item's worker died or was killed."""
        if self._fan_out is not None:
            spare = 0 if error_type == semconv.ERROR_TIMEOUT else BLAMELESS_TRIES
            self._fan_out.lose(index, worker_id, error_type, message, start_ns, end_ns, spare=spare)

    def given_back(self, indices: list[int]) -> None:
        """The answer to `reclaim`."""
        with self._lock:
            self._asked = False
            self._all_begun = not indices
        if self._fan_out is not None:
            self._fan_out.give_back(indices)

    def still_running(self, indices: list[int]) -> None:
        """The answer to `cancel`."""
        if self._fan_out is not None:
            self._fan_out.still_running(indices)


def unpacked(report: ItemReport) -> tuple[ItemReport, Any, BaseException | None]:
    """Return an item's report with its result or exception."""
    if report.error is not None:
        return report, None, _exception(report)
    try:
        return report, unpack(_read_spilled(report.file) if report.file else report.result), None
    except BaseException as error:
        return msgspec.structs.replace(report, outcome=Outcome.FAILURE.value, error=describe(error)), None, error


def _exception(report: ItemReport) -> BaseException:
    """Return an item's exception as itself, where it could be pickled."""
    assert report.error is not None
    if report.error.pickled is not None:
        try:
            error = pickle.loads(report.error.pickled)  # noqa: S301  made by our own worker
        except BaseException:
            error = None
        if isinstance(error, BaseException):
            return error
    if report.error.type == "SystemExit":
        return SystemExit(report.error.message)
    return FanOutError(report.index, report.error.type, f"{report.error.type}: {report.error.message}")


def run_remote_item(context: WorkerContext, envelope: ItemEnvelope, packer: Packer, folder: str | None, sequence: int) -> ItemReport:
    """Run an item of another worker's fan-out; returns its report with the packed result, and with what it printed.

    Long results go through a file in `folder`; `None`: there is none that both can see.
    """
    guard, clock = context.guard, context.clock
    start_ns = clock.now_ns()
    guard.begin(sequence)
    context.capture.begin(None, envelope.attempt)
    report: ItemReport | None = None
    problem: BaseException | None = None
    try:
        try:
            guard.arm()
            fn = unpack(envelope.fn)
            item = unpack(_read_spilled(envelope.file) if envelope.file else envelope.item)
            os.environ["TRACEPARENT"] = f"00-{context.recorder.trace_id}-{envelope.span_id}-0{1 if context.settings.sampled else 0}"
            report, value, _ = run_item(context, envelope, fn, item, measure=True)
            if report.error is None:
                try:
                    packed = packer.value(value)
                except RecordError:  # a disk that is full, and not the fault of what is sent
                    raise
                except Exception as error:
                    kind = qualified_name(type(value))
                    raise TypeError(
                        f"the result of item {envelope.index}, a {kind}, can't be sent back to its step: {error}; return plain data, or write a file and return its path"
                    ) from error
                del value
                if folder is not None and len(packed) > _RESULT_BYTES:
                    report = msgspec.structs.replace(report, file=_spill(folder, packed))
                else:
                    report = msgspec.structs.replace(report, result=packed)
        finally:
            guard.disarm()
    except BaseException as error:
        guard.disarm()
        leave_if_forked(context, error)
        problem = error
    guard.end()
    if problem is not None:
        # Its function or item could not be loaded, its result not be packed, or it was interrupted between our own lines.
        outcome = Outcome.CANCELLATION if guard.interrupted else Outcome.FAILURE
        error_info = describe(problem, type_=semconv.ERROR_CANCELLED if guard.interrupted else None)
        if report is not None:
            report = msgspec.structs.replace(report, outcome=outcome.value, error=error_info)
        else:
            report = ItemReport(envelope.index, envelope.attempt, context.worker_id, outcome.value, start_ns, clock.now_ns(), error=error_info)
    assert report is not None
    caught = context.capture.end()
    return msgspec.structs.replace(report, output=caught.content) if caught.content else report
