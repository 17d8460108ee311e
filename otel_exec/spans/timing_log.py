"""The timing log: one line for each finished phase that has a span, of every worker, once (`--timing`, `--debug`, `OTEL_EXEC_TIMING=1`).

What comes in: the run's spool, and phases outside of runs. What goes out: lines of logger `otel_exec.timing` at level `TIMING` (15), in `run.log` in the run's folder and on stderr.
The lines are made from the spans in the driver, so a step pays nothing for them; of phases past the limit of spans a task the last line says how many there were. They pass through a bounded queue, so a slow terminal holds up nobody but the log.

The user's own logging set-up is neither changed nor needed: the lines go to the takers straight, whatever is disabled or configured meanwhile. The logger has
them as well where the user gave it a level, for handlers of the user's own.
"""

from __future__ import annotations

import atexit
import logging
import os
import queue
import time
from logging.handlers import QueueHandler, QueueListener
from typing import TYPE_CHECKING, Any

from otel_exec.guarded_log import warn
from otel_exec.printable import printable
from otel_exec.semconv import EXEC_ID, FOREIGN_EXEC_ID, NODE_ID, Kind
from otel_exec.spans.log_takers import FileTaker, Taker, TerminalTaker
from otel_exec.spans.outside import LOGGER, TIMING
from otel_exec.spans.spool_tail import SpoolTail

if TYPE_CHECKING:
    import threading
    from collections.abc import Sequence

    from otel_exec.spans.span_record import SpanRecord

__all__ = ["TIMING", "LogLines", "TimingLog", "log_outside", "say"]

_QUEUE = 10_000
_WAIT_S = 0.001
_ERROR = 2
_LINE = "exec_id=%s node_id=%s phase=%s dur_ms=%.3f status=%s"
_UNSPANNED = "%d phases (and items of fan-outs) past the limit of spans a task are counted, but have no span and so no line here"
_timing = logging.getLogger(LOGGER)
logging.addLevelName(TIMING, "TIMING")
_log = logging.getLogger(__name__)


class TimingLog:
    """The log of one run, from here to `finish`. Where `run.log` can't be written, stderr has the lines alone.

    Args:
        spool_folder: the run's `spans` folder.
        path: the run's `run.log`.
        alias: what the program calls the run, by which its lines are to be found; `None` where it has the id that we gave it alone.
    """

    def __init__(self, spool_folder: str, path: str, *, alias: str | None = None) -> None:
        self._alias = alias
        takers: list[Taker] = []
        try:
            takers.append(FileTaker(path))
        except OSError as error:
            warn(_log, "there is no run.log: %s", error)
        takers.append(TerminalTaker())  # last: a terminal that is stopped holds up none but itself
        self._lines = LogLines(takers)
        try:
            self._tail = SpoolTail(spool_folder, self._say)
        except BaseException:
            self._lines.close()
            raise

    def finish(self, unspanned: int = 0) -> None:
        """Write what is left, and how many phases have no span and so no line."""
        self._tail.finish()
        if unspanned:
            _give(self._lines, _UNSPANNED, unspanned)
        self._lines.close()

    def _say(self, span: SpanRecord) -> None:
        if span.kind != Kind.PHASE:
            return
        attributes = span.attributes
        exec_id = attributes.get(FOREIGN_EXEC_ID) or self._alias or attributes.get(EXEC_ID)
        say(exec_id, attributes.get(NODE_ID), span.name, span.duration_ns, failed=span.status == _ERROR, lines=self._lines)


def say(exec_id: object, node_id: object, name: str, duration_ns: int, *, failed: bool, lines: LogLines | None) -> None:
    """Log a phase that has ended: to `lines`, where there are, and to the user's own handlers."""
    word = "error" if failed else "ok"
    _give(lines, _LINE, printable(str(exec_id)), printable(str(node_id)), printable(name), duration_ns / 1e6, word)


def log_outside() -> LogLines:
    """Log phases outside of runs to stderr, from here to the program's end; returns where their lines go."""
    lines = LogLines([TerminalTaker()])
    atexit.register(lines.close)
    return lines


def _give(lines: LogLines | None, message: str, *args: object) -> None:
    if lines is not None:
        lines.put(logging.LogRecord(LOGGER, TIMING, __file__, 0, message, args, None))
    if _timing.level:
        try:
            _timing.log(TIMING, message, *args)
        except Exception as error:  # a filter, handler or record factory of the user's
            _complain(error)


class LogLines:
    """The way of the lines of one log to its takers, through a bounded queue and a thread of its own, from here to `close`.

    Args:
        takers: what writes them, in this order.
    """

    def __init__(self, takers: Sequence[Taker]) -> None:
        shape = logging.Formatter("%(asctime)s %(levelname)s %(name)s %(message)s")
        for taker in takers:
            taker.setFormatter(shape)
        self._pid = os.getpid()
        self._takers = takers
        self._listener = _Listener(queue.SimpleQueue(), *takers)
        self._handler = _Handler(self._listener)
        self._listener.start()

    def put(self, record: logging.LogRecord) -> None:
        """Take a line, when there is room."""
        if os.getpid() == self._pid:
            self._handler.handle(record)
            return
        for taker in self._takers:  # a forked child has no thread that would write it
            taker.handle(record)

    def close(self) -> None:
        """Write what is left. A forked child leaves that to its parent."""
        if os.getpid() != self._pid:
            return
        self._listener.stop()
        for taker in self._takers:
            taker.end()


class _Listener(QueueListener):
    """Writes the lines, in a thread. Its queue is one that may be put into while it is put into: by a signal's handler, or a generator that is collected."""

    queue: queue.SimpleQueue[Any]
    _thread: threading.Thread | None

    def writes(self) -> bool:
        """Whether somebody takes lines from the queue."""
        thread = self._thread
        return thread is not None and thread.is_alive()


class _Handler(QueueHandler):
    """Waits for room where the queue is full, as long as somebody makes room: no line is to be lost, and nobody is to wait for a thread that is gone."""

    def __init__(self, listener: _Listener) -> None:
        super().__init__(listener.queue)
        self._listener = listener

    def enqueue(self, record: logging.LogRecord) -> None:
        """Put a line into the queue, when there is room."""
        lines = self._listener.queue
        while lines.qsize() >= _QUEUE:
            if not self._listener.writes():
                return
            time.sleep(_WAIT_S)  # the queue that is safe to enter twice has no bound of its own to wait on
        lines.put(record)


_complained = False


def _complain(error: Exception) -> None:
    """Say once that handlers of the user's own fail."""
    global _complained
    if not _complained:
        _complained = True
        warn(_log, "a handler or filter of the logger %s failed, the timing log goes on: %s", LOGGER, error)
