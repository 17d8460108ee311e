"""The timing log: one line for each finished phase that has a span, of every worker, once (`--timing`, `--debug`, `OTEL_EXEC_TIMING=1`).

What comes in: the run's spool, and phases outside of runs. What goes out: lines of logger `otel_exec.timing` at level `TIMING` (15), on stderr and in `run.log` in the run's folder.
The lines are made from the spans in the driver, so a step pays nothing for them; of phases past the limit of spans a task the last line says how many there were. They pass through a bounded queue, so a slow terminal holds up nobody but the log.
The user's own logging set-up is left as it is. Runs at the same time in one process share the logger: each log takes the lines of its own run alone.
"""

from __future__ import annotations

import atexit
import logging
import os
import queue
import sys
import threading
from logging.handlers import QueueHandler, QueueListener
from typing import TYPE_CHECKING, Any

from otel_exec.printable import printable
from otel_exec.semconv import EXEC_ID, NODE_ID, Kind
from otel_exec.spans.outside import LOGGER, TIMING
from otel_exec.spans.spool_tail import SpoolTail

if TYPE_CHECKING:
    from otel_exec.spans.span_record import SpanRecord

__all__ = ["TIMING", "TimingLog", "log_outside", "say"]

_QUEUE = 10_000
_ERROR = 2
_timing = logging.getLogger(LOGGER)
_log = logging.getLogger(__name__)
# How many logs are open in this process, and the logger's level and propagation from before the first of them.
_lock = threading.Lock()
_open = 0
_before = (logging.NOTSET, True)


class _Handler(QueueHandler):
    """Waits for room where the queue is full: its caller is the log's own thread, and no line is to be lost."""

    queue: queue.Queue[Any]

    def enqueue(self, record: logging.LogRecord) -> None:
        """Put a line into the queue, when there is room."""
        self.queue.put(record)


class _Listener(QueueListener):
    """Ends behind the last line, when there is room for saying so."""

    queue: queue.Queue[Any]
    _sentinel: None

    def enqueue_sentinel(self) -> None:
        """Put the mark of the end into the queue, when there is room."""
        self.queue.put(self._sentinel)


class TimingLog:
    """The log of one run, from here to `finish`. Where `run.log` can't be written, stderr has the lines alone.

    Args:
        spool_folder: the run's `spans` folder.
        path: the run's `run.log`.
    """

    def __init__(self, spool_folder: str, path: str) -> None:
        takers: list[logging.Handler] = [logging.StreamHandler(_terminal())]
        try:
            takers.append(logging.FileHandler(path, encoding="utf-8"))
        except OSError as error:
            _log.warning("there is no run.log: %s", error)
        self._lines = _Lines(takers, self)
        self._tail = SpoolTail(spool_folder, self._say)

    def finish(self, unspanned: int = 0) -> None:
        """Write what is left, and how many phases have no span and so no line; the last log that is open puts the logger back as it was."""
        self._tail.finish()
        if unspanned:
            _timing.log(
                TIMING,
                "%d phases (and items of fan-outs) past the limit of spans a task are counted, but have no span and so no line here",
                unspanned,
                extra={"timing_log": self},
            )
        self._lines.close()

    def _say(self, span: SpanRecord) -> None:
        if span.kind != Kind.PHASE:
            return
        attributes = span.attributes
        say(attributes.get(EXEC_ID), attributes.get(NODE_ID), span.name, span.duration_ns, failed=span.status == _ERROR, log=self)


def say(exec_id: object, node_id: object, name: str, duration_ns: int, *, failed: bool, log: object = None) -> None:
    """Log a phase that has ended: to `log`, the log of its run; without one to whatever handlers the logger has for phases outside of runs."""
    _timing.log(
        TIMING,
        "exec_id=%s node_id=%s phase=%s dur_ms=%.3f status=%s",
        printable(str(exec_id)),
        printable(str(node_id)),
        printable(name),
        duration_ns / 1e6,
        "error" if failed else "ok",
        extra={"timing_log": log},
    )


def log_outside() -> None:
    """Log phases outside of runs to stderr, from here to the program's end."""
    lines = _Lines([logging.StreamHandler(_terminal())], None)
    atexit.register(lines.close)


def _terminal() -> Any:
    """Return stderr; where a run's tasks have their output caught, what lies behind that: the log is no task's, whichever thread writes it."""
    stream = sys.stderr
    return getattr(stream, "behind", stream)


class _Lines:
    """The way of the lines of one log from the logger to its takers, through a bounded queue, from here to `close`.

    Args:
        takers: what writes them.
        log: whose lines: those that were logged with it.
    """

    def __init__(self, takers: list[logging.Handler], log: object) -> None:
        logging.addLevelName(TIMING, "TIMING")
        shape = logging.Formatter("%(asctime)s %(levelname)s %(name)s %(message)s")
        for taker in takers:
            taker.setFormatter(shape)
        lines: queue.Queue[Any] = queue.Queue(_QUEUE)
        self._pid = os.getpid()
        self._takers = takers
        self._handler = _Handler(lines)
        self._handler.addFilter(lambda line: getattr(line, "timing_log", None) is log)
        self._listener = _Listener(lines, *takers)
        self._listener.start()
        _add(self._handler)

    def close(self) -> None:
        """Write what is left; the last log that is open puts the logger back as it was. A forked child leaves that to its parent."""
        if os.getpid() != self._pid:
            return
        _remove(self._handler)
        self._listener.stop()
        for taker in self._takers:
            taker.close()


def _add(handler: logging.Handler) -> None:
    global _open, _before
    with _lock:
        if _open == 0:
            _before = (_timing.level, _timing.propagate)
            _timing.setLevel(TIMING)
            _timing.propagate = False  # a handler of the user's would say each line again
        _open += 1
        _timing.addHandler(handler)


def _remove(handler: logging.Handler) -> None:
    global _open
    with _lock:
        _timing.removeHandler(handler)
        _open -= 1
        if _open == 0:
            level, _timing.propagate = _before
            _timing.setLevel(level)
