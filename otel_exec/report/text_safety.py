"""Printable text (`otel_exec.printable`) made fit for a table: width measured, cut to size.

What comes in: text of one line. What goes out: the same, padded, shortened or wrapped, its width in columns known. Never touches a stream.
"""

from __future__ import annotations

__all__ = ["display_width", "encodable", "first_line", "one_line", "pad", "shorten", "wrap"]

# Characters of a message in a list of many: what is longer stands in run.json.
_LONGEST = 300


def encodable(text: str, encoding: str) -> str:
    """Return the text with what the encoding can't hold as backslash escapes; an unknown encoding is taken for ASCII."""
    if text.isascii():
        return text
    try:
        return text.encode(encoding, "backslashreplace").decode(encoding)
    except LookupError:
        return text.encode("ascii", "backslashreplace").decode("ascii")


def first_line(text: str) -> str:
    """Return the first line that says something, without space around it; "" when there is none."""
    for line in text.splitlines():
        if stripped := line.strip():
            return stripped
    return ""


def one_line(text: str) -> str:
    """Return what a text says in one line: its lines joined by spaces, cut past `_LONGEST` characters."""
    said = " ".join(text[: 4 * _LONGEST].split())
    return said if len(said) <= _LONGEST else said[: _LONGEST - 3] + "..."


def display_width(text: str) -> int:
    """Return how many columns the text takes: wide East Asian characters two, combining marks none (Unicode Standard Annex 11)."""
    if text.isascii():
        return len(text)
    from unicodedata import combining, east_asian_width

    return sum(0 if combining(char) else 2 if east_asian_width(char) in "WF" else 1 for char in text)


def pad(text: str, width: int, *, right: bool = False) -> str:
    """Return the text padded with spaces to `width` columns; `right` puts the text at the right edge."""
    space = " " * (width - display_width(text))
    return space + text if right else text + space


def shorten(text: str, width: int, ellipsis: str = "...") -> str:
    """Return the text in at most `width` columns, its middle replaced by the ellipsis: both ends of a name tell it from others."""
    if display_width(text) <= width:
        return text
    room = width - display_width(ellipsis)
    if room <= 1:
        return _head(text, width)
    tail = _tail(text, room // 2)
    return _head(text, room - display_width(tail)) + ellipsis + tail


def _head(text: str, width: int) -> str:
    if text.isascii():
        return text[: max(0, width)]
    used = 0
    for end, char in enumerate(text):
        used += display_width(char)
        if used > width:
            return text[:end]
    return text


def _tail(text: str, width: int) -> str:
    if text.isascii():
        return text[len(text) - width :]
    used = 0
    for start in range(len(text) - 1, -1, -1):
        used += display_width(text[start])
        if used > width:
            return text[start + 1 :]
    return text


def wrap(text: str, width: int) -> list[str]:
    """Return the text in lines of at most `width` columns, broken at spaces; a single word that is wider keeps its line to itself."""
    if display_width(text) <= width:
        return [text]
    lines: list[str] = []
    line = ""
    for word in text.split():
        longer = f"{line} {word}" if line else word
        if line and display_width(longer) > width:
            lines.append(line)
            line = word
        else:
            line = longer
    if line:
        lines.append(line)
    return lines or [""]
