"""A sweep along time over phases that open and close: who had how much of it.

What comes in: phases by id, at instants that never go back. What goes out: a `PhaseFold` a name, exact to the nanosecond. Knows no clock, file or span object.

Each event costs O(1), however many phases are open: all innermost phases (those with no open phase directly under them) earn alike, so one
running total of `dt / innermost` serves them all, and a phase's share is that total when it stops being innermost less that when it began. The total is kept
in units of 2^-40 ns, rounded down (an error below 10^-3 ns after a million events with a thousand phases open); at the end each name's share is cut to whole
nanoseconds and the missing ones go to the names with the largest remainders, ties to the first in alphabetical order.

A wait (a call of `map_tasks`) is a child of what called it and shares nothing: where it is all that goes on, the time is nobody's, and is counted apart.

While phases only nest, as those of one thread do, there is nothing to share: the one that opened last has all of the time until the next event. Then the open
ones are a stack, a share is self time, and both are known when a phase closes (a third of the cost, measured: bench/phases.py). The first phase that
opens beside another one, or closes before one inside it, ends that until all are closed.
"""

from __future__ import annotations

from otel_exec.aggregate.folds import PhaseFold
from otel_exec.semconv import NODES_ROW, OTHERS_ROW

__all__ = ["MAX_NAMES", "Open", "Sweep"]

# Names that are made up endlessly must not grow us: what opens under a further one counts in the row `(others)`.
MAX_NAMES = 1000
_SHIFT = 40
_MASK = (1 << _SHIFT) - 1
# Durations are folded so many at a time.
_AT_ONCE = 256


class _Name:
    """What is known of one name so far. `share` is in units of 2^-40 ns; `alone_ns` is what it had for itself; `durations` were not folded yet."""

    __slots__ = ("alone_ns", "durations", "fold", "open", "share", "since_ns")

    def __init__(self) -> None:
        self.fold = PhaseFold()
        self.open = 0
        self.since_ns = 0
        self.share = 0
        self.alone_ns = 0
        self.durations: list[int] = []

    def settle(self) -> PhaseFold:
        """Return the fold, with all durations in it."""
        fold, durations = self.fold, self.durations
        if durations:
            self.durations = []
            least, most = min(durations), max(durations)
            fold.count += len(durations)
            fold.total_ns += sum(durations)
            if fold.min_ns is None or least < fold.min_ns:
                fold.min_ns = least
            if fold.max_ns is None or most > fold.max_ns:
                fold.max_ns = most
            fold.samples.extend(durations)
        return fold


class Open:
    """An open phase. `below` is what it was opened on, while phases only nest; `earned_from` the running total when it became innermost, -1 while it is not."""

    __slots__ = ("below", "covered_ns", "covered_since_ns", "earned_from", "name", "node", "parent", "span_id", "start_ns", "waits")

    covered_since_ns: int
    earned_from: int

    def __init__(self, name: _Name, span_id: str, parent: str, start_ns: int, node: str | None, below: Open | None) -> None:
        self.name = name
        self.span_id = span_id
        self.parent = parent
        self.start_ns = start_ns
        self.node = node
        self.below = below
        self.covered_ns = 0
        self.waits = False


class Sweep:
    """One sweep: over a whole task, or over the phases of one node in it. `waiting_ns`: how long there was nothing but waits."""

    __slots__ = ("_busy_ns", "_children", "_earned", "_innermost", "_open", "_root", "_top", "_waits", "last_ns", "names", "waiting_ns")

    def __init__(self, start_ns: int) -> None:
        self.names: dict[str, _Name] = {}
        self._open: dict[str, Open] = {}
        # What lies under everything; what it is covered by is the time in which any phase was open.
        self._root = Open(_Name(), "", "", start_ns, None, None)
        self._top: Open | None = self._root
        # Where phases don't only nest. How many open phases name this id as their parent, whether or not it is open itself.
        self._children: dict[str, int] = {}
        self._innermost = 0
        self._earned = 0
        self.last_ns = start_ns
        self._busy_ns = 0
        self._waits = 0
        self.waiting_ns = 0

    def opened(self, span_id: str, parent: str, name: str, at_ns: int, node: str | None = None) -> None:
        """Open a phase; an id that is open already is ignored. `node` is kept for who closes it."""
        opens = self._open
        if span_id in opens:
            return
        top = self._top
        if top is not None and (parent == top.span_id or top is self._root):
            if at_ns > self.last_ns:
                self.last_ns = at_ns
            else:
                at_ns = self.last_ns
            group = self.names.get(name)
            if group is None:
                group = self._new_name(name)
            if not group.open:
                group.since_ns = at_ns
            group.open += 1
            self._top = opens[span_id] = Open(group, span_id, parent, at_ns, node, top)
            return
        if top is not None:
            self._spread(top)
        self._opened_beside(span_id, parent, name, at_ns, node)

    def wait_opened(self, span_id: str, parent: str, at_ns: int) -> None:
        """Open a wait; an id that is open already is ignored. `closed` ends it."""
        if span_id in self._open:
            return
        if self._top is not None:
            self._spread(self._top)
        at_ns = self._advance(at_ns)
        wait = self._open[span_id] = Open(_NOBODY, span_id, parent, at_ns, None, None)
        wait.waits = True
        wait.earned_from = -1
        self._waits += 1
        self._cover(parent, at_ns)

    def closed(self, span_id: str, at_ns: int, error: bool, spanned: bool = True) -> Open | None:
        """Close a phase or a wait and return it; an id that is not open is ignored. `spanned`: it has a span of that id."""
        phase = self._open.pop(span_id, None)
        if phase is None:
            return None
        group = phase.name
        top = self._top
        if top is phase:
            if at_ns > self.last_ns:
                self.last_ns = at_ns
            else:
                at_ns = self.last_ns
            below = phase.below
            assert below is not None, "the root is never closed"
            duration_ns = at_ns - phase.start_ns
            self_ns = duration_ns - phase.covered_ns
            group.alone_ns += self_ns
            below.covered_ns += duration_ns
            self._top = below
        else:
            if top is not None:
                self._spread(top)
            at_ns = self._advance(at_ns)
            duration_ns = at_ns - phase.start_ns
            self._close_beside(phase, at_ns)
            if phase.waits:
                return phase
            self_ns = duration_ns - phase.covered_ns
        group.open -= 1
        fold = group.fold
        if not group.open:
            fold.union_ns += at_ns - group.since_ns
        fold.self_ns += self_ns
        if error:
            fold.errors += 1
        if spanned:
            slowest = fold.slowest
            if slowest is None or duration_ns >= slowest[0]:
                fold.spanned(duration_ns, at_ns, span_id)
        durations = group.durations
        durations.append(duration_ns)
        if len(durations) >= _AT_ONCE:
            group.settle()
        return phase

    def above(self, span_id: str, node: str) -> str:
        """Return the nearest open phase of a node, from `span_id` upwards through what is open; `span_id` itself where there is none."""
        opens = self._open
        phase = opens.get(span_id)
        for _ in range(len(opens)):  # what others wrote into a spool may hold circles
            if phase is None:
                break
            if phase.node == node:
                return phase.span_id
            phase = opens.get(phase.parent)
        return span_id

    def folds(self) -> dict[str, PhaseFold]:
        """Return the folds by name, in order of first opening; whole after `finish`."""
        return {name: group.settle() for name, group in self.names.items()}

    def is_open(self, span_id: str) -> bool:
        """Whether a phase or a wait has not closed yet."""
        return span_id in self._open

    def finish(self, at_ns: int) -> int:
        """Close what is open and deal out the shares; returns the time in which any phase was open."""
        for span_id in reversed(list(self._open)):
            self.closed(span_id, at_ns, False, False)
        self._advance(at_ns)
        busy_ns = self._busy_ns + self._root.covered_ns
        missing = busy_ns
        rests: list[tuple[int, str]] = []
        for name, group in self.names.items():
            fold = group.settle()
            fold.share_ns = group.alone_ns + (group.share >> _SHIFT)
            missing -= fold.share_ns
            rests.append((-(group.share & _MASK), name))
        rests.sort()
        for _, name in rests[:missing]:
            self.names[name].fold.share_ns += 1
        return busy_ns

    def _new_name(self, name: str) -> _Name:
        names = self.names
        if len(names) >= MAX_NAMES and name != NODES_ROW:
            name = OTHERS_ROW
        group = names.get(name)
        if group is None:
            group = names[name] = _Name()
        return group

    # --- phases beside each other ------------------------------------------------------------------------------------------------------------------

    def _spread(self, top: Open) -> None:
        """Go on without a stack: what each phase on it has had until now is counted, and who is inside whom."""
        until_ns = self.last_ns
        phase: Open | None = top
        while phase is not None and phase is not self._root:
            phase.name.alone_ns += until_ns - phase.start_ns - phase.covered_ns
            self._children[phase.parent] = self._children.get(phase.parent, 0) + 1
            phase.covered_since_ns = until_ns
            phase.earned_from = -1
            until_ns = phase.start_ns
            phase = phase.below
        if top is not self._root:
            self._busy_ns += self.last_ns - until_ns
            top.earned_from = self._earned
            self._innermost = 1
        self._top = None

    def _opened_beside(self, span_id: str, parent: str, name: str, at_ns: int, node: str | None) -> None:
        opens = self._open
        at_ns = self._advance(at_ns)
        group = self.names.get(name)
        if group is None:
            group = self._new_name(name)
        if not group.open:
            group.since_ns = at_ns
        group.open += 1
        phase = Open(group, span_id, parent, at_ns, node, None)
        opens[span_id] = phase
        children = self._children
        if children.get(span_id):
            phase.covered_since_ns = at_ns
            phase.earned_from = -1
        else:
            phase.covered_since_ns = -1
            phase.earned_from = self._earned
            self._innermost += 1
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

    def _close_beside(self, phase: Open, at_ns: int) -> None:
        if phase.waits:
            self._waits -= 1
        elif phase.earned_from >= 0:
            phase.name.share += self._earned - phase.earned_from
            self._innermost -= 1
        else:
            phase.covered_ns += at_ns - phase.covered_since_ns
        self._uncover(phase.parent, at_ns)
        if not self._open:
            self._top = self._root

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
