"""What the stream that we write to can show: width, signs, colour.

What comes in: a stream, the flags and the environment, all as arguments. What goes out: a `Look`. Nothing is written here.
A pipe or a file gets plain text: 80 columns unless told otherwise, signs of ASCII, no colour unless told so (https://no-color.org; `--color` is stronger).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TextIO

from otel_exec.report.look import ASCII, UNICODE, Look

__all__ = ["COLOUR_CHOICES", "look_of"]

COLOUR_CHOICES = ("auto", "always", "never")
_DEFAULT_WIDTH = 80
_LEAST_WIDTH = 20


def look_of(stream: TextIO | None, environ: Mapping[str, str], *, width: int | None = None, colour: str = "auto") -> Look:
    """Return how a report is to look on a stream.

    Args:
        stream: where it goes.
        environ: `COLUMNS`, `NO_COLOR` and `TERM` are looked at.
        width: columns, where they were asked for.
        colour: `auto`, `always` or `never`.
    """
    encoding = getattr(stream, "encoding", None) or "ascii"
    terminal = _is_terminal(stream)
    dumb = environ.get("TERM") == "dumb"
    coloured = colour == "always" or (colour == "auto" and terminal and not dumb and not environ.get("NO_COLOR"))
    signs = UNICODE if terminal and _shows(encoding, "".join(getattr(UNICODE, field) for field in UNICODE.__struct_fields__)) else ASCII
    return Look(width=max(_LEAST_WIDTH, width or _columns(stream, environ, terminal=terminal)), encoding=encoding, signs=signs, colour=coloured)


def _is_terminal(stream: TextIO | None) -> bool:
    """Whether there is somebody who looks: not where the stream was closed before the program began (it is `None` then)."""
    try:
        return stream is not None and stream.isatty()
    except ValueError:
        return False


def _columns(stream: TextIO | None, environ: Mapping[str, str], *, terminal: bool) -> int:
    said = environ.get("COLUMNS", "")
    if said.isascii() and said.isdigit() and int(said) > 0:
        return int(said)
    if terminal and stream is not None:
        try:
            return os.get_terminal_size(stream.fileno()).columns or _DEFAULT_WIDTH
        except (OSError, ValueError):
            pass
    return _DEFAULT_WIDTH


def _shows(encoding: str, signs: str) -> bool:
    try:
        signs.encode(encoding)
    except (UnicodeEncodeError, LookupError):
        return False
    return True
