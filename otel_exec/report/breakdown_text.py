"""A breakdown as text: a tree of phases under each node, and the ranked list of bottlenecks.

What comes in: a `Breakdown`, a `Look`, and what was asked for. What goes out: lines that fit the width. Names are shortened first; of the further columns
those at the right go where there is no room for all.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from otel_exec.aggregate.histogram import percentile_of
from otel_exec.report.as_text import table_lines
from otel_exec.report.breakdown import UNACCOUNTED, Breakdown, Node, Row, Try
from otel_exec.report.durations import UNKNOWN, count_text, duration_text, share_text
from otel_exec.report.look import UNICODE, Look
from otel_exec.report.steps import plural
from otel_exec.report.table import Column, Table
from otel_exec.report.text_safety import display_width, pad, shorten, wrap
from otel_exec.semconv import NODES_ROW, TOKEN_KEYS

__all__ = ["breakdown_text", "ms_text", "percent_text"]

_MS = 1_000_000
# The least width of a name and of its milliseconds: those of the picture in docs/phases.md.
_NAME, _MS_WIDTH = 24, 8
_LEAST_NAME = 12
_DETAILS = ("Count", "p50", "p95", "Self", "Errors")


class _Tree(msgspec.Struct, frozen=True):
    """The signs of the tree and of the titles."""

    branch: str
    last: str
    title: str
    clock: str


_DRAWN = _Tree("├─ ", "└─ ", "📊 ", "⏱️  ")
_PLAIN = _Tree("|- ", "`- ", "", "")


def breakdown_text(view: Breakdown, look: Look, *, details: bool = False, bottlenecks: bool = False, top: int | None = None) -> str:
    """Return the text, ending in a newline.

    Args:
        view: the breakdown.
        look: width, signs, colour.
        details: counts, percentiles, self time, attempts and CPU beside each node.
        bottlenecks: the ranked list as well.
        top: how many nodes, and how many bottlenecks, are shown at most.
    """
    tree = _tree(look)
    shown = view.shown if top is None else view.shown[:top]
    lines = [look.styled(f"{tree.title}Execution Metrics", "bold")]
    lines += [f"  Execution ID: {look.text(view.exec_id)}"]
    if view.alias:
        lines.append(f"  Known as: {look.text(view.alias)}")
    so_far = " so far" if view.outcome == "running" else f" ({view.outcome})" if view.outcome != "success" else ""
    lines += [f"  Total Duration: {UNKNOWN if view.duration_ns is None else f'{view.duration_ns / _MS:.2f}ms'}{so_far}", ""]
    if shown:
        lines.append(look.styled(f"{tree.clock}Node Timing Breakdown:", "bold"))
        for node in shown:
            lines += ["", *_node_lines(node, look, tree, details=details)]
    else:
        lines += [look.styled(line, "dim") for line in wrap("No phases were recorded. --breakdown shows the nodes without phases too.", look.width)]
    if len(shown) < len(view.shown):
        hidden = len(view.shown) - len(shown)
        lines += ["", look.styled(f"  and {plural(hidden, 'more node')} that took less (--top {len(view.shown)} shows all)", "dim")]
    if bottlenecks:
        lines += ["", *_bottleneck_lines(view, look, top)]
    return "\n".join(lines) + "\n"


def ms_text(duration_ns: int) -> str:
    """Return a duration in milliseconds: `3500ms`, below 10 ms with two digits after the point, `0.40ms`."""
    if duration_ns and duration_ns < 10 * _MS:
        return f"{duration_ns / _MS:.2f}ms"
    return f"{(duration_ns + _MS // 2) // _MS}ms"


def percent_text(part_ns: int, whole_ns: int | None) -> str:
    """Return a share as ` 8.3%`, five columns or more; blanks where there is no whole."""
    return f"{100 * part_ns / whole_ns:4.1f}%" if whole_ns else f"{UNKNOWN:>5}"


def _tree(look: Look) -> _Tree:
    if look.signs is not UNICODE:
        return _PLAIN
    try:
        "".join(getattr(_DRAWN, field) for field in _DRAWN.__struct_fields__).encode(look.encoding)
    except (UnicodeEncodeError, LookupError):
        return _PLAIN
    return _DRAWN


def _node_lines(node: Node, look: Look, tree: _Tree, *, details: bool) -> list[str]:
    total = UNKNOWN if node.total_ns is None else ms_text(node.total_ns)
    times = f" x {len(node.members):,}" if node.members else ""
    head = f"{times} - Total: {total}"
    name = shorten(_shown(node.name, look), max(_LEAST_NAME, look.width - 2 - len(head)), look.signs.ellipsis)
    lines = [f"  {look.styled(name, 'bold')}{head}"]
    for text in _facts(node, details=details):
        lines += [look.styled(f"    {line}", "dim") for line in wrap(text, max(1, look.width - 4))]
    lines += _row_lines(node.rows, node.total_ns, _rest_shown(node, node.unaccounted_ns), look, tree, details=details)
    for each in node.tries:
        lines += ["", *_try_lines(node, each, look, tree, details=details)]
    return lines


def _try_lines(node: Node, each: Try, look: Look, tree: _Tree, *, details: bool) -> list[str]:
    """Return what a node came to in one attempt, at the step that it ran in where that is another."""
    where = "" if each.node_id == node.node_id else f" of {look.text(each.node_id)}"
    outcome = "" if each.outcome is None else f" ({each.outcome})"
    tail = f"{outcome} - Total: {UNKNOWN if each.total_ns is None else ms_text(each.total_ns)}"
    title = shorten(f"attempt {each.attempt}{where}", max(_LEAST_NAME, look.width - 4 - len(tail)), look.signs.ellipsis)
    return [f"    {title}{tail}", *_row_lines(each.rows, each.total_ns, _rest_shown(node, each.unaccounted_ns), look, tree, details=details)]


def _rest_shown(node: Node, rest_ns: int | None) -> int | None:
    """Return what no phase covered, `None` where that says nothing: the time of a node that is neither step nor execution is that of its phases."""
    return rest_ns if node.timed or rest_ns else None


def _facts(node: Node, *, details: bool) -> list[str]:
    """Return what is said of a node beside its phases."""
    facts = []
    if node.members:
        ordered = sorted(node.members)
        middle, most = percentile_of(ordered, 50), percentile_of(ordered, 95)
        facts.append(f"each: p50 {duration_text(middle)}, p95 {duration_text(most)}")
    if details and node.step:
        parts = [plural(node.attempts, "attempt") + (f" ({node.failed:,} failed)" if node.failed else "")]
        if node.items:
            parts.append(plural(node.items, "item"))
        if node.wall_ns is not None:
            of_wall = f", {share_text(node.cpu_ns / node.wall_ns)} CPU" if node.cpu_ns is not None and node.wall_ns else ""
            parts.append(f"ran {duration_text(node.wall_ns)}{of_wall}")
        facts.append(", ".join(parts))
    if node.tokens:
        known = [name for name in TOKEN_KEYS if name in node.tokens]
        facts.append(", ".join(f"{name.replace('_', ' ')} {node.tokens[name]:,}" for name in (*known, *sorted(set(node.tokens) - set(known)))))
    return facts


def _shown(name: str, look: Look) -> str:
    """Return a name as it can be shown; an empty one in quotes."""
    return look.text(name) or '""'


def _row_lines(rows: Sequence[Row], total_ns: int | None, rest_ns: int | None, look: Look, tree: _Tree, *, details: bool) -> list[str]:
    if not rows:
        return []
    names = [_shown(row.name, look) for row in rows]
    cells = [[ms_text(row.total_ns), f"({percent_text(row.share_ns, total_ns)})"] for row in rows]
    more = [_details(row) for row in rows] if details else [[] for _ in names]
    if rest_ns is not None:
        names.append(UNACCOUNTED)
        cells.append([ms_text(rest_ns), f"({percent_text(rest_ns, total_ns)})"])
        more.append(["" for _ in _DETAILS] if details else [])
    ms_width = max(_MS_WIDTH, *(len(row[0]) for row in cells))
    percent_width = max(len(row[1]) for row in cells)
    fixed = 4 + len(tree.branch) + 1 + ms_width + 1 + percent_width
    widths = [max(len(title), *(len(row[place]) for row in more)) for place, title in enumerate(_DETAILS)] if details else []
    shown = [place for place, width in enumerate(widths) if any(row[place] for row in more)]
    longest = max(_NAME, *(display_width(name) for name in names))
    while shown and fixed + min(longest, _NAME) + sum(2 + widths[place] for place in shown) > look.width:
        shown.pop()
    room = look.width - fixed - sum(2 + widths[place] for place in shown)
    name_width = max(_LEAST_NAME, min(longest, room))
    lines = []
    if shown:
        titles = "".join(f"  {_DETAILS[place]:>{widths[place]}}" for place in shown)
        lines.append(look.styled(" " * (fixed + name_width) + titles, "dim"))
    for index, (name, row) in enumerate(zip(names, cells, strict=True)):
        sign = tree.last if index == len(names) - 1 else tree.branch
        text = pad(shorten(name, name_width, look.signs.ellipsis), name_width)
        extra = "".join(f"  {more[index][place]:>{widths[place]}}" for place in shown)
        line = f"    {sign}{text} {row[0]:>{ms_width}} {row[1]:<{percent_width}}{extra}".rstrip()
        lines.append(look.styled(line, "dim") if name in {UNACCOUNTED, NODES_ROW} else line)
    return lines


def _details(row: Row) -> list[str]:
    """Return a phase's further cells, in the order of `_DETAILS`; "" where there is nothing to say."""
    return [
        count_text(row.count),
        "" if row.p50_ns is None else duration_text(row.p50_ns),
        "" if row.p95_ns is None else duration_text(row.p95_ns),
        duration_text(row.self_ns),
        count_text(row.errors) if row.errors else "",
    ]


def _bottleneck_lines(view: Breakdown, look: Look, top: int | None) -> list[str]:
    lines = [look.styled("Bottlenecks", "bold")]
    shown = view.bottlenecks if top is None else view.bottlenecks[:top]
    if not shown:
        return [*lines, *(look.styled(f"  {line}", "dim") for line in wrap("Nothing that would have made the run shorter.", max(1, look.width - 2)))]
    wall_ns = view.duration_ns or 0
    rows = [(rank, each.name, each.phase, each.total_ns, each.saves_ns, each.saves_ns / wall_ns if wall_ns else None) for rank, each in enumerate(shown, 1)]
    columns = (
        Column("rank", "#", "count"),
        Column("node", "Node", "name", min_width=12),
        Column("phase", "Phase", "name", min_width=12),
        Column("total", "Total", "duration", priority=1),
        Column("saves", "Saves at most", "duration"),
        Column("share", "Of the run", "share"),
    )
    lines += table_lines(Table("bottlenecks", columns, rows), look)
    hidden = len(view.bottlenecks) - len(shown)
    if hidden:
        lines.append(look.styled(f"  and {hidden:,} more that could save less", "dim"))
    notes = (
        "What the run would be shorter by, at most, if this phase, without those inside it, took no time. They don't add up.",
        *([view.note] if view.note else []),
    )
    return [*lines, *(look.styled(f"  {line}", "dim") for note in notes for line in wrap(note, max(1, look.width - 2)))]
