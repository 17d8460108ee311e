"""Renews the lock of the step that the runner's own thread runs: while it does, nobody else could.

What comes in: the output folder whose step runs now. What goes out: heartbeats, from a thread that sleeps but for them. Judges nothing: an attempt looks at its end whether
its lock is still this run's.
"""

from __future__ import annotations

import contextlib
import threading

from otel_exec.errors import RecordError
from otel_exec.record import locks

__all__ = ["LeaseKeeper"]


class LeaseKeeper:
    """Keeps one lock at a time.

    Args:
        holder: this run, as it stands in locks.
    """

    def __init__(self, holder: str) -> None:
        self._holder = holder
        self._path = ""
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None

    def keep(self, output_path: str) -> None:
        """The step that owns this folder runs from now on; "": none does."""
        self._path = output_path
        if output_path and self._thread is None:
            self._thread = threading.Thread(target=self._renew, name="otel-exec-lease", daemon=True)
            self._thread.start()

    def close(self) -> None:
        """End the thread; no wait, a heartbeat may be under way on a slow store."""
        self._path = ""
        self._closed.set()

    def _renew(self) -> None:
        while not self._closed.wait(locks.HEARTBEAT_S):
            if path := self._path:
                with contextlib.suppress(RecordError):  # it may be there again before the lease is over
                    locks.heartbeat(path, self._holder)
