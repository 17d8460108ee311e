"""A step's own files: `.executor_info`, `.executor_status`, `.executor_log` in its output folder.

What comes in: words, numbers, JSON. What goes out: the files of docs/record.md, on anything fsspec writes; local disks without fsspec, for speed.
Every function names the file and the reason in a `RecordError` when it can't do its work. What is read may have been written by anyone.
"""

from __future__ import annotations

import json
import math
import re
from typing import TYPE_CHECKING

import msgspec

from otel_exec import semconv
from otel_exec.record import storage
from otel_exec.record.encoding import encode

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = [
    "INFO",
    "LOG",
    "STATUS",
    "StatusEvent",
    "append_event",
    "error_said",
    "error_text",
    "make_output_folder",
    "merge_info",
    "read_events",
    "read_info",
    "standing",
    "write_info",
]

INFO = "/.executor_info"
LOG = "/.executor_log"
STATUS = "/.executor_status"

_WORDS = frozenset(word.value.encode() for word in semconv.StatusWord)
_ERROR_TEXT = re.compile(r"(?P<type>[\w.<>\[\]]+)(?:: (?P<message>.*))?\Z", re.DOTALL)
_BARE_WORD = re.compile(rb"\s*([A-Z][A-Z_]*)\s*\Z")


class StatusEvent(msgspec.Struct, gc=False):
    """One line of `.executor_status`. `date` is ISO 8601 with time zone ("" in a file of the older format); execution times are Unix seconds."""

    date: str
    status: str
    message: str | None = None
    task_id: str | None = None
    execution_start_time: float | None = None
    execution_end_time: float | None = None
    exec_id: str | None = None
    trace_id: str | None = None
    span_id: str | None = None


_decoder = msgspec.json.Decoder(StatusEvent)


def error_text(error_type: str, message: str) -> str:
    """Return an error as it stands in an event's message."""
    return f"{error_type}: {message}" if message else error_type


def error_said(text: str | None) -> tuple[str, str]:
    """Return the type and the message of the error that an event tells of, as `error_text` put them together; the type is "" where somebody else wrote the event."""
    found = _ERROR_TEXT.match(text or "")
    return (found["type"], found["message"] or "") if found else ("", text or "")


def make_output_folder(output_path: str) -> None:
    """Make the folder, parents included; there already is fine."""
    try:
        storage.make_folder(output_path)
    except OSError as error:
        raise storage.refused(output_path, "made", error) from error


def append_event(output_path: str, event: StatusEvent) -> None:
    """Append one event as one line with one write (rewritten whole where a store can't append)."""
    path = output_path + STATUS
    try:
        storage.append_line(path, encode(event))
    except OSError as error:
        raise storage.refused(path, "written", error) from error


def read_events(output_path: str) -> list[StatusEvent]:
    """Return the events, oldest first; [] when there is no file; a file of one bare word is one event of that status; torn or foreign lines are passed over."""
    path = output_path + STATUS
    try:
        content = storage.read_bytes(path)
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise storage.refused(path, "read", error) from error
    word = _BARE_WORD.match(content)
    if word:
        return [StatusEvent(date="", status=word[1].decode())]
    events = []
    for line in content.split(b"\n"):
        if line:
            event = _event(line)
            if event is not None:
                events.append(event)
    return events


def merge_info(static: bytes, measured: Mapping[str, object]) -> bytes:
    """Return the JSON object `static` with the measured keys added. The two have no key in common; nothing is parsed."""
    added = encode(dict(measured))
    head = static.rstrip()[:-1].rstrip()
    if added == b"{}":
        return head + b"}"
    return head + (b"" if head.endswith(b"{") else b",") + added[1:]


def write_info(output_path: str, info: bytes) -> None:
    """Replace `.executor_info` whole and atomically."""
    path = output_path + INFO
    try:
        storage.replace(path, info)
    except OSError as error:
        raise storage.refused(path, "written", error) from error


def standing(events: Sequence[StatusEvent]) -> StatusEvent | None:
    """Return the event that says how a step stands: the last one that is not WAITING.

    A run that waits for the lock says so without having it, so its WAITING may come after the SUCCESS of the run that has it.
    """
    return next((event for event in reversed(events) if event.status != semconv.StatusWord.WAITING), events[-1] if events else None)


def read_info(output_path: str) -> dict[str, object] | None:
    """Return `.executor_info` as a mapping, `None` when it is missing or can't be read as one."""
    try:
        # The standard library's parser: older writers let NaN through.
        info = json.loads(storage.read_bytes(output_path + INFO))
    except (OSError, ValueError, RecursionError):
        return None
    return info if isinstance(info, dict) else None


def _event(line: bytes) -> StatusEvent | None:
    """Return the event on a line, `None` when there is none."""
    try:
        return _decoder.decode(line)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        pass
    word = line.strip()
    if word in _WORDS:  # the older format, gone on with by a newer writer
        return StatusEvent(date="", status=word.decode())
    # Other writers leave keys out or give them other types: what can be used is used.
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(found, dict) or not isinstance(found.get("status"), str):
        return None
    text = {key: found[key] for key in ("message", "task_id", "exec_id", "trace_id", "span_id") if isinstance(found.get(key), str)}
    date = found.get("date")
    return StatusEvent(
        date=date if isinstance(date, str) else "",
        status=found["status"],
        execution_start_time=_seconds(found.get("execution_start_time")),
        execution_end_time=_seconds(found.get("execution_end_time")),
        **text,
    )


def _seconds(value: object) -> float | None:
    """Return a number of seconds, `None` for what is none."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        seconds = float(value)
    except OverflowError:
        return None
    return seconds if math.isfinite(seconds) else None
