"""Fan-outs among worker processes, the driver's side: items of steps that run are dealt to workers that are idle.

What comes in: frames of the owners, and word of workers that became idle or died. What goes out: items to idle workers, results to owners.
Items never go before steps: they are dealt only while a worker is idle and no attempt waits in the queue. An item with a timeout that finds no idle worker gets an extra one.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import msgspec

from otel_exec.execute.wire import Kind

if TYPE_CHECKING:
    from otel_exec.execute.worker_process import WorkerProcess

__all__ = ["Dealer", "Fan", "Table"]

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.decode


@dataclass(eq=False)
class Fan:
    """A fan-out that is open. `pending`: items that are here, with their envelopes; `running`: sequence -> index, dealt; `room`: how many more the owner may ship."""

    fid: str
    owner: WorkerProcess
    node_id: str
    limit: int
    timeout_s: float | None
    pending: deque[tuple[int, bytes]] = field(default_factory=deque)
    running: dict[int, int] = field(default_factory=dict)
    room: int = 0
    extra: WorkerProcess | None = None
    cancelled: bool = False


class Table(Protocol):
    """What the dealer needs of the executor."""

    def idle(self) -> int:
        """Return how many workers have nothing to do and nothing waiting for them."""
        ...

    def deal(self, fan: Fan, index: int, body: bytes, worker: WorkerProcess | None) -> int:
        """Send an item to the shared queue, or to an extra worker's own; returns its sequence number."""
        ...

    def extra_worker(self, fan: Fan) -> WorkerProcess | None:
        """Start a worker for one fan-out alone; `None` where there are as many as there can be."""
        ...

    def dismiss(self, worker: WorkerProcess) -> None:
        """End an extra worker in order."""
        ...

    def end_item(self, sequence: int, *, kill: bool) -> None:
        """Interrupt or kill whoever runs the item; nobody is told."""
        ...

    def withdraw(self, sequences: list[int]) -> list[int]:
        """Take items back that no worker has taken from the queue; returns those that could be."""
        ...


class Dealer:
    """Deals the items of all open fan-outs, each in its turn."""

    def __init__(self, table: Table) -> None:
        self._table = table
        self._fans: dict[str, Fan] = {}

    def __bool__(self) -> bool:
        return bool(self._fans)

    def on_frame(self, owner: WorkerProcess, kind: int, payload: bytes) -> None:
        """Take in a frame about a fan-out."""
        fid, *rest = _decode(payload)
        if kind == Kind.FAN_OPEN:
            node_id, limit, timeout_s = rest
            self._fans[fid] = Fan(fid, owner, node_id, limit, timeout_s)
            return
        fan = self._fans.get(fid)
        if fan is None:
            return
        if kind == Kind.FAN_ITEM:
            index, _attempt, body = rest
            fan.room = max(0, fan.room - 1)
            fan.pending.append((index, body))
        elif kind == Kind.FAN_RECLAIM:
            given = [fan.pending.pop()[0]] if fan.pending else []
            fan.owner.tell(Kind.GIVEN_BACK, _encode((fid, given)))
        elif kind == Kind.FAN_CANCEL:
            self._cancel(fan, interrupt=rest[0])
        elif kind == Kind.FAN_CLOSE:
            self._close(fan)

    def deal(self) -> None:
        """Give items to idle workers, and room to owners."""
        table = self._table
        idle = table.idle()
        for fan in list(self._fans.values()):
            if fan.cancelled:
                continue
            while idle > 0 and fan.pending and len(fan.running) < fan.limit:
                self._deal_one(fan, None)
                idle -= 1
            extra = fan.extra
            if fan.timeout_s is not None and idle <= 0 and extra is None and not fan.running:
                extra = fan.extra = table.extra_worker(fan)
            if extra is not None and extra.ready and extra.sequence == 0 and fan.pending and len(fan.running) < fan.limit:
                self._deal_one(fan, extra)
            hands = min(fan.limit, len(fan.running) + max(0, idle) + (1 if extra is not None and extra.sequence == 0 else 0))
            room = 2 * hands - len(fan.running) - len(fan.pending) - fan.room
            if room > 0:
                fan.room += room
                fan.owner.tell(Kind.GRANT, _encode((fan.fid, room)))
        if len(self._fans) > 1:  # the next one goes first next time
            fid, fan = next(iter(self._fans.items()))
            del self._fans[fid]
            self._fans[fid] = fan

    def _deal_one(self, fan: Fan, worker: WorkerProcess | None) -> None:
        index, body = fan.pending.popleft()
        fan.running[self._table.deal(fan, index, body, worker)] = index

    def done(self, fan: Fan, sequence: int, report: bytes) -> None:
        """An item has ended: its report goes to the owner as it is."""
        fan.running.pop(sequence, None)
        if self._fans.get(fan.fid) is fan:
            fan.owner.tell(Kind.ITEM_RESULT, _encode((fan.fid, msgspec.Raw(report))))

    def lost(self, fan: Fan, sequence: int, worker_id: str, error_type: str, message: str, start_ns: int, end_ns: int) -> None:
        """An item's worker died, or was killed for it."""
        index = fan.running.pop(sequence, None)
        if index is not None and self._fans.get(fan.fid) is fan:
            fan.owner.tell(Kind.ITEM_LOST, _encode((fan.fid, index, worker_id, error_type, message, start_ns, end_ns)))

    def returned(self, fan: Fan, sequence: int, body: bytes) -> None:
        """An item came back out of the queue before anyone took it."""
        index = fan.running.pop(sequence, None)
        if index is not None and not fan.cancelled:
            fan.pending.appendleft((index, body))

    def worker_gone(self, worker: WorkerProcess) -> None:
        """A worker has ended: its own fan-outs are over, and whatever ran for them is ended."""
        for fan in [fan for fan in self._fans.values() if fan.owner is worker]:
            fan.cancelled = True
            self._take_untaken(fan)
            for sequence in list(fan.running):
                self._table.end_item(sequence, kill=True)
            self._close(fan)
        for fan in self._fans.values():
            if fan.extra is worker:
                fan.extra = None

    def _cancel(self, fan: Fan, *, interrupt: bool) -> None:
        fan.cancelled = True
        fan.pending.clear()
        self._take_untaken(fan)
        if interrupt:
            for sequence in fan.running:
                self._table.end_item(sequence, kill=False)
        fan.owner.tell(Kind.STILL_RUNNING, _encode((fan.fid, list(fan.running.values()))))

    def _take_untaken(self, fan: Fan) -> None:
        for sequence in self._table.withdraw(list(fan.running)):
            fan.running.pop(sequence, None)

    def _close(self, fan: Fan) -> None:
        self._fans.pop(fan.fid, None)
        if fan.extra is not None:
            self._table.dismiss(fan.extra)
