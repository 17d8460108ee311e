"""Code that patches `time` changes what it sees itself, never what is measured of it."""

from __future__ import annotations

import time

import pytest

from otel_exec import clock as module
from otel_exec.aggregate.task_fold import TaskFold
from otel_exec.clock import AnchoredClock
from otel_exec.execute.rusage import ThreadMeter
from otel_exec.spans.phases import TaskScope, enter_scope, phase
from otel_exec.spans.provider import ScopeProvider
from otel_exec.spans.recorder import Recorder

TASK = "f" * 16
HOUR_NS = 3_600_000_000_000


@pytest.fixture
def backwards(monkeypatch):
    """Put every clock of `time` to an instant long ago, for good, in the way of freezegun: also where a module keeps one by name."""

    def patch():
        for name in ("time_ns", "perf_counter_ns", "monotonic_ns", "process_time_ns", "thread_time_ns"):
            real = getattr(time, name)
            monkeypatch.setattr(time, name, lambda: 5)
            for key, value in list(vars(module).items()):
                if value is real:
                    monkeypatch.setattr(module, key, lambda: 5)

    return patch


def test_a_runs_clock_goes_on(backwards):
    """Instants go on from where they were, and a clock that is anchored meanwhile agrees with them."""
    clock = AnchoredClock()
    before = clock.now_ns()
    backwards()
    assert before <= clock.now_ns() < before + HOUR_NS
    assert abs(AnchoredClock().now_ns() - clock.now_ns()) < HOUR_NS


def test_phases_and_spans_lie_in_their_task(backwards):
    """A phase and a span of the user's own that go on while the clocks are patched are as long as they took, and lie inside the task; the fold has the same numbers."""
    spans = []
    clock = AnchoredClock()
    recorder = Recorder(exec_id="exec_1", trace_id="ab" * 16, clock=clock, sink=spans.extend)
    start_ns = clock.now_ns()
    fold = TaskFold(TASK, start_ns)
    scope = TaskScope(recorder, span_id=TASK, node_id="n", sink=fold, attributes={"node.id": "n"})
    tracer = ScopeProvider().get_tracer("user.lib")
    with enter_scope(scope), phase("outer"):
        backwards()
        with phase("inner"), tracer.start_as_current_span("own"):
            pass
    end_ns = clock.now_ns()
    assert sorted(span.name for span in spans) == ["inner", "outer", "own"]
    assert all(start_ns <= span.start_ns <= span.end_ns <= end_ns for span in spans)
    fold.finish(end_ns)
    assert fold.sums.time_ns == end_ns - start_ns
    assert all(each.total_ns >= 0 for each in fold.sums.phases.values())


def test_cpu_time_is_not_patched(backwards):
    """What a task cost is read from the system."""
    meter = ThreadMeter()
    meter.begin()
    backwards()
    cpu_ns, _ = meter.end()
    assert 0 <= cpu_ns < HOUR_NS


def test_a_task_that_ends_before_it_began_took_no_time():
    """Whatever a clock did, no negative number is written."""
    fold = TaskFold(TASK, 1000)
    fold.finish(400)
    assert (fold.sums.time_ns, fold.unaccounted_ns) == (0, 0)
