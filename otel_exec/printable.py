r"""Other people's text on one line, without anything that a terminal would obey.

What comes in: any text (names, messages, paths). What goes out: printable text: control characters, escape sequences, newlines, direction overrides, zero-width
and unassigned characters and lone surrogates are shown as `\x1b`, `\n`, `\u202e`, ... Letters of right-to-left scripts stay: without an override they can't disguise a name.
"""

from __future__ import annotations

__all__ = ["printable"]

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
