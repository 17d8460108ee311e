"""The driver's small parts: flags, machine, environment, earlier outputs, pace."""

from __future__ import annotations

import pytest

from otel_exec.config import resolve
from otel_exec.driver import arguments
from otel_exec.driver.environment import masked_argv, revision
from otel_exec.driver.executors import make_executor
from otel_exec.driver.machine import usable_memory_bytes, visible_gpus
from otel_exec.driver.step_info import cached_from, earlier_from
from otel_exec.errors import UsageError
from otel_exec.record.step_files import StatusEvent
from otel_exec.schedule.pace import Pace


def test_flags_take_dashes_and_underscores():
    """Both spellings set the same; what is not given is `None`."""
    dashes = arguments.parse(["--run-only", "a", "b", "--max-concurrent", "3", "--no-force-run-failed", "--resource", "gpu=1"], prog="exp.py", description=None)
    underscores = arguments.parse(
        ["--run_only", "a", "b", "--max_concurrent", "3", "--no_force_run_failed", "--resource", "gpu=1"], prog="exp.py", description=None
    )
    assert dashes == underscores
    assert dashes["run_only"] == ["a", "b"]
    assert dashes["rerun_failed"] is False
    assert dashes["workers"] is None


def test_an_unknown_flag_is_a_mistake_of_usage():
    """It is named, with where to look."""
    with pytest.raises(UsageError, match=r"--nothing.*--help"):
        arguments.parse(["--nothing"], prog="exp.py", description=None)


@pytest.mark.parametrize(("named", "count"), [("0,1", 2), ("", 0), ("-1", 0), ("3", 1), ("0,-1,2", 1), ("GPU-abc, GPU-def", 2)])
def test_gpus_are_those_that_the_process_may_see(named, count):
    """`CUDA_VISIBLE_DEVICES` ends at its first device that does not exist."""
    assert visible_gpus({"CUDA_VISIBLE_DEVICES": named}) == count


def test_without_a_word_gpus_are_what_the_driver_lists(tmp_path):
    """A folder a GPU; none where there is no driver."""
    for name in ("0000:01", "0000:02"):
        (tmp_path / name).mkdir()
    assert visible_gpus({}, str(tmp_path)) == 2
    assert visible_gpus({}, str(tmp_path / "absent")) == 0


def test_memory_is_bounded_by_the_container(tmp_path):
    """The least of what the machine has and what its limits say; `max` is no limit."""
    whole = usable_memory_bytes(())
    (tmp_path / "max").write_text("max\n")
    (tmp_path / "limit").write_text("4096\n")
    assert usable_memory_bytes((str(tmp_path / "max"), str(tmp_path / "absent"))) == whole
    assert usable_memory_bytes((str(tmp_path / "limit"),)) == 4096


def test_arguments_are_recorded_without_secrets():
    """What follows a flag that names a secret is masked, in both spellings."""
    assert masked_argv(["--api-key", "abc", "--password=def", "--tokens", "5", "plain"]) == ["--api-key", "***", "--password=***", "--tokens", "5", "plain"]


def test_the_commit_that_is_checked_out_is_found(tmp_path):
    """From below, on a branch, packed, detached, and in a second work tree."""
    git = tmp_path / "repo" / ".git"
    (git / "refs" / "heads").mkdir(parents=True)
    below = tmp_path / "repo" / "a" / "b"
    below.mkdir(parents=True)
    (git / "HEAD").write_text("ref: refs/heads/main\n")
    (git / "refs" / "heads" / "main").write_text("1" * 40 + "\n")
    assert revision(str(below)) == "1" * 40
    (git / "refs" / "heads" / "main").unlink()
    (git / "packed-refs").write_text("# pack-refs\n" + "2" * 40 + " refs/heads/main\n")
    assert revision(str(below)) == "2" * 40
    tree = git / "worktrees" / "other"
    tree.mkdir(parents=True)
    (tree / "HEAD").write_text("ref: refs/heads/main\n")
    (tree / "commondir").write_text("../..\n")
    other = tmp_path / "other"
    other.mkdir()
    (other / ".git").write_text(f"gitdir: {tree}\n")
    assert revision(str(other)) == "2" * 40
    (git / "HEAD").write_text("3" * 40 + "\n")
    assert revision(str(below)) == "3" * 40
    assert revision(str(tmp_path)) is None


def test_an_unknown_executor_lists_the_known_ones():
    """With the closest."""
    with pytest.raises(UsageError, match=r"did you mean 'threads'.*inline, processes, ray, threads"):
        make_executor(resolve({}, {}), "thread")


def test_an_earlier_run_is_told_by_its_info_and_its_events():
    """The info's times stand; where it has none, the last event gives the duration; foreign numbers are left out."""
    events = [
        StatusEvent("", "RUNNING"),
        StatusEvent("", "SUCCESS", execution_start_time=1.0, execution_end_time=3.5, exec_id="exec_1", trace_id="t", span_id="s"),
    ]
    bare = earlier_from(events, {})
    assert (bare.status, bare.exec_id, bare.times["duration_seconds"]) == ("SUCCESS", "exec_1", 2.5)
    told = earlier_from(events, {"duration_seconds": 2.25, "scheduled_time": "2026-01-01T00:00:00+00:00"})
    assert cached_from(told).duration_seconds == 2.25
    assert cached_from(told).scheduled_time == "2026-01-01T00:00:00+00:00"
    odd = cached_from(earlier_from(events, {"duration_seconds": "long"}))
    assert (odd.exec_id, odd.trace_id, odd.span_id, odd.duration_seconds) == ("exec_1", "t", "s", None)


def test_what_costs_more_is_done_less_often():
    """At most every interval, and never so often that its cost passes its share of the time."""
    pace = Pace(interval_ns=100, share=0.01)
    assert pace.due(0)
    pace.done(0, 0)
    assert not pace.due(99)
    assert pace.due(100)
    pace.done(100, 150)
    assert not pace.due(150 + 4_999)
    assert pace.due(150 + 5_000)
