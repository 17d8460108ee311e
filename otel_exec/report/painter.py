"""Paints a block of lines at the foot of a terminal, over and over, with other lines in between.

What comes in: lines, made for the terminal's width. What goes out: one write a call, to the stream that it was given. No threads, no clock: the caller decides when.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TextIO

from otel_exec.report.text_safety import display_width

__all__ = ["Painter"]

_UP = "\x1b[{}A"
_ERASE_DOWN = "\r\x1b[J"


class Painter:
    """Keeps one block at the foot of a terminal.

    Whoever writes to the terminal by another way calls `clear` before, so that the block does not stay in the middle of the scroll; the next `paint` puts it back.
    A stream that is gone (closed, broken pipe) silences the painter: progress is no reason for a run to fail.
    """

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = stream
        self._lines: list[str] = []
        self._silent = stream is None

    def paint(self, lines: Sequence[str], width: int) -> None:
        """Replace the block. `width` is the terminal's now: after it was made narrower the old lines take more rows than they have lines."""
        text = self._erased(width) + "".join(f"{line}\n" for line in lines)
        self._lines = list(lines)
        self._write(text)

    def say(self, text: str, width: int) -> None:
        """Write lines that stay, above the block."""
        if text and not text.endswith("\n"):
            text += "\n"
        self._write(self._erased(width) + text + "".join(f"{line}\n" for line in self._lines))

    def clear(self, width: int) -> None:
        """Take the block off the terminal."""
        text = self._erased(width)
        self._lines = []
        if text:
            self._write(text)

    def _erased(self, width: int) -> str:
        rows = sum(max(1, -(-display_width(_unstyled(line)) // max(1, width))) for line in self._lines)
        return _UP.format(rows) + _ERASE_DOWN if rows else ""

    def _write(self, text: str) -> None:
        if self._silent or self._stream is None:
            return
        try:
            self._stream.write(text)
            self._stream.flush()
        except (OSError, ValueError):
            self._silent = True


def _unstyled(line: str) -> str:
    """Return the line without the styles that `Look` puts in."""
    if "\x1b" not in line:
        return line
    parts = line.split("\x1b[")
    return parts[0] + "".join(part.partition("m")[2] for part in parts[1:])
