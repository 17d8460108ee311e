"""What status.json says from its first writing on, in whole runs."""

from __future__ import annotations

import time

import pytest

from otel_exec import deferred, step, versioned
from otel_exec.driver.live import LiveListener
from otel_exec.execute.inline import InlineExecutor
from otel_exec.record.run_store import RunStore
from otel_exec.status import locate, status_now
from otel_exec.testing import run_in


def _work(config):
    return config["n"]


work = deferred(_work)


@step("one/{n}")
def one(n, *above):
    return work({"n": versioned(n), "above": list(above)})


@pytest.fixture
def statuses(monkeypatch):
    """Every status that is written, as its file would have it."""
    written = []
    plain = RunStore.write_status

    def keep(self, status):
        written.append(status)
        plain(self, status)

    monkeypatch.setattr(RunStore, "write_status", keep)
    return written


def test_the_first_status_counts_as_the_last_does(tmp_path, statuses):
    """What was there before the run, and what nobody needs because of it, is counted so from the first status on: the total never shrinks, nothing cached is waited for."""
    run_in(tmp_path, [one(2, one(1)), one(3)])
    statuses.clear()
    record = run_in(tmp_path, [one(2, one(1)), one(3), one(4, one(3))])
    assert {step.reason for step in record.steps} >= {"not_needed", "cached"}
    first, last = statuses[0].progress, statuses[-1].progress
    assert (first.total, first.cached, first.done) == (3, 2, 2)
    assert (last.total, last.cached, last.done) == (3, 2, 3)
    assert (statuses[0].state, statuses[0].eta_ms) == ("running", None)


@pytest.mark.parametrize(
    ("settings", "at_once"),
    [
        ({"executor": "inline", "workers": 4}, 1),
        ({"executor": "threads", "workers": 4}, 4),
        ({"executor": "threads", "workers": 4, "max_concurrent": 3}, 3),
        ({"executor": "threads", "workers": 2, "max_concurrent": 3}, 2),
    ],
)
def test_an_eta_shares_the_work_among_what_runs_at_once(tmp_path, monkeypatch, settings, at_once):
    """That is what the executor has and `max_concurrent` lets through, not what was asked for or what the machine has."""
    told = []
    monkeypatch.setattr(LiveListener, "reckons_with", lambda self, at_once, look_back: told.append(at_once))
    run_in(tmp_path, one(1), **settings)
    assert told == [at_once]


def test_what_a_run_waits_for_before_it_begins_is_its_first_status(tmp_path, monkeypatch, statuses):
    """While its executor starts, a cluster say, there is a status that says so, and no record; how long that took is in the record, as worker start-up."""
    seen, start = [], InlineExecutor.start

    def slow_start(executor, settings, clock):
        seen.append(status_now(locate(settings.run_folder, prefix=str(tmp_path)), clock.now_ns(), tasks=True))
        time.sleep(0.02)
        start(executor, settings, clock)

    monkeypatch.setattr(InlineExecutor, "awaits", "a cluster to start")
    monkeypatch.setattr(InlineExecutor, "start", slow_start)
    record = run_in(tmp_path, [one(1), one(2)], executor="inline")
    (early,) = seen
    assert (early.state, early.progress.total, [(each.name, each.why) for each in early.waiting]) == ("running", 2, [("", "a cluster to start")])
    assert early.waiting[0].elapsed_ms is not None
    assert [status.waiting for status in statuses[1:]] == [[]] * (len(statuses) - 1)
    assert record.executor.startup_ns >= 20_000_000
    assert record.wall.worker_startup_ns >= record.executor.startup_ns
    assert run_in(tmp_path, [one(1), one(2)], executor="inline").executor.startup_ns is None
