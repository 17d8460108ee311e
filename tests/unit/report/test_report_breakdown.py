"""The breakdown: rows, what is put together, and what a phase could save at most."""

from __future__ import annotations

import msgspec
import pytest
import sample_record
from sample_record import MS, phase

from otel_exec.errors import UsageError
from otel_exec.record.model import AttemptRecord, CriticalPath, NodeAttempt, NodeRecord, PhaseRecord
from otel_exec.report.breakdown import UNACCOUNTED, breakdown
from otel_exec.report.breakdown_json import breakdown_mapping
from otel_exec.report.breakdown_record import BreakdownRecord
from otel_exec.report.breakdown_text import breakdown_text, ms_text
from otel_exec.report.look import ASCII, UNICODE, Look
from otel_exec.report.text_safety import display_width


def two_steps(**more):
    """A run of 10 s on two workers: `long` on the critical path, `short` with 6 s of slack."""
    attempts = [sample_record.attempt(1, 0, 0, 0, 10_000, 10_000, worker="0")]
    other = [sample_record.attempt(1, 0, more.pop("queue", 0), 0, 4_000, 4_000, worker="1")]
    long = sample_record.step("long", "aaaaaa", 1, attempts, [], phases={"inner": phase(4, 7_000), "outer": phase(1, 9_000, self_ms=2_000)})
    short = sample_record.step("short", "bbbbbb", 1, other, [], phases={"inner": phase(1, 3_000)})
    record = sample_record._base(steps=[long, short], duration_ns=10_000 * MS, **more)
    record.critical_path = CriticalPath(["long-aaaaaa"], 10_000 * MS, {"long-aaaaaa": 0, "short-bbbbbb": 6_000 * MS})
    return record


def test_rows_are_longest_first_and_add_up():
    """The shares and what no phase covered are the node's time, in integers of nanoseconds."""
    view = breakdown(two_steps())
    assert [(node.name, [row.name for row in node.rows]) for node in view.nodes] == [("long", ["outer", "inner"]), ("short", ["inner"])]
    for node in view.nodes:
        assert sum(row.share_ns for row in node.rows) + node.unaccounted_ns == node.total_ns
    assert view.nodes[0].unaccounted_ns == 1_000 * MS


def test_a_step_with_slack_could_save_nothing_where_workers_were_not_short():
    """Its phases are not in the list; a phase's share counts, not what lies in the phases inside it."""
    found = [(each.name, each.phase, each.saves_ns // MS) for each in breakdown(two_steps()).bottlenecks]
    assert found == [("long", "inner", 7_000), ("long", "outer", 2_000), ("long", UNACCOUNTED, 1_000)]


def test_a_step_with_slack_may_have_held_others_up_where_a_step_queued():
    """Workers were short: whatever any of them did may have cost the run."""
    found = {(each.name, each.phase): each.slack_ns for each in breakdown(two_steps(queue=500)).bottlenecks}
    assert found["short", "inner"] == 6_000 * MS
    assert found["long", "inner"] == 0


def test_a_fan_out_saves_no_more_than_its_step_ran():
    """Items run side by side: their 40 s of one phase were 10 s of the run."""
    record = two_steps()
    record.steps[0].phases = {"item": phase(16, 40_000)}
    record.steps[0].node_time_ns = 41_000 * MS
    first = breakdown(record).bottlenecks[0]
    assert (first.phase, first.total_ns, first.saves_ns) == ("item", 40_000 * MS, 10_000 * MS)


def test_occurrences_side_by_side_save_no_more_than_any_was_open():
    """Two phases in parallel share the time equally, and yet each may be all that the run waited for: the bound is what it took itself, within its union."""
    record = two_steps()
    both = PhaseRecord(count=1, total_ns=8_000 * MS, union_ns=8_000 * MS, self_ns=8_000 * MS, share_ns=4_000 * MS)
    many = PhaseRecord(count=4, total_ns=16_000 * MS, union_ns=5_000 * MS, self_ns=16_000 * MS, share_ns=4_000 * MS)
    around = PhaseRecord(count=1, total_ns=9_000 * MS, union_ns=9_000 * MS, self_ns=1_000 * MS, share_ns=1_000 * MS)
    record.steps[0].phases = {"both": both, "many": many, "around": around}
    saves = {each.phase: each.saves_ns // MS for each in breakdown(record, node="long").bottlenecks}
    assert saves == {"both": 8_000, "many": 5_000, "around": 1_000, UNACCOUNTED: 1_000}


def test_a_node_has_the_slack_of_the_steps_it_ran_in():
    """What ran only in steps that hold nobody up saves nothing; what ran in another one too may."""
    record = two_steps()
    record.nodes = [
        NodeRecord(name, name, total_ns=1_000 * MS, phases={"call": phase(1, 1_000)}, attempts=[NodeAttempt(step, 1) for step in steps])
        for name, steps in (("beside", ["short-bbbbbb"]), ("both", ["short-bbbbbb", "long-aaaaaa"]))
    ]
    found = {each.name: each.slack_ns for each in breakdown(record).bottlenecks if each.phase == "call"}
    assert found == {"both": 0}


def test_a_second_attempt_that_runs_is_not_held_to_the_first():
    """How long a step ran is not known while an attempt of it runs: its phases may be as long as the run so far."""
    record = two_steps()
    step = record.steps[0]
    step.attempts = [sample_record.attempt(1, 0, 0, 0, 1_000, 1_000, outcome="failure"), AttemptRecord(2, start_ns=1_000 * MS)]
    record.outcome = "running"
    (view,) = breakdown(record, node="long").nodes
    assert (view.attempts, view.failed, view.wall_ns, view.cpu_ns) == (2, 1, None, None)
    first = breakdown(record, node="long").bottlenecks[0]
    assert (first.phase, first.saves_ns) == ("inner", 7_000 * MS)


def test_a_node_that_is_no_step_has_no_rest_to_show():
    """Its time is that of its phases; a step and an execution have a time of their own, and the row says so, though it is 0."""
    record = two_steps()
    record.steps[0].phases = {"all": phase(1, 10_000)}
    record.nodes = [
        NodeRecord("agent", "agent", total_ns=MS, phases={"loop": phase(1, 1)}, attempts=[NodeAttempt("agent", 1)]),
        NodeRecord("other", "other", total_ns=MS, phases={"call": phase(1, 1)}, attempts=[NodeAttempt("long-aaaaaa", 1)]),
    ]
    shown = {name: UNACCOUNTED in breakdown_text(breakdown(record, node=name), Look()) for name in ("long", "agent", "other")}
    assert shown == {"long": True, "agent": True, "other": False}
    assert breakdown_mapping(breakdown(record))["nodes"]["other"]["unaccounted_ms"] == 0


def test_each_attempt_is_shown_by_itself_where_there_were_several():
    """Of a node asked for, and in JSON: of a step its own, of another node those at the steps that it ran in; one attempt is the node itself."""
    record = two_steps()
    step = record.steps[0]
    step.attempts = [sample_record.attempt(number, 0, 0, 0, 5_000, 5_000, outcome=outcome) for number, outcome in ((1, "failure"), (2, "success"))]
    for number, attempt in enumerate(step.attempts, 1):
        attempt.node_time_ns, attempt.phases = 5_000 * MS, {"outer": phase(1, 4_000 + number)}
    record.nodes = [
        NodeRecord(
            "other",
            "other",
            total_ns=2 * MS,
            phases={"call": phase(2, 2)},
            attempts=[NodeAttempt("long-aaaaaa", number, MS, {"call": phase(1, 1)}) for number in (1, 2)],
        )
    ]
    text = breakdown_text(breakdown(record, node="long"), Look())
    assert (
        "    attempt 1 (failure) - Total: 5000ms\n    |- outer                      4001ms (80.0%)\n    `- (unaccounted)               999ms (20.0%)\n" in text
    )
    assert "    attempt 2 (success) - Total: 5000ms" in text
    assert "    attempt 2 of long-aaaaaa - Total: 1.00ms\n    `- call" in breakdown_text(breakdown(record, node="other"), Look())
    assert "attempt 1" not in breakdown_text(breakdown(record), Look())
    nodes = breakdown_mapping(breakdown(record, tries=True))["nodes"]
    assert [(each["attempt"], each["outcome"], each["phases"]["outer"]["total_ms"]) for each in nodes["long-aaaaaa"]["by_attempt"]] == [
        (1, "failure", 4001.0),
        (2, "success", 4002.0),
    ]
    assert [(each["node"], each["attempt"], each["total_ms"]) for each in nodes["other"]["by_attempt"]] == [("long-aaaaaa", 1, 1.0), ("long-aaaaaa", 2, 1.0)]
    assert nodes["short-bbbbbb"]["by_attempt"] == []


def test_phases_elsewhere_that_name_a_step_are_beside_it():
    """A step keeps its own numbers in the JSON, and what phases in other steps gave to its id has a key of its own."""
    record = two_steps()
    record.nodes = [NodeRecord("long-aaaaaa", "long-aaaaaa", total_ns=MS, phases={"call": phase(1, 1)}, attempts=[NodeAttempt("short-bbbbbb", 1)])]
    nodes = breakdown_mapping(breakdown(record))["nodes"]
    assert list(nodes) == ["long-aaaaaa", "short-bbbbbb", "long-aaaaaa (elsewhere)"]
    assert (nodes["long-aaaaaa"]["total_ms"], nodes["long-aaaaaa (elsewhere)"]["total_ms"]) == (10_000.0, 1.0)


def test_nodes_without_phases_are_shown_when_asked_for_and_always_ranked():
    """A step that nobody timed inside is a bottleneck like any other."""
    record = two_steps()
    record.steps[0].phases = {}
    assert [node.name for node in breakdown(record).nodes] == ["short"]
    assert [node.name for node in breakdown(record, every=True).nodes] == ["long", "short"]
    assert breakdown(record).bottlenecks[0].phase == UNACCOUNTED


def test_repeated_nodes_are_put_together():
    """Steps of one template are one block with their count, sum and percentiles; asked for by name each is itself."""
    attempts = [[sample_record.attempt(1, 0, 0, 0, length, length)] for length in (1_000, 2_000, 3_000, 4_000)]
    steps = [
        sample_record.step(f"shard/{index}", f"{index:06x}", 1, own, [], phases={"read": phase(2, own[0].execution_ns // MS // 2)}, token_usage={"tokens": 5})
        for index, own in enumerate(attempts)
    ]
    record = sample_record._base(steps=steps, duration_ns=4_000 * MS)
    view = breakdown(record)
    (block,) = view.shown
    assert (block.name, len(block.members), block.total_ns, block.tokens) == ("shard/{name}", 4, 10_000 * MS, {"tokens": 20})
    assert [(row.name, row.count, row.total_ns, row.p50_ns) for row in block.rows] == [("read", 8, 5_000 * MS, None)]
    assert len(view.nodes) == 4
    text = breakdown_text(view, Look())
    assert "  shard/{name} x 4 - Total: 10000ms" in text
    assert "each: p50 2.5s, p95 3.9s" in text
    (one,) = breakdown(record, node="shard/2").shown
    assert (one.name, one.members) == ("shard/2", ())


def test_an_unknown_node_names_the_closest():
    """And the known ones."""
    with pytest.raises(UsageError, match=r"unknown node 'lon'; did you mean 'long'\? \(known: long, short\)"):
        breakdown(two_steps(), node="lon")


def test_a_name_that_is_very_long_is_shortened():
    """Of known names, and of the one that was asked for, both ends are told."""
    record = two_steps()
    record.steps[0].name = "n" * 500 + "end"
    with pytest.raises(UsageError) as raised:
        breakdown(record, node="x" * 600)
    assert "n" * 48 + "..." + "n" * 45 + "end" in str(raised.value)
    assert len(str(raised.value)) < 400


def test_numbers_of_others_below_0_are_0():
    """A run.json of somebody else's may hold negative times and counts: none is shown, and the rest of a node is never negative."""
    bad = PhaseRecord(count=-1, total_ns=-5, union_ns=-5, self_ns=-5, share_ns=-5, p50_ns=-5, p95_ns=-5, p99_ns=-5, errors=-5)
    much = PhaseRecord(count=1, total_ns=90, union_ns=90, self_ns=90, share_ns=90)
    record = two_steps()
    record.nodes = [NodeRecord("a", "a", total_ns=10, phases={"much": much, "bad": bad}, token_usage={"tokens": -3}), NodeRecord("b", "b", total_ns=-7)]
    record.steps[0].token_usage, record.steps[0].node_time_ns = {"tokens": -3}, -9
    record.steps[0].phases = {"bad": bad}
    view = breakdown(record, every=True)
    assert "-" not in msgspec.json.encode(breakdown_mapping(view)["nodes"]["a"]).decode()
    for node in view.nodes:
        assert (node.total_ns or 0, node.unaccounted_ns or 0, min(node.tokens.values(), default=0)) >= (0, 0, 0)
        assert all(row >= 0 for each in node.rows for row in msgspec.structs.astuple(each)[1:] if row is not None)


def test_an_empty_name_is_shown_in_quotes():
    """A node and a phase without a name have a place that can be seen."""
    record = two_steps()
    record.nodes = [NodeRecord("", "", total_ns=MS, phases={"": phase(1, 1)})]
    text = breakdown_text(breakdown(record), Look())
    assert '  "" - Total: 1.00ms' in text
    assert '    |- ""  ' in text or '    `- ""  ' in text


def test_a_run_that_goes_on_has_taken_as_long_as_it_goes_on():
    """Its duration is counted up to now; nothing is known of a node that has reported nothing."""
    record = sample_record.running()
    view = breakdown(record, now_ns=int(record.start_time_unix_nano) + 1_500 * MS, every=True)
    assert view.duration_ns == 1_500 * MS
    assert "Total Duration: 1500.00ms so far" in breakdown_text(view, Look())
    assert "second - Total: -" in breakdown_text(view, Look())


@pytest.mark.parametrize("width", [20, 40, 80, 200])
@pytest.mark.parametrize("signs", [ASCII, UNICODE])
@pytest.mark.parametrize("name", ["agent", "twelve_steps", "hostile", "running"])
def test_lines_fit_the_width(name, signs, width):
    """From 40 columns on nothing is wider than asked for, and nothing that a terminal obeys gets through."""
    view = breakdown(getattr(sample_record, name)(), now_ns=sample_record.START_NS, every=True)
    text = breakdown_text(view, Look(width=width, signs=signs), details=True, bottlenecks=True)
    assert all(line.isprintable() or signs is UNICODE for line in text.splitlines())
    if width >= 40:
        assert [line for line in text.splitlines() if display_width(line) > width and "exec_" not in line] == []


def test_the_narrow_record_gives_the_same_breakdown():
    """Read narrowly or whole."""
    for name in ("agent", "twelve_steps"):
        record = getattr(sample_record, name)()
        assert breakdown(msgspec.json.decode(msgspec.json.encode(record), type=BreakdownRecord), tries=True) == breakdown(record, tries=True)


@pytest.mark.parametrize(
    ("duration_ns", "text"), [(0, "0ms"), (400_000, "0.40ms"), (9_994_999, "9.99ms"), (10 * MS, "10ms"), (3_500 * MS, "3500ms"), (999, "0.00ms")]
)
def test_milliseconds(duration_ns, text):
    """Whole from 10 ms on."""
    assert ms_text(duration_ns) == text


def test_a_phase_of_no_length_is_no_bottleneck():
    """And a node of no time has no percentages."""
    record = two_steps()
    record.nodes = []
    record.steps[0].phases = {"nothing": PhaseRecord(count=1)}
    record.steps[0].node_time_ns = 0
    text = breakdown_text(breakdown(record), Look())
    assert "nothing                       0ms (    -)" in text
    assert all(each.phase != "nothing" for each in breakdown(record).bottlenecks)
