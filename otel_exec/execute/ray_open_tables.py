"""What is open in Ray workers, listed by the driver beside the spool: a worker elsewhere shares no memory with whoever comes after a driver that was killed.

What comes in: what workers tell. What goes out: the same tables that local workers keep themselves (`spans/worker-N.open`), a second old at most, so that recovery, summary
and status know of a run on Ray what they know of every other. Only what runs for longer than a moment is told of, and so listed. Never raises.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from otel_exec.spans.open_spans import WrittenOpenTable

if TYPE_CHECKING:
    from collections.abc import Iterable

    from otel_exec.execute.ray_wire import Begun
    from otel_exec.spans.open_spans import OpenEntry

__all__ = ["OpenTables"]


class OpenTables:
    """The tables of one run's workers, by their numbers. Used by the runner's thread alone.

    Args:
        folder: the run's `spans` folder.
    """

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._tables: dict[int, WrittenOpenTable] = {}
        self._slots: dict[int, dict[str, int]] = {}  # of each worker: span id -> slot
        self._items: dict[int, Begun] = {}  # the items that are listed: their ends come home with their owner's spans

    def show(self, number: int, begun: Begun, entries: Iterable[OpenEntry]) -> None:
        """List what is open in a worker, and nothing else of it."""
        now = {entry.span_id: entry for entry in entries}
        table = self._tables.get(number)
        if table is None:
            if not now:
                return
            table = self._tables[number] = WrittenOpenTable(self._folder, f"worker-{number}")
        slots = self._slots.setdefault(number, {})
        for span_id in slots.keys() - now.keys():
            table.close(slots.pop(span_id))
        for span_id, entry in now.items():
            if span_id not in slots:
                slots[span_id] = table.open(entry)
        table.write()
        if begun.item:
            self._items[number] = begun
        else:
            self._items.pop(number, None)

    def clear(self, number: int) -> None:
        """Nothing of a worker's is open any more."""
        self._items.pop(number, None)
        table, slots = self._tables.get(number), self._slots.pop(number, {})
        if table is not None:
            for slot in slots.values():
                table.close(slot)
            table.write()

    def came_home(self, begun: Begun, lines: bytes) -> None:
        """Take items off that have ended, however they did: their spans are among those that whoever called `map_tasks` tells."""
        if not lines:
            return
        ended = [number for number, item in self._items.items() if item.node_id == begun.node_id and b'"spanId":"%b"' % item.span_id.encode() in lines]
        for number in ended:
            self.clear(number)

    def step_ended(self, node_id: str) -> None:
        """Take off the items of a step that has ended."""
        for number in [number for number, item in self._items.items() if item.node_id == node_id]:
            self.clear(number)

    def close(self) -> None:
        """The run ends in order: nobody will ask what was open."""
        for table in self._tables.values():
            table.remove()
