"""Uploads of a run's live files, while it goes on, to the remote prefix that they belong under.

What comes in: the local folder, the remote one, the present instant. What goes out: copies of what has changed, at intervals, from a thread of its own: a slow store
never holds a run up. What fails is tried again at the next interval, and in earnest at the end (`RunStore.close`).
"""

from __future__ import annotations

import os
import threading
import time

from otel_exec.record import storage

__all__ = ["INTERVAL_S", "Uploader"]

INTERVAL_S = 30.0
# A store that takes long is asked less often: uploads take at most so much of the time.
_SHARE = 0.1


class Uploader:
    """Copies a run's folder again and again.

    Args:
        folder: the local one.
        to: the remote one.
        interval_s: seconds between two uploads.

    `failures` counts the uploads that failed, `last_error` says why the last one did.
    """

    def __init__(self, folder: str, to: str, interval_s: float = INTERVAL_S) -> None:
        self._folder = folder
        self._to = to
        self._interval_s = interval_s
        self._due_s: float | None = None
        self._seen: dict[str, tuple[int, int]] = {}
        self._thread: threading.Thread | None = None
        self.failures = 0
        self.last_error = ""

    def tick(self, now_s: float) -> None:
        """Begin an upload where one is due and none is under way; never waits.

        Args:
            now_s: a monotonic instant, seconds.
        """
        if self._due_s is None:
            self._due_s = now_s + self._interval_s
        if now_s < self._due_s or (self._thread is not None and self._thread.is_alive()):
            return
        self._due_s = now_s + self._interval_s
        self._thread = threading.Thread(target=self._upload, name="otel_exec upload", daemon=True)
        self._thread.start()

    def finish(self) -> None:
        """Wait for the upload that is under way."""
        if self._thread is not None:
            self._thread.join()

    def _upload(self) -> None:
        began_s = time.monotonic()
        try:
            storage.upload(self._folder, self._to, changed=self._changed)
        except OSError as error:
            self.failures += 1
            self.last_error = str(error)
        took_s = time.monotonic() - began_s
        self._due_s = max(self._due_s or 0.0, began_s + took_s / _SHARE)

    def _changed(self, path: str) -> bool:
        """Return whether a file is another one than at the last upload."""
        try:
            found = os.stat(path)
        except OSError:
            return False
        now = (found.st_size, found.st_mtime_ns)
        before, self._seen[path] = self._seen.get(path), now
        return now != before
