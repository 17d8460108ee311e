"""A small table in a box.

What comes in: columns with their cells, already text, and a `Look`. What goes out: lines that fit the width, columns left out from the least needed on where it is narrow.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from otel_exec.report.look import Look
from otel_exec.report.text_safety import display_width, pad, shorten

__all__ = ["BoxColumn", "boxed_lines"]


class BoxColumn(msgspec.Struct, frozen=True):
    """A column: its title and a cell a row. Where the table is too wide columns go in the order of `priority`, highest first; 0 never goes.

    `least` is the width that it has where there is room, so that tables of one kind look alike.
    """

    title: str
    cells: Sequence[str]
    priority: int = 0
    least: int = 0


def boxed_lines(columns: Sequence[BoxColumn], look: Look) -> list[str]:
    """Return the table's lines: a title, a rule, a line a row, all in a box."""
    shown = list(columns)
    widths = [max(column.least, _natural(column)) for column in shown]
    if sum(widths) + 3 * len(shown) + 1 > look.width:
        widths = [_natural(column) for column in shown]
    while sum(widths) + 3 * len(shown) + 1 > look.width:
        droppable = [column for column in shown if column.priority]
        if not droppable:
            # What is left is shared: the widest gives.
            for _ in range(sum(widths) + 3 * len(shown) + 1 - look.width):
                widest = widths.index(max(widths))
                widths[widest] = max(1, widths[widest] - 1)
            break
        shown.remove(max(droppable, key=lambda column: column.priority))
        widths = [_natural(column) for column in shown]
    box = look.signs.box
    bars = [box[9] * (width + 2) for width in widths]

    def row(cells: Sequence[str]) -> str:
        inner = (f" {pad(shorten(cell, width, look.signs.ellipsis), width)} " for cell, width in zip(cells, widths, strict=True))
        return box[10] + box[10].join(inner) + box[10]

    rule = [box[start] + box[start + 1].join(bars) + box[start + 2] for start in (0, 3, 6)]
    rows = [row([column.cells[index] for column in shown]) for index in range(len(columns[0].cells))]
    return [rule[0], row([column.title for column in shown]), rule[1], *rows, rule[2]]


def _natural(column: BoxColumn) -> int:
    return max([display_width(column.title), *(display_width(cell) for cell in column.cells)])
