"""What a report says of a step: its label, its outcome in a word, the numbers of its last attempt.

What comes in: a record's steps. What goes out: words and numbers, the record's own. Groups never count.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from otel_exec.aggregate.tally import total_ns
from otel_exec.report.summary_record import AnyRecord, AnyStep

__all__ = ["StepCounts", "count_steps", "execution_ns", "labels", "left_open", "longest", "outcome_word", "plural", "ran_anything", "reached"]

FAILURES = frozenset({"failure", "timeout", "error"})


class StepCounts(msgspec.Struct, frozen=True):
    """How many steps came to what. `ran` counts those with an attempt whatever it came to; `open` those that have no outcome yet, `begun` those of them that a worker had taken.

    `not_needed` are ancestors that nobody asked for, since what depends on them was there; `not_run` those that something kept from running.
    `failed` includes those whose failure is an earlier run's, which were not to be run again; these are `failed_before`.
    """

    total: int = 0
    ran: int = 0
    succeeded: int = 0
    failed: int = 0
    failed_before: int = 0
    cancelled: int = 0
    cached: int = 0
    not_needed: int = 0
    not_run: int = 0
    open: int = 0
    begun: int = 0
    groups: int = 0


def outcome_word(step: AnyStep, *, over: bool) -> str:
    """Return `cached` or the outcome; for a step that has none `running` or `pending`, in a run that is over `interrupted` or (no worker had begun it) `not run`."""
    if step.cached:
        return "cached"
    if _was_open(step):
        return "interrupted" if _begun(step) else "not run"
    if step.outcome is not None:
        return step.outcome
    if step.start_ns is None:
        return "not run" if over else "pending"
    if over:
        return "interrupted" if _begun(step) else "not run"
    return "running"


def _was_open(step: AnyStep) -> bool:
    """Whether a step had come to nothing when its run died: its error is that it was broken off."""
    return step.error is not None and step.error.type == "interrupted"


def _begun(step: AnyStep) -> bool:
    """Whether a worker took the step at least once."""
    return any(attempt.claimed_ns is not None or attempt.start_ns is not None or attempt.execution_ns is not None for attempt in step.attempts)


def execution_ns(step: AnyStep) -> int | None:
    """Return the execution of the last attempt that began: the function alone, as in `duration_seconds`."""
    began = [attempt.execution_ns for attempt in step.attempts if attempt.execution_ns is not None]
    return began[-1] if began else None


def count_steps(record: AnyRecord) -> StepCounts:
    """Return how many steps came to what."""
    tally: dict[str, int] = dict.fromkeys(StepCounts.__struct_fields__, 0)
    for step in record.steps:
        if step.group:
            tally["groups"] += 1
            continue
        tally["total"] += 1
        ran = any(attempt.start_ns is not None for attempt in step.attempts) or (bool(step.attempts) and step.outcome in FAILURES)
        if step.cached:
            tally["cached"] += 1
        elif step.outcome is None or _was_open(step):
            tally["open"] += 1
            tally["begun"] += _begun(step)
        elif step.outcome == "success":
            tally["ran"] += 1
            tally["succeeded"] += 1
        elif step.outcome in FAILURES:
            tally["ran"] += ran
            tally["failed"] += 1
            tally["failed_before"] += not ran
        elif step.outcome == "cancellation" and ran:
            tally["ran"] += 1
            tally["cancelled"] += 1
        elif step.reason == "not_needed":
            tally["not_needed"] += 1
        else:
            tally["not_run"] += 1
    return StepCounts(**tally)


def ran_anything(record: AnyRecord) -> bool:
    """Whether there was anything to do: false where every step had succeeded before, or was not needed because of it."""
    if record.outcome != "success" or any(step.attempts for step in record.steps):
        return True
    counts = count_steps(record)
    waited = record.wall is not None and record.wall.waiting_ns > 0
    return waited or not counts.cached or counts.cached + counts.not_needed < counts.total


def left_open(record: AnyRecord) -> list[AnyStep]:
    """Return the steps that were created and had no end of their own when an interrupted run was broken off."""
    if record.outcome != "interrupted":
        return []
    return [step for step in record.steps if not step.group and step.start_ns is not None and (step.outcome is None or _was_open(step))]


def plural(count: int, word: str) -> str:
    """Return a count with its word: `1 step`, `1,200 steps`."""
    return f"{count:,} {word}{'' if count == 1 else 's'}"


def labels(record: AnyRecord) -> dict[str, str]:
    """Return each node id's label: the step's name, or the node id where two steps have one name."""
    seen: dict[str, int] = {}
    for step in record.steps:
        seen[step.name] = seen.get(step.name, 0) + 1
    return {step.node_id: step.name if seen[step.name] == 1 else step.node_id for step in record.steps}


def reached(counts: StepCounts, *, over: bool) -> str:
    """Return the counts as a phrase: `12: 9 ran (2 failed), 2 cached, 1 not run`; `over` is whether the run has ended, one way or another."""
    if not counts.total:
        return "none"
    ran = f"{counts.ran:,} ran"
    inside = [f"{number:,} {word}" for number, word in ((counts.failed - counts.failed_before, "failed"), (counts.cancelled, "cancelled")) if number]
    if inside:
        ran += f" ({', '.join(inside)})"
    parts = [
        ran,
        *(
            f"{number:,} {word}"
            for number, word in (
                (counts.failed_before, "failed before"),
                (counts.cached, "cached"),
                (counts.not_needed, "not needed"),
                (counts.not_run, "not run"),
                (counts.begun, "cut off" if over else "running"),
                (counts.open - counts.begun, "never begun" if over else "not begun yet"),
            )
            if number
        ),
    ]
    return f"{counts.total:,}: {', '.join(parts)}"


def longest(steps: Sequence[AnyStep], top: int | None) -> list[AnyStep]:
    """Return the `top` steps with the longest execution (then total, then their order), in the order given; all where `top` is `None`."""
    if top is None or len(steps) <= top:
        return list(steps)
    ranked = sorted(range(len(steps)), key=lambda i: (-(execution_ns(steps[i]) or 0), -(total_ns(steps[i]) or 0), i))
    return [steps[i] for i in sorted(ranked[:top])]
