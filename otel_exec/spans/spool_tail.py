"""Following a run's spool inside the driver, in a thread of its own: for what wants every finished span once, soon.

What comes in: the spool's files as they grow. What goes out: each span once, to one taker. Never touches a step: a slow taker falls behind the files and catches up at the end.
"""

from __future__ import annotations

import logging
import os
import threading
from typing import TYPE_CHECKING

from otel_exec.guarded_log import warn
from otel_exec.spans.otlp_json import merge
from otel_exec.spans.spool import decode_line
from otel_exec.spans.spool_follower import SpoolFollower

if TYPE_CHECKING:
    from collections.abc import Callable

    from otel_exec.spans.span_record import SpanRecord
    from otel_exec.spans.spool_follower import Line

__all__ = ["SpoolTail"]

_INTERVAL_S = 0.25
_log = logging.getLogger(__name__)


class SpoolTail:
    """Gives the spans of a run's spool to `take`, from its thread and, at the end, from the caller's of `finish`. Never raises.

    Args:
        folder: the run's `spans` folder.
        take: called with one span at a time, from one thread at a time; where it raises, that span is counted in `failed` and the next one follows.

    `skipped` counts the lines that were no spans, `failed` the spans that `take` raised for. The first failure is logged at once, how many there were at the end.
    """

    skipped: int
    failed: int

    def __init__(self, folder: str, take: Callable[[SpanRecord], None]) -> None:
        self.skipped = 0
        self.failed = 0
        self._take = take
        self._positions: dict[str, int] = {}
        self._follower = SpoolFollower(os.path.dirname(os.path.abspath(folder)), lambda file: self._positions.get(file, 0))
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="otel_exec spool tail", daemon=True)
        self._thread.start()

    def finish(self) -> None:
        """Give out what is left, and end."""
        self._stop.set()
        self._thread.join()
        self._look()
        if self.skipped or self.failed > 1:
            warn(_log, "of the spool, %d lines were no spans, and %d spans could not be taken", self.skipped, self.failed)

    def _follow(self) -> None:
        while not self._stop.wait(_INTERVAL_S):
            self._look()

    def _look(self) -> None:
        more = True
        while more:
            try:
                batch = self._follower.batch()
            except Exception as error:  # the spool's folder may be on anything
                warn(_log, "the spool could not be read: %s", error)
                return
            for line in batch.lines:
                self._give(line)
                self._positions[line.file] = line.end
            for tail in batch.tails:
                self.skipped += tail.skipped
                self._positions[tail.file] = tail.end
            more = batch.full

    def _give(self, line: Line) -> None:
        self.skipped += line.skipped
        try:
            spans = decode_line(merge([line.content]))
        except ValueError:
            self.skipped += 1
            return
        for span in spans:
            try:
                self._take(span)
            except Exception as error:  # telemetry never changes an outcome
                self.failed += 1
                if self.failed == 1:
                    warn(_log, "a span of the spool could not be taken: %s", error, exc_info=error)
