"""The doors beside `phase`: how they find their ids, and what they do outside of a run."""

from __future__ import annotations

import asyncio
import functools
import inspect
import logging
import re

import pytest
from test_spans_phases import Run

from otel_exec import TimingCollector, atime_phase, atimed, phase, time_phase, timed, timing_collector
from otel_exec.aggregate import timing_collector as collector_module
from otel_exec.spans.phases import enter_scope


@pytest.fixture
def run():
    made = Run()
    with enter_scope(made.scope):
        yield made
    assert made.recorder.warnings == {}


@pytest.fixture(autouse=True)
def nothing_collected():
    timing_collector.clear()
    yield
    timing_collector.clear()


def rows(exec_id):
    """What was collected, without the durations."""
    return {node: set(names) for node, names in timing_collector.get(exec_id).items()}


@pytest.mark.parametrize("door", [timed, atimed])
def test_ids_are_found_by_position_keyword_and_default(door):
    """Both doors find the ids wherever the call gives them, in def and async def alike, and leave the call as it is."""

    class Agent:
        @door("selection")
        async def select(self, execution_id, node_id="default node", *, extra=None):
            await asyncio.sleep(0)
            return self, execution_id, node_id, extra

        @door("plain", node_id_param="node", exec_id_param="run")
        def plain(self, run, /, node, *rest):
            return run, node, rest

        @door()
        @staticmethod
        def static(*, node_id, execution_id):
            return node_id, execution_id

        @door
        @classmethod
        def of_class(cls, execution_id, node_id):
            return cls, execution_id, node_id

    agent = Agent()
    assert asyncio.run(agent.select("e", "n")) == (agent, "e", "n", None)
    assert asyncio.run(agent.select("e", extra=1)) == (agent, "e", "default node", 1)
    assert asyncio.run(agent.select(node_id="by keyword", execution_id="e")) == (agent, "e", "by keyword", None)
    assert agent.plain("e", "n", 3) == ("e", "n", (3,))
    assert Agent.static(node_id="n", execution_id="e") == ("n", "e")
    assert Agent.of_class("e", "n") == (Agent, "e", "n")
    assert inspect.iscoroutinefunction(Agent.select)
    assert rows("e") == {"n": {"selection", "plain", "static", "of_class"}, "default node": {"selection"}, "by keyword": {"selection"}}


@pytest.mark.parametrize("door", [timed, atimed])
def test_generators_are_timed_under_their_ids(door):
    """A generator and an async generator count for the node that their call names."""

    @door("produce")
    def produce(execution_id, node_id):
        yield from range(3)

    @door("aproduce")
    async def aproduce(execution_id, node_id):
        yield 1

    async def main():
        return [each async for each in aproduce("e", "n")]

    assert list(produce("e", "n")) == [0, 1, 2]
    assert asyncio.run(main()) == [1]
    assert rows("e") == {"n": {"produce", "aproduce"}}


def test_a_function_without_the_named_parameters_is_timed_where_it_runs():
    """Without ids in the call the current task is meant; outside of a run nothing is, and the function runs as ever."""

    @timed
    def bare(x):
        return x

    @timed("packed")
    def packed(*node_id, **execution_id):
        return node_id, execution_id

    @timed("through")
    def through(**kwargs):
        return kwargs

    assert bare(1) == 1
    assert packed(1, a=2) == ((1,), {"a": 2})
    assert through(execution_id="e", node_id="n") == {"execution_id": "e", "node_id": "n"}
    assert timed("c code")(max)(1, 2) == 2
    assert timed("partial")(functools.partial(bare, 5))() == 5
    assert rows("e") == {"n": {"through"}}
    made = Run()
    with enter_scope(made.scope):
        bare(2)
    assert [span.name for span in made.spans] == ["bare"]


@pytest.mark.parametrize("empty", ["", None])
def test_an_empty_execution_id_means_no_timing_and_no_error(empty):
    """Outside of a run, whichever door: nothing is collected and the code runs."""

    @timed("x")
    def call(execution_id, node_id):
        return node_id

    async def main():
        async with atime_phase(empty, "n", "x") as p:
            p.set(a=1)
            p.event("e")

    assert call(empty, "n") == "n"
    with time_phase(empty, "n", "x"):
        pass
    asyncio.run(main())
    assert timing_collector._rows == {}


def test_outside_of_a_run_exceptions_come_out_and_are_collected():
    """A phase with an id is collected however its block ends; the very exception goes on."""
    error = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt) as caught, time_phase("e", "n", "x"):
        raise error
    assert caught.value is error
    assert rows("e") == {"n": {"x"}}


def test_ids_of_any_type_are_taken_as_text():
    """A number, an id object, an object whose text fails, and a name of 10,000 characters with newlines: the code runs, something readable is kept."""

    class Mean:
        def __str__(self):
            raise RuntimeError("no")

        def __eq__(self, other):
            raise RuntimeError("no")

        __hash__ = None

    with time_phase(7, Mean(), "long\n" * 2000):
        pass
    ((node, names),) = timing_collector.get(7).items()
    assert node == "<Mean>"
    assert [len(name) for name in names] == [1024]


def test_inside_a_run_a_foreign_id_is_an_attribute_and_a_key(run):
    """The phase belongs to the run; the id stands on its span and in `timing_collector` at once; the run's own id is no attribute."""
    with time_phase("workflow-17", "node_1", "llm", tokens=3):
        pass
    with time_phase("exec_1", "n", "own"):
        assert timing_collector.get("exec_1") == {"node_1": {"llm": 1e-05}}
    llm, own = run.spans
    assert (llm.attributes["exec.id"], llm.attributes["exec_id"], llm.attributes["node.id"]) == ("exec_1", "workflow-17", "node_1")
    assert "exec_id" not in own.attributes
    assert own.attributes["node.id"] == "n"
    assert timing_collector.get("workflow-17") == {"node_1": {"llm": 1e-05}}
    assert timing_collector.pop("workflow-17") == {"node_1": {"llm": 1e-05}}
    assert timing_collector.get("workflow-17") == {}
    assert timing_collector.get("exec_1")["n"] == {"own": pytest.approx(1e-05)}
    run.finish()
    assert set(run.fold.sums.nodes) == {"node_1"}


def test_the_steps_own_name_is_the_step(run):
    """A node id that is the step's own id or its name counts for the step, with no node beside it."""
    run.scope.own_names = ("n-123456", "n")
    for node in ("n-123456", "n"):
        with time_phase(None, node, "x"):
            pass
    assert set(run.finish()) == {"x"}
    assert run.fold.sums.nodes == {}


def test_what_is_read_is_a_copy():
    """Changing what `get` returned changes nothing; `clear` forgets one execution or all."""
    collector = TimingCollector()
    collector.add("e", "n", "x", 1_500_000)
    collector.add("e", "n", "x", 1)
    collector.add("f", "n", "x", 1)
    collector.get("e")["n"]["x"] = 0
    assert collector.get("e") == {"n": {"x": 1.500001}}
    collector.clear("e")
    assert (collector.get("e"), collector.get("f")) == ({}, {"n": {"x": 1e-06}})
    collector.clear()
    assert collector.get("f") == {}


def test_the_collector_is_bounded(monkeypatch, caplog):
    """Past the bound the oldest execution goes, with one warning; nodes and names past theirs share a row."""
    monkeypatch.setattr(collector_module, "MAX_IDS", 2)
    monkeypatch.setattr(collector_module, "_said", False)
    monkeypatch.setattr(collector_module, "MAX_NODES", 2)
    monkeypatch.setattr(collector_module, "MAX_NAMES", 2)
    collector = TimingCollector()
    for number in range(4):
        collector.add(f"e{number}", "n", "x", 1)
    for number in range(4):
        collector.add("e3", f"n{number}", "x", 1)
        collector.add("e3", "n", f"x{number}", 1)
    assert [bool(collector.get(f"e{number}")) for number in range(4)] == [False, False, True, True]
    assert {node: set(names) for node, names in collector.get("e3").items()} == {"n": {"x", "x0", "(others)"}, "n0": {"x"}, "(others)": {"x"}}
    assert sum(sum(names.values()) for names in collector.get("e3").values()) == pytest.approx(9e-06)
    assert len(caplog.records) == 1


def test_a_logger_that_the_user_enabled_says_each_phase(caplog):
    """With the logger's level set, a phase with an id is one line of the promised form outside of a run; the handlers are the user's."""
    with caplog.at_level(15, "otel_exec.timing"):
        with time_phase("e", "n", "line\nbreak"):
            pass
        with phase("without id"):
            pass
    (record,) = caplog.records
    assert (record.levelno, record.msg) == (15, "exec_id=%s node_id=%s phase=%s dur_ms=%.3f status=%s")
    assert re.fullmatch(r"exec_id=e node_id=n phase=line\\nbreak dur_ms=\d+\.\d{3} status=ok", record.getMessage())
    assert logging.getLogger("otel_exec.timing").handlers == []
