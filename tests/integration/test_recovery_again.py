"""A run that was killed, and whose recovery was cut short or only asked about."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from otel_exec import deferred, output, recovery, run, step
from otel_exec.cli.main import main as otel_exec


def _work(out):
    Path(out, "done").write_text("done", encoding="utf-8")


work = deferred(_work)


@step("work")
def one():
    """A step."""
    return work(out=output())


@pytest.fixture
def killed(tmp_path):
    """The folder of a run whose driver was killed while its step ran: it has a lock, a reserve and a half-written file."""
    run([one()], prefix=str(tmp_path / "out"), executor="inline", run_json=str(tmp_path / "run.json"))
    (folder,) = (tmp_path / "out" / ".otel_exec" / "runs").iterdir()
    record, status = (json.loads((folder / name).read_text()) for name in ("run.json", "status.json"))
    driver = status["driver"].split(":")
    driver[2], driver[3] = "999999", "1/exec"
    (folder / "run.json").write_text(json.dumps({**record, "outcome": "running"}), encoding="utf-8")
    (folder / "status.json").write_text(json.dumps({**status, "state": "running", "driver": ":".join(driver)}), encoding="utf-8")
    journal = (folder / "journal.jsonl").read_text().splitlines(keepends=True)
    (folder / "journal.jsonl").write_text("".join(line for line in journal if '"settled"' not in line and '"ended' not in line), encoding="utf-8")
    spool = folder / "spans" / "driver.jsonl"
    spool.write_text("".join(line for line in spool.read_text().splitlines(keepends=True) if '"run"' not in line), encoding="utf-8")
    lock = Path(record["steps"][0]["output_path"], ".executor_status.lock")
    lock.write_text(json.dumps({"worker_id": ":".join(driver), "timestamp": 1.0}), encoding="utf-8")
    for name in ("reserve", "run.json.1.tmp"):
        (folder / name).write_bytes(b"x")
    return folder, lock


def test_a_recovery_that_was_killed_before_it_cleaned_up_does_so_the_next_time(killed):
    """The spans are there already; locks, reserve and half-written files go."""
    folder, lock = killed
    (folder / "spans" / "recovered.jsonl").write_bytes(b"")
    assert recovery.recover(str(folder)) == 0
    assert [path for path in (lock, folder / "reserve", folder / "run.json.1.tmp") if path.exists()] == []
    assert recovery.recover(str(folder)) == 0


def test_a_dry_replay_counts_what_is_open_and_writes_nothing(killed, capsys):
    """It names the number that a replay then finds to send, and every file stays as it was, a torn line with it."""
    folder, _ = killed
    with (folder / "spans" / "driver.jsonl").open("ab") as file:
        file.write(b'{"torn')
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert otel_exec(["replay", str(folder), "--dry-run", "--endpoint", "http://127.0.0.1:9"]) == 0
    first = capsys.readouterr().out
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    assert recovery.left_open(str(folder)) == recovery.recover(str(folder)) > 0
    assert otel_exec(["replay", str(folder), "--dry-run", "--endpoint", "http://127.0.0.1:9"]) == 0
    assert capsys.readouterr().out == first
    assert os.path.exists(folder / "spans" / "recovered.jsonl")
