"""Open spans in mapped memory beside the spool, so that whoever survives a process knows what was open in it.

What comes in: id, parent, kind, name, node, start of a span that opened. What goes out: the same, read by another process from `<run folder>/spans/<writer>.open`.
A fixed number of fixed-width slots; when all are taken further spans are simply not listed. Cost: about a microsecond a span.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["OpenEntry", "OpenSpanTable", "read_open"]


@dataclass(frozen=True, slots=True)
class OpenEntry:
    """A span that has not ended. Ids are hex; `start_ns` nanoseconds since the Unix epoch; long names are cut at a character's edge."""

    span_id: str
    parent_span_id: str
    kind: str
    name: str
    node_id: str
    start_ns: int


class OpenSpanTable:
    """The writer's side; thread-safe; never raises (a table that can't be mapped lists nothing)."""

    def __init__(self, folder: str, writer: str, slots: int = 128) -> None:
        raise NotImplementedError

    def open(self, entry: OpenEntry) -> int:
        """List a span; returns its slot, -1 when there is none left."""
        raise NotImplementedError

    def close(self, slot: int) -> None:
        """Take a span off the list; -1 is ignored."""
        raise NotImplementedError

    def entries(self) -> list[OpenEntry]:
        """Return what is open now, oldest first."""
        raise NotImplementedError

    def remove(self) -> None:
        """Unmap and delete the file: the writer ended in order."""
        raise NotImplementedError


def read_open(path: str) -> list[OpenEntry]:
    """Return what is open according to a table's file, oldest first; [] when it is missing or broken."""
    raise NotImplementedError
