"""What writes the lines of the timing log: stderr, and `run.log`.

What comes in: log records, from the log's own thread. What goes out: lines. One that can't write (a full disk, a stream that was closed) says so once, and
takes no more; the others go on. Never raises, and prints no tracebacks into the user's stderr, as handlers of the standard library do.
"""

from __future__ import annotations

import contextlib
import logging
import sys
from typing import Any

from otel_exec.guarded_log import warn

__all__ = ["FileTaker", "Taker", "TerminalTaker"]

_log = logging.getLogger(__name__)


class Taker(logging.StreamHandler[Any]):
    """A handler that ends with its first failure."""

    where: str
    over = False

    def end(self) -> None:
        """Close what it opened. Not `close`, which the user's own `logging.shutdown()` calls on every handler while the log goes on."""

    def handle(self, record: logging.LogRecord) -> bool:
        """Write a line, unless an earlier one could not be written."""
        return not self.over and bool(super().handle(record))

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: ARG002, N802  the signature and the name are logging's
        """Say why a line could not be written, and take no more."""
        self.over = True
        warn(_log, "%s takes no more lines of the timing log: %s", self.where, sys.exc_info()[1])

    def emit(self, record: logging.LogRecord) -> None:
        """Write a line; what the stream's encoding can't hold stands there as an escape."""
        try:
            line = self.format(record) + self.terminator
            try:
                self.stream.write(line)
            except UnicodeError:
                self.stream.write(line.encode("ascii", "backslashreplace").decode())
            self.flush()
        except Exception:
            self.handleError(record)


class TerminalTaker(Taker):
    """Stderr as it is when the log begins; where that was closed since (a test's, say, that caught it), stderr as it is now."""

    where = "stderr"

    def __init__(self) -> None:
        super().__init__(_stderr())

    def emit(self, record: logging.LogRecord) -> None:
        """Write a line, where there is a stderr."""
        if self.stream is None or getattr(self.stream, "closed", False):
            self.stream = _stderr()
        if self.stream is not None:  # a program without one (pythonw, a daemon) has nothing to be told of
            super().emit(record)


class FileTaker(Taker):
    """A file, appended to. Raises `OSError` where it can't be opened."""

    def __init__(self, path: str) -> None:
        self.where = path
        super().__init__(open(path, "a", encoding="utf-8", errors="backslashreplace"))  # noqa: SIM115  `close` closes it

    def end(self) -> None:
        """Close the file; what a full disk did not take was said."""
        with contextlib.suppress(OSError, ValueError):
            self.stream.close()


def _stderr() -> Any:
    """Return stderr; where a run's tasks have their output caught, what lies behind that: the log is no task's, whichever thread writes it."""
    stream = sys.stderr
    return getattr(stream, "behind", stream)
