"""What breaks in our own lines around a step becomes that attempt's end: it is reported, nothing waits for ever."""

from __future__ import annotations

import builtins
import errno

import pytest

from otel_exec.clock import AnchoredClock
from otel_exec.execute import worker
from otel_exec.execute.base import RunSettings
from otel_exec.execute.envelope import TaskEnvelope
from otel_exec.execute.failure import describe
from otel_exec.execute.in_process import InProcess
from otel_exec.execute.interrupts import ThreadGuard
from otel_exec.execute.rusage import ThreadMeter
from otel_exec.execute.worker import run_attempt
from otel_exec.record.locks import driver_id
from otel_exec.record.step_files import read_events


def refuse(*_args, **_kwargs):
    raise OSError(errno.EMFILE, "Too many open files", "/usr/lib/something.py")


@pytest.fixture
def parts(run_folder):
    settings = RunSettings(
        exec_id="exec_" + "a" * 32,
        trace_id="a" * 32,
        run_span_id="b" * 16,
        run_folder=str(run_folder),
        lock_holder=driver_id(),
        clock_offset_ns=0,
    )
    made = InProcess(settings, AnchoredClock())
    yield made
    made.close()


@pytest.fixture
def attempt(parts, tmp_path):
    """Run one attempt at a function, as a thread does."""
    context = parts.context("0", guard=ThreadGuard(), meter=ThreadMeter(), claimed=lambda *_: None)

    def run(fn, **fields):
        values = {
            "node_id": "step",
            "name": "step",
            "template": "step",
            "fn_name": "fn",
            "level": 1,
            "attempt": 1,
            "last_attempt": True,
            "locked": False,
            "parent_span_id": "c" * 16,
            "span_id": "d" * 16,
            "created_ns": 1,
            "first_created_ns": 1,
            "output_path": str(tmp_path / "step"),
            "info": b'{"name": "x"}',
        }
        return run_attempt(context, TaskEnvelope(**{**values, **fields}), direct=(fn, None, "config", None))

    return run


def files(tmp_path):
    """The words of the status file, and whether the lock is there."""
    return [event.status for event in read_events(str(tmp_path / "step"))], (tmp_path / "step" / ".executor_status.lock").exists()


def fails(_config):
    raise ValueError("the user's own")


def test_describing_an_exception_imports_nothing(monkeypatch):
    """A step that has used up its descriptors, or emptied `sys.path`, still fails with its own exception and place."""
    try:
        fails(None)
    except ValueError as error:
        raised = error
    with monkeypatch.context() as patched:
        patched.setattr(builtins, "__import__", refuse)
        info = describe(raised)
    assert (info.type, info.message) == ("ValueError", "the user's own")
    assert info.where.startswith(__file__)
    assert "the user's own" in info.traceback


def test_an_exit_code_that_cannot_be_shown():
    """`sys.exit` with something whose repr raises is described as well."""

    class Broken:
        def __repr__(self):
            raise RuntimeError

    assert "RuntimeError" in describe(SystemExit(Broken())).message


def test_what_breaks_before_the_function_is_the_attempts_error(attempt, tmp_path, monkeypatch):
    """The attempt ends with what was raised, in one sentence; its spans are whole, its status says so, its lock is let go."""
    monkeypatch.setattr(worker, "TaskFold", refuse)
    report = attempt(lambda _config: None)
    assert (report.outcome, report.error.type) == ("error", "OSError")
    assert "Too many open files" in report.error.message
    assert report.error.traceback == ""
    assert [span.kind for span in report.spans] == ["load", "task", "store"]
    assert report.claimed_ns > 0
    assert files(tmp_path) == (["RUNNING", "FAILED"], False)


def test_what_breaks_after_the_function_leaves_its_error_alone(attempt, tmp_path, monkeypatch):
    """A step that failed has failed with its own exception, whatever goes wrong with us afterwards."""
    monkeypatch.setattr(worker, "say_dropped", refuse)
    report = attempt(fails)
    assert (report.outcome, report.error.type, report.error.message) == ("failure", "ValueError", "the user's own")
    assert files(tmp_path) == (["RUNNING", "FAILED"], False)


def test_what_breaks_after_a_success_was_written_down_leaves_it_alone(attempt, tmp_path, monkeypatch):
    """A success that stands in the status file is one."""
    monkeypatch.setattr(worker, "say_dropped", refuse)
    report = attempt(lambda _config: None)
    assert (report.outcome, report.error) == ("success", None)
    assert [code for code, _ in report.warnings] == ["attempt_cut"]
    assert files(tmp_path) == (["RUNNING", "SUCCESS"], False)


def test_another_attempt_may_follow_one_that_broke(attempt, tmp_path, monkeypatch):
    """An attempt that is not the last one leaves the last word, and the lock, to those that follow."""
    monkeypatch.setattr(worker, "TaskFold", refuse)
    report = attempt(lambda _config: None, last_attempt=False)
    assert report.outcome == "error"
    assert files(tmp_path) == (["RUNNING"], True)


def test_a_status_that_cannot_be_written_is_one_sentence(attempt, tmp_path):
    """No traceback and no chain of our own errors: what, where, what to do."""
    status = tmp_path / "step" / ".executor_status"

    def replace_it(_config):
        status.unlink()
        status.mkdir()

    report = attempt(replace_it)
    assert (report.outcome, report.error.type) == ("error", "storage")
    assert report.error.message == f"{status}: can't be written: is a directory (a folder stands where a file is needed: move it away, or give another path)"
    assert (report.error.traceback, report.error.where) == ("", None)
