"""A sweep along time over phases that open and close: who had how much of it.

What comes in: phases by id, at instants that never go back. What goes out: a `PhaseFold` a name, exact to the nanosecond. Knows no clock, file or span object.

Each event costs O(1), however many phases are open: all innermost phases (those with no open phase directly under them) earn alike, so one
running total of `dt / innermost` serves them all, and a phase's share is that total when it stops being innermost less that when it began. The total is kept
in units of 2^-40 ns, rounded down (an error below 10^-3 ns after a million events with a thousand phases open); at the end each name's share is cut to whole
nanoseconds and the missing ones go to the names with the largest remainders, ties to the first in alphabetical order.

A wait (a call of `map_tasks`) is a child of what called it and shares nothing: where it is all that goes on, the time is nobody's, and is counted apart.
"""

from __future__ import annotations

from otel_exec.aggregate.folds import PhaseFold

__all__ = ["Sweep"]

_SHIFT = 40
_MASK = (1 << _SHIFT) - 1


class _Name:
    """What is known of one name so far; `share` in units of 2^-40 ns."""

    __slots__ = ("fold", "open", "share", "since_ns")

    def __init__(self) -> None:
        self.fold = PhaseFold()
        self.open = 0
        self.since_ns = 0
        self.share = 0


class _Open:
    """An open phase. `earned_from` is the running total when it became innermost, -1 while it is not."""

    __slots__ = ("covered_ns", "covered_since_ns", "earned_from", "name", "node", "parent", "start_ns", "waits")

    def __init__(self, name: _Name, parent: str, start_ns: int, node: str | None, *, waits: bool = False) -> None:
        self.name = name
        self.parent = parent
        self.start_ns = start_ns
        self.node = node
        self.covered_ns = 0
        self.covered_since_ns = -1
        self.earned_from = -1
        self.waits = waits


class Sweep:
    """One sweep: over a whole task, or over the phases of one node in it. `waiting_ns`: how long there was nothing but waits."""

    __slots__ = ("_busy_ns", "_children", "_earned", "_innermost", "_open", "_waits", "last_ns", "names", "waiting_ns")

    def __init__(self, start_ns: int) -> None:
        self.names: dict[str, _Name] = {}
        self._open: dict[str, _Open] = {}
        # How many open phases name this id as their parent, whether or not it is open itself.
        self._children: dict[str, int] = {}
        self._innermost = 0
        self._earned = 0
        self.last_ns = start_ns
        self._busy_ns = 0
        self._waits = 0
        self.waiting_ns = 0

    def opened(self, span_id: str, parent: str, name: str, at_ns: int, node: str | None) -> None:
        """Open a phase; an id that is open already is ignored. `node` is kept for `closed` to return."""
        opens = self._open
        if span_id in opens:
            return
        at_ns = self._advance(at_ns)
        group = self.names.get(name)
        if group is None:
            group = self.names[name] = _Name()
        if not group.open:
            group.since_ns = at_ns
        group.open += 1
        phase = _Open(group, parent, at_ns, node)
        opens[span_id] = phase
        children = self._children
        if children.get(span_id):
            phase.covered_since_ns = at_ns
        else:
            phase.earned_from = self._earned
            self._innermost += 1
        self._cover(parent, at_ns)

    def wait_opened(self, span_id: str, parent: str, at_ns: int) -> None:
        """Open a wait; an id that is open already is ignored. `closed` ends it."""
        if span_id in self._open:
            return
        at_ns = self._advance(at_ns)
        self._open[span_id] = _Open(_NOBODY, parent, at_ns, None, waits=True)
        self._waits += 1
        self._cover(parent, at_ns)

    def _cover(self, parent: str, at_ns: int) -> None:
        """What is called `parent` has one more child: with the first it is no longer innermost."""
        siblings = self._children.get(parent, 0)
        self._children[parent] = siblings + 1
        if not siblings:
            above = self._open.get(parent)
            if above is not None and above.earned_from >= 0:
                above.name.share += self._earned - above.earned_from
                above.earned_from = -1
                above.covered_since_ns = at_ns
                self._innermost -= 1

    def _uncover(self, parent: str, at_ns: int) -> None:
        """What is called `parent` has one child less: without any it is innermost again."""
        siblings = self._children[parent] - 1
        if siblings:
            self._children[parent] = siblings
            return
        del self._children[parent]
        above = self._open.get(parent)
        if above is not None and not above.waits:
            above.covered_ns += at_ns - above.covered_since_ns
            above.earned_from = self._earned
            self._innermost += 1

    def closed(self, span_id: str, at_ns: int, error: bool, *, spanned: bool = True) -> str | None:
        """Close a phase, unknown ids are ignored; returns its node. `spanned`: it has a span of that id."""
        opens = self._open
        phase = opens.pop(span_id, None)
        if phase is None:
            return None
        at_ns = self._advance(at_ns)
        if phase.waits:
            self._waits -= 1
            self._uncover(phase.parent, at_ns)
            return None
        group = phase.name
        if phase.earned_from >= 0:
            group.share += self._earned - phase.earned_from
            self._innermost -= 1
        else:
            phase.covered_ns += at_ns - phase.covered_since_ns
        self._uncover(phase.parent, at_ns)
        group.open -= 1
        fold = group.fold
        if not group.open:
            fold.union_ns += at_ns - group.since_ns
        duration_ns = at_ns - phase.start_ns
        fold.count += 1
        fold.total_ns += duration_ns
        fold.self_ns += duration_ns - phase.covered_ns
        if fold.min_ns is None or duration_ns < fold.min_ns:
            fold.min_ns = duration_ns
        if fold.max_ns is None or duration_ns > fold.max_ns:
            fold.max_ns = duration_ns
        if error:
            fold.errors += 1
        fold.samples.add(duration_ns)
        if spanned:
            fold.spanned(duration_ns, at_ns, span_id)
        return phase.node

    def is_open(self, span_id: str) -> bool:
        """Whether the phase is open."""
        return span_id in self._open

    def folds(self) -> dict[str, PhaseFold]:
        """Return the folds by name, in order of first opening; whole after `finish`."""
        return {name: group.fold for name, group in self.names.items()}

    def finish(self, at_ns: int) -> int:
        """Close what is open and deal out the shares; returns the time in which any phase was open."""
        for span_id in list(self._open):
            self.closed(span_id, at_ns, error=False, spanned=False)
        self._advance(at_ns)
        missing = self._busy_ns
        rests: list[tuple[int, str]] = []
        for name, group in self.names.items():
            group.fold.share_ns = group.share >> _SHIFT
            missing -= group.fold.share_ns
            rests.append((-(group.share & _MASK), name))
        rests.sort()
        for _, name in rests[:missing]:
            self.names[name].fold.share_ns += 1
        return self._busy_ns

    def _advance(self, at_ns: int) -> int:
        elapsed = at_ns - self.last_ns
        if elapsed <= 0:
            return self.last_ns
        innermost = self._innermost
        if innermost:
            self._earned += (elapsed << _SHIFT) // innermost if innermost > 1 else elapsed << _SHIFT
            self._busy_ns += elapsed
        elif self._waits:
            self.waiting_ns += elapsed
        self.last_ns = at_ns
        return at_ns


_NOBODY = _Name()
