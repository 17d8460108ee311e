"""Phases: what they record, whose child they are, and that they change nothing."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import os
import sys
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from enum import IntEnum

import pytest
from opentelemetry import context as context_api
from opentelemetry import trace

from otel_exec import known_secrets
from otel_exec.aggregate.task_fold import TaskFold, fold_task
from otel_exec.spans.open_spans import OpenSpanTable
from otel_exec.spans.phases import TaskScope, current_scope, enter_scope, phase
from otel_exec.spans.recorder import Recorder
from otel_exec.spans.scope import current_span_id
from otel_exec.spans.span_record import SpanLimits, SpanRecord
from otel_exec.spans.spool import SpoolWriter, read_spool
from otel_exec.spans.waits import waiting

TASK = "f" * 16


class Steps:
    """A clock that goes on 10 ns at each look."""

    def __init__(self):
        self.at_ns = 1000
        self.lock = threading.Lock()

    def now_ns(self):
        with self.lock:
            self.at_ns += 10
            return self.at_ns


class Run:
    """A scope with what it recorded and folded."""

    def __init__(self, **options):
        self.spans = []
        recorder_options = options.pop("recorder", {})
        self.recorder = Recorder(exec_id="exec_1", trace_id="ab" * 16, clock=Steps(), sink=self.spans.extend, **recorder_options)
        self.fold = TaskFold(TASK, 1000)
        self.scope = TaskScope(self.recorder, span_id=TASK, node_id="n", sink=self.fold, attributes={"node.id": "n", "exec.attempt": 1}, **options)

    def finish(self):
        assert self.recorder.warnings == {}
        return self.fold.finish(self.recorder.clock.now_ns())

    def named(self, name):
        (found,) = [span for span in self.spans if span.name == name]
        return found


@pytest.fixture
def run():
    made = Run()
    with enter_scope(made.scope):
        yield made
    assert current_scope() is None
    assert made.recorder.warnings == {}


def test_a_phase_is_a_span_with_its_metadata_under_its_task(run):
    """Name, kind, times, parent and attributes are those of the task and the call; ours win over the user's."""
    with phase("llm_call", model="m1", **{"exec.id": "mine", "big": 2**70}) as p:
        p.set(answer="yes")
        p.event("token", n=1)
    (span,) = run.spans
    assert (span.kind, span.name, span.parent_span_id, span.trace_id) == ("phase", "llm_call", TASK, "ab" * 16)
    assert span.attributes == {
        "exec.id": "exec_1",
        "node.id": "n",
        "exec.attempt": 1,
        "exec.phase": "llm_call",
        "exec.outcome": "success",
        "model": "m1",
        "big": str(2**70),
        "answer": "yes",
    }
    assert span.events == ((1020, "token", {"n": 1}),)
    assert (span.start_ns, span.end_ns, span.status) == (1010, 1030, 0)
    assert run.finish()["llm_call"].total_ns == 20


def test_phases_nest_and_the_next_one_is_a_sibling(run):
    """A phase inside another has it as parent, one after it has the task."""
    with phase("outer"), phase("inner"):
        pass
    with phase("next"):
        pass
    assert run.named("inner").parent_span_id == run.named("outer").span_id
    assert run.named("next").parent_span_id == TASK
    folds = run.finish()
    assert (folds["outer"].self_ns, folds["inner"].self_ns) == (20, 10)


@pytest.mark.parametrize(
    ("error", "outcome", "error_type"),
    [
        (ValueError("bad \ud800"), "failure", "ValueError"),
        (SystemExit(3), "failure", "SystemExit"),
        (KeyboardInterrupt(), "cancellation", "cancelled"),
        (asyncio.CancelledError(), "cancellation", "cancelled"),
    ],
)
def test_an_exception_is_recorded_and_comes_out_as_itself(run, error, outcome, error_type):
    """Status, outcome and `error.type` are on the span; the very exception goes on, for a block and for a decorated function."""

    @phase("decorated")
    def fails():
        raise error

    with pytest.raises(type(error)) as caught, phase("block"):
        raise error
    assert caught.value is error
    with pytest.raises(type(error)) as caught:
        fails()
    assert caught.value is error
    for name in ("block", "decorated"):
        span = run.named(name)
        assert (span.status, span.attributes["exec.outcome"], span.attributes["error.type"]) == (2, outcome, error_type)
    assert {name: fold.errors for name, fold in run.finish().items()} == {"block": 1, "decorated": 1}


def test_decorators_keep_the_function_as_it_is(run):
    """def, async def, generator and async generator functions stay what they are, with their names and results; bare and static ones work."""

    @phase
    def plain(x, *, y=1):
        """Doc."""
        return x + y

    @phase("renamed", model="m")
    async def coroutine(x):
        await asyncio.sleep(0)
        return x

    class Holder:
        @phase
        @staticmethod
        def static(x):
            return x

        @phase()
        @classmethod
        def of_class(cls, x):
            return cls, x

    assert (plain(1, y=2), plain.__name__, plain.__doc__) == (3, "plain", "Doc.")
    assert asyncio.run(coroutine(5)) == 5
    assert asyncio.iscoroutinefunction(coroutine)
    assert Holder.static(4) == 4
    assert Holder.of_class(4) == (Holder, 4)
    assert {span.name for span in run.spans} == {"plain", "renamed", "static", "of_class"}
    assert run.named("renamed").attributes["model"] == "m"


def test_a_generator_is_timed_while_its_own_code_runs(run):
    """Each resumption is an occurrence; the consumer's phases lie beside, not inside; values sent, thrown and returned pass through."""
    seen = []

    @phase("produce")
    def produce():
        try:
            seen.append((yield 1))
        except KeyError as error:
            seen.append(error)
        with phase("inside"):
            pass
        yield 2
        return "end"

    def consume():
        result = yield from produce()
        seen.append(result)

    consumer = consume()
    assert next(consumer) == 1
    with phase("consume"):
        thrown = KeyError("x")
    assert consumer.throw(thrown) == 2
    assert list(consumer) == []
    assert seen == [thrown, "end"]
    assert run.named("consume").parent_span_id == TASK
    produced = [span for span in run.spans if span.name == "produce"]
    assert len(produced) == 3
    assert run.named("inside").parent_span_id == produced[1].span_id
    assert all(span.status == 0 for span in run.spans)


def test_a_generator_closed_early_is_no_failure(run):
    """Closing runs the generator's own clean-up, once, and records no error."""
    cleaned = []

    @phase("produce")
    def produce():
        try:
            yield 1
        finally:
            cleaned.append(True)

    generator = produce()
    next(generator)
    generator.close()
    assert cleaned == [True]
    assert [span.status for span in run.spans] == [0, 0]


def test_a_generator_that_is_closed_leaves_the_context_alone(run):
    """What a timed generator does when it is closed is an occurrence that is never the current phase: the collector may close it while the context changes."""
    seen = []

    @phase("produce")
    def produce():
        seen.append(current_span_id())
        try:
            yield 1
        finally:
            seen.append(current_span_id())

    generator = produce()
    next(generator)
    before = context_api.get_current()
    generator.close()
    assert context_api.get_current() is before
    first, last = run.spans
    assert seen == [first.span_id, current_span_id()]
    assert last.span_id != first.span_id


def test_async_generators_and_async_blocks_are_timed(run):
    """`async with` and async generators record; what is sent and thrown passes through; early closing cleans up."""
    cleaned = []

    @phase("produce")
    async def produce():
        got = None
        try:
            while True:
                got = yield got
        finally:
            cleaned.append(got)

    async def main():
        async with phase("block"):
            generator = produce()
            assert await generator.asend(None) is None
            assert await generator.asend(7) == 7
            with pytest.raises(KeyError):
                await generator.athrow(KeyError("k"))
            other = produce()
            await other.asend(None)
            await other.aclose()

    asyncio.run(main())
    assert cleaned == [7, None]
    block = run.named("block")
    produced = [span for span in run.spans if span.name == "produce"]
    assert [span.status for span in produced] == [0, 0, 2, 0, 0]
    assert {span.parent_span_id for span in produced} == {block.span_id}


def test_concurrent_tasks_each_have_their_own_phases(run):
    """A thousand asyncio tasks with one decorator: each inner phase lies under its own outer one, and counts are exact."""
    both = phase("outer")

    @phase("inner")
    async def inner(number):
        await asyncio.sleep(0)
        return number

    async def task(number):
        async with both as p:
            p.set(number=number)
            await asyncio.sleep(0)
            both.set(again=number)
            return await inner(number)

    async def main():
        return await asyncio.gather(*(task(number) for number in range(1000)))

    assert asyncio.run(main()) == list(range(1000))
    outer = {span.span_id: span for span in run.spans if span.name == "outer"}
    inners = [span for span in run.spans if span.name == "inner"]
    assert len(outer) == len(inners) == len({span.parent_span_id for span in inners}) == 1000
    assert all(span.parent_span_id in outer for span in inners)
    assert all(span.attributes["number"] == span.attributes["again"] for span in outer.values())
    folds = run.finish()
    assert (folds["outer"].count, folds["inner"].count) == (1000, 1000)
    assert sum(fold.share_ns for fold in folds.values()) + run.fold.unaccounted_ns == run.recorder.clock.at_ns - 1000


def test_threads_record_exactly(run):
    """Phases of many threads at once, in copied contexts, are all counted once and lie under the phase that started them."""

    @phase("work")
    def work(_):
        with phase("part"):
            pass

    with phase("pool"), ThreadPoolExecutor(8) as pool:
        contexts = [contextvars.copy_context() for _ in range(400)]
        list(pool.map(lambda context: context.run(work, None), contexts))
    folds = run.finish()
    assert (folds["work"].count, folds["part"].count) == (400, 400)
    assert len({span.span_id for span in run.spans}) == 801
    assert {span.parent_span_id for span in run.spans if span.name == "work"} == {run.named("pool").span_id}


def test_a_bare_thread_belongs_to_the_only_task_of_its_process(run):
    """Without a context a thread's phases go to the task, if there is exactly one."""

    def bare():
        with phase("bare"):
            pass

    thread = threading.Thread(target=contextvars.Context().run, args=(bare,))
    thread.start()
    thread.join()
    assert run.named("bare").parent_span_id == TASK
    with enter_scope(Run().scope):
        assert contextvars.Context().run(current_scope) is None


def test_a_thread_that_outlives_its_task_folds_no_more():
    """Its spans are still written, but the task's numbers stand once its block is left."""
    run = Run()
    with enter_scope(run.scope):
        left = contextvars.copy_context()
        late = phase("across")
        left.run(late.__enter__)
    folds = run.finish()
    left.run(late.__exit__, None, None, None)
    left.run(phase("after")(lambda: None))
    assert [span.name for span in run.spans] == ["across", "after"]
    assert list(folds) == ["across"]
    assert run.recorder.warnings == {}


def test_outside_of_a_run_nothing_happens():
    """A block, a decorator and a generator behave as if they were not there."""
    with phase("x", a=1) as p:
        p.set(b=2)
        p.event("e")

    @phase
    def gen():
        yield 1

    assert list(gen()) == [1]
    assert current_scope() is None
    with pytest.raises(KeyError), phase("x"):
        raise KeyError


def test_a_phase_that_ended_is_freed_at_once():
    """Nothing of a phase waits for a collection of garbage, which would be paid for by every phase."""
    run = Run()
    gc.collect()
    gc.disable()
    try:
        with enter_scope(run.scope):
            with phase("p") as handle:
                ended = weakref.ref(handle)
            del handle
            assert ended() is None
    finally:
        gc.enable()


def test_past_the_limit_phases_are_folded_only():
    """The first spans are written, the others counted; folds stay exact; what lies inside is attached to the nearest span there is."""
    run = Run(max_spans=2)
    with enter_scope(run.scope), phase("outer"):
        for _ in range(5):
            with phase("inner"), phase("leaf"):
                current = trace.get_current_span().get_span_context().span_id
    assert [span.name for span in run.spans] == ["inner", "outer"]
    assert f"{current:016x}" == run.named("outer").span_id
    assert run.scope.unspanned == 9
    folds = run.finish()
    assert {name: fold.count for name, fold in folds.items()} == {"outer": 1, "inner": 5, "leaf": 5}
    assert folds["inner"].self_ns == 5 * 20


def test_tokens_are_summed(run):
    """Numbers of tokens given or set as metadata add up; other types do not count."""
    with phase("a", tokens=3, input_tokens=True) as p:
        p.set(output_tokens=2)
    with phase("a", tokens=4):
        pass
    run.finish()
    assert run.fold.sums.tokens == {"tokens": 7, "output_tokens": 2}


@pytest.mark.parametrize("extra", [0, 200])
def test_tokens_are_the_same_from_a_phase_and_from_its_span(extra):
    """What is summed while the code runs is what is read again from finished spans: of odd integers, of those past 64 bits, of attributes past their limit."""
    run = Run(recorder={"limits": SpanLimits(attributes=128)})

    class Words(IntEnum):
        FEW = 3

    class Scalar:
        """As numpy's."""

        shape = ()

        def item(self):
            return 4

    more = {f"k{number}": number for number in range(extra)}
    with enter_scope(run.scope):
        for tokens in (Words.FEW, Scalar(), 2**70, -(2**70), 1.0, True, None):
            with phase("a", **more, tokens=tokens, input_tokens=2**62):
                pass
    run.finish()
    task = SpanRecord("ab" * 16, TASK, "", "task", "task", 1000, 2000, {"node.id": "n"})
    assert fold_task(task, run.spans).sums.tokens == run.fold.sums.tokens
    assert run.fold.sums.tokens == ({} if extra else {"tokens": 7, "input_tokens": 2**63 - 1})


def test_a_phase_is_an_open_telemetry_span_until_it_ends(run):
    """Exceptions and a status that are given by OpenTelemetry's API land in its span, the failure in its fold; once closed it does not record."""
    with phase("told"):
        span = trace.get_current_span()
        assert span.is_recording()
        span.record_exception(KeyError("k"), {"attempt": 1})
        span.set_status(trace.StatusCode.ERROR, "no luck")
    assert not span.is_recording()
    told = run.named("told")
    ((_, name, values),) = told.events
    assert (name, values["exception.type"], values["attempt"]) == ("exception", "KeyError", 1)
    assert "KeyError" in values["exception.stacktrace"]
    assert (told.status, told.status_message) == (2, "no luck")
    assert (told.attributes["exec.outcome"], told.attributes["error.type"]) == ("failure", "KeyError")
    with phase("fine"):
        trace.get_current_span().set_status(trace.Status(trace.StatusCode.OK))
        trace.get_current_span().set_status(trace.StatusCode.ERROR, "too late: OK is final")
    with phase("bare"):
        trace.get_current_span().set_status(trace.StatusCode.ERROR)
    with pytest.raises(ValueError, match="x"), phase("used"), trace.use_span(trace.get_current_span(), record_exception=True):
        raise ValueError("x")
    assert (run.named("fine").status, run.named("fine").attributes["exec.outcome"]) == (1, "success")
    assert run.named("bare").attributes["error.type"] == "_OTHER"
    assert [event[1] for event in run.named("used").events] == ["exception"]
    folds = run.finish()
    assert {name: fold.errors for name, fold in folds.items()} == {"told": 1, "fine": 0, "bare": 1, "used": 1}


def test_who_leaves_a_shared_phase_leaves_their_own_entry(run):
    """One thread leaves, fails, and loses its turn in the midst of it; meanwhile another leaves the same `phase` object: each occurrence ends as its own block did."""
    shared = phase("shared")
    here, there = contextvars.copy_context(), contextvars.copy_context()

    class Entries(list):
        """As `list`, but after something was taken the other thread has its turn."""

        turn = [lambda: there.run(shared.__exit__, None, None, None)]

        def pop(self, *args):
            taken = super().pop(*args)
            while self.turn:
                self.turn.pop()()
            return taken

        def remove(self, entry):
            super().remove(entry)
            while self.turn:
                self.turn.pop()()

    shared._open = Entries()
    mine, other = here.run(shared.__enter__), there.run(shared.__enter__)
    here.run(shared.__exit__, ValueError, ValueError("mine"), None)
    assert {span.span_id: span.attributes["exec.outcome"] for span in run.spans} == {mine.span_id: "failure", other.span_id: "success"}
    assert run.finish()["shared"].errors == 1


def test_threads_share_a_phase(run):
    """Eight threads enter and leave one `phase` object, each inside a phase of its own: every occurrence lies in its own thread's, with what that thread set."""
    shared = phase("shared")
    wrong = []

    def work(number):
        for turn in range(50):
            with phase("own") as own, shared as entry:
                shared.set(turn=(number, turn))
                if entry.parent_span_id != own.span_id or entry.metadata != {"turn": (number, turn)}:
                    wrong.append(number)
            if not entry.ended or current_span_id() != TASK:
                wrong.append(number)

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(work, range(8)))
    finally:
        sys.setswitchinterval(before)
    assert wrong == []
    assert (run.finish()["shared"].count, len(shared._open)) == (400, 0)


def test_a_phase_is_set_by_the_code_in_it(run):
    """`set` on the `phase` object reaches an occurrence that the code is in; code beside it reaches none, though only one is open."""
    shared = phase("shared")
    beside = contextvars.copy_context()
    with shared:
        beside.run(lambda: shared.set(by="beside"))
        shared.set(by="inside")
        shared.event("here")
        beside.run(lambda: shared.event("beside"))
    span = run.named("shared")
    assert (span.attributes["by"], [name for _, name, _ in span.events]) == ("inside", ["here"])
    shared.set(by="nobody")


def test_telemetry_that_fails_changes_nothing(caplog):
    """A sink, a clock or metadata that raise cost a warning, not the user's result."""
    run = Run()

    class Broken:
        def opened(self, *args, **kwargs):
            raise RuntimeError("opened")

        closed = opened

    run.scope.sink = Broken()
    run.scope.sink.own = run.scope.sink
    with enter_scope(run.scope):
        with phase("x") as p:
            p.set(a=1)
            result = 5
        assert phase("y")(lambda: result)() == 5
    assert run.recorder.warnings == {"telemetry_failed": 2}
    assert run.spans == []


def test_attributes_set_through_opentelemetry_land_on_the_phase(run):
    """`trace.get_current_span()` inside a phase is the phase."""
    with phase("x"):
        current = trace.get_current_span()
        current.set_attribute("a", 1)
        current.set_attributes({"b": 2})
        current.add_event("e", {"c": 3}, timestamp=5)
        current.end()
    span = run.named("x")
    assert (span.attributes["a"], span.attributes["b"], span.events) == (1, 2, ((5, "e", {"c": 3}),))


def test_open_phases_are_listed_while_they_are_open(tmp_path):
    """The table beside the spool names what is open, and nothing after."""
    table = OpenSpanTable(str(tmp_path), "w")
    run = Run(recorder={"open_spans": table})
    with enter_scope(run.scope), phase("outer"), phase("inner"):
        assert [(entry.kind, entry.name, entry.node_id) for entry in table.entries()] == [("phase", "outer", "n"), ("phase", "inner", "n")]
    assert table.entries() == []


def test_a_forked_child_records_its_own_phases_and_not_its_parents(tmp_path):
    """What was open at the fork is ended by the parent alone; what the child opens is in a file of its own, under the same parent."""
    run = Run(recorder={"spool": SpoolWriter(str(tmp_path), "w", {})})
    with enter_scope(run.scope):
        with phase("across") as across:
            pid = os.fork()
            if not pid:
                with phase("in child"):
                    pass
        if not pid:
            os._exit(0)
        assert os.waitpid(pid, 0)[1] == 0
    spans = {span.name: span for span in read_spool(str(tmp_path))}
    assert len(list(read_spool(str(tmp_path)))) == 2
    assert spans["in child"].parent_span_id == spans["across"].span_id == across.span_id
    assert os.path.exists(tmp_path / f"w-fork-{pid}.jsonl")


def test_a_phase_may_end_in_another_context_than_it_began_in(run, caplog):
    """A block left in a copied context (a generator closed by another task) records once, logs nothing, and restores what it can."""
    block = phase("moved")
    inside = contextvars.copy_context()
    inside.run(block.__enter__)
    block.__exit__(None, None, None)
    assert run.named("moved").status == 0
    assert trace.get_current_span() is run.scope.frame
    assert caplog.records == []


def test_what_ends_is_off_the_list_only_when_it_is_in_the_spool(tmp_path):
    """A process that is killed in between has a phase, and a wait for a fan-out, in one of the two places at least."""
    table = OpenSpanTable(str(tmp_path), "w")
    made, listed = Run(), []

    def written(records):
        listed.extend((span.name, span.span_id in {entry.span_id for entry in table.entries()}) for span in records)

    recorder = Recorder(exec_id="exec_1", trace_id="ab" * 16, clock=Steps(), sink=written, open_spans=table)
    made.scope = TaskScope(recorder, span_id=TASK, node_id="n", sink=made.fold, attributes={"node.id": "n", "exec.attempt": 1})
    with enter_scope(made.scope), phase("outer"), waiting(made.scope, "fn", 3):
        pass
    assert listed == [("map_tasks", True), ("outer", True)]
    assert not table.entries()
    table.remove()


def test_a_wait_that_cannot_be_told_of_is_off_the_list(tmp_path, caplog):
    """Whatever goes wrong when a wait ends, nobody takes it for open afterwards; the task hears nothing of it."""
    table = OpenSpanTable(str(tmp_path), "w")
    made = Run()

    def refuse(_records):
        raise RuntimeError("no")

    recorder = Recorder(exec_id="exec_1", trace_id="ab" * 16, clock=Steps(), sink=refuse, open_spans=table)
    made.scope = TaskScope(recorder, span_id=TASK, node_id="n", sink=made.fold, attributes={"node.id": "n", "exec.attempt": 1})
    recorder.make = refuse
    with enter_scope(made.scope), waiting(made.scope, "fn", 3):
        assert [entry.name for entry in table.entries()] == ["map_tasks"]
    assert not table.entries()
    table.remove()


def test_known_secrets_are_in_no_line_of_a_phase(tmp_path, monkeypatch):
    """In its name and its metadata, which go into the line without a record in between; and in what is set or told while it is open."""
    monkeypatch.setenv("SERVICE_TOKEN", "hf_01234'6789")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Bearer%20abcdef0123456789")
    known_secrets.doubt()
    spool = SpoolWriter(str(tmp_path), "worker-0", {})
    run = Run(recorder={"spool": spool})
    with enter_scope(run.scope):
        with phase("ask hf_01234'6789", note="got hf_01234'6789", header="authorization=Bearer abcdef0123456789", n=1) as opened:
            opened.add_event("ask hf_01234'6789", {"note": "hf_01234'6789"})
        with phase("plain", note="got hf_01234'6789", n=1):
            pass
        with phase("plain", note="Basic aGZfMDEyMzQnNjc4OQ=="):
            pass
    assert set(run.finish()) >= {"ask ***", "plain"}
    spool.close()
    first, second, third = read_spool(str(tmp_path))
    assert (first.name, first.attributes["note"], first.attributes["header"], first.attributes["n"]) == ("ask ***", "got ***", "authorization=***", 1)
    assert [(name, values) for _, name, values in first.events] == [("ask ***", {"note": "***"})]
    assert (second.attributes["note"], third.attributes["note"]) == ("got ***", "Basic ***")
    assert b"6789" not in b"".join(path.read_bytes() for path in tmp_path.iterdir())
