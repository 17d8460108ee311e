"""What earlier runs tell of how long steps take."""

from __future__ import annotations

import os

import pytest

from otel_exec import deferred, step, versioned
from otel_exec.driver.earlier import earlier_means
from otel_exec.driver.live import LiveListener
from otel_exec.plan.build import build_plan
from otel_exec.record.encoding import encode
from otel_exec.record.model import TemplateRecord
from otel_exec.record.status_model import Progress, StatusRecord
from otel_exec.schedule.select import Decision, Earlier

work = deferred(print)


@step("train/{n}")
def train(n):
    return work({"n": versioned(n)})


@step("load")
def load():
    return work({})


def keep_run(prefix, name, at, *templates, content=None):
    """Put an earlier run's status where its run would have; `at` is when it was written last."""
    folder = os.path.join(prefix, ".otel_exec", "runs", name)
    os.makedirs(folder)
    status = StatusRecord("1.0", name, "success", "", Progress(), templates=list(templates))
    with open(folder + "/status.json", "wb") as file:
        file.write(content if content is not None else encode(status))
    os.utime(folder, (at, at))


def means(prefix, **earlier):
    plan = build_plan([train(1), train(2), load()], prefix=str(prefix))
    decisions = [Decision("run", "", earlier=earlier.get(step.name.partition("/")[0])) for step in plan.steps]
    return earlier_means(plan, decisions, str(prefix), not_in="exec_now")


def test_the_newest_run_that_completed_such_steps_tells(tmp_path):
    """By template; the run itself, templates of other plans, and such that completed nothing say nothing; what can't be read is passed over."""
    keep_run(tmp_path, "exec_old", 100, TemplateRecord("train/{n}", sample_count=1, total_ns=7), TemplateRecord("load", sample_count=2, total_ns=10))
    keep_run(
        tmp_path, "exec_new", 200, TemplateRecord("train/{n}", sample_count=2, total_ns=60), TemplateRecord("load"), TemplateRecord("other", sample_count=1)
    )
    keep_run(tmp_path, "exec_half", 300, content=b'{"schema_version":')
    keep_run(tmp_path, "exec_now", 400, TemplateRecord("train/{n}", sample_count=1, total_ns=1))
    assert means(tmp_path) == {"train/{n}": 30.0, "load": 5.0}


def test_outputs_that_are_there_tell_where_no_run_does(tmp_path):
    """The `.executor_info` of an earlier run, whoever made it; text that is no number is passed over."""
    took = Earlier(times={"duration_seconds": 2.5})
    assert means(tmp_path, train=took, load=Earlier(times={"duration_seconds": "long"})) == {"train/{n}": 2.5e9}
    keep_run(tmp_path, "exec_new", 200, TemplateRecord("train/{n}", sample_count=2, total_ns=60))
    assert means(tmp_path, train=took) == {"train/{n}": 30.0}


def test_without_earlier_runs_there_is_no_basis(tmp_path):
    """Nor are remote prefixes looked at."""
    assert means(tmp_path / "nowhere") == {}
    plan = build_plan([load()], prefix="memory://nowhere")
    assert earlier_means(plan, [Decision("run", "")], "memory://nowhere", not_in="") == {}


@pytest.mark.parametrize("took", [10**400, True, -1, float("nan"), float("inf"), 1e300, None, "1"])
def test_no_number_of_earlier_files_is_beyond_what_a_step_takes(tmp_path, took):
    """Of outputs and of earlier runs alike: a number that is none, or longer than three decades, says nothing."""
    assert means(tmp_path, train=Earlier(times={"duration_seconds": took})) == {}
    if isinstance(took, int):
        keep_run(tmp_path, "exec_new", 200, TemplateRecord("train/{n}"), content=status_of_total(took))
        assert means(tmp_path) == ({"train/{n}": 1.0} if took is True else {})


def status_of_total(total_ns):
    """A status whose one template took so many nanoseconds."""
    status = StatusRecord("1.0", "exec_new", "success", "", Progress(), templates=[TemplateRecord("train/{n}", sample_count=1, total_ns=123456789)])
    return encode(status).replace(b"123456789", str(int(total_ns)).encode())


def test_an_eta_that_cannot_be_reckoned_is_one_warning(tmp_path):
    """Whatever looking back raises, the run hears nothing of it: it has no ETA, and its record a warning."""
    plan = build_plan([load()], prefix=str(tmp_path))
    asked, warned = [], []
    listener = LiveListener(plan, [Decision("run", "")])
    listener.reckons_with(1, lambda: asked.append(1) or 1 / 0)
    listener.warn = lambda code, message: warned.append((code, message))
    assert [listener.eta(), listener.eta()] == [None, None]
    assert (len(asked), [code for code, _ in warned]) == (1, ["eta"])
    assert "ZeroDivisionError" in warned[0][1]
