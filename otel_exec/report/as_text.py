"""Sections -> text for a given width, signs and colour.

What comes in: `Section`s and a `Look`. What goes out: lines that fit the width. Two things may pass it: a single word wider than the whole line,
and paths and addresses, which are never broken, since what is broken can be neither opened nor copied: one that does not fit beside its label has a line of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from otel_exec.report.durations import UNKNOWN, bytes_text, count_text, duration_text, share_text
from otel_exec.report.look import Look
from otel_exec.report.table import Column, Entry, Fact, Section, Table
from otel_exec.report.text_safety import display_width, pad, shorten, wrap

__all__ = ["OUTCOME_STYLES", "as_text", "bar", "table_lines"]

_INDENT = "  "
_BAR_WIDTH = 40
_LEAST_BAR = 8
_EXTRA = 10
_RIGHT = frozenset({"count", "duration", "share", "bytes", "right"})

OUTCOME_STYLES = {
    "success": "green",
    "cached": "cyan",
    "failure": "red",
    "timeout": "red",
    "error": "red",
    "interrupted": "red",
    "cancellation": "yellow",
    "skip": "dim",
    "running": "blue",
    "pending": "dim",
    "not run": "dim",
}


def as_text(sections: Sequence[Section], look: Look) -> str:
    """Return the sections as text, ending in a newline, a blank line between two."""
    blocks = []
    for section in sections:
        if not section.in_text:
            continue
        body = _body(section, look)
        if not body and not section.top:
            continue
        lines = [look.styled(line, section.style) for line in wrap(look.text(section.title), look.width)]
        if section.top:
            widest = max(display_width(line) for line in wrap(look.text(section.title), look.width))
            lines.append(look.signs.double_line * min(widest, look.width))
        blocks.append("\n".join([*lines, *body]))
    return "\n\n".join(blocks) + "\n"


def _body(section: Section, look: Look) -> list[str]:
    inner = max(1, look.width - len(_INDENT))
    lines = [_INDENT + line for text in section.intro for line in wrap(look.text(text), inner)]
    facts = [fact for fact in section.facts if fact.label]
    if facts:
        lines += _fact_lines(facts, look)
    for table in (section.drawn, section.table):
        if table is not None and table.in_text and table.rows:
            lines += table_lines(table, look, indent="" if section.top else _INDENT)
        if table is not None and table.more:
            lines += [look.styled(_INDENT + line, "dim") for line in wrap(look.text(table.more), inner)]
    for entry in section.entries:
        lines += _entry_lines(entry, look)
    for note in section.notes:
        lines += [look.styled(_INDENT + line, "dim") for line in wrap(look.text(note), inner)]
    return lines


def _fact_lines(facts: Sequence[Fact], look: Look) -> list[str]:
    labels = [look.text(fact.label) for fact in facts]
    edge = max(display_width(label) for label in labels) + 2
    room = max(1, look.width - len(_INDENT) - edge)
    lines = []
    for label, fact in zip(labels, facts, strict=True):
        value = look.text(fact.said if fact.said is not None else _cell(fact.value, fact.kind))
        style = OUTCOME_STYLES.get(str(fact.value), "") if fact.kind == "outcome" else ""
        said = [value] if fact.kind == "path" else wrap(value, room)
        if len(said) == 1 and display_width(value) > room:
            lines += [_INDENT + look.styled(label, "dim"), look.styled(_own_line(value, look), style)]
            continue
        first, *rest = said
        lines.append(_INDENT + look.styled(pad(label, edge), "dim") + look.styled(first, style))
        lines += [_INDENT + " " * edge + look.styled(line, style) for line in rest]
    return lines


def _own_line(text: str, look: Look) -> str:
    """Return a text that can't be broken on a line of its own: one step in where it fits there, else less."""
    return (_INDENT * 2 if display_width(text) + 2 * len(_INDENT) <= look.width else _INDENT) + text


def _entry_lines(entry: Entry, look: Look) -> list[str]:
    first, *rest = wrap(look.text(entry.head), max(1, look.width - len(_INDENT)))
    lines = [_INDENT + look.styled(first, entry.style), *(_INDENT * 2 + look.styled(line, entry.style) for line in rest)]
    for text in entry.lines:
        lines += [_INDENT * 2 + line for line in wrap(look.text(text), max(1, look.width - 2 * len(_INDENT)))]
    for label, path in entry.paths:
        shown = look.text(path)
        if display_width(f"{label} {shown}") + 2 * len(_INDENT) <= look.width:
            lines.append(_INDENT * 2 + look.styled(f"{label} ", "dim") + shown)
        else:
            lines += [_INDENT * 2 + look.styled(label, "dim"), _own_line(shown, look)]
    return lines


def table_lines(table: Table, look: Look, *, indent: str = _INDENT) -> list[str]:
    """Return the table's lines: a header, unless it has none, then a line a row, each in the width."""
    kept = [i for i, column in enumerate(table.columns) if column.kind != "json" and not (column.sparse and all(row[i] in (None, "", 0) for row in table.rows))]
    columns = [table.columns[i] for i in kept]
    values = [[row[i] for i in kept] for row in table.rows]
    cells = [["" if column.kind == "bar" else look.text(_cell(value, column.kind)) for column, value in zip(columns, row, strict=True)] for row in values]
    natural = [
        max([_least(column), display_width(column.title) if table.header else 0, *(display_width(row[i]) for row in cells)]) for i, column in enumerate(columns)
    ]
    shown, widths, gap = _fit(columns, natural, look.width - len(indent))
    lines = []
    if table.header:
        titles = [
            pad(shorten(columns[i].title, width, look.signs.ellipsis), width, right=columns[i].kind in _RIGHT) for i, width in zip(shown, widths, strict=True)
        ]
        lines.append(look.styled(indent + gap.join(titles).rstrip(), "dim"))
    for row, texts in zip(values, cells, strict=True):
        parts = []
        for i, width in zip(shown, widths, strict=True):
            column = columns[i]
            if column.kind == "bar":
                parts.append(bar(row[i], width, look))
                continue
            text = pad(shorten(texts[i], width, look.signs.ellipsis), width, right=column.kind in _RIGHT)
            if i == shown[-1]:
                text = text.rstrip()
            parts.append(look.styled(text, OUTCOME_STYLES.get(str(row[i]), "")) if column.kind == "outcome" else text)
        lines.append((indent + gap.join(parts)).rstrip())
    return lines


def _least(column: Column) -> int:
    return _LEAST_BAR if column.kind == "bar" else 0


def _fit(columns: Sequence[Column], natural: Sequence[int], width: int) -> tuple[list[int], list[int], str]:
    """Return which columns are shown, their widths and the gap between them.

    In this order: the gap narrows to one space; extras (priority from 10) go until names have a comfortable width (twice their least);
    names are shortened down to their least; the other columns go by priority; what is left is cut.
    """
    shown = list(range(len(columns)))
    while True:
        for gap in (2, 1):
            widths = [natural[i] for i in shown]
            room = width - gap * (len(shown) - 1)
            if sum(widths) <= room:
                return shown, _with_bar(columns, shown, widths, room), " " * gap
        extras = [i for i in shown if columns[i].priority >= _EXTRA]
        droppable = [i for i in shown if columns[i].priority]
        names = [k for k, i in enumerate(shown) if columns[i].min_width]
        least = [columns[i].min_width * (2 if extras else 1) for i in shown]
        excess = sum(widths) - room
        if sum(max(0, widths[k] - least[k]) for k in names) >= excess:
            _shrink(widths, names, least, excess)
            return shown, widths, " "
        if not droppable:
            _shrink(widths, list(range(len(shown))), [1] * len(shown), excess)
            return shown, widths, " "
        shown.remove(max(droppable, key=lambda i: columns[i].priority))


def _shrink(widths: list[int], which: Sequence[int], least: Sequence[int], excess: int) -> None:
    """Take `excess` off the widest of `which`, none below its least."""
    for _ in range(excess):
        shrinkable = [k for k in which if widths[k] > least[k]]
        if not shrinkable:
            return
        widths[max(shrinkable, key=lambda k: widths[k])] -= 1


def _with_bar(columns: Sequence[Column], shown: Sequence[int], widths: list[int], room: int) -> list[int]:
    spare = room - sum(widths)
    return [min(_BAR_WIDTH, width + spare) if columns[i].kind == "bar" else width for i, width in zip(shown, widths, strict=True)]


def bar(share: float, width: int, look: Look) -> str:
    """Return a ratio of one as a bar of at most `width` columns; what is not nothing shows at least a sliver."""
    share = min(1.0, max(0.0, share))
    if not look.signs.eighths:
        full = int(share * width + 0.5)
        return look.signs.bar * full if full or not share else look.signs.rest
    eighths = int(share * width * 8 + 0.5)
    if share and not eighths:
        eighths = 1
    full, part = divmod(eighths, 8)
    return look.signs.bar * full + (look.signs.eighths[part - 1] if part else "")


def _cell(value: Any, kind: str) -> str:
    if kind == "duration":
        return duration_text(value)
    if kind == "count":
        return count_text(value)
    if kind == "share":
        return share_text(value)
    if kind == "bytes":
        return bytes_text(value)
    if kind == "words":
        return str(value or "").replace("_", " ")
    return UNKNOWN if value is None or value == "" else str(value)
