"""The fault programs in their short forms, with seeds that are fixed; `make faults` runs the long ones."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import kill_driver

pytestmark = pytest.mark.skipif(not hasattr(__import__("os"), "fork"), reason="the faults are those of POSIX systems")


@pytest.mark.parametrize(("executor", "times"), [("processes", 4), ("threads", 2)])
def test_a_killed_driver_loses_nothing_that_had_finished(executor, times):
    """After SIGKILL at any moment the record can be read, the trace is whole once recovered, and the next run redoes no finished step."""
    counts = kill_driver.campaign(times, seed=11, executor=executor)
    assert sum(counts.values()) == times
