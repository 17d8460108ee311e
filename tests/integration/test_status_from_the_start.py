"""What status.json says from its first writing on, in whole runs."""

from __future__ import annotations

import pytest

from otel_exec import deferred, step, versioned
from otel_exec.driver.live import LiveListener
from otel_exec.record.run_store import RunStore
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
