"""run.json: a record as bytes, and bytes as a record.

What comes in: a `RunRecord`, or a path that someone named. What goes out: JSON that every reader takes, or the record, or one sentence on why there is none.
A file is hostile until it is decoded: nothing in it is evaluated, and no content of it raises anything but `RecordError`.
"""

from __future__ import annotations

import gc
import os
import re
from typing import TypeVar, overload

import msgspec

from otel_exec.errors import RecordError
from otel_exec.record import storage
from otel_exec.record.encoding import encode
from otel_exec.record.model import SCHEMA_VERSION, RunRecord

__all__ = ["decode_record", "keep_foreign", "read_record", "write_record"]

_Narrow = TypeVar("_Narrow")
_VERSION = re.compile(r"(\d{1,9})\.(\d{1,9})\Z", re.ASCII)
_NANOSECONDS = re.compile(r"\d{1,19}\Z", re.ASCII)
_HEAD = re.compile(rb'\s*\{\s*"schema_version"\s*:\s*"[^"]*"\s*,\s*"exec_id"\s*:\s*"')
_HEAD_BYTES = 4096
_MAJOR = int(SCHEMA_VERSION.partition(".")[0])


class _Header(msgspec.Struct):
    """What tells a run.json from any other JSON, whatever its version."""

    schema_version: str
    exec_id: str


def write_record(record: RunRecord) -> bytes:
    """Return the record as JSON, valid in every reader (no NaN, no lone surrogates). Every key is there, `null` where nothing is known."""
    return encode(record)


def keep_foreign(path: str) -> None:
    """Look at a file that a run is about to replace by its record: what is no record of ours stays as it is.

    A record of any version is ours, and one that was cut short: each run has a run.json of its own in its folder. So is an empty file. URLs are not looked at.

    Raises:
        RecordError: the file is somebody else's, or can't be read.
    """
    if storage.is_remote(path) or not os.path.isfile(path):
        return
    try:
        head = storage.read_head(path, _HEAD_BYTES)
        if not head.strip() or _HEAD.match(head):
            return
        _header(storage.read_bytes(path))
    except FileNotFoundError:  # it has just been taken away
        return
    except OSError as error:
        raise storage.refused(path, "read", error) from error
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        raise RecordError(
            path, "is no record of otel_exec, and this run would replace it: move it away, or keep the record elsewhere with --run-json"
        ) from None


@overload
def read_record(path: str) -> RunRecord: ...
@overload
def read_record(path: str, type_: type[_Narrow]) -> _Narrow: ...
def read_record(path: str, type_: type | None = None) -> object:
    """Read a run.json.

    Args:
        path: the file, local or a URL.
        type_: a msgspec struct with fewer fields than `RunRecord`, for a reader in a hurry: what it doesn't name is passed over, not built.

    Raises:
        RecordError: it is missing, truncated, foreign, or of a newer major schema; one sentence says which.
    """
    try:
        content = storage.read_bytes(path)
    except FileNotFoundError:
        raise RecordError(path, "there is no such file") from None
    except IsADirectoryError:
        raise RecordError(path, "is a folder: name the run.json in it") from None
    except OSError as error:
        raise storage.refused(path, "read", error) from error
    return decode_record(path, content, type_ or RunRecord)


def decode_record(path: str, content: bytes, type_: type[_Narrow]) -> _Narrow:
    """Return the record in a run.json's content; `path` is for the error."""
    if not content.strip():
        raise RecordError(path, "is empty: its writing was cut short, or it is no record")
    was_on = gc.isenabled()
    gc.disable()  # thousands of structs at once: collections in between find nothing and cost a third of the time (measured by hand)
    try:
        record = msgspec.json.decode(content, type=type_)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise RecordError(path, _unreadable(content, error)) from None
    finally:
        if was_on:
            gc.enable()
    version = getattr(record, "schema_version", None)
    if not isinstance(version, str):
        version = _header(content).schema_version
    wrong = _version_refused(version) or _start_refused(getattr(record, "start_time_unix_nano", None))
    if wrong:
        raise RecordError(path, wrong)
    return record


def _start_refused(start: str | None) -> str:
    """Return why nothing can be reckoned from a record's start, "" when it is nanoseconds (or the reader did not ask)."""
    if start is None or _NANOSECONDS.match(start):
        return ""
    return f"is damaged: its start_time_unix_nano is {start[:40]!r}, which is no count of nanoseconds"


def _header(content: bytes) -> _Header:
    """Return the header; raises what msgspec raises."""
    return msgspec.json.decode(content, type=_Header)


def _version_refused(version: str) -> str:
    """Return why a version can't be read, "" when it can."""
    parts = _VERSION.match(version)
    if not parts:
        return f"is no run.json of otel_exec: its schema_version is {version[:40]!r}"
    if int(parts[1]) > _MAJOR:
        return f"was written by a newer otel_exec (schema {parts[0]}); this one reads {_MAJOR}.x: upgrade otel_exec"
    return ""


def _unreadable(content: bytes, error: Exception) -> str:
    """Return why this content is no record of ours."""
    if isinstance(error, RecursionError):
        return "is nested too deeply to be a record"
    if isinstance(error, UnicodeError):
        return "is not UTF-8 text, so it is no run.json"
    if isinstance(error, msgspec.ValidationError):
        try:
            wrong = _version_refused(_header(content).schema_version)
        except (msgspec.DecodeError, UnicodeError, RecursionError):
            return "is JSON, but no run.json of otel_exec (it has no schema_version and exec_id)"
        return wrong or f"is damaged: {_lower(str(error))}"
    if "truncated" in str(error):
        return f"is cut short after {len(content)} bytes: its writing or copying was interrupted"
    return f"is not JSON: {_lower(str(error))}"


def _lower(text: str) -> str:
    return text[:1].lower() + text[1:]
