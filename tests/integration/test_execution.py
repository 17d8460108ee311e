"""`execution`: a run without steps, with a whole record, around code that behaves as without it."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from support.run_checks import check_run

from otel_exec import atime_phase, deferred, execution, output, phase, read_run, step, time_phase, timed, timing_collector
from otel_exec import config as configuration
from otel_exec.aggregate import timing_collector as collector_module
from otel_exec.cli.main import main
from otel_exec.driver.environment import experiment_of
from otel_exec.driver.open_run import begin
from otel_exec.errors import ConfigError, UsageError
from otel_exec.record.record_file import read_record
from otel_exec.report.breakdown import breakdown
from otel_exec.semconv import Kind
from otel_exec.spans.scope import scope_here
from otel_exec.testing import recorded_spans, run_in


@pytest.fixture(autouse=True)
def nowhere(monkeypatch, tmp_path):
    """Runs go below the test's own folder, and nothing is exported."""
    for name in [name for name in os.environ if name.startswith("OTEL_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


def nodes_of(record):
    return {node.node_id: {name: phase.count for name, phase in node.phases.items()} for node in record.nodes}


def test_a_block_is_a_run_with_a_whole_record():
    """Phases without a node id belong to a node named like the execution, others to their own; spool, record and rebuilt record agree."""
    with execution("my-app", exec_id="workflow-17") as run:
        assert run.exec_id is not None
        with phase("outer"), time_phase("workflow-17", "node_1", "llm", input_tokens=5):
            pass
        with time_phase("workflow-17", "my-app", "own"):
            pass
    assert run.exec_id is None
    record = read_run()
    assert (record.experiment.name, record.alias, record.outcome, record.steps) == ("my-app", "workflow-17", "success", [])
    assert nodes_of(record) == {"my-app": {"outer": 1, "(nodes)": 1, "own": 1}, "node_1": {"llm": 1}}
    own, other = record.nodes
    assert (own.total_ns, other.token_usage) == (record.nodes[0].attempts[0].total_ns, {"input_tokens": 5})
    for node in breakdown(record).nodes:
        assert sum(row.share_ns for row in node.rows) + node.unaccounted_ns == node.total_ns
    trace = check_run(record, files=True)
    task, root = trace.one(Kind.TASK), trace.one(Kind.RUN)
    assert (task.name, task.parent_span_id, root.name) == ("task my-app", root.span_id, "run my-app")
    assert record.exec_id.startswith("exec_")
    assert not os.path.exists("run.json")


def test_every_command_shows_it(capsys):
    """`summary`, `metrics`, `runs`, `status` and `replay` take its id, its name and the id that the program gave it."""
    with execution("my-app", exec_id="workflow-17"), time_phase("workflow-17", "node_1", "llm"):
        pass
    exec_id = read_run("workflow-17").exec_id
    for command in ("summary", "metrics", "status", "replay"):
        for name in ("workflow-17", "my-app", exec_id):
            assert main([command, name]) == (2 if command == "replay" else 0), command
    assert main(["runs"]) == 0
    said = capsys.readouterr().out
    assert said.count("known as   workflow-17") == 3
    assert "A program's own execution" in said
    assert "node_1 - Total:" in said
    assert "my-app" in said


@pytest.mark.parametrize(
    ("error", "outcome", "error_type"),
    [
        (ValueError("x"), "failure", "ValueError"),
        (KeyboardInterrupt(), "cancellation", "cancelled"),
        (SystemExit(3), "failure", "SystemExit"),
        (SystemExit(0), "success", None),
        (asyncio.CancelledError(), "cancellation", "cancelled"),
    ],
)
def test_exceptions_pass_unchanged(error, outcome, error_type):
    """The record has what they come to; `sys.exit(0)` is a success."""
    with pytest.raises(type(error)) as caught, execution("my-app"):
        raise error
    assert caught.value is error
    record = read_run()
    assert record.outcome == outcome
    task = check_run(record).one(Kind.TASK)
    assert task.attributes.get("error.type") == error_type


def test_functions_and_coroutines():
    """Each call of a decorated function is a run of its own, with its result and its exceptions; a generator is refused."""

    @execution("plain")
    def plain(number: int) -> int:
        with phase("inside"):
            return number + 1

    @execution("coroutine")
    async def coroutine(number: int) -> int:
        async with atime_phase("", "", "inside"):
            await asyncio.sleep(0)
        raise LookupError(number)

    assert plain(1) == 2
    assert plain(2) == 3
    with pytest.raises(LookupError):
        asyncio.run(coroutine(1))
    folders = os.listdir("outputs/.otel_exec/runs")
    records = [read_run(name) for name in folders]
    assert sorted(record.experiment.name for record in records) == ["coroutine", "plain", "plain"]
    assert {record.outcome for record in records if record.experiment.name == "coroutine"} == {"failure"}
    for record in records:
        assert nodes_of(record) == {record.experiment.name: {"inside": 1}}
    with pytest.raises(UsageError, match="def or async def"):

        @execution("generator")
        def generator():
            yield 1


def test_threads_and_asyncio_carry_it():
    """Phases of threads, of a pool and of tasks belong to the run that started them, each counted once."""

    @timed("selection")
    def select(execution_id, node_id):
        del execution_id, node_id

    async def loop():
        async def one():
            async with atime_phase("w", "node_1", "call"):
                await asyncio.sleep(0)

        await asyncio.gather(*(one() for _ in range(100)))

    with execution("my-app", exec_id="w"):
        threads = [threading.Thread(target=select, args=("w", "node_2")) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda _: select("w", "node_3"), range(50)))
        asyncio.run(loop())
    record = read_run()
    assert nodes_of(record) == {"my-app": {"(nodes)": 154}, "node_1": {"call": 100}, "node_2": {"selection": 4}, "node_3": {"selection": 50}}
    check_run(record)


def test_two_at_once_keep_apart():
    """Two threads of a service, each with an execution: each run has its own phases alone."""
    barrier = threading.Barrier(2, timeout=30)

    def serve(name):
        with execution(name, exec_id=f"request-{name}"):
            barrier.wait()
            with phase(f"in {name}"):
                barrier.wait()

    threads = [threading.Thread(target=serve, args=(name,)) for name in ("a", "b")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for name in ("a", "b"):
        record = read_run(f"request-{name}")
        assert nodes_of(record) == {name: {f"in {name}": 1}}
        check_run(record)


def test_inside_another_it_is_a_phase_of_it():
    """Nested, and inside a step of an experiment: no run of its own, a phase of the one that is there."""
    with execution("outer") as outer:
        with execution("inner", exec_id="w") as inner:
            assert inner.exec_id == outer.exec_id
            with phase("work"):
                pass
    assert len(os.listdir("outputs/.otel_exec/runs")) == 1
    assert nodes_of(read_run()) == {"outer": {"inner": 1, "work": 1}}


def _steps_own(config):
    del config
    with execution("app"), phase("work"):
        pass


@step("one")
def _one():
    return deferred(_steps_own)({"out": output()})


def test_inside_a_step_it_is_a_phase_of_the_step(tmp_path):
    """The step's breakdown has it, and there is one run."""
    record = run_in(tmp_path / "exp", _one())
    assert set(record.steps[0].phases) == {"app", "work"}
    check_run(record)
    assert len(os.listdir(tmp_path / "exp/outputs/.otel_exec/runs")) == 1


def test_what_it_came_to_stays_in_the_collector():
    """After the block `timing_collector` has, under the run's id and under the program's own, what it had inside; `pop` forgets it and leaves the record."""
    with execution("my-app", exec_id="workflow-18") as run:
        exec_id = run.exec_id
        with time_phase("workflow-18", "node_1", "llm"), phase("own"):
            pass
        inside = timing_collector.get("workflow-18")
    assert set(inside["node_1"]) == {"llm"}
    assert timing_collector.pop("workflow-18") == inside
    assert timing_collector.get("workflow-18") == {}
    total_ns = {node.node_id: {name: found.total_ns / 1e6 for name, found in node.phases.items() if name != "(nodes)"} for node in read_run().nodes}
    assert timing_collector.pop(exec_id) == total_ns


def test_ids_of_its_own_that_had_to_go_are_said(monkeypatch, caplog):
    """A program that makes up more execution ids than are kept is told so once, by the first that was forgotten."""
    monkeypatch.setattr(collector_module, "MAX_IDS", 2)
    monkeypatch.setattr(collector_module, "_said", False)
    with execution("my-app"):
        for number in range(4):
            with time_phase(f"e{number}", "n", "x"):
                pass
    assert [each.getMessage() for each in caplog.records] == [
        "timing_collector holds 2 execution ids and forgets the oldest ones, first e0: pop() what was read"
    ]
    timing_collector.clear()


def test_spans_at_their_limit_are_said_of_a_run_that_goes_on():
    """Seen from outside, a run has what its spool has: where a task is at its limit of spans, the record says that phases may be missing."""
    with execution("my-app", max_task_spans=3):
        for _ in range(3):
            with phase("work"):
                pass
        scope_here().recorder.flush()
        record = read_run()
        assert nodes_of(record) == {"my-app": {"work": 3}}
        assert [(warning.code, warning.count) for warning in record.warnings] == [("spans_at_limit", 1)]
        assert "my-app: tasks with 3 spans" in record.warnings[0].message
    assert read_run().warnings == []


def test_a_long_name_is_cut_to_what_other_processes_can_read():
    """Seen from outside, the phases of an execution are its own node's, the open one up to now, however long it was named."""
    with execution("é" * 200), phase("work"):
        scope_here().recorder.flush()
        with phase("inside"):
            pass
        scope_here().recorder.flush()
        assert nodes_of(read_run()) == {"é" * 127: {"work": 1, "inside": 1}}
    assert nodes_of(read_run()) == {"é" * 127: {"work": 1, "inside": 1}}


def test_spans_reach_their_file_while_the_block_is_quiet(monkeypatch):
    """What has ended is in the file that the exporter follows by the next beat, though no further phase ends."""
    with execution("my-app") as run:
        opened, beaten = run._open[-1], threading.Semaphore(0)
        for number in range(20):
            with phase(f"work {number}"):
                pass
        monkeypatch.setattr(opened._keeper, "beat", lambda _: beaten.release())
        for _ in range(2):  # the first may have been under way
            assert beaten.acquire(timeout=30)
        with open(os.path.join(opened._store.spans_folder, "driver.jsonl"), encoding="utf-8") as file:
            assert '"work 19"' in file.read()


def test_one_failure_at_the_end_leaves_nothing_else_undone(monkeypatch, caplog):
    """Leaving the context, the status table and the journal fail: each is logged, and the record is written, whole, with the phases in it."""

    def fails(*_):
        raise RuntimeError("on purpose")

    with caplog.at_level(logging.WARNING):
        opened = begin(configuration.resolve({}, os.environ), experiment_of("my-app", None, []), alias="w")
        with phase("work"):
            pass
        monkeypatch.setattr(opened, "_say_ended", fails)
        monkeypatch.setattr(opened._table, "remove", fails)
        opened._entered.callback(fails)
        opened.close(None)
    assert caplog.text.count("on purpose") == 3
    record = read_record(os.path.join(opened._store.run_folder, "run.json"))
    assert (record.outcome, nodes_of(record)) == ("success", {"my-app": {"work": 1}})
    assert scope_here() is None
    assert not opened._beats.is_alive()


def test_a_forked_child_leaves_the_run_to_its_parent():
    """A child that runs to the end of the block writes no record; the phases that it had count, from a spool file of its own."""
    parent = os.getpid()
    with execution("my-app"):
        pid = os.fork()
        with phase("both"):
            pass
        if pid:
            assert os.waitpid(pid, 0)[1] == 0
    if os.getpid() != parent:
        os._exit(0)
    record = read_run()
    assert (record.outcome, nodes_of(record)) == ("success", {"my-app": {"both": 2}})
    assert len([span for span in recorded_spans(record) if span.name == "both"]) == 2
    assert len([span for span in recorded_spans(record) if span.kind == Kind.RUN]) == 1


def test_a_folder_that_cant_be_written_is_said_once(tmp_path, caplog):
    """The program goes on as without us; settings that can't be read are its author's to know at once."""
    (tmp_path / "file").write_text("")
    with caplog.at_level(logging.WARNING), execution("my-app", prefix=str(tmp_path / "file")) as run, phase("work"):
        assert run.exec_id is None
    assert "my-app is not recorded, the program goes on" in caplog.text
    with pytest.raises(ConfigError), execution("my-app", workers="many"):
        raise AssertionError("not reached")
    with pytest.raises(UsageError), execution("my-app", wrokers=2):
        raise AssertionError("not reached")


SCRIPT = """
import sys, time
from otel_exec import execution, phase, time_phase

with execution("killed", exec_id="w"):
    for _ in range(3):
        with time_phase("w", "node_1", "call"):
            pass
    with phase("endless"):
        print("ready", flush=True)
        sys.stdin.read()
"""


def test_it_is_shown_while_it_runs_and_after_it_was_killed():
    """From another process: what has finished is there, the run goes on, then it is interrupted; nothing finished is lost."""
    child = subprocess.Popen([sys.executable, "-c", SCRIPT], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert child.stdout.readline() == b"ready\n"
        record = read_run("w")
        assert (record.outcome, nodes_of(record)["node_1"]) == ("running", {"call": 3})
        child.send_signal(signal.SIGKILL)
        child.wait(30)
    finally:
        child.kill()
        child.communicate()
    record = read_run("w")
    assert (record.outcome, nodes_of(record)["node_1"]) == ("interrupted", {"call": 3})
    assert record.nodes[0].total_ns >= record.nodes[1].total_ns
    assert main(["metrics", "w", "--breakdown", "--bottlenecks"]) == 0
    assert main(["summary", "w"]) == 0


def test_spans_are_exported_live(receiver, monkeypatch):
    """Each span arrives once; the record counts them; `async with` keeps the event loop free meanwhile."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.http_endpoint)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf")

    async def loop():
        async with execution("my-app"):
            for _ in range(10):
                with phase("work"):
                    pass
            await asyncio.to_thread(receiver.wait_for, 10)

    asyncio.run(loop())
    record = read_run()
    assert record.export.spans == record.export.spans_acknowledged == 12
    assert set(receiver.counts().values()) == {1}
    assert len(receiver.counts()) == 12


def test_logging_of_the_users_that_raises_reaches_nobody(monkeypatch, tmp_path):
    """A filter, a handler or a record factory of the user's that raises on our warnings changes nothing, at the beginning or at the end of a block."""

    class Raises(logging.Handler):
        def handle(self, record):
            raise ValueError("on purpose")

    def fails(*_):
        raise RuntimeError("to be warned of")

    monkeypatch.setattr(logging.root, "handlers", [Raises()])
    (tmp_path / "file").write_text("")
    with execution("my-app", prefix=str(tmp_path / "file")):
        pass
    opened = begin(configuration.resolve({}, os.environ), experiment_of("my-app", None, []), alias="w")
    monkeypatch.setattr(opened, "_say_ended", fails)
    opened._entered.callback(fails)
    opened.close(None)
    assert read_run("w").outcome == "success"


def test_without_threads_the_block_runs_unrecorded(monkeypatch, caplog):
    """Where no thread can be had, that is said once, with what and where, nothing stays of the run, and the next one is recorded."""

    def fails(_):
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", fails)
        for timing in (False, True):
            with execution("my-app", timing=timing) as run, phase("work"):
                assert run.exec_id is None
    assert len(caplog.records) == 2
    assert caplog.records[0].getMessage() == f"my-app is not recorded under {os.getcwd()}/outputs, the program goes on: can't start new thread"
    assert [name for _, _, files in os.walk("outputs") for name in files] == []
    assert scope_here() is None
    with execution("my-app"):
        pass
    assert read_run().outcome == "success"


@pytest.mark.parametrize("pool", ["busy", "shut down"])
def test_the_end_needs_nothing_of_the_users_pool(pool):
    """`async with` ends while the event loop's pool is busy, and where it is shut down; the block's own exception passes."""

    async def main():
        loop, free = asyncio.get_running_loop(), threading.Event()
        loop.set_default_executor(ThreadPoolExecutor(1))
        if pool == "busy":
            waits = loop.run_in_executor(None, free.wait)
        try:
            async with execution("my-app"):
                if pool == "shut down":
                    await loop.shutdown_default_executor()
                raise KeyError("the user's")
        finally:
            free.set()
            if pool == "busy":
                await waits

    with pytest.raises(KeyError, match="the user's"):
        asyncio.run(asyncio.wait_for(main(), 60))
    assert read_run().outcome == "failure"


def test_the_end_needs_no_thread(monkeypatch):
    """Where no thread can be had at the end of an `async with`, the record is written all the same."""

    def fails(_):
        raise RuntimeError("can't start new thread")

    async def main():
        async with execution("my-app"):
            monkeypatch.setattr(threading.Thread, "start", fails)

    asyncio.run(main())
    assert read_run().outcome == "success"


def test_a_phase_that_outlives_the_block_ends_with_it(caplog):
    """A thread that goes on after the block: its open phase has a span that ends with the block, as it was counted; what it does later is silence."""
    begun, over = threading.Event(), threading.Event()

    def work():
        with phase("outer"), time_phase("w", "node_1", "inner"):
            begun.set()
            over.wait(30)
        with phase("later"):
            pass

    with execution("my-app"):
        thread = threading.Thread(target=work)
        thread.start()
        assert begun.wait(30)
    over.set()
    thread.join()
    record = read_run()
    assert nodes_of(record) == {"my-app": {"outer": 1, "(nodes)": 1}, "node_1": {"inner": 1}}
    spans = {span.name: span for span in recorded_spans(record)}
    assert set(spans) == {"outer", "inner", "task my-app", "run my-app"}
    assert {spans[name].end_ns for name in ("outer", "inner")} == {spans["task my-app"].end_ns}
    assert spans["inner"].parent_span_id == spans["outer"].span_id
    check_run(record, files=True)
    assert (caplog.records, record.warnings) == ([], [])


def test_a_working_directory_that_is_gone_is_said(tmp_path, caplog):
    """Without a prefix and without a working directory the block runs unrecorded, and one sentence says what to do."""
    (tmp_path / "gone").mkdir()
    os.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    with execution("my-app") as run:
        assert run.exec_id is None
    (said,) = caplog.records
    assert "my-app is not recorded, the program goes on: its paths are relative to the working directory, which is gone" in said.getMessage()
    assert "OTEL_EXEC_PREFIX" in said.getMessage()


def test_what_it_decorates():
    """Static and class methods are unwrapped; a class is a mistake that says so; leaving what was not entered, and names without a text, harm nothing."""

    class NoText:
        def __str__(self):
            raise ValueError("no text")

    class Service:
        @execution("static")
        @staticmethod
        def one(number):
            return number

        @execution("class")
        @classmethod
        def other(cls, number):
            return cls, number

    assert (Service.one(1), Service().one(2), Service.other(3)) == (1, 2, (Service, 3))
    with pytest.raises(UsageError, match="not the class"):
        execution("x")(Service)
    execution("x").__exit__(None, None, None)
    asyncio.run(execution("x").__aexit__(None, None, None))
    with execution(NoText(), exec_id=NoText()):
        pass
    record = read_run()
    assert (record.experiment.name, record.alias) == ("<NoText>", "<NoText>")
