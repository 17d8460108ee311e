"""What a dead worker had printed: kept in its step's log, by the driver.

What comes in: the worker's scratch file. What goes out: `.executor_log`, and the last lines for the error.
"""

from __future__ import annotations

import os

from otel_exec.execute.output_log import Bounded, LogFile
from otel_exec.execute.wire import NO_OFFSET

__all__ = ["keep_output"]

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
        with open(scratch, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            begin = offset if offset != NO_OFFSET else max(0, size - _TAIL_BYTES)
            file.seek(begin)
            if size - begin > 2 * kept.half:
                kept.feed(file.read(kept.half))
                kept.skip(size - begin - 2 * kept.half)
                file.seek(size - kept.half)
            kept.feed(file.read(2 * kept.half))
        if offset != NO_OFFSET and kept.total:
            LogFile(output_path, attempt).finish(kept)
    except OSError:
        pass
    return kept.last_lines() if kept.total else ""
