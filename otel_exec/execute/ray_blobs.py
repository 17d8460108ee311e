"""Functions and classes that travel by value on Ray: in the home actor instead of a folder, since no disk need be shared.

What comes in: pickled functions and classes. What goes out: their digests, and what they hold, loaded once a process. See `packing.py`.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from otel_exec.execute.packing import BlobStore

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["DriverBlobs", "WorkerBlobs"]


def _digest(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=16).hexdigest()


class DriverBlobs(BlobStore):
    """The driver's: gathered before Ray is touched, then handed to the home actor."""

    def __init__(self) -> None:
        super().__init__("")
        self.gathered: dict[str, bytes] = {}

    def put(self, data: bytes) -> str:
        """Keep a blob; returns its digest."""
        digest = _digest(data)
        self.gathered[digest] = data
        return digest

    def fetch(self, digest: str) -> bytes:
        """Return a blob's bytes."""
        return self.gathered[digest]


class WorkerBlobs(BlobStore):
    """A worker's: fetched when they are first met.

    Args:
        fetch: asks the home actor for a blob, `None` where it has none.
        send: gives it one; returns when it has it.
    """

    def __init__(self, fetch: Callable[[str], bytes | None], send: Callable[[str, bytes], None]) -> None:
        super().__init__("")
        self._fetch = fetch
        self._send = send
        self._sent: set[str] = set()

    def put(self, data: bytes) -> str:
        """Send a blob home, unless that was done; returns its digest."""
        digest = _digest(data)
        if digest not in self._sent:
            self._send(digest, data)
            self._sent.add(digest)
        return digest

    def fetch(self, digest: str) -> bytes:
        """Return a blob's bytes; raises `LookupError` where nobody has it."""
        data = self._fetch(digest)
        if data is None:
            raise LookupError(f"a function or class of the run is not known to its home actor any more (blob {digest})")
        return data
