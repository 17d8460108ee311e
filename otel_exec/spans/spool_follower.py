"""Reads what is new in a run's spool files, or in its metrics files, in batches, from wherever the cursor stands.

What comes in: files that grow, appear and may hold anything. What goes out: batches of checked lines. Never writes; follows no symbolic links.
Imports no OpenTelemetry.

Units: sizes and positions are bytes.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from otel_exec.regular_file import data_chunks
from otel_exec.spans.cursor import Move
from otel_exec.spans.metrics_file import metrics_files
from otel_exec.spans.otlp_json import item_count, parse_line
from otel_exec.spans.signal import Signal

if TYPE_CHECKING:
    from collections.abc import Callable

    from otel_exec.spans.otlp_json import ExportLine

__all__ = ["FILES", "MAX_BATCH_BYTES", "MAX_LINE_BYTES", "Batch", "Line", "SpoolFollower", "spool_files"]

# A request in protobuf is smaller than its lines, and receivers take 4 MiB by default (gRPC's limit on messages).
# A quarter of that: little is sent twice after a kill, and more gains nothing (measured: bench/export_throughput.py).
MAX_BATCH_BYTES = 1 << 20
MAX_LINE_BYTES = (4 << 20) - 4096


@dataclass(frozen=True, slots=True)
class Line:
    """One line that is an export request, of `count` spans or data points. `end` is the position after it, `skipped` how many lines right before it were none."""

    file: str
    end: int
    count: int
    content: ExportLine
    skipped: int = 0


@dataclass(slots=True)
class Batch:
    """Lines to send, in the order of each file. `tails`: what was read of a file after its last such line. `full`: there is more to read at once."""

    lines: list[Line] = field(default_factory=list)
    tails: list[Move] = field(default_factory=list)
    full: bool = False


class SpoolFollower:
    """Follows `<run folder>/spans/*.jsonl`, or the run's metrics files; new files are found as they appear.

    Args:
        run_folder: the run's folder.
        position: where a file (by its path in the run's folder) is to be read from.
        signal: which of the run's files.
    """

    def __init__(self, run_folder: str, position: Callable[[str], int], signal: Signal = Signal.TRACES) -> None:
        self._run_folder = run_folder
        self._position = position
        self._signal = signal
        self._turn = 0

    def batch(self) -> Batch:
        """Return what is new, at most `MAX_BATCH_BYTES` of it (one longer line goes alone). The files take turns at being first."""
        found = Batch()
        files = FILES[self._signal](self._run_folder)
        if not files:
            return found
        if self._signal is Signal.TRACES:  # metrics files follow each other in time
            self._turn = (self._turn + 1) % len(files)
        budget = MAX_BATCH_BYTES
        for file, size in files[self._turn :] + files[: self._turn]:
            position = self._position(file)
            if size <= position:
                continue
            if budget <= 0:
                found.full = True
                break
            budget -= self._read(file, position, budget, found)
        return found

    def _read(self, file: str, position: int, budget: int, found: Batch) -> int:
        """Add a file's new lines to the batch; returns how many bytes they had."""
        try:
            descriptor = os.open(f"{self._run_folder}/{file}", os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            return 0
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                return 0
            chunk = os.pread(descriptor, budget, position)
            whole = chunk.rfind(b"\n") + 1
            if not whole and len(chunk) == budget:  # the line is longer than what is left
                if budget < MAX_BATCH_BYTES:
                    found.full = True
                    return 0
                chunk = os.pread(descriptor, MAX_LINE_BYTES + 1, position)
                whole = chunk.find(b"\n") + 1
                if not whole and len(chunk) > MAX_LINE_BYTES:
                    end = _line_end(descriptor, position + len(chunk))
                    if end is not None:
                        found.tails.append(Move(file, end, skipped=1))
                        found.full = True
                    return 0
        except OSError:
            return 0
        finally:
            os.close(descriptor)
        found.full = found.full or whole >= budget or len(chunk) == budget
        end, sent, skipped = position, position, 0
        for line in chunk[:whole].split(b"\n")[:-1]:
            end += len(line) + 1
            try:
                content = parse_line(line, self._signal)
            except ValueError:
                skipped += bool(line.strip())
                continue
            count = item_count(content)
            if count:
                found.lines.append(Line(file, end, count, content, skipped))
                sent, skipped = end, 0
        if end > sent:
            found.tails.append(Move(file, end, skipped=skipped))
        return whole


def spool_files(run_folder: str) -> list[tuple[str, int]]:
    """Return the spool files of a run, by their path in its folder, with their sizes; sorted, regular files alone."""
    try:
        with os.scandir(f"{run_folder}/spans") as entries:
            return sorted(
                (f"spans/{entry.name}", entry.stat(follow_symlinks=False).st_size)
                for entry in entries
                if entry.name.endswith(".jsonl") and entry.is_file(follow_symlinks=False)
            )
    except OSError:
        return []


# Where the lines of a signal lie: functions of a run's folder.
FILES = {Signal.TRACES: spool_files, Signal.METRICS: metrics_files}


def _line_end(descriptor: int, position: int) -> int | None:
    """Return the position after the line that goes on at `position`; `None` while it has no end."""
    for at, chunk in data_chunks(descriptor, position, MAX_BATCH_BYTES):
        newline = chunk.find(b"\n")
        if newline >= 0:
            return at + newline + 1
    return None
