"""Phases that open and close in the midst of others, on the same thread: in finalisers that the garbage collector runs, and in signal handlers."""

from __future__ import annotations

import subprocess
import sys

import pytest
from support.outside import clean_environment

# A generator in a reference cycle: it is closed whenever the collector runs, which is in the midst of anything.
_CLOSED_BY_THE_COLLECTOR = """
import gc, sys
from otel_exec import execution, phase, time_phase, timed, timing_collector
gc.set_threshold({threshold})

@timed("gen")
def gen(execution_id=None, node_id=None):
    try:
        while True:
            yield 1
    finally:
        pass

class Cycle:
    pass
"""


def run(folder, program, threshold=13):
    """Return what the program printed; it must end by itself, in time."""
    text = _CLOSED_BY_THE_COLLECTOR.format(threshold=threshold) + program
    done = subprocess.run(
        [sys.executable, "-X", "faulthandler", "-c", text], cwd=folder, env=clean_environment(), capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, f"ended with {done.returncode}: {done.stderr[-3000:]}"
    return done.stdout.split()


@pytest.mark.parametrize("threshold", [7, 13])
def test_generators_that_the_collector_closes_end_no_process(tmp_path, threshold):
    """Timed generators that are closed by the garbage collector while context variables are set are counted, and the process goes on."""
    program = """
with execution("app", prefix="out"):
    for number in range(10000):
        made = gen()
        next(made)
        cycle = Cycle()
        cycle.made, cycle.cycle = made, cycle
        with phase("p", k=number):
            pass
print("done")
"""
    assert run(tmp_path, program, threshold) == ["done"]
