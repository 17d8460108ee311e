"""The metrics of a run on their way out: `<run folder>/metrics.jsonl`, an OTLP/JSON request a line, followed by the exporter.

What comes in: whole lines. What goes out: files of bounded size: past `SEGMENT_BYTES` lines go on in `metrics-2.jsonl`, `metrics-3.jsonl`, ..., of which the newest two are
kept. What is dropped is hours old: with cumulative points later lines say it again. Imports no OpenTelemetry.
"""

from __future__ import annotations

import contextlib
import os
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["SEGMENT_BYTES", "MetricsFile", "metrics_files"]

SEGMENT_BYTES = 16 << 20
_KEPT = 2
_NAME = re.compile(r"^metrics(?:-([1-9][0-9]{0,8}))?\.jsonl$")


class MetricsFile:
    """Appends lines, each with one `os.write`; one writer a run.

    Args:
        run_folder: the run's local folder.
        segment_bytes: how long a file may get before the next one is begun.
    """

    def __init__(self, run_folder: str, segment_bytes: int = SEGMENT_BYTES) -> None:
        self._run_folder = run_folder
        self._segment_bytes = segment_bytes
        self._number = 1
        self._size = 0
        self._torn = False

    def append(self, line: bytes) -> None:
        """Write a line that ends with a newline.

        Raises:
            OSError: it could not be written whole; what is left of it is no line, and the next one begins after it.
        """
        if self._size and self._size + len(line) > self._segment_bytes:
            self._number, self._size, self._torn = self._number + 1, 0, False
            self._drop(self._number - _KEPT)
        if self._torn:
            line = b"\n" + line
        descriptor = os.open(self._path(self._number), os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
        try:
            self._torn = True
            while line:
                written = os.write(descriptor, line)
                self._size += written
                line = line[written:]
            self._torn = False
        finally:
            os.close(descriptor)

    def _path(self, number: int) -> str:
        return os.path.join(self._run_folder, "metrics.jsonl" if number == 1 else f"metrics-{number}.jsonl")

    def _drop(self, number: int) -> None:
        if number > 0:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._path(number))


def metrics_files(run_folder: str) -> list[tuple[str, int]]:
    """Return the metrics files of a run, by their names, with their sizes; in the order in which they were written, regular files alone."""
    return [(name, size) for _, name, size in sorted(_segments(run_folder))]


def _segments(run_folder: str) -> Iterator[tuple[int, str, int]]:
    try:
        with os.scandir(run_folder) as entries:
            for entry in entries:
                match = _NAME.match(entry.name)
                if match and entry.is_file(follow_symlinks=False):
                    yield int(match[1] or 1), entry.name, entry.stat(follow_symlinks=False).st_size
    except OSError:
        return
