"""`timing_collector`: what phases came to, by execution id, for programs that ask while they run.

What comes in: durations in nanoseconds, from reports of workers and from phases outside of any run. What goes out: `{node_id: {phase: dur_ms}}`, copies.
Bounded; thread-safe. Knows no run, file or span object; the record never comes from here.

Units: nanoseconds inside, milliseconds where it is read.
"""

from __future__ import annotations

import logging
import os
import threading
import weakref
from collections import deque
from typing import TYPE_CHECKING

from otel_exec.guarded_log import warn
from otel_exec.semconv import NODES_ROW, OTHERS_ROW

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from otel_exec.aggregate.folds import TaskSums

__all__ = ["Rows", "TimingCollector", "add_row", "add_rows", "say_dropped", "timing_collector"]

# Execution id, node id, name of a phase, nanoseconds in all.
Rows = dict[str, dict[str, dict[str, int]]]

# A service that never pops keeps at most so many executions; an execution whose node ids never repeat at most so many nodes, and each node so many names.
MAX_IDS = 1000
MAX_NODES = 10_000
MAX_NAMES = 1000

_said = False
_log = logging.getLogger("otel_exec.spans")


def add_row(rows: Rows, exec_id: str, node_id: str, name: str, duration_ns: int) -> str | None:
    """Add a duration. Past `MAX_IDS` executions the oldest goes, and its id is returned; past the other bounds a row `(others)` takes it."""
    dropped = None
    nodes = rows.get(exec_id)
    if nodes is None:
        if len(rows) >= MAX_IDS:
            dropped = next(iter(rows))
            del rows[dropped]
        nodes = rows[exec_id] = {}
    names = nodes.get(node_id)
    if names is None:
        if len(nodes) >= MAX_NODES:
            node_id = OTHERS_ROW
        names = nodes.setdefault(node_id, {})
    if name not in names and len(names) >= MAX_NAMES:
        name = OTHERS_ROW
    names[name] = names.get(name, 0) + duration_ns
    return dropped


def add_rows(into: Rows, rows: Rows) -> str | None:
    """Add all of `rows`; returns the id of an execution that had to go, if one had to."""
    dropped = None
    for exec_id, nodes in rows.items():
        for node_id, names in nodes.items():
            for name, duration_ns in names.items():
                dropped = add_row(into, exec_id, node_id, name, duration_ns) or dropped
    return dropped


def say_dropped(exec_id: str | None) -> None:
    """Log, once a process, that an execution's durations were forgotten to make room; `None` says nothing. Not under a lock: a log handler may be the user's own."""
    global _said
    if exec_id is not None and not _said:
        _said = True
        warn(_log, "timing_collector holds %d execution ids and forgets the oldest ones, first %s: pop() what was read", MAX_IDS, exec_id)


class TimingCollector:
    """Durations by execution id: the total of each phase of each node, in milliseconds.

    In the driver of a run it has what workers have reported, in any process what its own running tasks and its phases outside of runs have so far.
    It keeps the last 1,000 execution ids, and of each 10,000 nodes with 1,000 phases; a service pops what it has read.
    """

    def __init__(self) -> None:
        self._rows: Rows = {}
        # A finaliser or a signal handler may come in while its thread holds the lock and is in the midst of a change: what it adds waits in `_late`.
        self._lock = threading.RLock()
        self._busy = False
        self._late: deque[Rows] = deque()
        self._running: Callable[..., Iterable[Mapping[str, Mapping[str, int]]]] | None = None
        _collectors.add(self)

    def get(self, exec_id: str) -> dict[str, dict[str, float]]:
        """Return what is known of an execution: `{node_id: {phase: dur_ms}}`; empty where nothing is. A copy: changing it changes nothing here."""
        return self._read(exec_id, take=False)

    def pop(self, exec_id: str) -> dict[str, dict[str, float]]:
        """Return what `get` returns, and forget it. The record of a run keeps its numbers."""
        return self._read(exec_id, take=True)

    def clear(self, exec_id: str | None = None) -> None:
        """Forget an execution, or all of them."""
        if exec_id is not None:
            self._read(exec_id, take=True)
            return
        with self._lock:
            self._rows.clear()

    def add(self, exec_id: str, node_id: str, phase: str, duration_ns: int) -> None:
        """Add the duration of one occurrence, nanoseconds."""
        self.add_rows({exec_id: {node_id: {phase: duration_ns}}})

    def add_rows(self, rows: Rows) -> None:
        """Add many."""
        if not rows:
            return
        self._late.append(rows)
        say_dropped(self._take_in())

    def add_task(self, exec_id: str, node_id: str, sums: TaskSums, foreign_ids: Rows) -> None:
        """Add what a task of an execution has come to once it is over: its own phases, those of other nodes, and what it kept under execution ids of its own."""
        own = {node_id: sums.phases, **{node: fold.phases for node, fold in sums.nodes.items()}}
        rows = {node: {name: fold.total_ns for name, fold in folds.items() if name != NODES_ROW} for node, folds in own.items() if folds}
        self.add_rows({exec_id: rows} if rows else {})
        self.add_rows(foreign_ids)

    def watch(self, running: Callable[..., Iterable[Mapping[str, Mapping[str, int]]]]) -> None:
        """Have `running(exec_id, take=...)` asked for what tasks that have not ended yet have so far."""
        self._running = running

    def _read(self, exec_id: str, *, take: bool) -> dict[str, dict[str, float]]:
        exec_id = exec_id if isinstance(exec_id, str) else str(exec_id)
        found: Rows = {}
        self._take_in()
        with self._lock:
            own = self._rows.pop(exec_id, None) if take else self._rows.get(exec_id)
            if own is not None:
                # Copies at each level: what is added meanwhile by a finaliser must not change what is being walked through.
                add_rows(found, {exec_id: {node_id: names.copy() for node_id, names in own.copy().items()}})
        if self._running is not None:
            for nodes in self._running(exec_id, take=take):
                add_rows(found, {exec_id: {node_id: dict(names) for node_id, names in nodes.items()}})
        return {node_id: {name: total_ns / 1e6 for name, total_ns in names.items()} for node_id, names in found.get(exec_id, {}).items()}

    def _take_in(self) -> str | None:
        """Add what waits, unless this thread is doing so further up; returns the id of an execution that had to go, if one had to."""
        dropped = None
        with self._lock:
            if not self._busy:
                self._busy = True
                try:
                    while self._late:
                        dropped = add_rows(self._rows, self._late.popleft()) or dropped
                finally:
                    self._busy = False
        return dropped

    def _after_fork(self) -> None:
        # Another thread of the parent may have held it.
        self._lock = threading.RLock()
        self._busy = False


_collectors: weakref.WeakSet[TimingCollector] = weakref.WeakSet()


def _in_child() -> None:
    for collector in list(_collectors):
        collector._after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)

timing_collector = TimingCollector()
