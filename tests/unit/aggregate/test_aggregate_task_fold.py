"""The fold of one task's phases: examples with numbers that can be checked by hand."""

from __future__ import annotations

import pytest

from otel_exec.aggregate import sweep as sweep_module
from otel_exec.aggregate import task_fold as task_fold_module
from otel_exec.aggregate.folds import TaskSums
from otel_exec.aggregate.histogram import EXACT_LIMIT, Histogram
from otel_exec.aggregate.task_fold import TaskFold, fold_spans, fold_task
from otel_exec.spans.span_record import SpanRecord

T = "f" * 16


def numbers(fold):
    return fold.count, fold.total_ns, fold.union_ns, fold.self_ns, fold.share_ns


def test_a_nested_phase_takes_its_time_from_its_parent():
    """Self time is the phase's own less its child's; shares go to the innermost; the rest is unaccounted."""
    fold = TaskFold(T, 0)
    fold.opened("a", T, "outer", 10)
    fold.opened("b", "a", "inner", 30)
    fold.closed("b", 50, error=False)
    fold.closed("a", 90, error=True)
    folds = fold.finish(100)
    assert numbers(folds["outer"]) == (1, 80, 80, 60, 60)
    assert numbers(folds["inner"]) == (1, 20, 20, 20, 20)
    assert (folds["outer"].errors, fold.unaccounted_ns) == (1, 20)


def test_parallel_phases_share_equally_and_the_missing_nanosecond_goes_by_rule():
    """Three phases over 10 ns: 3 each, and the tenth to the first name in order; sums count all, the union once."""
    fold = TaskFold(T, 0)
    for name in "cab":
        fold.opened(name, T, name, 0)
    for name in "cab":
        fold.closed(name, 10, error=False)
    folds = fold.finish(10)
    assert {name: fold.share_ns for name, fold in folds.items()} == {"a": 4, "b": 3, "c": 3}
    assert fold.unaccounted_ns == 0


def test_recursion_counts_the_union_once():
    """A name open within itself: total counts both, union once, self the outer one less the inner."""
    fold = TaskFold(T, 0)
    fold.opened("a", T, "f", 0)
    fold.opened("b", "a", "f", 20)
    fold.closed("b", 60, error=False)
    fold.closed("a", 100, error=False)
    assert numbers(fold.finish(100)["f"]) == (2, 140, 100, 100, 100)


def test_a_phase_that_outlives_its_parent_counts_under_the_task():
    """After its parent closed it is nobody's child: the grandparent is innermost again and shares with it."""
    fold = TaskFold(T, 0)
    fold.opened("a", T, "grand", 0)
    fold.opened("b", "a", "parent", 0)
    fold.opened("c", "b", "late", 0)
    fold.closed("b", 50, error=False)
    fold.closed("c", 70, error=False)
    fold.closed("a", 100, error=False)
    folds = fold.finish(100)
    assert numbers(folds["grand"]) == (1, 100, 100, 50, 40)
    assert numbers(folds["parent"]) == (1, 50, 50, 0, 0)
    assert numbers(folds["late"]) == (1, 70, 70, 70, 60)


def test_phases_left_open_end_with_the_task_and_later_events_are_ignored():
    """The task's end closes them; unknown ids, repeated ids and events after the end do nothing."""
    fold = TaskFold(T, 0)
    fold.opened("a", T, "p", 10)
    fold.opened("a", T, "p", 20)
    fold.closed("unknown", 30, error=True)
    folds = fold.finish(40)
    fold.opened("b", T, "q", 50)
    fold.closed("a", 60, error=True)
    assert fold.finish(70) is folds
    assert list(folds) == ["p"]
    assert numbers(folds["p"]) == (1, 30, 30, 30, 30)
    assert fold.unaccounted_ns == 10


def test_phases_that_went_on_past_the_tasks_end_do_not_break_the_sum():
    """A thread's phase that was seen after the instant of the end: shares and rest are still the task's duration, and nothing is negative."""
    fold = TaskFold(T, 0)
    fold.opened("a", T, "p", 0)
    fold.opened("b", T, "q", 90)
    fold.closed("b", 105, error=False)
    folds = fold.finish(100)
    assert {name: found.share_ns for name, found in folds.items()} == {"p": 93, "q": 7}
    assert fold.unaccounted_ns == 0


def test_a_thousand_short_phases_add_up():
    """1000 x 0.4 ms is 400 ms, and nothing is kept of a phase but its sample."""
    fold = TaskFold(T, 0)
    for index in range(1000):
        fold.opened("a", T, "p", index * 1_000_000)
        fold.closed("a", index * 1_000_000 + 400_000, error=False)
    found = fold.finish(1_000_000_000)["p"]
    assert numbers(found) == (1000, 400_000_000, 400_000_000, 400_000_000, 400_000_000)
    assert (found.min_ns, found.max_ns, found.samples.count) == (400_000, 400_000, 1000)


def test_phases_of_other_nodes_are_kept_apart_with_their_tokens():
    """They are folded for their node and stand as one row in the step; tokens are summed per node."""
    fold = TaskFold(T, 0)
    fold.opened("a", T, "own", 0)
    fold.opened("b", "a", "llm", 10, node_id="node_1")
    fold.closed("b", 30, error=False, tokens={"tokens": 5})
    fold.closed("a", 40, error=False, tokens={"tokens": 2})
    folds = fold.finish(50)
    assert numbers(folds["own"]) == (1, 40, 40, 20, 20)
    assert numbers(folds["(nodes)"]) == (1, 20, 20, 20, 20)
    assert numbers(fold.sums.nodes["node_1"].phases["llm"]) == (1, 20, 20, 20, 20)
    assert (fold.sums.tokens, fold.sums.nodes["node_1"].tokens) == ({"tokens": 2}, {"tokens": 5})


def nested_through_another():
    """A node's phase, in it one of the step itself, in that the node's again: ids such that the innermost sorts first."""
    attributes = {"node.id": "n"}
    return [
        SpanRecord("0" * 32, "c", T, "outer", "phase", 10, 90, {"node.id": "x"}),
        SpanRecord("0" * 32, "b", "c", "mid", "phase", 10, 80, attributes),
        SpanRecord("0" * 32, "a", "b", "inner", "phase", 10, 70, {"node.id": "x"}),
    ]


def test_a_nodes_phases_nest_through_those_of_another_node():
    """The innermost is inside the node's outer one, though its parent is the step's: live, and again from spans that begin in one instant."""
    live = TaskFold(T, 0)
    live.opened("c", T, "outer", 10, node_id="x")
    live.opened("b", "c", "mid", 10)
    live.opened("a", "b", "inner", 10, node_id="x")
    for span_id, at_ns in (("a", 70), ("b", 80), ("c", 90)):
        live.closed(span_id, at_ns, error=False)
    live.finish(100)
    task = SpanRecord("0" * 32, T, "", "task f", "task", 0, 100, {"node.id": "n"})
    for fold in (live, fold_task(task, nested_through_another())):
        phases = fold.sums.nodes["x"].phases
        assert numbers(phases["outer"]) == (1, 80, 80, 20, 20)
        assert numbers(phases["inner"]) == (1, 60, 60, 60, 60)


def test_phases_in_a_circle_end():
    """A spool that others can write to may hold phases that are each other's parents: they are folded, and the fold ends."""
    task = SpanRecord("0" * 32, T, "", "task f", "task", 0, 100, {"node.id": "n"})
    circle = [SpanRecord("0" * 32, a, b, "p", "phase", 10, 20, {"node.id": node}) for a, b, node in (("a", "b", "n"), ("b", "a", "n"), ("c", "a", "x"))]
    fold = fold_task(task, circle)
    assert sum(found.share_ns for found in fold.sums.phases.values()) + fold.unaccounted_ns == 100
    assert fold.sums.nodes["x"].phases["p"].count == 1


@pytest.mark.parametrize("node", [None, "x"])
def test_names_past_the_limit_are_one_row(monkeypatch, node):
    """However many names a program makes up, so many rows are kept: the further ones count in `(others)`, and shares and rest are the task's time all the same."""
    monkeypatch.setattr(sweep_module, "MAX_NAMES", 3)
    fold = TaskFold(T, 0)
    for index in range(10):
        fold.opened(str(index), T, f"item {index}", index * 10, node_id=node)
        fold.closed(str(index), index * 10 + 5, error=False)
    fold.finish(100)
    phases = fold.sums.phases if node is None else fold.sums.nodes[node].phases
    assert list(phases) == ["item 0", "item 1", "item 2", "(others)"]
    assert numbers(phases["(others)"]) == (7, 35, 35, 35, 35)
    assert sum(found.share_ns for found in fold.sums.phases.values()) + fold.unaccounted_ns == 100


def test_nodes_past_the_limit_are_one_node(monkeypatch):
    """Phases of further nodes, and their tokens, count for a node `(others)`; in the step's own folds all stand in the row of other nodes, which no limit takes away."""
    monkeypatch.setattr(task_fold_module, "MAX_NODES", 2)
    monkeypatch.setattr(sweep_module, "MAX_NAMES", 1)
    fold = TaskFold(T, 0)
    fold.opened("own", T, "own", 0)
    for index in range(5):
        fold.opened(str(index), "own", "call", index * 10, node_id=f"n{index}")
        fold.closed(str(index), index * 10 + 5, error=False, tokens={"tokens": 1})
    fold.finish(100)
    assert {node: (found.phases["call"].count, found.tokens) for node, found in fold.sums.nodes.items()} == {
        "n0": (1, {"tokens": 1}),
        "n1": (1, {"tokens": 1}),
        "(others)": (3, {"tokens": 3}),
    }
    assert {name: found.count for name, found in fold.sums.phases.items()} == {"own": 1, "(nodes)": 5}


def test_a_rebuilt_fold_looks_through_the_users_spans_and_not_into_items():
    """A phase inside a span of the user's own is its phase's child; a phase of an item is the item's."""

    def span(span_id, parent, name, start, end, kind="phase"):
        return SpanRecord("0" * 32, span_id, parent, name, kind, start, end, {"tokens": 3} if name == "inner" else {})

    task = span(T, "", "task f", 0, 100, "task")
    records = [
        span("a", T, "outer", 0, 100),
        span("u", "a", "GET", 10, 90, ""),
        span("b", "u", "inner", 20, 80),
        span("i", "a", "task g", 0, 50, "task"),
        span("p", "i", "of the item", 0, 50),
        span("l", T, "late", 101, 102),
    ]
    folds = fold_spans(task, records)
    assert {name: fold.self_ns for name, fold in folds.items()} == {"outer": 40, "inner": 60}
    assert fold_task(task, records).sums.tokens == {"tokens": 3}


def test_waiting_in_a_fan_out_is_nobodys_time():
    """A call of map_tasks is one child of its phase: the phase keeps what lies around it, and the task's time is less by it."""
    fold = TaskFold(T, 0)
    fold.opened("a", T, "outer", 10)
    fold.wait_opened("w", "a", 20)
    fold.closed("w", 80, error=False)
    fold.closed("a", 90, error=False)
    fold.finish(100)
    sums = fold.sums
    assert numbers(sums.phases["outer"]) == (1, 80, 80, 20, 20)
    assert (sums.time_ns, fold.unaccounted_ns, list(sums.phases)) == (40, 20, ["outer"])


def test_a_phase_beside_a_wait_has_the_time_to_itself():
    """While another thread of the task works the task does not only wait: the phase's share is whole, and nothing is taken out twice."""
    fold = TaskFold(T, 0)
    fold.wait_opened("w", T, 0)
    fold.opened("a", T, "beside", 30)
    fold.closed("a", 50, error=False)
    fold.wait_opened("v", T, 60)
    fold.closed("w", 100, error=False)
    fold.finish(100)
    sums = fold.sums
    assert numbers(sums.phases["beside"]) == (1, 20, 20, 20, 20)
    assert (sums.time_ns, fold.unaccounted_ns) == (20, 0)


def test_percentiles_are_interpolated_between_closest_ranks():
    """[10..50] s: p50 is 30 s and p95 48 s exactly; an empty one has none."""
    histogram = Histogram()
    assert histogram.percentile(50) is None
    for seconds in (50, 10, 30, 20, 40):
        histogram.add(seconds * 10**9)
    assert histogram.percentiles((0, 50, 95, 100)) == [10 * 10**9, 30 * 10**9, 48 * 10**9, 50 * 10**9]


def test_samples_past_the_limit_are_counted_in_buckets():
    """The 513th sample ends exactness; memory no longer grows with the count."""
    histogram = Histogram()
    for value in range(EXACT_LIMIT + 1):
        assert histogram.exact is not None
        histogram.add(value)
    assert histogram.exact is None
    assert sum(histogram.buckets.values()) == histogram.count == EXACT_LIMIT + 1
    assert abs(histogram.percentile(50) - 256) <= 3


def test_sums_of_tokens_stay_within_64_bits():
    """Two tasks whose numbers add up to more come to the end of 64 bits, whichever is added to which."""
    one, other = TaskSums(tokens={"tokens": 2**63 - 1}), TaskSums(tokens={"tokens": 5, "input_tokens": 1})
    one.merge(other)
    other.merge(TaskSums(tokens={"tokens": 2**63 - 1}))
    assert one.tokens == other.tokens | {"input_tokens": 1} == {"tokens": 2**63 - 1, "input_tokens": 1}
