"""The timing log: one line for each finished phase, of every worker, once (`--timing`, `--debug`, `OTEL_EXEC_TIMING=1`).

What comes in: the run's spool. What goes out: lines of logger `otel_exec.timing` at level `TIMING` (15), on stderr and in `run.log` in the run's folder.
The lines are made from the spans in the driver, so a step pays nothing for them; they pass through a bounded queue, so a slow terminal holds up nobody but the log.
The user's own logging set-up is left as it is.
"""

from __future__ import annotations

import logging
import queue
import sys
from logging.handlers import QueueHandler, QueueListener
from typing import TYPE_CHECKING

from otel_exec.semconv import EXEC_ID, NODE_ID, Kind
from otel_exec.spans.spool_tail import SpoolTail

if TYPE_CHECKING:
    from otel_exec.spans.span_record import SpanRecord

__all__ = ["TIMING", "TimingLog"]

TIMING = 15
_QUEUE = 10_000
_ERROR = 2
_timing = logging.getLogger("otel_exec.timing")


class _Handler(QueueHandler):
    """Waits for room where the queue is full: its caller is the log's own thread, and no line is to be lost."""

    def __init__(self, lines: queue.Queue[logging.LogRecord]) -> None:
        super().__init__(lines)
        self._lines = lines

    def enqueue(self, record: logging.LogRecord) -> None:
        """Put a line into the queue, when there is room."""
        self._lines.put(record)


class TimingLog:
    """The log of one run, from here to `finish`.

    Args:
        spool_folder: the run's `spans` folder.
        path: the run's `run.log`.
    """

    def __init__(self, spool_folder: str, path: str) -> None:
        logging.addLevelName(TIMING, "TIMING")
        lines: queue.Queue[logging.LogRecord] = queue.Queue(_QUEUE)
        shape = logging.Formatter("%(asctime)s %(levelname)s %(name)s %(message)s")
        self._file = logging.FileHandler(path, encoding="utf-8")
        takers: list[logging.Handler] = [logging.StreamHandler(sys.stderr), self._file]
        for taker in takers:
            taker.setFormatter(shape)
        self._handler = _Handler(lines)
        self._listener = QueueListener(lines, *takers)
        self._before = (_timing.level, _timing.propagate)
        _timing.setLevel(TIMING)
        _timing.propagate = False  # a handler of the user's would say each line again
        _timing.addHandler(self._handler)
        self._listener.start()
        self._tail = SpoolTail(spool_folder, _say)

    def finish(self) -> None:
        """Write what is left, and put the logger back as it was."""
        self._tail.finish()
        self._listener.stop()
        _timing.removeHandler(self._handler)
        _timing.level, _timing.propagate = self._before
        self._file.close()


def _say(span: SpanRecord) -> None:
    if span.kind != Kind.PHASE:
        return
    attributes = span.attributes
    status = "error" if span.status == _ERROR else "ok"
    name = span.name.replace("\n", "\\n").replace("\r", "\\r")
    _timing.log(
        TIMING, "exec_id=%s node_id=%s phase=%s dur_ms=%.3f status=%s", attributes.get(EXEC_ID), attributes.get(NODE_ID), name, span.duration_ns / 1e6, status
    )
