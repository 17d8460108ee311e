"""The garbage collector is spared while a run goes on, and gets at what runs left after that."""

from __future__ import annotations

import pytest

from otel_exec.driver import garbage
from otel_exec.driver.garbage import collector_spared


class Collector:
    """A garbage collector of which one can say how many objects it has, and how many of them are garbage."""

    def __init__(self):
        self.objects = self.garbage = self.frozen = self.collections = 0
        self.enabled = True

    def freeze(self):
        self.frozen = self.objects

    def unfreeze(self):
        self.frozen = 0

    def get_freeze_count(self):
        return self.frozen

    def isenabled(self):
        return self.enabled

    def collect(self):
        assert not self.frozen, "what is frozen is not collected"
        self.collections += 1
        self.objects -= self.garbage
        self.garbage = 0


@pytest.fixture
def collector(monkeypatch):
    made = Collector()
    monkeypatch.setattr(garbage, "gc", made)
    monkeypatch.setattr(garbage, "_known", 0)
    return made


def a_run(collector, leaves):
    with collector_spared():
        assert collector.frozen == collector.objects
        collector.objects += leaves
        collector.garbage += leaves
    assert not collector.frozen


def test_run_after_run_leaves_as_much_again_as_there_was_at_most(collector):
    """A full collection comes when the objects have doubled, so its cost is a share of what made them."""
    collector.objects = 1_000
    for _ in range(100):
        a_run(collector, leaves=100)
        assert collector.objects <= 2_200
    assert 8 <= collector.collections <= 10


def test_who_switched_the_collector_off_is_obeyed(collector):
    """Then nothing is ever collected."""
    collector.objects, collector.enabled = 10, False
    for _ in range(20):
        a_run(collector, leaves=10)
    assert collector.collections == 0


def test_what_somebody_else_froze_stays_frozen(collector):
    """A server that froze its modules before it forked keeps them so."""
    collector.objects = 10
    collector.freeze()
    with collector_spared():
        collector.objects += 5
    assert collector.frozen == 10
