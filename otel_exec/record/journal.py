"""The journal of a run, `journal.jsonl`: each state transition, appended a line at a time.

What comes in: transitions. What goes out: lines, and the transitions again, also from a file whose writer was killed. One writer a file.
"""

from __future__ import annotations

import os
from functools import partial
from typing import Any

import msgspec

from otel_exec.record import storage
from otel_exec.record.encoding import encode
from otel_exec.record.reserve import with_room
from otel_exec.semconv import Outcome

__all__ = ["JOURNAL", "Journal", "JournalLine", "read_journal"]

JOURNAL = "/journal.jsonl"


class JournalLine(msgspec.Struct, omit_defaults=True, gc=False):
    """One state transition. `at` is an instant in nanoseconds since the Unix epoch, `what` the transition: `began level created claimed ended waiting settled worker gate cancel ended_run`."""

    at: int
    what: str
    node: str | None = None
    attempt: int | None = None
    worker: str | None = None
    outcome: str | None = None
    cause: str | None = None
    span: str | None = None
    error: dict[str, str | None] | None = None
    data: dict[str, Any] | None = None


class Journal:
    """The writing end. Not for several threads at once."""

    def __init__(self, folder: str) -> None:
        """Open the journal in a run's local folder, for appending; raises `OSError`."""
        self.path = folder + JOURNAL
        self._folder = folder
        self._descriptor = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
        size = os.fstat(self._descriptor).st_size
        self._torn = size > 0 and os.pread(self._descriptor, 1, size - 1) != b"\n"

    def append(self, lines: list[JournalLine]) -> None:
        """Append the lines with one write, on a full disk with room from the reserve; raises `OSError` where it refuses: what follows then begins on a line of its own."""
        content = b"".join([encode(line) + b"\n" for line in lines])
        if self._torn:
            content = b"\n" + content
        self._torn = True
        while content:
            content = content[with_room(self._folder, partial(os.write, self._descriptor, content)) :]
        self._torn = False

    def close(self) -> None:
        """Close the file; a second time is fine."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


# What no clock tells and no run comes to: a damaged file.
_LAST_NS = (1 << 63) - 1
_OUTCOMES = frozenset(outcome.value for outcome in Outcome)
_MOST_ATTEMPTS = 1 << 20

_decoder = msgspec.json.Decoder(JournalLine)


def read_journal(folder: str) -> list[JournalLine]:
    """Return a run folder's transitions in order; torn and foreign lines are passed over; [] when there is no journal."""
    path = folder + JOURNAL
    try:
        content = storage.read_bytes(path)
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise storage.refused(path, "read", error) from error
    lines = []
    for line in content.split(b"\n"):
        if line:
            try:
                found = _decoder.decode(line)
            except (msgspec.DecodeError, UnicodeError, RecursionError):
                continue
            if 0 <= found.at <= _LAST_NS and 0 < (found.attempt or 1) <= _MOST_ATTEMPTS and (found.outcome is None or found.outcome in _OUTCOMES):
                lines.append(found)
    return lines
