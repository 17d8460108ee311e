"""What must hold of phases, row by row of the table that promises it, over whole runs."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import os
import re
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from otel_exec import StepsFailed, atime_phase, deferred, map_tasks, phase, step, time_phase, timed, timing_collector, versioned
from otel_exec.spans.provider import ScopeProvider
from otel_exec.testing import recorded_spans, run_in

EXECUTORS = ["inline", "threads", "processes"]


def run_one(folder, function, executor="inline", **settings):
    """Run a step that calls `function()`; returns the record, of a failed run too."""

    def call(config):
        function()

    work = deferred(call)

    @step(name="work")
    def work_step():
        return work({"v": versioned(1)})

    try:
        return run_in(folder, [work_step()], executor=executor, workers=2, **settings)
    except StepsFailed as failed:
        return failed.record


def phases_of(record):
    return [span for span in recorded_spans(record) if span.kind == "phase"]


@pytest.mark.parametrize("flag", [False, True])
def test_always_collected(tmp_path, flag):
    """Phases are in the record whether or not `timing` is given: the flag governs the log alone."""

    def work():
        with phase("a"):
            pass

    record = run_one(tmp_path, work, timing=flag)
    assert record.steps[0].phases["a"].count == len(phases_of(record)) == 1
    assert os.path.exists(os.path.join(record.run_folder, "run.log")) is flag


@pytest.mark.parametrize(
    ("error", "outcome", "error_type"),
    [
        (ValueError("x"), "failure", "ValueError"),
        (SystemExit(3), "failure", "SystemExit"),
        (KeyboardInterrupt(), "cancellation", "cancelled"),
        (asyncio.CancelledError(), "cancellation", "cancelled"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else value,
)
@pytest.mark.parametrize("executor", EXECUTORS)
def test_exception_safe(tmp_path, executor, error, outcome, error_type):
    """A phase is recorded on whatever ends it, with status and `error.type`; the exception comes out as the very object that it was."""

    def work():
        try:
            with phase("block"):
                raise error
        except BaseException as caught:
            assert caught is error  # noqa: PT017  it may be a SystemExit, which the step must not end with
            with phase("unchanged"):
                pass

    record = run_one(tmp_path, work, executor)
    spans = {span.name: span for span in phases_of(record)}
    assert set(spans) == {"block", "unchanged"}
    block = spans["block"]
    assert (block.status, block.attributes["exec.outcome"], block.attributes["error.type"]) == (2, outcome, error_type)
    assert record.steps[0].phases["block"].errors == 1


@pytest.mark.parametrize("executor", EXECUTORS)
def test_sums_in_nanoseconds(tmp_path, executor):
    """Total, count, min, max and errors of each (node, phase) are those of the spans in the spool, to the nanosecond."""

    def work():
        for number in range(1000):
            with time_phase(None, f"node_{number % 2}", "short"):
                pass
            with phase("own"):
                pass

    record = run_one(tmp_path, work, executor)
    found = phases_of(record)
    rows = {node.node_id: node.phases for node in record.nodes} | {record.steps[0].node_id: record.steps[0].phases}
    for node, name in (("node_0", "short"), ("node_1", "short"), (record.steps[0].node_id, "own")):
        durations = [span.duration_ns for span in found if span.name == name and span.attributes["node.id"] == node]
        row = rows[node][name]
        assert (row.count, row.total_ns, row.min_ns, row.max_ns, row.errors) == (len(durations), sum(durations), min(durations), max(durations), 0)
    assert len(found) == 2000


def test_parallel_phases(tmp_path):
    """Of phases side by side the sum is each one's, the union the wall clock's; shares are equal and with the unaccounted rest make up the whole."""

    def work():
        both = threading.Barrier(2, timeout=30)

        def part():
            with phase("side"):
                both.wait()
                both.wait()

        threads = [threading.Thread(target=contextvars.copy_context().run, args=(part,)) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    record = run_one(tmp_path, work)
    row = record.steps[0].phases["side"]
    first, second = (span for span in phases_of(record) if span.name == "side")
    union = max(first.end_ns, second.end_ns) - min(first.start_ns, second.start_ns)
    assert (row.total_ns, row.union_ns, row.share_ns) == (first.duration_ns + second.duration_ns, union, union)
    assert row.union_ns < row.total_ns


def test_nesting(tmp_path):
    """Parents are spans; self time is a phase's own interval less its children's union."""

    def work():
        with phase("outer"):
            for _ in range(3):
                with phase("inner"):
                    pass

    record = run_one(tmp_path, work)
    spans = phases_of(record)
    (outer,) = (span for span in spans if span.name == "outer")
    inners = [span for span in spans if span.name == "inner"]
    assert {span.parent_span_id for span in inners} == {outer.span_id}
    assert record.steps[0].phases["outer"].self_ns == outer.duration_ns - sum(span.duration_ns for span in inners)


def test_repeated_nodes(tmp_path):
    """Each iteration of a node keeps its own phases, each attempt of a step its own."""
    marks = tmp_path / "marks"
    marks.mkdir()

    def call(config):
        for _ in range(3):
            with time_phase(None, "node", "turn"):
                pass
        mark = marks / "first"
        for _ in range(2 if mark.exists() else 1):
            with phase("own"):
                pass
        if not mark.exists():
            mark.touch()
            raise LookupError

    work = deferred(call)

    @step(name="again", retries=1)
    def again():
        return work({})

    record = run_in(tmp_path, [again()])
    attempts = [span.attributes["exec.attempt"] for span in phases_of(record) if span.name == "turn"]
    assert sorted(attempts) == [1, 1, 1, 2, 2, 2]
    (node,) = record.nodes
    (found,) = record.steps
    assert node.phases["turn"].count == 6
    assert [(each.node_id, each.attempt, each.phases["turn"].count) for each in node.attempts] == [(found.node_id, 1, 3), (found.node_id, 2, 3)]
    assert [{name: row.count for name, row in attempt.phases.items()} for attempt in found.attempts] == [{"(nodes)": 3, "own": 1}, {"(nodes)": 3, "own": 2}]


def test_metadata(tmp_path):
    """Metadata are attributes of each occurrence's own span; what can't be one becomes text."""

    def work():
        for number in range(3):
            with phase("call", number=number, odd={"a": 1}, none=None, huge=2**80, nan=float("nan")) as p:
                p.set(answer=[1, 2])

    spans = phases_of(run_one(tmp_path, work))
    assert [span.attributes["number"] for span in spans] == [0, 1, 2]
    assert all(span.attributes["odd"] == "{'a': 1}" and span.attributes["huge"] == str(2**80) and span.attributes["nan"] == "NaN" for span in spans)
    assert all(list(span.attributes["answer"]) == [1, 2] and "none" not in span.attributes for span in spans)


@pytest.mark.parametrize("executor", EXECUTORS)
def test_bounded(tmp_path, executor, monkeypatch):
    """Past the limit phases are folded exactly, and the record says how many have no span of their own."""
    monkeypatch.setenv("OTEL_EXEC_MAX_TASK_SPANS", "10")

    def work():
        for _ in range(25):
            with phase("p"):
                pass

    record = run_one(tmp_path, work, executor)
    assert len(phases_of(record)) == 10
    assert record.steps[0].phases["p"].count == 25
    (warning,) = (warning for warning in record.warnings if warning.code == "phases_without_span")
    assert warning.count == 15


@pytest.mark.parametrize("executor", EXECUTORS)
def test_numbers_of_tokens_of_any_size(tmp_path, executor):
    """A number that 64 bits can't hold is text on its span and is not summed; a sum that would pass them stays at their end; neither costs the worker."""

    def work():
        for tokens in (2**70, 2**62, 2**62, 2**62):
            with phase("call", tokens=tokens), time_phase(None, "node_1", "inner", output_tokens=tokens):
                pass

    record = run_one(tmp_path, work, executor)
    assert (record.outcome, len(record.steps[0].attempts)) == ("success", 1)
    assert (record.steps[0].token_usage, record.nodes[0].token_usage) == ({"tokens": 2**63 - 1}, {"output_tokens": 2**63 - 1})


@pytest.mark.parametrize("executor", EXECUTORS)
def test_what_the_limit_leaves_out_is_told_apart(tmp_path, executor, monkeypatch):
    """Past the limit phases are counted as such, spans of the code's own as dropped, and waits for fan-outs as neither."""
    monkeypatch.setenv("OTEL_EXEC_MAX_TASK_SPANS", "2")

    def item(number):
        return number

    def work():
        for _ in range(5):
            with phase("p"):
                pass
        tracer = ScopeProvider().get_tracer("own")
        for _ in range(4):
            tracer.start_span("s").end()
        map_tasks(item, [])
        assert map_tasks(item, [1, 2]) == [1, 2]

    record = run_one(tmp_path, work, executor)
    assert record.outcome == "success"
    told = {warning.code: warning.count for warning in record.warnings}
    assert told == {"phases_without_span": 3, "spans_dropped": 4}


@pytest.mark.parametrize("executor", EXECUTORS)
def test_threads(tmp_path, executor):
    """Eight threads with 10,000 phases each are counted exactly, and so are those of a thread pool, under the phase that started it."""

    def work():
        def many():
            for _ in range(10_000):
                with phase("p"):
                    pass

        with phase("pool"), ThreadPoolExecutor(8) as pool:
            for done in [pool.submit(many) for _ in range(8)]:
                done.result()

    record = run_one(tmp_path, work, executor, max_task_spans=1000)
    row = record.steps[0].phases["p"]
    assert row.count == 80_000
    spans = phases_of(record)
    assert len(spans) == len({span.span_id for span in spans}) == 1000
    (pool,) = (span for span in spans if span.name == "pool")
    assert {span.parent_span_id for span in spans if span.name == "p"} == {pool.span_id}


def test_asyncio(tmp_path):
    """A thousand asyncio tasks are counted exactly, each phase under its own task's."""

    def work():
        async def one(number):
            async with phase("outer"), atime_phase(None, f"node_{number % 3}", "inner"):
                await asyncio.sleep(0)

        async def main():
            await asyncio.gather(*(one(number) for number in range(1000)))

        asyncio.run(main())

    record = run_one(tmp_path, work)
    assert record.steps[0].phases["outer"].count == 1000
    assert sum(node.phases["inner"].count for node in record.nodes) == 1000
    spans = phases_of(record)
    outer = {span.span_id for span in spans if span.name == "outer"}
    assert {span.parent_span_id for span in spans if span.name == "inner"} == outer


@pytest.mark.parametrize("executor", ["inline", "processes"])
def test_processes(tmp_path, executor):
    """A forked child's phases are in a file of its own, under the phase that forked; what was open at the fork is ended by the parent alone."""

    def work():
        with phase("forks"):
            pid = os.fork()
            if not pid:
                with phase("in child"):
                    pass
                os._exit(0)
            assert os.waitpid(pid, 0)[1] == 0

    record = run_one(tmp_path, work, executor)
    spans = phases_of(record)
    assert sorted(span.name for span in spans) == ["forks", "in child"]
    by_name = {span.name: span for span in spans}
    assert by_name["in child"].parent_span_id == by_name["forks"].span_id


def _item(number):
    with phase("item"):
        pass


@pytest.mark.parametrize("executor", EXECUTORS)
def test_the_log(tmp_path, executor, capfd):
    """Each phase is one line of the promised form, items' too; no handler stays, and the user's logging set-up is as it was."""
    before = (logging.root.handlers[:], logging.root.level, logging.getLogger("otel_exec.timing").handlers[:])

    def work():
        with phase("a"):
            map_tasks(_item, range(3))

    record = run_one(tmp_path, work, executor, timing=True)
    line = re.compile(r"TIMING otel_exec\.timing exec_id=(\S+) node_id=\S+ phase=(\w+) dur_ms=\d+\.\d{3} status=ok$")
    said = [found.groups() for each in capfd.readouterr().err.splitlines() if (found := line.search(each))]
    assert sorted(said) == [(record.exec_id, "a"), *[(record.exec_id, "item")] * 3]
    assert (logging.root.handlers, logging.root.level, logging.getLogger("otel_exec.timing").handlers) == before


@pytest.mark.parametrize("executor", EXECUTORS)
def test_timing_collector(tmp_path, executor):
    """The driver has what workers reported, a deep copy; `pop` frees it and never touches the record."""
    timing_collector.clear()

    def work():
        with time_phase("elsewhere", "node", "a"):
            pass

    record = run_one(tmp_path, work, executor)
    total_ns = record.nodes[0].phases["a"].total_ns
    timing_collector.get(record.exec_id)["node"]["a"] = 0
    assert timing_collector.pop(record.exec_id) == timing_collector.pop("elsewhere") == {"node": {"a": total_ns / 1e6}}
    assert timing_collector.get(record.exec_id) == {}
    assert record.nodes[0].phases["a"].total_ns == total_ns


# --- bad input ---------------------------------------------------------------------------------------------------------------------------------------


def test_bad_input_leaves_the_users_code_as_it_is(tmp_path):
    """Names of any length and kind, exits in the wrong order, a block whose own `__enter__` fails, a method without the named parameters: the step succeeds."""

    class Fails:
        def __enter__(self):
            raise LookupError("enter")

        def __exit__(self, *_):
            raise AssertionError("never entered")

    class Agent:
        @timed("method", node_id_param="missing", exec_id_param="also_missing")
        def method(self, x):
            return x

    def work():
        for name in ("n" * 10_000, "two\nlines", "", None, 5, b"bytes", ["list"], object()):
            with phase(name):
                pass
        for ids in (("", ""), (None, None), ({}, []), ("e\n", "n" * 10_000)):
            with time_phase(*ids, "with ids"):
                pass
        first, second = phase("first"), phase("second")
        first.__enter__()
        second.__enter__()
        first.__exit__(None, None, None)
        second.__exit__(None, None, None)
        second.__exit__(None, None, None)
        with pytest.raises(LookupError), phase("around"), Fails():
            pass
        assert Agent().method(3) == 3

    record = run_one(tmp_path, work)
    assert record.outcome == "success", record.steps[0].error
    assert [warning.code for warning in record.warnings if warning.code == "telemetry_failed"] == []
    names = [span.name for span in phases_of(record)]
    assert {"n" * 1024, "two\nlines", "first", "second", "around", "method"} <= set(names)
    assert names.count("with ids") == 4


def test_the_interpreter_may_end_inside_of_a_phase():
    """A program that ends in a phase, in a daemon thread too, ends as it would without us."""
    script = """
import sys, threading
from otel_exec import phase, time_phase
entered = threading.Event()
def forever():
    with time_phase("e", "n", "daemon"):
        entered.set()
        threading.Event().wait()
threading.Thread(target=forever, daemon=True).start()
entered.wait()
time_phase("e", "n", "left open").__enter__()
with phase("x"), time_phase("e", "n", "y"):
    sys.exit(7)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False, env={**os.environ, "OTEL_EXEC_TIMING": "1"})
    assert done.returncode == 7
    lines = done.stderr.splitlines()
    assert len(lines) == 1
    assert "exec_id=e node_id=n phase=y" in lines[0]
    assert lines[0].endswith("status=error")
