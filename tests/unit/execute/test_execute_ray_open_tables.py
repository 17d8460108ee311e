"""What is open in Ray workers, as the driver lists it for whoever comes after it."""

from __future__ import annotations

import os

import pytest

from otel_exec.clock import AnchoredClock
from otel_exec.execute.base import RunSettings
from otel_exec.execute.ray_crew import Crew
from otel_exec.execute.ray_wire import Begun, Taken, Telling, encode
from otel_exec.spans.line_codec import LineEncoder
from otel_exec.spans.open_spans import OpenEntry, read_all_open
from otel_exec.spans.span_record import SpanRecord

TASK, PHASE, ITEM, OTHER = "a" * 16, "b" * 16, "c" * 16, "d" * 16
STEP = Begun(TASK, "step", 1, 5)
OPEN_TASK = OpenEntry(TASK, "e" * 16, "task", "task fn", "step", 5)
OPEN_PHASE = OpenEntry(PHASE, TASK, "phase", "p", "step", 6)


@pytest.fixture
def crew(tmp_path):
    os.makedirs(tmp_path / "spans")
    return Crew(RunSettings("exec_" + "a" * 32, "a" * 32, "b" * 16, str(tmp_path), "holder", 0), AnchoredClock())


def tell(crew, number, sequence, begun, *opened, ended=()):
    spans = [SpanRecord("c" * 32, span_id, parent, "task", "task", 1, 2, {}) for span_id, parent in ended]
    lines = LineEncoder({}).encode(spans) if spans else b""
    crew.take_in(Taken([], [encode(Telling(str(number), number, sequence, 10, lines, begun, list(opened)))]), [])


def listed(tmp_path):
    return [entry.span_id for entry in read_all_open(str(tmp_path / "spans"))]


def item(index, span_id):
    return Begun(span_id, "step", 1, 7 + index, item=True), OpenEntry(span_id, PHASE, "task", "task item", "step", 7 + index, index, 1)


def test_each_telling_replaces_what_was_listed(crew, tmp_path):
    """What is open now is listed, with all that a local worker's table has; what is not is taken off; nothing after the report."""
    tell(crew, 0, 0, STEP, OPEN_TASK)
    tell(crew, 0, 1, STEP, OPEN_TASK, OPEN_PHASE)
    assert read_all_open(str(tmp_path / "spans")) == [OPEN_TASK, OPEN_PHASE]
    tell(crew, 0, 2, STEP, OPEN_TASK)
    assert listed(tmp_path) == [TASK]
    crew.ended(("step", 1))
    assert listed(tmp_path) == []


def test_items_are_listed_until_their_ends_come_home(crew, tmp_path):
    """With the spans of whoever called map_tasks, of a dead worker's item as well; a span that only lies under an item, or another step's, takes nothing off."""
    tell(crew, 0, 0, STEP, OPEN_TASK)
    for number, span_id in ((1, ITEM), (2, OTHER)):
        begun, entry = item(number, span_id)
        tell(crew, number, 0, begun, entry)
    tell(crew, 0, 1, STEP, OPEN_TASK, ended=[("1" * 16, ITEM)])
    tell(crew, 3, 0, Begun("f" * 16, "another", 1, 5), ended=[(ITEM, PHASE)])
    assert listed(tmp_path) == [TASK, ITEM, OTHER]
    tell(crew, 0, 2, STEP, OPEN_TASK, ended=[(ITEM, PHASE)])
    assert listed(tmp_path) == [TASK, OTHER]
    crew.ended(("step", 1))
    assert listed(tmp_path) == []


def test_what_a_dead_worker_had_open_stays_until_the_run_ends(crew, tmp_path):
    """Its spans are closed by the runner, and a driver that is killed before that leaves them to recovery. A run that ends in order leaves none."""
    tell(crew, 0, 0, STEP, OPEN_TASK)
    crew.died(("step", 1), TASK, 20, "worker_died", "it is gone")
    assert listed(tmp_path) == [TASK]
    crew.close()
    assert [name for name in os.listdir(tmp_path / "spans") if name.endswith(".open")] == []


@pytest.mark.parametrize("end", ["died", "buried"])
def test_items_of_a_step_that_was_ended_are_taken_off(crew, tmp_path, end):
    """Nobody closes them: who called map_tasks is gone."""
    tell(crew, 0, 0, STEP, OPEN_TASK)
    begun, entry = item(1, ITEM)
    tell(crew, 1, 0, begun, entry)
    crew.died(("step", 1), TASK, 20, "worker_died", "it is gone") if end == "died" else crew.buried(("step", 1))
    assert listed(tmp_path) == [TASK]


def test_a_table_that_can_t_be_written_costs_nothing(crew, tmp_path):
    """Without room beside the spool nothing is listed, and the notices are the same."""
    (tmp_path / "spans" / "worker-0.open").mkdir()
    tell(crew, 0, 0, STEP, OPEN_TASK)
    assert crew.open_spans(("step", 1), TASK) == [OPEN_TASK]
    assert listed(tmp_path) == []
