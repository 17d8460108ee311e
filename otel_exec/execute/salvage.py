"""What a worker's task has printed, read by the driver: kept in its step's log when the worker died, shown when it is ended.

What comes in: the worker's scratch file. What goes out: `.executor_log`, and the last lines for the error.
"""

from __future__ import annotations

import os

from otel_exec.execute.output_log import Bounded, LogFile
from otel_exec.execute.wire import NO_OFFSET

__all__ = ["keep_output", "last_lines"]

_TAIL_BYTES = 8192


def keep_output(scratch: str, offset: int, output_path: str, attempt: int, cap_bytes: int) -> str:
    """Write what a dead worker's task had printed into its log; returns the last lines. Never raises.

    Args:
        scratch: the worker's scratch file.
        offset: where the task's output begins in it; `NO_OFFSET` where the worker had cut the file: then the log that it kept current stands.
        output_path: the step's.
        attempt: the step's.
        cap_bytes: bound of the log.
    """
    kept = Bounded(cap_bytes)
    try:
        _read(kept, scratch, offset)
        if offset != NO_OFFSET and kept.total:
            LogFile(output_path, attempt).finish(kept)
    except OSError:
        pass
    return kept.last_lines()


def last_lines(scratch: str, offset: int) -> str:
    """Return the last lines of what a task has printed so far, "" where that can't be read. Arguments as of `keep_output`."""
    kept = Bounded(2 * _TAIL_BYTES)
    try:
        _read(kept, scratch, offset)
    except OSError:
        return ""
    return kept.last_lines()


def _read(kept: Bounded, scratch: str, offset: int) -> None:
    """Read the first and the last part of a task's output."""
    with open(scratch, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        begin = offset if offset != NO_OFFSET else max(0, size - _TAIL_BYTES)
        file.seek(begin)
        if size - begin > 2 * kept.half:
            kept.feed(file.read(kept.half))
            kept.skip(size - begin - 2 * kept.half)
            file.seek(size - kept.half)
        kept.feed(file.read(2 * kept.half))
