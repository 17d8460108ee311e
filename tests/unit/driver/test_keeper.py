"""When the record and the status are written, and what the first of them says."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from support.sample_record import twelve_steps

from otel_exec.aggregate.aggregator import Aggregator
from otel_exec.clock import AnchoredClock
from otel_exec.driver import keeper as keeper_module
from otel_exec.driver.keeper import Keeper
from otel_exec.record.model import StepRecord
from otel_exec.report.eta import Eta
from otel_exec.testing import SteppingClock

MS = 1_000_000
S = 1_000 * MS
IDLE = SimpleNamespace(attempts=SimpleNamespace(running={}), beats={}, gate=None, levels_ended=0)


class SlowStore:
    """A store whose files take a while, on the run's clock: a record as long as one of 10,000 steps does, a status next to nothing."""

    def __init__(self, clock):
        self.clock = clock
        self.statuses = []
        self.records = 0

    def write_status(self, status):
        self.clock.advance(MS)
        self.statuses.append(status)

    def write_run(self, encoded, also=None):
        self.clock.advance(100 * MS)
        self.records += 1


def skeleton(count):
    record = twelve_steps()
    record.outcome, record.duration_ns = "running", None
    record.steps = [StepRecord(f"s-{number}", f"s/{number}", template="s/{number}", level=1) for number in range(count)]
    return Aggregator(record)


@pytest.fixture
def slow(monkeypatch):
    """A keeper of 10,000 steps whose record takes 140 ms to encode; its store, its clock, and how often an ETA was asked for."""
    clock = SteppingClock()
    store, asked = SlowStore(clock), []

    def write_record(record):
        clock.advance(140 * MS)
        return b""

    def eta():
        asked.append(clock.now_ns())
        return Eta(S, "this run")

    monkeypatch.setattr(keeper_module, "write_record", write_record)
    return Keeper(store, skeleton(10_000), clock, driver="d", also=None, eta=eta), store, clock, asked


def test_the_second_status_of_a_large_run_is_due_within_a_second(slow):
    """What the whole record's first writing took is not held against the status: of 10,000 steps too the next one follows within a second."""
    keeper, store, clock, _ = slow
    keeper.begin()
    assert (len(store.statuses), store.records) == (1, 1)
    clock.advance(S)
    keeper.keep(IDLE)
    assert (len(store.statuses), store.records) == (2, 1)


def test_the_first_status_has_no_eta(slow):
    """No ETA is reckoned before anything was handed to a worker, so nothing is looked up for one; the next status has it."""
    keeper, store, clock, asked = slow
    keeper.begin()
    assert (asked, store.statuses[0].eta_ms, store.statuses[0].progress.total) == ([], None, 10_000)
    clock.advance(S)
    keeper.keep(IDLE)
    assert (len(asked), store.statuses[1].eta_ms) == (1, 1000)


def test_a_status_says_how_its_clock_is_anchored():
    """With the offset a reader on the same host has the run's own present."""
    clock = AnchoredClock()
    store = SlowStore(SteppingClock())
    Keeper(store, skeleton(1), clock, driver="d", also=None, eta=lambda: None).begin()
    assert store.statuses[0].clock_offset_ns == str(clock.offset_ns)


def test_a_status_says_what_steps_wait_for_while_they_do(slow):
    """As it is when the status is written; of a run that has ended nothing."""
    _, store, clock, _ = slow
    waits = {"train": "no node has a GPU"}
    keeper = Keeper(store, skeleton(1), clock, driver="d", also=None, eta=lambda: None, waits=waits)
    keeper.begin()
    waits.clear()
    clock.advance(S)
    keeper.keep(IDLE)
    assert [[(each.name, each.why) for each in status.waiting] for status in store.statuses] == [[("train", "no node has a GPU")], []]
