"""A run that was killed, and whose recovery was cut short or only asked about."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import fsspec
import pytest

from otel_exec import deferred, output, recovery, run, step
from otel_exec.cli.main import main as otel_exec
from otel_exec.clock import to_iso
from otel_exec.driver import resume
from otel_exec.record import locks


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


@pytest.fixture
def live(killed, tmp_path):
    """The same run as one under a remote prefix: its live files lie on this machine."""
    fsspec.filesystem("memory").store.clear()
    folder = tmp_path / killed[0].name
    killed[0].rename(folder)
    return folder


def names_under(prefix):
    return [path for path in fsspec.filesystem("memory").find(prefix) if path.endswith("/run.json")]


def test_a_large_spool_that_was_recovered_comes_home(live, monkeypatch):
    """What is too large to be recovered at once is said, each time; once `otel-exec replay` has recovered it, it is put under its prefix and is gone here."""
    monkeypatch.setattr(resume, "_AT_ONCE_BYTES", 0)
    left = recovery.look(str(live))
    (warning,) = resume._recovered(left, frozenset(), "memory://far")
    assert (warning.code, live.exists(), names_under("memory://far")) == ("not_recovered", True, [])
    assert recovery.recover(str(live)) > 0
    assert resume._recovered(left, frozenset(), "memory://far") == []
    assert (live.exists(), len(names_under("memory://far"))) == (False, 1)
    monkeypatch.undo()
    assert resume._recovered(left, frozenset(), "memory://far") == []  # so for another driver, which had seen it before it went


def test_one_driver_brings_a_run_home(live, monkeypatch):
    """While another is at it nothing is touched; what is left of a folder without its record is taken away, and not put over the whole one."""
    recovery.recover(str(live))
    monkeypatch.setattr(recovery, "_PATIENCE_S", 0.0)
    with recovery.alone(str(live)) as ours:
        assert ours
        assert resume._brought_home(str(live), "memory://far") == []
        assert (live.exists(), names_under("memory://far")) == (True, [])
    (live / "run.json").unlink()
    assert resume._brought_home(str(live), "memory://far") == []
    assert (live.exists(), names_under("memory://far")) == (False, [])
    assert resume._brought_home(str(live), "memory://far") == []


@pytest.mark.parametrize(("age_s", "over"), [(locks.STALE_S - 60, False), (locks.STALE_S + 60, True)])
def test_a_run_of_another_host_without_a_record_is_over_by_its_age(killed, age_s, over):
    """Nothing can be proved of its driver: its mark's age tells, unless its status says that it goes on."""
    folder, _ = killed
    (folder / "run.json").unlink()
    (folder / "status.json").unlink()
    mark = folder.parents[1] / "running" / folder.name
    mark.parent.mkdir(exist_ok=True)
    mark.write_text("elsewhere:boot:1:1/exec", encoding="utf-8")
    then = time.time() - age_s
    os.utime(mark, (then, then))
    assert recovery.over(str(folder)) is over


def test_a_run_of_another_host_that_gives_signs_of_life_is_not_over(killed):
    """However old its mark, and whatever stands in the place of its record."""
    folder, _ = killed
    (folder / "run.json").write_bytes(b"?")
    status = json.loads((folder / "status.json").read_text())
    (folder / "status.json").write_text(json.dumps({**status, "driver": "elsewhere:boot:1:1/exec", "updated_at": to_iso(time.time_ns())}), encoding="utf-8")
    mark = folder.parents[1] / "running" / folder.name
    mark.parent.mkdir(exist_ok=True)
    mark.write_text("elsewhere:boot:1:1/exec", encoding="utf-8")
    os.utime(mark, (0, 0))
    assert not recovery.over(str(folder))


def test_a_run_that_is_forgotten_keeps_no_room(killed):
    """One that was killed before it had a record holds a reserve that nobody else would give back."""
    folder, _ = killed
    recovery.forget(str(folder))
    assert not (folder / "reserve").exists()
