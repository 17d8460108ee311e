"""The parts of the Ray executor that need no Ray."""

from __future__ import annotations

import os
import resource
from types import SimpleNamespace

import pytest

from otel_exec.clock import AnchoredClock
from otel_exec.execute.base import Claimed, RunSettings, Warned, WorkerDied, WorkerReady, WorkerStarted, WorkerStopped
from otel_exec.execute.clock_offset import RoundTrip, estimate
from otel_exec.execute.envelope import TaskEnvelope
from otel_exec.execute.ray_crew import Crew
from otel_exec.execute.ray_options import options_of, wanted_of
from otel_exec.execute.ray_waiting import Unplaced
from otel_exec.execute.ray_wire import Begun, Facts, Lost, Taken, Telling, encode
from otel_exec.plan.graph import Resources
from otel_exec.spans.line_codec import LineEncoder
from otel_exec.spans.open_spans import OpenEntry
from otel_exec.spans.span_record import SpanRecord
from otel_exec.spans.spool import read_spool

NODE = "n" * 56


@pytest.fixture
def crew(tmp_path):
    os.makedirs(tmp_path / "spans")
    settings = RunSettings("exec_" + "a" * 32, "a" * 32, "b" * 16, str(tmp_path), "holder", 0)
    return Crew(settings, AnchoredClock())


def facts(**fields):
    return Facts(**{"number": 0, "uid": "u", "pid": 7, "host": "h", "node": NODE, "started_ns": 1, "ready_ns": 2, **fields})


def telling(sequence, lines=b"", begun=None, opened=()):
    return encode(Telling("u", 0, sequence, 10, lines, begun, list(opened)))


def envelope(node_id, **fields):
    return TaskEnvelope(node_id, node_id, node_id, "fn", None, 1, True, False, "p", "s", 0, 0, "out", b"", **fields)


def record(span_id, kind, parent, **attributes):
    return SpanRecord("c" * 32, span_id, parent, kind, kind, 1, 2, attributes)


def line(*args):
    return LineEncoder({}).encode([record(*args)])


def test_the_quickest_round_trip_tells_the_offset():
    """Half way between asking and hearing is when the answer was given; the error is half the trip."""
    trips = [RoundTrip(0, 5_000, 1_000), RoundTrip(2_000, 7_050, 2_100)]
    assert estimate(trips) == (5_000, 50)
    assert estimate([RoundTrip(10, 10, 10)]) == (0, 0)


def test_tellings_count_once_in_any_order(crew, tmp_path):
    """A telling that comes twice, or before an earlier one, leaves its lines once; a result waits until all before it have come."""
    notices = []
    crew.take_in(Taken([], [telling(1, b"two\n"), telling(1, b"two\n")]), notices)
    assert not crew.knows({0: 0})  # it has not introduced itself
    crew.take_in(Taken([facts()], []), notices)
    assert (crew.knows({0: 0}), crew.knows({0: 2}), crew.knows({0: 0, 1: 1})) == (True, False, False)
    crew.take_in(Taken([facts()], [telling(0, b"one\n"), telling(0, b"one\n")]), notices)
    assert crew.knows({0: 2})
    assert (tmp_path / "spans" / "worker-0.jsonl").read_bytes() == b"two\none\n"
    assert [type(notice) for notice in notices] == [WorkerStarted, WorkerReady]


def test_a_gap_that_was_waited_for_is_not_waited_for_again(crew):
    """What its worker can tell no more, since it died and the home actor as well, holds up one result."""
    crew.take_in(Taken([facts()], [telling(0), telling(2)]), [])
    assert not crew.knows({0: 3})
    crew.give_up({0: 3, 1: 2})
    assert crew.knows({0: 3, 1: 2})
    assert not crew.knows({0: 4})
    crew.take_in(Taken([], [telling(3)]), [])
    assert crew.knows({0: 4})


def test_what_was_not_waited_for_any_more_still_counts(crew, tmp_path):
    """A telling that comes after all is written, once; one that never comes is a warning with its count at the end."""
    crew.take_in(Taken([facts()], []), [])
    crew.give_up({0: 3})
    crew.take_in(Taken([], [telling(1, b"late\n"), telling(1, b"late\n")]), [])
    assert crew.knows({0: 3})
    assert (tmp_path / "spans" / "worker-0.jsonl").read_bytes() == b"late\n"
    (lost,) = [notice for notice in crew.close() if isinstance(notice, Warned)]
    assert (lost.code, lost.count) == ("spans_lost", 2)


def test_who_has_died_says_nothing_more_of_what_it_ran(crew, tmp_path):
    """What was open in a dead worker is closed by others: of a telling that was still on its way counts what belongs to others, such as a result that was held back."""
    notices = []
    begun = Begun("s" * 16, "step", 1, 5)
    crew.take_in(Taken([facts()], [telling(0, line("1" * 16, "phase", "s" * 16), begun)]), notices)
    assert Claimed("step", 1, "0", 5) in notices
    died = crew.died(("step", 1), "s" * 16, 20, "worker_died", "it is gone")
    assert (died.worker_id, died.attempts, died.reason) == ("0", (("step", 1),), "it is gone (pid 7 on h)")
    before = len(notices)
    crew.take_in(Taken([], [telling(1, line("2" * 16, "phase", "s" * 16) + line("3" * 16, "task", "4" * 16), begun)]), notices)
    assert notices[before:] == []
    assert crew.close() == []
    assert [span.span_id for span in read_spool(str(tmp_path / "spans"))] == ["1" * 16, "3" * 16]


def test_a_worker_that_goes_while_it_runs_an_item(crew):
    """The item's owner says so: it died, or it was ended since the item's time was up; once."""
    notices = []
    crew.take_in(Taken([facts(), facts(number=1, uid="v", pid=8)], lost=[Lost(0, 20, "worker_died", "it is gone"), Lost(1, 30, "timeout", "")]), notices)
    assert notices[-2:] == [WorkerDied("0", 20, (), "it is gone (pid 7 on h)", "worker_died", (), ""), WorkerStopped("1", 30)]
    before = len(notices)
    crew.take_in(Taken(lost=[Lost(0, 40, "worker_died", "it is gone"), Lost(7, 40, "worker_died", "nobody knows it")]), notices)
    assert notices[before:] == []
    assert crew.close() == []


def test_who_died_before_it_could_say_who_it_is(crew):
    """No place is made up for it."""
    crew.take_in(Taken([], [telling(0, b"", Begun("s" * 16, "step", 1, 5))]), [])
    assert crew.died(("step", 1), "s" * 16, 20, "worker_died", "it is gone").reason == "it is gone"


def test_what_a_killed_attempt_goes_on_with_is_left_out(crew, tmp_path):
    """Its runner has settled it: all that its worker tells of it after that is in no number and in no file, its `load` as well; what is another attempt's is kept."""
    task, phase, early, fan = "a" * 16, "b" * 16, "c" * 16, "d" * 16
    open_phase = OpenEntry(phase, task, "phase", "p", "step", 5)
    crew.take_in(Taken([facts()], [telling(0, line(early, "phase", phase), Begun(task, "step", 1, 5), [open_phase])]), [])
    crew.close_spans(("step", 1), task)
    own = {"node.id": "step", "exec.attempt": 1}
    other = {"node.id": "step", "exec.attempt": 2}
    spans = [
        record("1" * 16, "load", "", **own),
        record(phase, "phase", task, **own),
        record("2" * 16, "phase", phase, **own),
        record(task, "task", "", **own),
        record("3" * 16, "store", "", **own),
        record("4" * 16, "load", "", **other),
        record("5" * 16, "task", "", **other),
    ]
    crew.take_in(Taken([], [telling(1, LineEncoder({}).encode(spans))]), [])
    # An item of its fan-out that still runs elsewhere: the item's task is open there.
    item = OpenEntry("e" * 16, fan, "task", "task item", "step", 6, 0, 1)
    more = [telling(2, line(fan, "fan_out", phase)), telling(3, line("f" * 16, "phase", "e" * 16), Begun("e" * 16, "step", 1, 6, item=True), [item])]
    crew.take_in(Taken([], more), [])
    assert [span.span_id for span in read_spool(str(tmp_path / "spans"))] == [early, "4" * 16, "5" * 16]


@pytest.mark.parametrize(
    ("skew_ns", "error_ns", "says"), [(5_000_000_000, 1_000_000, "5.000 s ahead of"), (-2_000_000_000, 0, "2.000 s behind"), (5_000_000, 0, None)]
)
def test_clocks_that_disagree_are_warned_of_once_a_node(crew, skew_ns, error_ns, says):
    """By more than 10 ms, and by more than the estimate's own error."""
    notices = []
    crew.take_in(Taken([facts(skew_ns=skew_ns, error_ns=error_ns), facts(number=1, uid="v", skew_ns=skew_ns, error_ns=error_ns)], []), notices)
    warned = [notice for notice in notices if isinstance(notice, Warned)]
    assert [notice.code for notice in warned] == (["clock_skew"] if says else [])
    assert all(says in notice.message for notice in warned)


def test_a_node_that_does_not_see_the_folder_is_named(crew):
    """The prefix must lie where all nodes can write."""
    notices = []
    crew.take_in(Taken([facts(sees_folder=False)], []), notices)
    assert [notice.code for notice in notices if isinstance(notice, Warned)] == ["folder_not_seen"]


def test_what_no_node_has_is_said_once_a_step_after_a_moment():
    """A step that asked for nothing wants one CPU. Nodes may leave: they are looked at again while something waits, and not for each step."""
    wanted, looks, nodes = {"CPU": 1.0}, [], [8.0]

    def look(what):
        looks.append(what)
        return (["1 of CPU (the most that a node has is 0)"] if max(nodes) < what["CPU"] else []), [f"CPU {amount:g}" for amount in nodes]

    unplaced = Unplaced(look)
    waiting = [(envelope("a", timeout_s=5.0), wanted), (envelope("b"), wanted)]
    assert [unplaced.look(waiting, now_s) for now_s in (0.0, 1.9, 2.0, 3.0, 6.9)] == [[]] * 5
    assert looks == [wanted]
    nodes[:] = [0.0]
    why = "no node of the Ray cluster has 1 of CPU (the most that a node has is 0); it waits until one joins (node 1: CPU 0)"
    said = unplaced.look(waiting, 7.0)
    assert [(notice.node_id, notice.message) for notice in said] == [("a", f"{why}; its timeout of 5 s begins when it does"), ("b", why)]
    assert unplaced.look([*waiting, (envelope("c"), wanted)], 20.0) == []
    assert [notice.node_id for notice in unplaced.look([*waiting, (envelope("c"), wanted)], 22.0)] == ["c"]
    assert len(looks) == 3
    assert unplaced.look([], 23.0) == []
    again = [(envelope("a"), wanted)]
    assert [[notice.node_id for notice in unplaced.look(again, now_s)] for now_s in (24.0, 26.0)] == [[], ["a"]]


def test_a_step_that_asks_for_nothing_wants_one_cpu():
    """As Ray has it; what it asks for as zero it does not want."""
    assert wanted_of(SimpleNamespace(resources=Resources())) == {"CPU": 1.0}
    assert wanted_of(SimpleNamespace(resources=Resources(num_cpus=0.0, custom={"big": 2.0}))) == {"big": 2.0}


def test_what_a_step_asks_for_goes_to_ray_under_its_own_names():
    """Each option as Ray calls it, where it goes as well; what the step does not say is Ray's own default."""
    asked = Resources(2.0, 1.0, 5_000, {"big": 2.0}, {"scheduling_strategy": "SPREAD", "runtime_env": {"env_vars": {}}})
    own = {"scheduling_strategy": "SPREAD", "runtime_env": {"env_vars": {}}}
    assert options_of(SimpleNamespace(resources=asked)) == {"num_cpus": 2.0, "num_gpus": 1.0, "memory": 5_000, "resources": {"big": 2.0}, **own}
    assert options_of(SimpleNamespace(resources=Resources())) == {}


def test_finished_spans_that_find_no_room_are_counted_and_cut_no_line(crew, tmp_path):
    """What of a telling could not be written is a warning of the record, with the reason; what comes after it begins on a line of its own."""
    one, two = line("1" * 16, "phase", "a" * 16), line("2" * 16, "phase", "a" * 16)
    crew.take_in(Taken([facts()], [telling(0, one)]), [])
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(one) + 10, hard))
    try:
        crew.take_in(Taken([], [telling(1, two)]), [])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    crew.take_in(Taken([], [telling(2, line("3" * 16, "phase", "a" * 16))]), [])
    said = crew.close()
    assert [(notice.code, notice.count) for notice in said if isinstance(notice, Warned)] == [("spans_lost", 1)]
    assert "finished spans could not be written to the spool: [Errno 27]" in said[-1].message
    assert [span.span_id for span in read_spool(str(tmp_path / "spans"))] == ["1" * 16, "3" * 16]
