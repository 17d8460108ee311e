"""The fold of a task's phases against its definition, instant by instant, and against any order of arrival."""

from __future__ import annotations

from fractions import Fraction

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from otel_exec.aggregate.task_fold import TaskFold, fold_spans, fold_task
from otel_exec.spans.span_record import SpanRecord

TASK_ID = "f" * 16
END = 24


def span(span_id, parent, name, start, end, *, status=0, kind="phase", attributes=None):
    return SpanRecord("0" * 32, span_id, parent, name, kind, start, end, attributes or {"node.id": "n"}, status=status)


TASK = span(TASK_ID, "", "task f", 0, END, kind="task")


@st.composite
def forests(draw):
    """Phases of a task: any parent (a phase, the task, nobody), any interval, names that repeat and nest in themselves."""
    phases = []
    for index in range(draw(st.integers(0, 9))):
        start = draw(st.integers(0, END))
        end = draw(st.integers(start, END))
        known = [TASK_ID, "e" * 16, *(phase.span_id for phase in phases)]
        phases.append(span(f"{index:016x}", draw(st.sampled_from(known)), draw(st.sampled_from("abc")), start, end, status=draw(st.sampled_from([0, 2]))))
    return phases


def by_definition(phases):
    """Return per name (count, total, union, self, share as a fraction), summed over unit intervals."""
    names = {phase.name: [0, 0, 0, 0, Fraction(0)] for phase in phases}
    for phase in phases:
        names[phase.name][0] += 1
        names[phase.name][1] += phase.end_ns - phase.start_ns
    for instant in range(END):
        live = [phase for phase in phases if phase.start_ns <= instant < phase.end_ns]
        parents = {phase.parent_span_id for phase in live}
        innermost = [phase for phase in live if phase.span_id not in parents]
        for name in {phase.name for phase in live}:
            names[name][2] += 1
        for phase in innermost:
            names[phase.name][3] += 1
            names[phase.name][4] += Fraction(1, len(innermost))
    return names


def among_themselves(mine, phases):
    """Return a node's phases with its nearest phase as parent: upwards through whatever is open when they open; what opens in one instant does so before anything closes."""
    by_id = {phase.span_id: phase for phase in phases}
    own_ids = {phase.span_id for phase in mine}
    found = []
    for phase in mine:
        above = by_id.get(phase.parent_span_id)
        while above is not None and above.start_ns <= phase.start_ns <= above.end_ns and above.span_id not in own_ids:
            above = by_id.get(above.parent_span_id)
        is_open = above is not None and above.start_ns <= phase.start_ns <= above.end_ns
        found.append(msgspec.structs.replace(phase, parent_span_id=above.span_id if is_open else phase.parent_span_id))
    return found


@given(forests())
@settings(max_examples=300, deadline=None)
def test_folds_are_what_the_definition_says_instant_by_instant(phases):
    """Count, total, union and self time equal a sum over single nanoseconds; shares are within 1 ns of it and add up exactly."""
    fold = fold_task(TASK, phases)
    folds = fold.finish(END)
    expected = by_definition(phases)
    assert folds.keys() == expected.keys()
    for name, (count, total, union, own, share) in expected.items():
        found = folds[name]
        assert (found.count, found.total_ns, found.union_ns, found.self_ns) == (count, total, union, own)
        assert abs(found.share_ns - share) < 1
    assert sum(found.share_ns for found in folds.values()) + fold.unaccounted_ns == END
    covered = sum(any(phase.start_ns <= instant < phase.end_ns for phase in phases) for instant in range(END))
    assert fold.unaccounted_ns == END - covered


@given(forests(), st.randoms(use_true_random=False))
@settings(max_examples=200, deadline=None)
def test_any_order_and_duplicates_of_spans_fold_to_the_same(phases, random):
    """A shuffled spool in which spans stand twice folds to what the spans in order fold to."""
    shuffled = [*phases, *random.sample(phases, random.randint(0, len(phases)))]
    random.shuffle(shuffled)
    assert normal(fold_spans(TASK, shuffled)) == normal(fold_spans(TASK, phases))


@given(forests(), st.randoms(use_true_random=False))
@settings(max_examples=200, deadline=None)
def test_events_of_one_instant_may_come_in_any_order(phases, random):
    """Folding while it happens equals folding from the spans, however the events of one instant are ordered (a phase opens before it closes)."""
    events = []
    for phase in phases:
        first, second = sorted((random.random(), random.random()))
        events.append((phase.start_ns, first, "open", phase))
        events.append((phase.end_ns, second if phase.end_ns == phase.start_ns else random.random(), "close", phase))
    fold = TaskFold(TASK_ID, 0)
    for at_ns, _, what, phase in sorted(events, key=lambda event: event[:2]):
        if what == "open":
            fold.opened(phase.span_id, phase.parent_span_id, phase.name, at_ns)
        else:
            fold.closed(phase.span_id, at_ns, error=phase.status == 2)
    assert normal(fold.finish(END)) == normal(fold_spans(TASK, phases))


@given(forests(), st.lists(st.sampled_from(["n", "x", "y"]), min_size=9, max_size=9))
@settings(max_examples=200, deadline=None)
def test_shares_of_a_node_add_up_to_its_union(phases, nodes):
    """Phases of other nodes stand in one row of the task; a node's numbers are those of its phases among themselves, and its shares add up to its union."""
    placed = [
        span(phase.span_id, phase.parent_span_id, phase.name, phase.start_ns, phase.end_ns, attributes={"node.id": node})
        for phase, node in zip(phases, nodes, strict=False)
    ]
    fold = fold_task(TASK, placed)
    folds = fold.finish(END)
    assert sum(found.share_ns for found in folds.values()) + fold.unaccounted_ns == END
    for node, others_fold in fold.sums.nodes.items():
        own = others_fold.phases
        mine = [phase for phase in placed if phase.attributes["node.id"] == node]
        union = sum(any(phase.start_ns <= instant < phase.end_ns for phase in mine) for instant in range(END))
        assert sum(found.share_ns for found in own.values()) == union
        expected = by_definition(among_themselves(mine, placed))
        assert own.keys() == expected.keys()
        for name, (count, total, wall, alone, share) in expected.items():
            found = own[name]
            assert (found.count, found.total_ns, found.union_ns, found.self_ns) == (count, total, wall, alone)
            assert abs(found.share_ns - share) < 1
    others = [phase for phase in placed if phase.attributes["node.id"] != "n"]
    assert ("(nodes)" in folds) == bool(others)
    if others:
        assert folds["(nodes)"].count == len(others)


def normal(folds):
    """Samples are a multiset; sort them to compare."""
    for fold in folds.values():
        if fold.samples.exact is not None:
            fold.samples.exact.sort()
    return folds
