r"""Other people's text, made fit for a terminal: escapes neutralised, width measured, cut to size.

What comes in: any text (names, messages, paths). What goes out: one line of printable text whose width in columns is known.
Control characters, escape sequences, newlines, direction overrides, zero-width and unassigned characters and lone surrogates are shown as `\x1b`, `\n`, `\u202e`, ...
Letters of right-to-left scripts stay: without an override they can't disguise a name. Never touches a stream.
"""

from __future__ import annotations

__all__ = ["display_width", "encodable", "first_line", "pad", "printable", "shorten", "wrap"]

_SHORT_ESCAPES = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}


def printable(text: str) -> str:
    """Return the text on one line without anything that a terminal would obey."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else _escape(char) for char in text)


def _escape(char: str) -> str:
    short = _SHORT_ESCAPES.get(char)
    if short is not None:
        return short
    code = ord(char)
    if code < 0x100:
        return " " if code == 0xA0 else f"\\x{code:02x}"
    import unicodedata

    if unicodedata.category(char) == "Zs":
        return " "
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


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
