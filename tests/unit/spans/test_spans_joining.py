"""The user's own OpenTelemetry spans in the run's trace, and contexts as text."""

from __future__ import annotations

import random
import subprocess
import sys
import textwrap
import threading
import time

import pytest
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode

from otel_exec.aggregate.task_fold import TaskFold, fold_spans
from otel_exec.clock import AnchoredClock
from otel_exec.spans.line_codec import LineEncoder, decode
from otel_exec.spans.open_spans import OpenEntry, OpenSpanTable
from otel_exec.spans.phases import TaskScope, enter_scope, phase, time_phase
from otel_exec.spans.provider import ScopeProvider, instrument_threads, uninstrument_threads
from otel_exec.spans.recorder import Recorder
from otel_exec.spans.span_record import SpanRecord

TASK = "f" * 16
HOUR = 3_600_000_000_000


class Run:
    def __init__(self, *, offset_ns=0, max_spans=10_000, sampled=True):
        self.spans = []
        clock = AnchoredClock(time.time_ns() - time.perf_counter_ns() + offset_ns)
        self.recorder = Recorder(exec_id="exec_1", trace_id="ab" * 16, clock=clock, sink=self.spans.extend, sampled=sampled)
        self.fold = TaskFold(TASK, clock.now_ns())
        self.scope = TaskScope(self.recorder, span_id=TASK, node_id="n", sink=self.fold, attributes={"node.id": "n"}, max_spans=max_spans)

    def named(self, name):
        (found,) = [span for span in self.spans if span.name == name]
        return found


@pytest.fixture
def tracer():
    return ScopeProvider().get_tracer("user.lib", "1.0")


def test_a_users_span_joins_under_the_phase_that_it_ran_in(tracer):
    """It has the run's trace, `exec.id` and no `exec.kind`, its own scope, kind, links, events and status; a phase inside has it as parent."""
    run = Run()
    link = SpanContext(1, 2, is_remote=True)
    with enter_scope(run.scope), phase("outer"):
        with tracer.start_as_current_span("GET", kind=SpanKind.CLIENT, attributes={"url": "x", "exec.kind": "task"}, links=[Link(link, {"why": "w"})]) as span:
            span.add_event("sent", {"size_bytes": 3})
            span.set_status(Status(StatusCode.ERROR, "refused"))
            with phase("inner"):
                pass
    outer, get, inner = run.named("outer"), run.named("GET"), run.named("inner")
    assert (get.trace_id, get.parent_span_id, inner.parent_span_id) == ("ab" * 16, outer.span_id, get.span_id)
    assert (get.kind, get.scope, get.span_kind, get.status, get.status_message) == ("", "user.lib", 3, 2, "refused")
    assert get.attributes == {"url": "x", "exec.id": "exec_1", "node.id": "n"}
    assert [(found.trace_id, found.span_id, found.edge, found.attributes) for found in get.links] == [(f"{1:032x}", f"{2:016x}", "", {"why": "w"})]
    assert [(name, values) for _, name, values in get.events] == [("sent", {"size_bytes": 3})]
    assert decode(LineEncoder({}).encode([get])) == [get]
    assert run.recorder.warnings == {}
    # The phase inside the user's span is the outer phase's child to the fold, live and rebuilt.
    task = run.recorder.make("task", "task f", run.fold.start_ns, run.recorder.clock.now_ns(), span_id=TASK, attributes={"node.id": "n"})
    live, rebuilt = run.fold.finish(task.end_ns), fold_spans(task, run.spans)
    assert live["outer"].self_ns == rebuilt["outer"].self_ns == outer.duration_ns - inner.duration_ns


def test_a_users_span_with_both_ids_is_a_phase(tracer):
    """It counts for its node, has the fold's own instants, is the parent of phases and of such spans inside, and is the same when it is rebuilt."""
    run = Run()
    ids = {"exec_id": "workflow-17", "node_id": "node_1"}
    with enter_scope(run.scope), phase("outer"):
        with tracer.start_as_current_span("call", attributes={**ids, "tokens": 3}), tracer.start_as_current_span("plain"), phase("inside"):
            pass
        with pytest.raises(ValueError, match="no"), tracer.start_as_current_span("fails", attributes=ids):
            raise ValueError("no")
        with tracer.start_as_current_span("own", attributes={"exec_id": "exec_1", "node_id": "n"}):
            pass
        with tracer.start_as_current_span("half", attributes={"exec_id": "workflow-17"}):
            pass
        foreign = run.fold.foreign_totals("workflow-17", take=False)
    call, fails, own = run.named("call"), run.named("fails"), run.named("own")
    assert (call.kind, call.scope, call.attributes["exec.phase"], call.attributes["node.id"], call.attributes["exec.outcome"]) == (
        "phase",
        "otel_exec",
        "call",
        "node_1",
        "success",
    )
    assert (fails.status, fails.attributes["error.type"], fails.attributes["exec.outcome"]) == (2, "ValueError", "failure")
    assert (own.kind, own.attributes["node.id"]) == ("phase", "n")
    assert run.named("half").kind == run.named("plain").kind == ""
    assert foreign == {"node_1": {"call": call.duration_ns, "fails": fails.duration_ns}}
    task = run.recorder.make("task", "task f", run.fold.start_ns, run.recorder.clock.now_ns(), span_id=TASK, attributes={"node.id": "n"})
    live, rebuilt = run.fold.finish(task.end_ns), fold_spans(task, run.spans)
    assert live == rebuilt
    assert {name: (fold.total_ns, fold.errors) for name, fold in run.fold.sums.nodes["node_1"].phases.items()} == {
        "call": (call.duration_ns, 0),
        "fails": (fails.duration_ns, 1),
    }
    assert run.fold.sums.nodes["node_1"].tokens == {"tokens": 3}
    assert live["(nodes)"].self_ns == call.duration_ns + fails.duration_ns - run.named("inside").duration_ns
    assert run.scope.user_phases == {}
    assert run.recorder.warnings == {}


def test_rows_of_ours_are_nobodys_phases(tracer):
    """A phase that has the name of a row of ours is counted under that name in quotes, live and from its span; other names with parentheses stay as they are."""
    run = Run()
    with enter_scope(run.scope):
        for name in ("(nodes)", "(unaccounted)", "(others)", "(mine)"):
            with phase(name), phase(name), time_phase(None, "node_1", name):
                pass
        tracer.start_span("(nodes)", attributes={"exec_id": "exec_1", "node_id": "n"}).end()
    end_ns = run.recorder.clock.now_ns()
    folds = run.fold.finish(end_ns)
    assert {name: fold.count for name, fold in folds.items()} == {"'(nodes)'": 3, "(nodes)": 4, "'(unaccounted)'": 2, "'(others)'": 2, "(mine)": 2}
    assert set(run.fold.sums.nodes["node_1"].phases) == {"'(nodes)'", "'(unaccounted)'", "'(others)'", "(mine)"}
    task = SpanRecord("ab" * 16, TASK, "", "task", "task", run.fold.start_ns, end_ns, {"node.id": "n"})
    assert fold_spans(task, run.spans) == folds


def test_a_users_span_is_moved_to_the_runs_clock(tracer):
    """Its times are those of the run, though the SDK reads the wall clock: it lies within its phase, and its duration stays."""
    run = Run(offset_ns=-HOUR)
    with enter_scope(run.scope), phase("outer"), tracer.start_as_current_span("mine"):
        pass
    outer, mine = run.named("outer"), run.named("mine")
    assert outer.start_ns <= mine.start_ns <= mine.end_ns <= outer.end_ns


@pytest.mark.parametrize(("name", "value"), [("OTEL_TRACES_SAMPLER", "always_off"), ("OTEL_TRACES_SAMPLER", "parentbased_always_off")])
def test_the_environments_sampler_does_not_silence_spans(tracer, monkeypatch, name, value):
    """Recording does not hang on sampling; the sampled flag is the run's."""
    monkeypatch.setenv(name, value)
    for sampled in (True, False):
        run = Run(sampled=sampled)
        with enter_scope(run.scope), tracer.start_as_current_span("mine") as span:
            assert span.get_span_context().trace_flags.sampled is sampled
        assert run.named("mine").flags == int(sampled)


def test_a_disabled_sdk_silences_the_users_spans_and_never_ours(tracer, monkeypatch):
    """With OTEL_SDK_DISABLED the user's spans are no-ops, and phases are recorded all the same."""
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    run = Run()
    with enter_scope(run.scope), tracer.start_as_current_span("mine"), phase("ours"):
        pass
    assert [(span.name, span.parent_span_id) for span in run.spans] == [("ours", TASK)]


def test_spans_outside_of_a_run_are_nobodys(tracer):
    """A tracer of ours does nothing outside, and a span started inside is recorded though it ends outside."""
    with tracer.start_as_current_span("before") as span:
        assert not span.is_recording()
    run = Run()
    with enter_scope(run.scope):
        late = tracer.start_span("late")
    late.end()
    assert [span.name for span in run.spans] == ["late"]


def test_a_span_that_starts_a_trace_of_its_own_keeps_it(tracer):
    """An explicit empty context begins a new trace: it is recorded with that trace's id."""
    run = Run()
    with enter_scope(run.scope):
        tracer.start_span("root", context=Context()).end()
    assert run.named("root").trace_id != "ab" * 16
    assert run.named("root").parent_span_id == ""


def test_users_spans_count_towards_the_limit(tracer):
    """Past the task's limit they are counted and not written, apart from phases, which are folded all the same; of those some may be spans as well."""
    run = Run(max_spans=2)
    with enter_scope(run.scope):
        for _ in range(5):
            tracer.start_span("s").end()
        with phase("p"):
            tracer.start_span("call", attributes={"exec_id": "a", "node_id": "b"}).end()
    assert (len(run.spans), run.scope.dropped, run.scope.unspanned) == (2, 3, 2)


def test_an_open_span_that_is_a_phase_is_listed(tracer, tmp_path):
    """Who survives the process knows it, with its parent, its node and its start, until it has ended."""
    run = Run()
    run.recorder.open_spans = OpenSpanTable(str(tmp_path), "w")
    with enter_scope(run.scope), phase("outer"):
        span = tracer.start_span("call", attributes={"exec_id": "wf", "node_id": "node_1"})
        outer, listed = run.recorder.open_spans.entries()
        span.end()
        assert [entry.name for entry in run.recorder.open_spans.entries()] == ["outer"]
    call = run.named("call")
    assert listed == OpenEntry(call.span_id, outer.span_id, "phase", "call", "node_1", call.start_ns)


def test_what_an_abandoned_task_still_ends_is_not_written(tracer):
    """Spans of the code's own, those that are phases, and phases: whoever abandoned the task has closed what was open in it."""

    class Owner:
        abandoned = False

    run = Run()
    run.scope.owner = Owner()
    with enter_scope(run.scope):
        open_spans = [tracer.start_span("s"), tracer.start_span("call", attributes={"exec_id": "a", "node_id": "b"})]
        with phase("p"):
            run.scope.owner.abandoned = True
        for span in open_spans:
            span.end()
    assert run.spans == []


def test_the_users_seed_makes_no_id_repeat(tracer):
    """`random.seed(0)` before each span leaves ids different."""
    run = Run()
    with enter_scope(run.scope):
        for _ in range(3):
            random.seed(0)
            tracer.start_span("s").end()
    assert len({span.span_id for span in run.spans}) == 3


def test_spans_of_the_users_own_provider_are_left_to_it():
    """They get the phase as parent and are not recorded by us; a phase inside has them as parent."""
    run = Run()
    theirs = TracerProvider().get_tracer("theirs")
    with enter_scope(run.scope), phase("outer"), theirs.start_as_current_span("mine") as span:
        with phase("inner"):
            pass
    assert f"{span.get_span_context().trace_id:032x}" == "ab" * 16
    assert f"{span.parent.span_id:016x}" == run.named("outer").span_id
    assert run.named("inner").parent_span_id == f"{span.get_span_context().span_id:016x}"
    assert {span.name for span in run.spans} == {"outer", "inner"}


def test_a_users_root_span_of_another_trace_is_no_parent_of_ours():
    """A phase inside a span of another trace stays in the run's trace, under its own phase."""
    run = Run()
    theirs = TracerProvider().get_tracer("theirs")
    with enter_scope(run.scope), phase("outer"), theirs.start_as_current_span("mine", context=Context()):
        with phase("inner"):
            pass
    assert run.named("inner").parent_span_id == run.named("outer").span_id


def in_python(code):
    return subprocess.run([sys.executable, "-W", "error", "-c", textwrap.dedent(code)], capture_output=True, text=True, check=True, timeout=60).stdout.split()


def test_the_global_provider_is_set_where_there_is_none_and_costs_no_sdk():
    """Ours is set once, tracers made before it work, and the SDK is imported by the first span inside a run."""
    assert in_python(
        """
        import sys
        from opentelemetry import trace
        early = trace.get_tracer("early")
        from otel_exec.spans.provider import install_global
        print(install_global(), install_global())
        early.start_span("x").end()
        print("opentelemetry.sdk" in sys.modules)
        from otel_exec.spans.recorder import Recorder
        from otel_exec.spans.phases import TaskScope, enter_scope
        from otel_exec.aggregate.task_fold import TaskFold
        from otel_exec.clock import AnchoredClock
        spans = []
        recorder = Recorder(exec_id="e", trace_id="ab" * 16, clock=AnchoredClock(), sink=spans.extend)
        with enter_scope(TaskScope(recorder, span_id="f" * 16, node_id="n", sink=TaskFold("f" * 16, 0), attributes={})):
            early.start_span("y").end()
        print("opentelemetry.sdk" in sys.modules, *[span.name for span in spans])
        """
    ) == ["True", "True", "False", "True", "y"]


def test_a_provider_that_the_user_set_is_left_alone():
    """Where there is one, nothing is set and nothing is logged."""
    assert in_python(
        """
        from opentelemetry import trace
        from opentelemetry.sdk.trace import TracerProvider
        mine = TracerProvider()
        trace.set_tracer_provider(mine)
        from otel_exec.spans.provider import install_global
        print(install_global(), trace.get_tracer_provider() is mine)
        """
    ) == ["False", "True"]


def test_what_reads_spools_imports_no_opentelemetry():
    """Recording, spool, codec, table and folds stand without it; phases take the API alone."""
    assert in_python(
        """
        import sys
        import otel_exec.spans.spool, otel_exec.spans.recorder, otel_exec.spans.open_spans, otel_exec.spans.line_codec
        import otel_exec.aggregate.task_fold
        print("opentelemetry" in sys.modules, "asyncio" in sys.modules)
        import otel_exec.spans.phases
        print("opentelemetry.sdk" in sys.modules)
        """
    ) == ["False", "False", "False"]


def test_threads_carry_the_context_while_instrumented():
    """A plain thread started inside a phase is in it; instrumenting twice and undoing twice is fine; after that it carries nothing."""
    run = Run()
    seen = []

    def target():
        seen.append(trace.get_current_span().get_span_context().span_id)

    def start():
        thread = threading.Thread(target=target)
        thread.start()
        thread.join()

    with enter_scope(run.scope):
        assert instrument_threads() is True
        assert instrument_threads() is False
        try:
            start()
        finally:
            uninstrument_threads()
            uninstrument_threads()
        start()
    assert seen == [int(TASK, 16), 0]


def test_instrumentation_of_the_users_own_is_not_undone():
    """Who instrumented threads themselves keeps that after us."""
    from opentelemetry.instrumentation.threading import ThreadingInstrumentor

    theirs = ThreadingInstrumentor()
    theirs.instrument(skip_dep_check=True)
    try:
        assert instrument_threads() is False
        uninstrument_threads()
        assert theirs.is_instrumented_by_opentelemetry
    finally:
        theirs.uninstrument()
