"""Closing what a dead run left open, so that its trace and its record are whole.

What comes in: the record of its start, its journal, its finished spans, what was listed as open in its processes. What goes out: spans, all of which end at the
last sign of life with the outcome `error` and `error.type` = `interrupted`. Reads no files and no clock; the same input gives the same spans, ids included.

Outcomes stay facts: a step that the journal, or its own status file, knows to be settled is closed with that outcome.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from typing import TYPE_CHECKING, TypeVar

from otel_exec.aggregate.journal_index import Claim, JournalIndex
from otel_exec.clock import AnchoredClock
from otel_exec.semconv import (
    ERROR_INTERRUPTED,
    EXEC_ATTEMPT,
    EXEC_DEPENDS_ON,
    EXEC_LEVEL,
    EXEC_NAME,
    EXEC_PHASE,
    EXEC_TASK_ID,
    EXEC_TEMPLATE,
    EXEC_WORKER_ID,
    MANY_OF_ONE_TEMPLATE,
    NODE_ID,
    NODE_NAME,
    Kind,
    Outcome,
)
from otel_exec.spans.recorder import Recorder
from otel_exec.spans.span_record import SpanLink

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from otel_exec.aggregate.journal_index import Settled
    from otel_exec.record.model import RunRecord, StepRecord
    from otel_exec.record.run_store import JournalLine
    from otel_exec.spans.open_spans import OpenEntry
    from otel_exec.spans.span_record import AttributeValue, SpanRecord

__all__ = ["MESSAGE", "UNKNOWN", "OpenEnds", "still_open"]

MESSAGE = "the run's driver was gone; this is the last sign of life"
UNKNOWN = "unknown"

_Key = TypeVar("_Key", str, int)

_PARTS = frozenset({Kind.QUEUE, Kind.WAIT, Kind.LOAD, Kind.VERIFY, Kind.STORE, Kind.BACKOFF})


class OpenEnds:
    """Of one dead run: takes in what had finished, then closes the rest.

    Args:
        record: as it was when the run began; it is not changed.
        journal: the run's transitions.
        opened: what was listed as open, with its writer's name (`worker-0`).
    """

    def __init__(self, record: RunRecord, journal: Sequence[JournalLine], opened: Sequence[tuple[str, OpenEntry]]) -> None:
        self._record = record
        self._journal = JournalIndex(journal)
        self._opened = opened
        self._steps: dict[str, StepRecord] = {step.node_id: step for step in record.steps}
        counts = Counter(step.template for step in record.steps)
        self._crowded = {template for template, count in counts.items() if count > MANY_OF_ONE_TEMPLATE}
        self._ended: set[str] = set()
        # Who is named as a parent, and from when to when that parent must have lived.
        self._parents: dict[str, tuple[int, int]] = {}
        self._level_ids: dict[int, tuple[str, int]] = {}
        self._step_ids: dict[str, tuple[str, int]] = {}
        self._tasks: dict[tuple[str, int], tuple[str, int, int]] = {}
        self._parts: dict[tuple[str, int, str], int] = {}
        self._loads: dict[tuple[str, int], int] = {}
        self._made: list[SpanRecord] = []
        began = self._journal.began
        parent, state = began.get("parent"), began.get("trace_state")
        self._inbound = parent if isinstance(parent, str) else ""
        self._recorder = Recorder(
            exec_id=record.exec_id,
            trace_id=record.trace_id,
            clock=AnchoredClock(),  # never asked: all times are given
            sampled=began.get("sampled") is not False,
            trace_state=state if isinstance(state, str) else "",
        )

    def finished(self, span: SpanRecord) -> None:
        """Take in a span of the run's spool."""
        if span.trace_id != self._record.trace_id:
            return
        self._ended.add(span.span_id)
        if span.parent_span_id:
            self._named(span.parent_span_id, span.start_ns, span.end_ns)
        kind = span.kind
        if kind in {Kind.PHASE, Kind.FAN_OUT, "", Kind.LEVEL, Kind.RUN, Kind.WORKER, Kind.WORKER_INIT, Kind.GATE}:
            return
        node_id = span.attributes.get(NODE_ID)
        if not isinstance(node_id, str) or node_id not in self._steps:
            return
        if kind == Kind.STEP:
            self._step_ids[node_id] = (span.span_id, span.start_ns)
            level = self._steps[node_id].level
            if level is not None:
                _earliest(self._level_ids, level, span.parent_span_id, span.start_ns)
            return
        number = span.attributes.get(EXEC_ATTEMPT)
        if kind == Kind.TASK and span.attributes.get(EXEC_TASK_ID) != node_id:
            return  # an item of a fan-out
        if not isinstance(number, int) or isinstance(number, bool):
            return
        _earliest(self._step_ids, node_id, span.parent_span_id, span.start_ns)
        if kind == Kind.TASK:
            self._tasks[node_id, number] = (span.span_id, span.start_ns, span.end_ns)
        elif kind in _PARTS:
            key = (node_id, number, kind)
            self._parts[key] = max(span.end_ns, self._parts.get(key, 0))
            if kind == Kind.LOAD:
                self._loads[node_id, number] = span.start_ns

    def unsettled(self) -> list[str]:
        """Return the node ids of the steps that were created and are not known to have ended; the order is the plan's."""
        journal = self._journal
        return [
            node_id
            for node_id, step in self._steps.items()
            if not step.group and node_id in journal.created and node_id not in journal.settled and journal.created[node_id][0] not in self._ended
        ]

    def since_ns(self, node_id: str) -> int:
        """Return since when an unsettled step was in hand: claimed, or, where no worker had it, created."""
        attempts = self._journal.attempts.get(node_id, {})
        last = attempts[max(attempts)] if attempts else None
        return last.claimed_ns if last is not None and last.claimed_ns is not None and last.ended_ns is None else self._journal.created[node_id][1]

    def close(self, last_ns: int, settled: Mapping[str, Settled]) -> list[SpanRecord]:
        """Return the spans that were still open, closed.

        Args:
            last_ns: the last sign of life, nanoseconds since the Unix epoch.
            settled: of steps, what their own status files know; one that was settled after `last_ns` was a later sign of life.
        """
        self._made = []
        last_ns = max([last_ns, *(each.at_ns for each in settled.values())])
        outcomes = {**settled, **self._journal.settled}
        self._close_run(last_ns)
        self._close_workers(last_ns)
        entries = {entry.span_id: (writer, entry) for writer, entry in self._opened if entry.span_id and entry.span_id not in self._ended}
        steps = self._open_steps(entries)
        for node_id, (span_id, start_ns) in steps.items():
            self._close_step(node_id, span_id, start_ns, last_ns, outcomes.get(node_id), entries)
        self._close_levels(last_ns)
        for writer, entry in entries.values():
            self._close_entry(writer, entry, entries, last_ns)
        self._close_unknown(last_ns)
        return self._made

    # What is closed, one kind after the other.

    def _close_run(self, last_ns: int) -> None:
        record, ended = self._record, self._journal.ended
        outcome = ended.outcome if ended is not None and ended.outcome else "interrupted"
        self._make(
            Kind.RUN,
            f"run {record.experiment.name}",
            int(record.start_time_unix_nano),
            ended.at if ended is not None else last_ns,
            record.root_span_id,
            self._inbound,
            {EXEC_NAME: record.experiment.name},
            outcome=outcome,
            interrupted=ended is None,
            span_kind=2,
        )

    def _close_workers(self, last_ns: int) -> None:
        root = self._record.root_span_id
        for worker_id, (span_id, at_ns, ready) in self._journal.workers.items():
            attributes: dict[str, AttributeValue] = {EXEC_WORKER_ID: worker_id}
            if not ready:
                self._make(Kind.WORKER_INIT, "worker init", at_ns, last_ns, self._id("init", span_id), span_id, attributes, outcome=None)
            self._make(Kind.WORKER, "worker", at_ns, last_ns, span_id, root, attributes)

    def _open_steps(self, entries: Mapping[str, tuple[str, OpenEntry]]) -> dict[str, tuple[str, int]]:
        """Return the open steps' spans and starts: of the journal, and those whose tasks alone are known, as the driver was killed before it wrote them down."""
        known = {node_id: self._journal.created.get(node_id) or self._step_ids[node_id] for node_id in {**self._journal.created, **self._step_ids}}
        for _, entry in entries.values():
            if _is_attempt(entry) and entry.node_id in self._steps and entry.node_id not in known and entry.parent_span_id:
                known[entry.node_id] = (entry.parent_span_id, entry.start_ns)
        self._step_ids.update(known)
        return {node_id: found for node_id, found in known.items() if node_id in self._steps and found[0] not in self._ended}

    def _close_step(
        self, node_id: str, span_id: str, start_ns: int, last_ns: int, settled: Settled | None, entries: Mapping[str, tuple[str, OpenEntry]]
    ) -> None:
        step = self._steps[node_id]
        # Its file says when it was settled; what was stored after that ended later.
        end_ns = max(settled.at_ns, self._parents.get(span_id, (0, 0))[1]) if settled is not None else last_ns
        if not step.group:
            self._close_attempts(step, span_id, start_ns, end_ns, entries)
        attributes = self._of_step(step)
        attributes[EXEC_DEPENDS_ON] = list(step.depends_on)
        links = [SpanLink(self._record.trace_id, self._step_ids[above][0], "data") for above in self._upstream(step) if above in self._step_ids]
        level = self._level_span(step, start_ns)
        outcome = settled.outcome if settled is not None else Outcome.ERROR
        self._make(
            Kind.STEP,
            step.template if step.template and step.template in self._crowded else step.name,
            start_ns,
            end_ns,
            span_id,
            level or self._record.root_span_id,
            attributes,
            links=links,
            outcome=outcome,
            interrupted=settled is None,
            error=(settled.error_type, settled.message) if settled is not None else None,
        )

    def _level_span(self, step: StepRecord, start_ns: int) -> str:
        """Return the id of a step's level's span; one that nobody knows is made up, so that the step lies in its level."""
        if step.level is None:
            return ""
        known = self._journal.levels.get(step.level) or self._level_ids.get(step.level)
        span_id = known[0] if known else self._id("level", self._record.root_span_id, step.level)
        _earliest(self._level_ids, step.level, span_id, start_ns)
        return span_id

    def _close_attempts(self, step: StepRecord, parent: str, start_ns: int, end_ns: int, entries: Mapping[str, tuple[str, OpenEntry]]) -> None:
        """Close the parts of a step that were under way, so that they follow each other without a gap."""
        node_id = step.node_id
        attempts = dict(self._journal.attempts.get(node_id, {}))
        for writer, entry in entries.values():  # a claim that was not written down before the driver was killed
            if _is_attempt(entry) and entry.node_id == node_id and not any(entry.span_id == each.span_id for each in attempts.values()):
                found = attempts.setdefault(max(attempts, default=0) + 1, Claim())
                found.worker_id, found.span_id, found.claimed_ns = writer.removeprefix("worker-"), entry.span_id, entry.start_ns
        for (of, number), (span_id, task_ns, _) in self._tasks.items():  # and one whose attempt had ended by then
            if of == node_id and number not in attempts:
                found = attempts[number] = Claim()
                found.span_id, found.claimed_ns = span_id, self._loads.get((node_id, number), task_ns)
                found.ended_ns = self._parts.get((node_id, number, Kind.STORE))
        first = attempts.get(1)
        if (
            first is not None
            and first.claimed_ns is not None
            and (node_id, 1, Kind.QUEUE) not in self._parts
            and 1 not in self._journal.attempts.get(node_id, {})
        ):
            queue = {**self._of_step(step), EXEC_ATTEMPT: 1}
            self._make(Kind.QUEUE, "queue", start_ns, first.claimed_ns, self._id("queue", parent, 1), parent, queue, outcome=None)
        number = max(attempts, default=0)
        last = attempts.get(number)
        done = self._tasks.get((node_id, number))
        if last is None or last.claimed_ns is None or (last.ended_ns is not None and done is not None):
            self._close_waiting(step, parent, number, last.ended_ns if last is not None and last.ended_ns is not None else start_ns, end_ns)
            return
        if last.ended_ns is not None:
            return
        attributes = self._of_step(step)
        attributes[EXEC_ATTEMPT] = number
        attributes[EXEC_WORKER_ID] = last.worker_id
        listed = entries.get(last.span_id)
        started_ns = done[1] if done is not None else listed[1].start_ns if listed is not None else end_ns
        if (node_id, number, Kind.LOAD) not in self._parts:
            self._make(Kind.LOAD, "load", last.claimed_ns, started_ns, self._id("load", parent, number), parent, attributes, outcome=None)
        if done is None:
            self._make_task(step, last, number, parent, started_ns, end_ns, attributes)
            return
        verifying = [entry for _, entry in entries.values() if entry.kind == Kind.VERIFY and entry.node_id == node_id]
        verified_ns = self._parts.get((node_id, number, Kind.VERIFY), done[2])
        for entry in verifying:
            self._make(Kind.VERIFY, "verify", done[2], end_ns, entry.span_id, parent, attributes)
        if not verifying and (node_id, number, Kind.STORE) not in self._parts:
            self._make(Kind.STORE, "store", verified_ns, end_ns, self._id("store", parent, number), parent, attributes, outcome=None)

    def _make_task(
        self, step: StepRecord, attempt: Claim, number: int, parent: str, start_ns: int, end_ns: int, attributes: Mapping[str, AttributeValue]
    ) -> None:
        before = self._journal.attempts.get(step.node_id, {}).get(number - 1)
        links = (SpanLink(self._record.trace_id, before.span_id, "retry"),) if before is not None and before.span_id else ()
        name = f"task {step.fn_name or step.name}"
        span_id = attempt.span_id or self._id("task", parent, number)
        self._make(Kind.TASK, name, start_ns, end_ns, span_id, parent, {**attributes, EXEC_TASK_ID: step.node_id}, links=links)

    def _close_waiting(self, step: StepRecord, parent: str, number: int, since_ns: int, end_ns: int) -> None:
        """Close the back-off or the queue of an attempt that no worker had taken."""
        node_id = step.node_id
        attributes = self._of_step(step)
        if number and (node_id, number, Kind.BACKOFF) not in self._parts:
            if since_ns >= end_ns:  # it was settled with its attempt
                return
            self._make(
                Kind.BACKOFF, "backoff", since_ns, end_ns, self._id("backoff", parent, number), parent, {**attributes, EXEC_ATTEMPT: number}, outcome=None
            )
            return
        since_ns = max(since_ns, *(self._parts.get((node_id, each, kind), 0) for each, kind in ((number, Kind.BACKOFF), (number + 1, Kind.QUEUE))))
        kind = Kind.WAIT if (node_id, number + 1, Kind.QUEUE) in self._parts else Kind.QUEUE
        attributes[EXEC_ATTEMPT] = number + 1
        self._make(kind, kind.value, since_ns, end_ns, self._id(kind.value, parent, number + 1), parent, attributes, outcome=None)

    def _close_levels(self, last_ns: int) -> None:
        for number, (span_id, said_ns) in {**self._level_ids, **self._journal.levels}.items():
            # A step may be dated a moment before the line that says its level began.
            start_ns = min(said_ns, self._level_ids.get(number, ("", said_ns))[1])
            self._make(Kind.LEVEL, f"level {number}", start_ns, last_ns, span_id, self._record.root_span_id, {EXEC_LEVEL: number})

    def _close_entry(self, writer: str, entry: OpenEntry, entries: Mapping[str, tuple[str, OpenEntry]], last_ns: int) -> None:
        step, number = self._home(entry, entries)
        attributes: dict[str, AttributeValue] = self._of_step(step) if step is not None else {NODE_ID: entry.node_id, NODE_NAME: entry.node_id}
        attributes[EXEC_ATTEMPT] = number
        attributes[EXEC_WORKER_ID] = writer.removeprefix("worker-")
        if entry.kind == Kind.TASK:
            attributes[EXEC_TASK_ID] = entry.node_id
            if entry.item is not None:
                attributes[EXEC_TASK_ID], attributes[EXEC_ATTEMPT] = f"{entry.node_id}/{entry.item}", entry.attempt
        elif entry.kind == Kind.PHASE:
            attributes[EXEC_PHASE] = entry.name
            attributes[NODE_ID] = entry.node_id
            if step is None or entry.node_id != step.node_id:
                attributes[NODE_NAME] = entry.node_id
        self._make(entry.kind, entry.name, entry.start_ns, last_ns, entry.span_id, entry.parent_span_id, attributes)

    def _close_unknown(self, last_ns: int) -> None:
        """Close the parents that nobody knows: what lies under them must not hang in the air."""
        known = {"", self._inbound, *(span.span_id for span in self._made)}
        for span_id, (start_ns, end_ns) in list(self._parents.items()):
            if span_id not in known and span_id not in self._ended:
                self._make("", UNKNOWN, start_ns, max(end_ns, last_ns), span_id, self._record.root_span_id, {})

    # Parts.

    def _home(self, entry: OpenEntry, entries: Mapping[str, tuple[str, OpenEntry]]) -> tuple[StepRecord | None, int]:
        """Return the step that a listed span ran in, and the attempt."""
        seen: set[str] = set()
        here: OpenEntry | None = entry
        tasks = {attempt.span_id: (node_id, number) for node_id, attempts in self._journal.attempts.items() for number, attempt in attempts.items()}
        while here is not None and here.span_id not in seen:
            seen.add(here.span_id)
            for span_id in (here.span_id, here.parent_span_id):
                if span_id in tasks:
                    node_id, number = tasks[span_id]
                    return self._steps.get(node_id), number
            above = entries.get(here.parent_span_id)
            here = above[1] if above is not None else None
        step = self._steps.get(entry.node_id)
        return step, max(self._journal.attempts.get(step.node_id, {1: None})) if step is not None else 1

    def _of_step(self, step: StepRecord) -> dict[str, AttributeValue]:
        attributes: dict[str, AttributeValue] = {NODE_ID: step.node_id, NODE_NAME: step.name, EXEC_TEMPLATE: step.template or step.name}
        if step.level is not None:
            attributes[EXEC_LEVEL] = step.level
        return attributes

    def _upstream(self, step: StepRecord) -> list[str]:
        """Return the node ids that a step depends on, groups replaced by their members."""
        found: dict[str, None] = {}
        pending, seen = list(step.depends_on), set(step.depends_on)
        while pending:
            above = self._steps.get(pending.pop(0))
            if above is None:
                continue
            if not above.group:
                found[above.node_id] = None
                continue
            pending += [node_id for node_id in above.depends_on if node_id not in seen]
            seen.update(above.depends_on)
        return list(found)

    def _make(
        self,
        kind: str,
        name: str,
        start_ns: int,
        end_ns: int,
        span_id: str,
        parent: str,
        attributes: Mapping[str, AttributeValue],
        *,
        links: Sequence[SpanLink] = (),
        outcome: str | None = Outcome.ERROR,
        interrupted: bool = True,
        error: tuple[str | None, str] | None = None,
        span_kind: int = 1,
    ) -> None:
        """Make a span, unless it has ended or was made."""
        if not span_id or span_id in self._ended:
            return
        self._ended.add(span_id)
        broken = interrupted and outcome is not None
        error_type, message = (ERROR_INTERRUPTED, MESSAGE) if broken else error or (None, "")
        if kind == Kind.LEVEL and error_type is not None:
            error_type = None  # a level's error is its steps'
        span = self._recorder.make(
            kind,
            name,
            min(start_ns, end_ns),
            end_ns,
            span_id=span_id,
            parent=parent,
            attributes=attributes,
            links=links,
            outcome=outcome,
            error_type=error_type,
            message=message,
            span_kind=span_kind,
            remote=bool(parent) and parent == self._inbound,
        )
        self._made.append(span)
        if parent:
            self._named(parent, span.start_ns, span.end_ns)

    def _named(self, parent: str, start_ns: int, end_ns: int) -> None:
        known = self._parents.get(parent)
        self._parents[parent] = (start_ns, end_ns) if known is None else (min(known[0], start_ns), max(known[1], end_ns))

    def _id(self, *words: object) -> str:
        """Return a span id for what had none: the same whenever it is asked for."""
        text = "/".join(map(str, (self._record.exec_id, *words)))
        return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()


def _is_attempt(entry: OpenEntry) -> bool:
    """Whether a listed span is the task of an attempt at a step, and not one of an item of its fan-out."""
    return entry.kind == Kind.TASK and entry.item is None


def _earliest(of: dict[_Key, tuple[str, int]], key: _Key, span_id: str, start_ns: int) -> None:
    """Note a span and when it began at the latest; the first id that is told stays."""
    known = of.get(key)
    if known is None or start_ns < known[1]:
        of[key] = (span_id if known is None else known[0], start_ns)


def still_open(spans: Iterable[SpanRecord]) -> list[SpanRecord]:
    """Return those of the closed spans that recovery cut off."""
    return [span for span in spans if span.attributes.get("error.type") == ERROR_INTERRUPTED]
