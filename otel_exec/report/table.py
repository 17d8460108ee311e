"""What every report is made of before it is text or JSON: sections with facts and tables, whose cells are still numbers.

What comes in: nothing but values. What goes out: `Section`s that `as_text` lays out for a width and `as_json` writes for machines: one source, so both say the same.

Kinds of a value, how it reads and its JSON: `text` and `name` (as is; a name may be shortened), `words` (an identifier: underscores read as blanks; JSON has it as is), `outcome` (coloured), `count` (integer),
`duration` (nanoseconds; `<key>_ns` and `<key>_seconds`), `share` (ratio of one), `bytes` (`<key>_bytes`), `bar` (a share as a bar; text only), `right` (as text, at the right edge), `path` (never cut), `json` (JSON only).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

__all__ = ["Column", "Entry", "Fact", "Section", "Table"]


class Column(msgspec.Struct, frozen=True):
    """One column; without a key it is for text alone. Where a table is too wide, columns go in the order of `priority`, highest first; 0 never goes; those from 10 on are extras, which go before names are shortened much.

    `min_width`: a `name` column may be shortened to this many display columns before others go.
    `sparse`: not shown as text where no row has a value other than `None`, "" and 0.
    """

    key: str
    title: str
    kind: str = "text"
    priority: int = 0
    min_width: int = 0
    sparse: bool = False


class Table(msgspec.Struct, frozen=True):
    """Rows of values, one a column. `key` is its name in JSON; `hidden` how many rows were left out, `more` says so in words.

    `in_text` is off where the section has entries, or another table, in its place.
    """

    key: str
    columns: tuple[Column, ...]
    rows: Sequence[tuple[Any, ...]]
    hidden: int = 0
    more: str = ""
    header: bool = True
    in_text: bool = True


class Fact(msgspec.Struct, frozen=True):
    """One value with its key in JSON; `label` is its name in text, "" for JSON alone. `said` replaces the value in text."""

    key: str
    value: Any
    kind: str = "text"
    label: str = ""
    said: str | None = None


class Entry(msgspec.Struct, frozen=True):
    """A short block of text: a head, in a style; lines beneath it, wrapped; labelled paths or addresses, never cut."""

    head: str
    lines: tuple[str, ...] = ()
    paths: tuple[tuple[str, str], ...] = ()
    style: str = ""


class Section(msgspec.Struct, frozen=True):
    """A part of a report. `key` is its name in JSON ("": its facts lie at the top).

    `drawn` is a table for text alone. In text: title, intro, facts, tables, entries, notes, in this order; a section with nothing but a title is passed over,
    and so is one with `in_text` off.
    """

    key: str
    title: str
    style: str = "bold"
    intro: tuple[str, ...] = ()
    facts: tuple[Fact, ...] = ()
    table: Table | None = None
    drawn: Table | None = None
    entries: tuple[Entry, ...] = ()
    notes: tuple[str, ...] = ()
    top: bool = False
    in_text: bool = True
