"""Sections -> JSON for machines: the same content as the text, as numbers.

What comes in: `Section`s. What goes out: bytes of UTF-8, always valid JSON. Keys are those of the facts, tables and columns, with the unit in the name:
a duration is `<key>_ns` (exact) and `<key>_seconds`, a size `<key>_bytes`, a share a ratio of one. Unknown is `null`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import msgspec

from otel_exec.report.table import Section, Table

__all__ = ["as_json", "as_mapping", "formatted", "mapping_as_json"]


def as_mapping(sections: Sequence[Section]) -> dict[str, Any]:
    """Return the sections as one mapping: facts of the section without a key at the top, each other section under its key.

    A section without facts is its table's list of rows; rows that were left out are counted as `<table's key>_hidden`.
    """
    top: dict[str, Any] = {}
    for section in sections:
        place = top
        if section.key and section.facts:
            place = top[section.key] = {}
        for fact in section.facts:
            _put(place, fact.key, fact.value, fact.kind)
        if section.table is not None:
            place[section.table.key] = _rows(section.table)
            if section.table.hidden:
                place[f"{section.table.key}_hidden"] = section.table.hidden
    return top


# What a terminal or an editor obeys and JSON lets through: DEL, C1 controls, bidirectional overrides, line separators.
_OBEYED = re.compile("[\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")


def as_json(sections: Sequence[Section], *, indent: int = 2) -> bytes:
    """Return the sections as JSON, ending in a newline."""
    return mapping_as_json(as_mapping(sections), indent=indent)


def mapping_as_json(mapping: dict[str, Any], *, indent: int = 2) -> bytes:
    """Return a mapping as JSON, ending in a newline, without anything that a terminal would obey."""
    try:
        encoded = msgspec.json.encode(mapping)
    except UnicodeEncodeError:
        # A lone surrogate, from a file name say: valid JSON has a way to write it that many readers refuse.
        encoded = msgspec.json.encode(_without_surrogates(mapping))
    return formatted(encoded, indent=indent)


def formatted(encoded: bytes, *, indent: int = 2) -> bytes:
    """Return JSON indented (0: on one line), with nothing in it that a terminal obeys, ending in a newline."""
    text: str = msgspec.json.format(encoded, indent=indent or -1).decode()
    return _OBEYED.sub(lambda match: f"\\u{ord(match.group()):04x}", text).encode() + b"\n"


def _rows(table: Table) -> list[dict[str, Any]]:
    columns = [(i, column.key, column.kind) for i, column in enumerate(table.columns) if column.key and column.kind != "bar"]
    rows = []
    for values in table.rows:
        row: dict[str, Any] = {}
        for i, key, kind in columns:
            _put(row, key, values[i], kind)
        rows.append(row)
    return rows


def _put(place: dict[str, Any], key: str, value: Any, kind: str) -> None:
    if kind == "duration":
        place[f"{key}_ns"] = value
        place[f"{key}_seconds"] = None if value is None else value / 1_000_000_000
    elif kind == "bytes":
        place[f"{key}_bytes"] = value
    else:
        place[key] = value


def _without_surrogates(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode("utf-8")
    if isinstance(value, dict):
        return {_without_surrogates(key): _without_surrogates(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_surrogates(item) for item in value]
    return value
