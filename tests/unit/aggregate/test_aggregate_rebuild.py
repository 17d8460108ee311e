"""Folding a spool again: whose span is whose."""

from __future__ import annotations

from types import SimpleNamespace

from otel_exec.aggregate.rebuild import fold_task_spans, open_so_far, slim, spans_of_attempt
from otel_exec.record.model import AttemptRecord, StepRecord
from otel_exec.spans.open_spans import OpenEntry
from otel_exec.testing import memory_recorder

NODE = "a-000000"
TASK = "1" * 16
OTHER = "2" * 16


class Folds:
    """Keeps what is folded, by attempt."""

    def __init__(self, spans):
        self.of = {}
        fold_task_spans(self, spans)

    def fold(self, node_id, attempt, sums, *, items):
        self.of[node_id, attempt] = sums, items


class Made:
    """Spans of two attempts at one step, each with items whose own first try is the one that counts."""

    def __init__(self):
        self.recorder, _ = memory_recorder()
        self.spans = []
        for number, task in ((1, OTHER), (2, TASK)):
            at = number * 1_000
            self.make("load", at, at + 10, number)
            self.make("task", at + 10, at + 500, number, span_id=task, **{"exec.task.id": NODE})
            for index in (0, 1):
                item = self.make("task", at + 20, at + 200, 1, parent=task, **{"exec.task.id": f"{NODE}/{index}"})
                self.make("phase", at + 30, at + 40, 1, name="inside", parent=item, tokens=7)
                self.make("phase", at + 50, at + 60, 1, name="elsewhere", parent=item, **{"node.id": "other"})
            self.make("store", at + 500, at + 510, number)

    def make(self, kind, start, end, attempt, *, name="", parent="c" * 16, span_id=None, **more):
        attributes = {"node.id": NODE, "exec.attempt": attempt, "exec.worker.id": "0", **more}
        outcome = "success" if kind == "task" else None
        span_id = span_id or self.recorder.ids.span_id()
        self.spans.append(self.recorder.make(kind, name or kind, start, end, span_id=span_id, parent=parent, attributes=attributes, outcome=outcome))
        return span_id


def test_items_belong_to_the_attempt_whose_function_fanned_out():
    """On an item's spans exec.attempt counts the tries at the item; whose they are is known by descent."""
    made = Made()
    found = spans_of_attempt(made.spans, TASK, NODE, 2)
    assert sorted(span.start_ns for span in found) == [2_000, 2_010, 2_020, 2_020, 2_030, 2_030, 2_050, 2_050, 2_500]
    folds = Folds(found).of
    assert set(folds) == {(NODE, 2)}
    sums, items = folds[NODE, 2]
    assert (items.count, sums.phases["inside"].count) == (2, 2)


def test_what_ended_under_an_open_span_belongs_to_its_attempt():
    """The task and a phase of a killed attempt have not ended: what lies under them is found by what was open."""
    made = Made()
    spans = [span for span in made.spans if span.span_id != TASK]
    inner = made.make("phase", 2_310, 2_320, 2, name="inner", parent="9" * 16)
    spans.append(made.spans[-1])
    assert inner not in {span.span_id for span in spans_of_attempt(spans, TASK, NODE, 2)}
    found = spans_of_attempt(spans, TASK, NODE, 2, open_parents={"9" * 16: TASK})
    assert inner in {span.span_id for span in found}
    assert len(found) == 9


def test_a_circle_is_nobodys():
    """A spool that others can write to may hold circles: they end, and belong to no attempt."""
    made = Made()
    made.spans.clear()
    made.make("phase", 1, 2, 2, span_id="a" * 16, parent="b" * 16)
    made.make("phase", 1, 2, 2, span_id="b" * 16, parent="a" * 16)
    assert spans_of_attempt(made.spans, TASK, NODE, 2) == []


def test_nodes_and_tokens_are_folded():
    """Phases of other nodes, and tokens, of the items' as of the task's own."""
    sums, _ = Folds(Made().spans).of[NODE, 2]
    assert sums.tokens == {"tokens": 14}
    assert {node: {name: fold.count for name, fold in fold.phases.items()} for node, fold in sums.nodes.items()} == {"other": {"elsewhere": 2}}


def test_a_fan_outs_wait_is_taken_out():
    """The task's time is its span less its call of map_tasks, and the items' own time comes on top."""
    made = Made()
    made.make("fan_out", 2_020, 2_210, 2, name="map_tasks", parent=TASK)
    sums, _ = Folds(made.spans).of[NODE, 2]
    assert sums.time_ns == (490 - 190) + 2 * 180


class Running:
    """What `open_so_far` asks of an aggregator: one attempt at one step, whose task is open."""

    def __init__(self, recorder):
        step = StepRecord(NODE, "a")
        step.attempts.append(AttemptRecord(1, span_id=TASK))
        self.steps = {NODE: step}
        self.record = SimpleNamespace(trace_id=recorder.trace_id)


def test_of_a_run_that_goes_on_what_is_open_counts_up_to_now():
    """A task that waits in map_tasks has no time of its own then; the items have theirs, and their open phases; an item that goes on has come to nothing yet."""
    made = Made()
    made.spans.clear()
    done = made.make("task", 120, 300, 1, parent=TASK, **{"exec.task.id": f"{NODE}/0"})
    made.make("phase", 130, 300, 1, name="inside", parent=done)
    opened = [
        OpenEntry(TASK, "c" * 16, "task", "task f", NODE, 100),
        OpenEntry("d" * 16, TASK, "fan_out", "map_tasks", NODE, 110),
        OpenEntry("e" * 16, TASK, "task", "task item", NODE, 120, 1, 1),
        OpenEntry("f" * 16, "e" * 16, "phase", "inside", NODE, 125),
        OpenEntry("b" * 16, "e" * 16, "phase", "elsewhere", "other", 600),
        OpenEntry(done, TASK, "task", "task item", NODE, 120, 0, 1),
        OpenEntry(OTHER, "c" * 16, "task", "task of a try that nobody knows", NODE, 50),
    ]
    so_far = open_so_far(Running(made.recorder), made.spans, opened, 500)
    ((sums, items),) = Folds([*made.spans, *so_far]).of.values()
    assert sums.time_ns == (110 - 100) + (300 - 120) + (500 - 120)
    inside = sums.phases["inside"]
    assert (inside.count, inside.share_ns, inside.errors) == (2, 170 + 375, 0)
    assert inside.slowest is None or inside.slowest[0] == 170, "what is open has no span yet that could be named"
    assert (items.count, items.attempts, items.completed, items.failed, items.busy_ns) == (1, 1, 1, 0, 180)


def test_slimmed_spans_fold_the_same():
    """Nodes, tokens, waits and errors with them; what is the same on many spans is held once."""
    made = Made()
    for number in range(50):
        made.make("phase", 1_300 + number, 1_310 + number, 1, name="many", parent=OTHER, prompt=f"long text {number}", ids=[number], input_tokens=3)
    light = list(slim(made.spans))
    assert Folds(light).of == Folds(made.spans).of
    many = [span for span in light if span.name == "many"]
    assert len({id(span.attributes) for span in many}) == 1
    assert many[0].attributes == {"node.id": NODE, "input_tokens": 3}
    assert [span for span in light if span.kind == "task"] == [span for span in made.spans if span.kind == "task"]


def test_slimmed_spans_keep_the_type_of_each_number():
    """`True`, `1` and `1.0` are equal, and yet not the same number of tokens."""
    made = Made()
    for value in (True, 1, 1.0, 1, True):
        made.make("phase", 1_300, 1_310, 1, name=f"of {type(value).__name__}", parent=OTHER, input_tokens=value)
    light = [span for span in slim(made.spans) if span.name.startswith("of ")]
    assert [(span.name, type(span.attributes["input_tokens"]).__name__) for span in light] == [
        (f"of {name}", name) for name in ("bool", "int", "float", "int", "bool")
    ]
    assert light[1].attributes is light[3].attributes
