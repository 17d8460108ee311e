"""The parts of the Ray executor that need no Ray."""

from __future__ import annotations

import os

import pytest

from otel_exec.clock import AnchoredClock
from otel_exec.execute.base import Claimed, RunSettings, Warned, WorkerReady, WorkerStarted
from otel_exec.execute.clock_offset import RoundTrip, estimate
from otel_exec.execute.ray_crew import Crew
from otel_exec.execute.ray_wire import Begun, Facts, Taken, Telling, encode
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


def test_who_has_died_says_nothing_more(crew, tmp_path):
    """What was open in a dead worker is closed by others: a telling that was still on its way is passed over."""
    notices = []
    begun = Begun("s" * 16, "step", 1, 5)
    crew.take_in(Taken([facts()], [telling(0, b"one\n", begun)]), notices)
    assert Claimed("step", 1, "0", 5) in notices
    died = crew.died(("step", 1), "s" * 16, 20, "worker_died", "it is gone")
    assert (died.worker_id, died.attempts, died.reason) == ("0", (("step", 1),), "it is gone (pid 7 on h)")
    crew.take_in(Taken([], [telling(1, b"late\n", begun)]), notices)
    assert (tmp_path / "spans" / "worker-0.jsonl").read_bytes() == b"one\n"
    assert crew.close() == []


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
