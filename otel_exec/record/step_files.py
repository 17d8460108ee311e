"""A step's own files: `.executor_info`, `.executor_status`, `.executor_log` in its output folder.

What comes in: words, numbers, JSON. What goes out: the files of requirement B, on anything fsspec writes; local disks without fsspec, for speed.
Every function names the file and the reason in a `RecordError` when it can't do its work.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["StatusEvent", "append_event", "make_output_folder", "merge_info", "read_events", "read_info", "write_info"]


class StatusEvent(msgspec.Struct):
    """One line of `.executor_status`. `date` is ISO 8601 with time zone; execution times are Unix seconds."""

    date: str
    status: str
    message: str | None = None
    task_id: str | None = None
    execution_start_time: float | None = None
    execution_end_time: float | None = None
    exec_id: str | None = None
    trace_id: str | None = None
    span_id: str | None = None


def make_output_folder(output_path: str) -> None:
    """Make the folder, parents included; there already is fine."""
    raise NotImplementedError


def append_event(output_path: str, event: StatusEvent) -> None:
    """Append one event as one line with one write (rewritten whole where a store can't append)."""
    raise NotImplementedError


def read_events(output_path: str) -> list[StatusEvent]:
    """Return the events, oldest first; [] when there is no file; a file of one bare word is one event of that status; torn or foreign lines are passed over."""
    raise NotImplementedError


def merge_info(static: bytes, measured: Mapping[str, object]) -> bytes:
    """Return the JSON object `static` with the measured keys added."""
    raise NotImplementedError


def write_info(output_path: str, info: bytes) -> None:
    """Replace `.executor_info` whole and atomically."""
    raise NotImplementedError


def read_info(output_path: str) -> dict[str, object] | None:
    """Return `.executor_info` as a mapping, `None` when it is missing or can't be read as one."""
    raise NotImplementedError
