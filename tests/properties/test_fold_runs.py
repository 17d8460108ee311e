"""Whole runs of random overlapping intervals: attempts, items, phases, waits and nodes, folded as they happen and again from the shuffled spool."""

from __future__ import annotations

from collections import Counter
from fractions import Fraction

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st
from support.scheduling import plan_of

from otel_exec.aggregate.aggregator import Aggregator
from otel_exec.aggregate.assemble import render, step_skeletons
from otel_exec.aggregate.folds import TaskSums
from otel_exec.aggregate.rebuild import fold_task_spans
from otel_exec.aggregate.task_fold import TaskFold
from otel_exec.record.model import SCHEMA_VERSION, ExecutorRecord, Experiment, RunRecord
from otel_exec.report.breakdown import breakdown
from otel_exec.report.breakdown_json import breakdown_mapping
from otel_exec.spans.span_record import SpanRecord

NODE = "a-000000"
END = 16


def span(span_id, parent, name, kind, start, end, attributes, status=0):
    return SpanRecord("0" * 32, span_id, parent, name, kind, start, end, attributes, status=status)


class Task:
    """A task or item: its span, and what lies in it."""

    def __init__(self, own, inside):
        self.span = own
        self.inside = inside

    def live(self):
        """Fold it as it happens: at each instant what opens goes before what closes, parents before children."""
        fold = TaskFold(self.span.span_id, self.span.start_ns)
        events = [(each.start_ns, 0, each.span_id, each) for each in self.inside] + [(each.end_ns, 1, each.span_id, each) for each in self.inside]
        for at_ns, what, _, each in sorted(events, key=lambda event: event[:3]):
            node = each.attributes["node.id"]
            if what:
                tokens = {"tokens": each.attributes["tokens"]} if "tokens" in each.attributes else None
                fold.closed(each.span_id, at_ns, error=each.status == 2, tokens=tokens)
            elif each.kind == "fan_out":
                fold.wait_opened(each.span_id, each.parent_span_id, at_ns)
            else:
                fold.opened(each.span_id, each.parent_span_id, each.name, at_ns, node_id=None if node == NODE else node)
        fold.finish(self.span.end_ns)
        return fold.sums

    def by_definition(self):
        """Return how long the task worked, how long of that no phase was open, and what each row had of it: instant by instant."""
        worked = bare = 0
        shares = Counter()
        for instant in range(self.span.start_ns, self.span.end_ns):
            live = [each for each in self.inside if each.start_ns <= instant < each.end_ns]
            parents = {each.parent_span_id for each in live}
            innermost = [each for each in live if each.kind == "phase" and each.span_id not in parents]
            waits = [each for each in live if each.kind == "fan_out"]
            worked += bool(innermost) or not waits
            bare += not innermost and not waits
            for each in innermost:
                shares[each.name if each.attributes["node.id"] == NODE else "(nodes)"] += Fraction(1, len(innermost))
        return worked, bare, shares


@st.composite
def tasks(draw, span_id, parent, task_id, attempt):
    """A task over an interval of its own, with phases (of the step's or of another node, with tokens or failing) and waits anywhere in it."""
    start = draw(st.integers(0, END))
    end = draw(st.integers(start, END))
    own = span(span_id, parent, "task f", "task", start, end, {"node.id": NODE, "exec.attempt": attempt, "exec.task.id": task_id, "exec.outcome": "success"})
    inside = []
    for index in range(draw(st.integers(0, 6))):
        first = draw(st.integers(start, end))
        last = draw(st.integers(first, end))
        above = draw(st.sampled_from([span_id, *(each.span_id for each in inside if each.kind == "phase")]))
        kind = draw(st.sampled_from(["phase", "phase", "phase", "fan_out"]))
        attributes = {"node.id": NODE if kind == "fan_out" else draw(st.sampled_from([NODE, NODE, "x", "y"]))}
        if kind == "phase" and draw(st.booleans()):
            attributes["tokens"] = draw(st.integers(0, 9))
        inside.append(span(f"{span_id[:12]}{index:04x}", above, draw(st.sampled_from("abc")), kind, first, last, attributes, draw(st.sampled_from([0, 2]))))
    return Task(own, inside)


@st.composite
def runs(draw):
    """The attempts at a step: for each its task and its items, which lie under any phase of it."""
    attempts = []
    for number in range(1, draw(st.integers(1, 3)) + 1):
        task = draw(tasks(f"{number:02x}" + "f" * 14, "", NODE, number))
        phases = [each.span_id for each in task.inside if each.kind == "phase"]
        items = [
            draw(tasks(f"{number:02x}{index:02x}" + "e" * 12, draw(st.sampled_from([task.span.span_id, *phases])), f"{NODE}/{index}", 1))
            for index in range(draw(st.integers(0, 3)))
        ]
        attempts.append([task, *items])
    return attempts


def aggregator_of(attempts):
    skeleton = RunRecord(
        schema_version=SCHEMA_VERSION,
        exec_id="exec_test",
        trace_id="1" * 32,
        root_span_id="f" * 16,
        outcome="success",
        experiment=Experiment("demo"),
        executor=ExecutorRecord("inline", 1),
        prefix="/p",
        run_folder="/p/run",
        start_time="",
        start_time_unix_nano="0",
        duration_ns=END,
        steps=step_skeletons(plan_of({"a": ""})),
    )
    aggregator = Aggregator(skeleton)
    for number, (task, *_) in enumerate(attempts, 1):
        record = aggregator.attempt(aggregator.steps[NODE], number)
        record.execution_ns = task.span.duration_ns
    return aggregator


def live_record(attempts):
    aggregator = aggregator_of(attempts)
    for number, each in enumerate(attempts, 1):
        sums = TaskSums()
        for task in each:
            sums.merge(task.live())
        aggregator.fold(NODE, number, sums)
    return render(aggregator)


def rebuilt_record(attempts, random):
    spans = [found for each in attempts for task in each for found in (task.span, *task.inside)]
    spans += random.sample(spans, random.randint(0, len(spans)))
    random.shuffle(spans)
    aggregator = aggregator_of(attempts)
    fold_task_spans(aggregator, spans)
    aggregator.items.clear()  # the live one was not told of items as such
    return render(aggregator)


@given(runs(), st.randoms(use_true_random=False))
@settings(max_examples=150, deadline=None)
def test_no_order_of_arrival_changes_a_number(attempts, random):
    """The live record and the one made from the shuffled spool, in which spans stand twice, are the same to the nanosecond."""
    assert msgspec.to_builtins(rebuilt_record(attempts, random)) == msgspec.to_builtins(live_record(attempts))


@given(runs())
@settings(max_examples=150, deadline=None)
def test_shares_and_the_rest_are_exactly_the_whole(attempts):
    """Shares and the rest are what the definition says, instant by instant, and with it the whole; a union is no longer than the tasks, self times are never negative."""
    record = live_record(attempts)
    parts = [task.by_definition() for each in attempts for task in each]
    worked, bare = (sum(part[place] for part in parts) for place in (0, 1))
    shares = sum((part[2] for part in parts), Counter())
    wall = sum(task.span.duration_ns for each in attempts for task in each)
    (step,) = record.steps
    assert step.node_time_ns == worked <= wall
    view = breakdown(record, every=True)
    for node in view.nodes:
        assert node.unaccounted_ns == (bare if node.step else 0)
        assert node.total_ns == (worked if node.step else sum(part.total_ns for each in record.nodes if each.node_id == node.node_id for part in each.attempts))
        for row in node.rows:
            assert not node.step or abs(row.share_ns - shares[row.name]) < len(parts)  # each task rounds to whole nanoseconds
            assert row.share_ns >= 0
            assert 0 <= row.self_ns <= row.total_ns
            assert row.union_ns <= min(wall, row.total_ns)
            assert row.share_ns <= row.union_ns
    for attempt in step.attempts:
        assert sum(phase.share_ns for phase in attempt.phases.values()) <= attempt.node_time_ns
    assert sum(attempt.node_time_ns for attempt in step.attempts) == step.node_time_ns
    for node in record.nodes:
        assert node.total_ns == sum(part.total_ns for part in node.attempts)
    assert all(0 < each.saves_ns <= END for each in view.bottlenecks)
    for node in breakdown_mapping(view)["nodes"].values():
        if node["total_ms"]:
            assert abs(sum(phase["pct"] for phase in node["phases"].values()) + node["unaccounted_pct"] - 100) < 1e-9
