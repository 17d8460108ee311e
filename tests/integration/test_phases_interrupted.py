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


def test_phases_of_finalisers_and_of_the_code_that_they_interrupt_are_both_counted(tmp_path):
    """The collector closes timed generators while phases are folded and collected, inside of a run and outside: nothing waits for itself, nothing is missing."""
    program = """
def loop(times):
    for number in range(times):
        mine = f"req-{number}"
        made = gen(mine, "n")
        next(made)
        cycle = Cycle()
        cycle.made, cycle.cycle = made, cycle
        with time_phase(mine, f"n{number}", f"p{number}", tokens=number):
            pass
        assert list(timing_collector.pop(mine)[f"n{number}"]) == [f"p{number}"]

loop(4000)
with execution("app", prefix="out"):
    loop(2500)
print("done")
"""
    assert run(tmp_path, program, 11) == ["done"]


def test_phases_of_a_signal_handler_are_folded_after_the_event_that_it_interrupts(tmp_path):
    """A signal that comes while a phase is being folded, and whose handler is timed itself, costs no phase: each is counted once, with a span."""
    program = """
import signal, sys, time
from otel_exec.aggregate.task_fold import TaskFold
from otel_exec.spans.phases import TaskScope, enter_scope
from otel_exec.spans.recorder import Recorder

class Interrupted:
    at_ns, depth = 0, 0
    def now_ns(self):  # it is asked under the scope's lock
        self.at_ns += 1
        if self.depth == 0:
            self.depth = 1
            signal.raise_signal(signal.SIGUSR1)
            self.depth = 0
        return self.at_ns

def handler(*_):
    with phase("handler"):
        pass

signal.signal(signal.SIGUSR1, handler)
spans = []
recorder = Recorder(exec_id="exec_1", trace_id="ab" * 16, clock=Interrupted(), sink=spans.extend)
fold = TaskFold("f" * 16, 0)
with enter_scope(TaskScope(recorder, span_id="f" * 16, node_id="n", sink=fold, attributes={"node.id": "n"})):
    for _ in range(10):
        with phase("code"):
            pass
recorder.clock.depth = 1
phases = fold.finish(recorder.clock.now_ns())
print(phases["code"].count, phases["handler"].count, len(spans), len(recorder.warnings))
"""
    assert run(tmp_path, program) == ["10", "20", "30", "0"]


def test_lines_that_come_while_another_is_written_are_in_the_spool_once(tmp_path):
    """A line that is put in the midst of another's copying or writing, by the same thread, is in the file once, and so is the other."""
    program = """
import os
from otel_exec.spans import write_ahead
from otel_exec.spans.spool import SpoolWriter, read_spool
from otel_exec.spans.span_record import SpanRecord

made, inside, left = 0, False, 400

def put(direct):
    global made
    made += 1
    record = SpanRecord("ab" * 16, f"{made:016x}", "", "x" * 3000, "phase", 1, 2, {})
    spool.write((record,)) if direct else spool.put(spool.line_of(record), made * 1_000_000)

def interrupted(function):
    def call(*args):
        global inside, left
        if not inside and left:  # a bounded number of times: what comes in the midst is written too, and interrupted
            inside, left = True, left - 1
            for direct in (False, True):
                put(direct)
            spool.flush()
            inside = False
        return function(*args)
    return call

spool = SpoolWriter("spans", "w", {})
os.write = interrupted(os.write)
write_ahead.WriteAhead.put = interrupted(write_ahead.WriteAhead.put)
write_ahead.WriteAhead.pending = interrupted(write_ahead.WriteAhead.pending)
for number in range(300):
    put(number % 7 == 0)
spool.close()
ids = [span.span_id for span in read_spool("spans")]
print(spool.error, spool.lost, spool.written == made, len(ids) == made, len(set(ids)) == made)
"""
    assert run(tmp_path, program) == ["None", "0", "True", "True", "True"]
