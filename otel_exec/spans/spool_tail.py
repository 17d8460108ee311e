"""Following a run's spool inside the driver, in a thread of its own: for what wants every finished span once, soon.

What comes in: the spool's files as they grow. What goes out: each span once, to one taker. Never touches a step: a slow taker falls behind the files and catches up at the end.
"""

from __future__ import annotations

import logging
import os
import threading
from typing import TYPE_CHECKING

from otel_exec.spans.spool import decode_line

if TYPE_CHECKING:
    from collections.abc import Callable

    from otel_exec.spans.span_record import SpanRecord

__all__ = ["SpoolTail"]

_INTERVAL_S = 0.25
_log = logging.getLogger(__name__)


class SpoolTail:
    """Gives the spans of a run's spool to `take`, from its thread and, at the end, from the caller's of `finish`.

    Args:
        folder: the run's `spans` folder.
        take: called with one span at a time; what it raises is logged once.
    """

    def __init__(self, folder: str, take: Callable[[SpanRecord], None]) -> None:
        self._folder = folder
        self._take = take
        self._positions: dict[str, int] = {}
        self._said = False
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="otel_exec spool tail", daemon=True)
        self._thread.start()

    def finish(self) -> None:
        """Give out what is left, and end."""
        self._stop.set()
        self._thread.join()
        self._look()

    def _follow(self) -> None:
        while not self._stop.wait(_INTERVAL_S):
            self._look()

    def _look(self) -> None:
        try:
            for name in sorted(name for name in os.listdir(self._folder) if name.endswith(".jsonl")):
                for line in self._new_lines(name):
                    for span in decode_line(line):
                        self._take(span)
        except Exception as error:  # telemetry never changes an outcome
            if not self._said:
                self._said = True
                _log.warning("the spool could not be followed: %s", error)

    def _new_lines(self, name: str) -> list[bytes]:
        with open(os.path.join(self._folder, name), "rb") as file:
            file.seek(self._positions.get(name, 0))
            data = file.read()
        whole = data[: data.rfind(b"\n") + 1]
        self._positions[name] = self._positions.get(name, 0) + len(whole)
        return whole.splitlines()
