"""The timing log: one line for each finished phase, of every worker, once (`--timing`, `--debug`, `OTEL_EXEC_TIMING=1`).

What comes in: the run's spool. What goes out: lines of logger `otel_exec.timing` at level `TIMING` (15), on stderr and in `run.log` in the run's folder.
The lines are made from the spans in the driver, so a step pays nothing for them; they pass through a bounded queue, so a slow terminal holds up nobody but the log.
The user's own logging set-up is left as it is. Runs at the same time in one process share the logger: each log takes the lines of its own run alone.
"""

from __future__ import annotations

import logging
import queue
import sys
import threading
from logging.handlers import QueueHandler, QueueListener
from typing import TYPE_CHECKING, Any

from otel_exec.semconv import EXEC_ID, NODE_ID, Kind
from otel_exec.spans.spool_tail import SpoolTail

if TYPE_CHECKING:
    from otel_exec.spans.span_record import SpanRecord

__all__ = ["TIMING", "TimingLog"]

TIMING = 15
_QUEUE = 10_000
_ERROR = 2
_timing = logging.getLogger("otel_exec.timing")
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
        logging.addLevelName(TIMING, "TIMING")
        self._takers: list[logging.Handler] = [logging.StreamHandler(sys.stderr)]
        try:
            self._takers.append(logging.FileHandler(path, encoding="utf-8"))
        except OSError as error:
            _log.warning("there is no run.log: %s", error)
        shape = logging.Formatter("%(asctime)s %(levelname)s %(name)s %(message)s")
        for taker in self._takers:
            taker.setFormatter(shape)
        lines: queue.Queue[Any] = queue.Queue(_QUEUE)
        self._handler = _Handler(lines)
        self._handler.addFilter(lambda line: getattr(line, "timing_log", None) is self)
        self._listener = _Listener(lines, *self._takers)
        self._listener.start()
        _add(self._handler)
        self._tail = SpoolTail(spool_folder, self._say)

    def finish(self) -> None:
        """Write what is left; the last log that is open puts the logger back as it was."""
        self._tail.finish()
        _remove(self._handler)
        self._listener.stop()
        for taker in self._takers:
            taker.close()

    def _say(self, span: SpanRecord) -> None:
        if span.kind != Kind.PHASE:
            return
        attributes = span.attributes
        status = "error" if span.status == _ERROR else "ok"
        name = span.name.replace("\n", "\\n").replace("\r", "\\r")
        _timing.log(
            TIMING,
            "exec_id=%s node_id=%s phase=%s dur_ms=%.3f status=%s",
            attributes.get(EXEC_ID),
            attributes.get(NODE_ID),
            name,
            span.duration_ns / 1e6,
            status,
            extra={"timing_log": self},
        )


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
