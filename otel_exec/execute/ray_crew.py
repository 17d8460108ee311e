"""The Ray workers of a run, as the driver knows them: who they are, what each last told, what each runs.

What comes in: what the home actor hands on, and what came with results. What goes out: notices; numbers for workers; their finished spans, appended to a file for each in the spool,
and what is open in them, listed beside it.
Knows nothing of Ray. What comes twice counts once; a worker's tellings may come in any order.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from otel_exec.aggregate.rebuild import PARTS, descends
from otel_exec.execute.base import Beat, Claimed, Output, Warned, WorkerDied, WorkerReady, WorkerStarted, WorkerStopped
from otel_exec.execute.ray_open_tables import OpenTables
from otel_exec.execute.ray_wire import Begun, Facts, Known, Lost, Taken, Telling, decode
from otel_exec.semconv import EXEC_ATTEMPT, NODE_ID
from otel_exec.spans.recorder import NOT_WRITTEN, SPANS_LOST
from otel_exec.spans.spool import SpoolWriter, decode_line

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from otel_exec.clock import Clock
    from otel_exec.execute.base import Notice, OpenSpan, RunSettings

__all__ = ["Crew", "Member"]

# Clocks that disagree by less are told apart by nobody (measured: round trips of an actor take about a millisecond).
_SKEW_NS = 10_000_000


@dataclass(eq=False, slots=True)
class Member:
    """A worker. `seen`: the numbers of its tellings that came ahead of `upto`, before which all have come; `waived`: below it none is waited for any more."""

    number: int
    uid: str = ""
    pid: int = 0
    host: str = ""
    node: str = ""
    upto: int = 0
    seen: set[int] = field(default_factory=set)
    begun: Begun | None = None
    open_spans: tuple[OpenSpan, ...] = ()
    tail: str = ""
    spool: SpoolWriter | None = None
    gone: bool = False
    waived: int = 0


class Crew:
    """See the module. Used by the runner's thread alone."""

    def __init__(self, settings: RunSettings, clock: Clock) -> None:
        self._settings = settings
        self._clock = clock
        self._folder = os.path.join(settings.run_folder, "spans")
        self._numbers: dict[str, int] = {}
        self._members: dict[int, Member] = {}
        self._claims: dict[tuple[str, int], Member] = {}
        self._skewed: set[str] = set()
        self._settled: set[tuple[object, object]] = set()
        self._closed: set[str] = set()
        self._tables = OpenTables(self._folder)
        self._lost: dict[str, int] = {}  # why -> how many finished spans found no room

    def take_in(self, taken: Taken, notices: list[Notice]) -> dict[str, int]:
        """Take in what the home actor handed on; returns the numbers of those that asked for one. They are given out here alone: the home actor may die at any moment."""
        for each in taken.facts:
            self._introduced(each, notices)
        for data in taken.told:
            telling = decode(data, type=Telling)
            member = self._members.setdefault(telling.number, Member(telling.number))
            if telling.sequence < member.upto or telling.sequence in member.seen:
                continue
            member.seen.add(telling.sequence)
            while member.upto in member.seen:
                member.seen.discard(member.upto)
                member.upto += 1
            self.told(telling, notices)
        notices.extend(self._gone_in_an_item(who, lost) for lost in taken.lost if (who := self._members.get(lost.number)) is not None and not who.gone)
        return {uid: self._numbers.setdefault(uid, len(self._numbers)) for uid in taken.asking}

    def _gone_in_an_item(self, member: Member, lost: Lost) -> WorkerDied | WorkerStopped:
        self._leave(member)
        worker_id = str(member.number)
        if not lost.reason:
            return WorkerStopped(worker_id, lost.at_ns)
        return WorkerDied(worker_id, lost.at_ns, (), f"{lost.reason}{_place(member)}", lost.error_type, (), "")

    def _introduced(self, facts: Facts, notices: list[Notice]) -> None:
        member = self._members.setdefault(facts.number, Member(facts.number))
        if member.uid:
            return
        member.uid, member.pid, member.host, member.node = facts.uid, facts.pid, facts.host, facts.node
        worker_id = str(facts.number)
        notices.append(WorkerStarted(worker_id, facts.started_ns, facts.pid, facts.host, facts.node))
        notices.append(WorkerReady(worker_id, facts.ready_ns))
        place = f"{facts.host} (node {facts.node[:8]})"
        if abs(facts.skew_ns) > max(_SKEW_NS, 2 * facts.error_ns) and facts.node not in self._skewed:
            self._skewed.add(facts.node)
            ahead = "ahead of" if facts.skew_ns > 0 else "behind"
            notices.append(
                Warned(
                    "clock_skew",
                    f"the clock of {place} is {abs(facts.skew_ns) / 1e9:.3f} s {ahead} the driver's (to within {facts.error_ns / 1e6:.1f} ms): "
                    "its spans are shifted by that, durations are as they were measured",
                )
            )
        if not facts.sees_folder:
            notices.append(
                Warned("folder_not_seen", f"{place} does not see {self._settings.run_folder}: the prefix must lie where all nodes and the driver can write")
            )

    def told(self, telling: Telling, notices: list[Notice]) -> None:
        """Take in one telling that has not come before."""
        member = self._members.setdefault(telling.number, Member(telling.number))
        self._append(member, self._in_time(telling) if self._settled else telling.lines)
        if member.gone:
            return  # what was open in it has been closed by others
        worker_id = str(telling.number)
        notices.extend(Output(worker_id, node_id, text) for node_id, text in telling.output)
        begun = telling.begun
        if begun is None:
            return
        if member.begun is None or begun.at_ns >= member.begun.at_ns:
            member.begun, member.open_spans, member.tail = begun, tuple(telling.open_spans), telling.tail
            self._tables.show(member.number, begun, member.open_spans)
        self._tables.came_home(begun, telling.lines)
        key = (begun.node_id, begun.attempt)
        if not begun.item and key not in self._claims:
            self._claims[key] = member
            notices.append(Claimed(begun.node_id, begun.attempt, worker_id, begun.at_ns))
        notices.append(Beat(worker_id, telling.at_ns, tuple(telling.open_spans)))

    def knows(self, tellings: Mapping[int, int]) -> bool:
        """Whether workers have introduced themselves, and so many tellings of each have come."""
        return all(
            (member := self._members.get(number)) is not None and (member.uid or member.waived) and _heard(member) >= count
            for number, count in tellings.items()
        )

    def give_up(self, tellings: Mapping[int, int]) -> None:
        """What has not come of these was waited for long enough: no result waits for it again."""
        for number, count in tellings.items():
            member = self._members.setdefault(number, Member(number))
            member.waived = max(member.waived, count)

    def who(self, key: tuple[str, int]) -> Member | None:
        """Return who runs an attempt, as far as was told."""
        return self._claims.get(key)

    def open_spans(self, key: tuple[str, int], span_id: str) -> Sequence[OpenSpan]:
        """Return what was open in an attempt when last told, its task span first."""
        member = self._claims.get(key)
        if member is None or member.begun is None or member.begun.span_id != span_id:
            return ()
        found = [entry for entry in member.open_spans if entry.node_id == key[0]]
        return sorted(found, key=lambda entry: (entry.span_id != span_id, entry.start_ns))

    def tail(self, key: tuple[str, int]) -> str:
        """Return the last lines that an attempt had printed when last told."""
        member = self._claims.get(key)
        return member.tail if member is not None else ""

    def known(self, commands: dict[str, str]) -> Known:
        """Return what a home actor must be told that begins again."""
        places = {member.uid: (member.pid, member.node) for member in self._members.values() if member.uid}
        return Known(dict(self._numbers), places, commands)

    # --- ends -------------------------------------------------------------------------------------------------------------------------------------

    def ended(self, key: tuple[str, int]) -> None:
        """An attempt has been reported."""
        member = self._claims.pop(key, None)
        if member is not None:
            member.begun, member.open_spans, member.tail = None, (), ""
            self._tables.clear(member.number)
            self._tables.step_ended(key[0])

    def died(self, key: tuple[str, int], span_id: str, at_ns: int, error_type: str, reason: str) -> WorkerDied:
        """The worker that ran an attempt is gone, and the attempt with it."""
        opened = tuple(self.open_spans(key, span_id))
        self.close_spans(key, span_id)
        tail = self.tail(key)
        member = self._claims.pop(key)
        self._leave(member)
        self._tables.step_ended(key[0])
        return WorkerDied(str(member.number), at_ns, (key,), f"{reason}{_place(member)}", error_type, opened, tail)

    def buried(self, key: tuple[str, int]) -> Member | None:
        """The worker that ran an attempt was ended for it; returns it, `None` where nobody had begun."""
        member = self._claims.pop(key, None)
        self._tables.step_ended(key[0])
        if member is None or member.gone:
            return None
        self._leave(member)
        return member

    def close(self) -> list[Notice]:
        """Close the files; returns what is to be said: which workers were there to the end, and what was lost."""
        now_ns = self._clock.now_ns()
        notices: list[Notice] = [WorkerStopped(str(member.number), now_ns) for member in self._members.values() if member.uid and not member.gone]
        for member in self._members.values():
            self._leave(member)
        self._tables.close()
        for member in self._members.values():
            missing = sum(number not in member.seen for number in range(member.upto, member.waived))
            if missing:
                notices.append(Warned(SPANS_LOST, f"what worker {member.number} told never came: the spans in it are lost", count=missing))
        lost, self._lost = self._lost, {}
        return notices + [Warned(SPANS_LOST, reason, count=count) for reason, count in lost.items()]

    def _leave(self, member: Member) -> None:
        member.gone = True
        spool, member.spool = member.spool, None
        if spool is not None:
            spool.close()
            if spool.lost:
                reason = f"{NOT_WRITTEN}: {spool.error}"
                self._lost[reason] = self._lost.get(reason, 0) + spool.lost

    def close_spans(self, key: tuple[str, int], span_id: str) -> None:
        """An attempt has been ended, not by itself, and the runner settles it with what is known here: its spans are the runner's to write from now on."""
        self._settled.add(key)
        self._closed.add(span_id)
        self._closed.update(entry.span_id for entry in self.open_spans(key, span_id))

    def _in_time(self, telling: Telling) -> bytes:
        """Return a telling's lines without those of attempts that were settled before it came: in no number, and perhaps written by the runner already.

        Such a span lies under one that was closed, be it through spans that come with it or that are open where it comes from; or it is made beside the task.
        """
        told = [(line, decode_line(line)) for line in telling.lines.splitlines(keepends=True)]
        spans = {span.span_id: span for _, found in told for span in found}
        parents = {entry.span_id: entry.parent_span_id for entry in telling.open_spans} | {span_id: span.parent_span_id for span_id, span in spans.items()}
        within = dict.fromkeys(self._closed, True)
        late = {span_id for span_id in parents if descends(span_id, parents, within)}
        self._closed |= late
        late |= {
            span_id
            for span_id, span in spans.items()
            if span.kind in PARTS and (span.attributes.get(NODE_ID), span.attributes.get(EXEC_ATTEMPT)) in self._settled
        }
        return b"".join(line for line, found in told if not any(span.span_id in late for span in found))

    # --- the spool --------------------------------------------------------------------------------------------------------------------------------

    def _append(self, member: Member, lines: bytes) -> None:
        """Append lines to the worker's file, with one system call."""
        if not lines:
            return
        if member.spool is None:
            member.spool = SpoolWriter(self._folder, f"worker-{member.number}", {})
        member.spool.add(lines, lines.count(b"\n"))


def _place(member: Member) -> str:
    return f" (pid {member.pid} on {member.host})" if member.uid else ""


def _heard(member: Member) -> int:
    """Return up to which of a worker's tellings nothing is waited for: all have come, or were waited for long enough."""
    upto = max(member.upto, member.waived)
    while upto in member.seen:
        upto += 1
    return upto
