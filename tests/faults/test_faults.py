"""The fault programs in their short forms, with seeds that are fixed; `make faults` runs the long ones."""

from __future__ import annotations

import pytest
from faults import fuzz, kill_driver, kill_worker, many_drivers


@pytest.mark.parametrize(("executor", "times"), [("processes", 3), ("threads", 2)])
def test_a_killed_driver_loses_nothing_that_had_finished(executor, times):
    """After SIGKILL at any moment the record can be read, the trace is whole once recovered, and the next run redoes no finished step."""
    kill_driver.campaign(times, seed=11, executor=executor)  # raises what does not hold, with the seed and the folder


def test_killed_workers_lose_no_phase_that_had_ended():
    """The run succeeds with retries, however often a worker is killed."""
    kill_worker.campaign(6, seed=12)  # raises what does not hold, with the seed and the folder


def test_drivers_that_start_at_once_share_the_work():
    """Each step runs once, all runs succeed, each record is whole, and what was taken as cached links to the trace that made it."""
    (made,) = many_drivers.campaign(6, 1)
    assert sum(made.values()) == 7


def test_damaged_files_are_said_in_a_sentence(tmp_path):
    """Whatever stands in a run's files, every command ends with one of its exit codes, without a traceback, in seconds."""
    assert fuzz.campaign(60, seed=13, base=tmp_path) == []
