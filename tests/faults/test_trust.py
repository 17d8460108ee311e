"""A prefix that others can write to is hostile input: it makes nobody write elsewhere, run code, or wait."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import pickle

import pytest
from faults.fuzz import checked

from otel_exec import deferred, output, read_run, run, step
from otel_exec.cli.main import main as otel_exec
from otel_exec.errors import OtelExecError
from otel_exec.record import reserve
from otel_exec.record.find import latest_run, list_runs


def _work(out):
    with open(os.path.join(out, "done"), "w", encoding="utf-8") as file:
        file.write("done")


work = deferred(_work)


@step("work")
def one():
    """A step."""
    return work(out=output())


@pytest.fixture
def prefix(tmp_path):
    """A prefix with one run."""
    run([one()], prefix=str(tmp_path / "out"), executor="inline", run_json=str(tmp_path / "run.json"))
    return tmp_path / "out"


def test_latest_never_leads_out_of_the_prefix(tmp_path, prefix):
    """Names with a path in them, and links, are passed over."""
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "run.json").write_text("{}", encoding="utf-8")
    (own,) = list_runs(str(prefix))
    for name in ("../../../elsewhere", str(tmp_path / "elsewhere"), "..", "", "\x00", "a/b"):
        (prefix / ".otel_exec" / "latest").write_text(name, encoding="utf-8")
        assert latest_run(str(prefix)) == own
    os.symlink(tmp_path / "elsewhere", prefix / ".otel_exec" / "runs" / ("exec_" + "a" * 32))
    assert list_runs(str(prefix)) == [own]


@pytest.mark.parametrize("place", [".executor_status", ".executor_status.lock", ".executor_log"])
def test_a_link_in_place_of_a_step_file_is_not_written_through(tmp_path, prefix, place):
    """Whoever can write to the prefix can't have us write to a file of ours elsewhere."""
    victim = tmp_path / "victim"
    victim.write_text("as it was", encoding="utf-8")
    (folder,) = prefix.glob("work-*")
    (folder / ".executor_status").unlink()
    (folder / place).unlink(missing_ok=True)
    os.symlink(victim, folder / place)
    with contextlib.suppress(OtelExecError):
        run([one()], prefix=str(prefix), executor="inline", run_json=str(tmp_path / "run.json"))
    assert victim.read_text(encoding="utf-8") == "as it was"


@pytest.mark.parametrize("kind", ["pipe", "giant", "device"])
@pytest.mark.parametrize("place", ["status", "lock", "info", "log", "latest", "mark", "reserve"])
def test_what_is_no_file_of_ours_holds_nobody_up(tmp_path, prefix, place, kind):
    """Whatever stands in a file's place, the next run and every command end in seconds, with a sentence where they can't go on, and unpack nothing into memory."""
    (folder,) = prefix.glob("work-*")
    path = {
        "status": folder / ".executor_status",
        "lock": folder / ".executor_status.lock",
        "info": folder / ".executor_info",
        "log": folder / ".executor_log",
        "latest": prefix / ".otel_exec" / "latest",
        "mark": prefix / ".otel_exec" / "running" / ("exec_" + "a" * 32),
        "reserve": next((prefix / ".otel_exec" / "runs").iterdir()) / "reserve",
    }[place]
    path.unlink(missing_ok=True)
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    else:
        with path.open("wb") as file:
            file.truncate(1 << 40)
    if (place, kind) == ("lock", "giant"):
        os.utime(path, (0, 0))  # it says nothing of its holder, so its age alone counts: one just made is waited for
    said = checked("the next run", lambda: _run_again(tmp_path, prefix))
    assert not said, said
    if place == "reserve":
        said = checked("a full disk", lambda: _write_on_a_full_disk(str(path.parent)))
        assert not said, said
        assert not os.path.lexists(path)
    for command in ("summary", "status", "runs"):
        said = checked(command, lambda command=command: otel_exec([command, str(prefix)]))
        assert not said, said


def _write_on_a_full_disk(folder):
    """Ask for room in every way there is; the disk stays full."""

    def full():
        raise OSError(errno.ENOSPC, "no room")

    reserve.keep_room(folder)
    with pytest.raises(OSError, match="no room"):
        reserve.with_room(folder, full)
    reserve.let_go(folder)


def _run_again(tmp_path, prefix):
    with contextlib.suppress(OtelExecError):
        run([one()], prefix=str(prefix), executor="inline", run_json=str(tmp_path / "run.json"), force=["work"])
    return 0


def test_an_output_folder_that_is_a_link_is_followed(tmp_path, prefix):
    """People put outputs on other disks: what the step writes, and our files on it, lie there, and are found there again."""
    (folder,) = prefix.glob("work-*")
    folder.rename(tmp_path / "other disk")
    folder.symlink_to(tmp_path / "other disk")
    for force in ([], ["work"]):
        record = run([one()], prefix=str(prefix), executor="inline", run_json=str(tmp_path / "run.json"), force=force)
        assert (record.outcome, record.steps[0].cached) == ("success", not force)
    assert (tmp_path / "other disk" / ".executor_status").read_text().count("SUCCESS") == 2


def test_recovery_gives_nothing_back_outside_of_the_prefix(tmp_path, prefix):
    """A killed run's record may name any path as an output: a lock there is not removed."""
    (folder,) = (prefix / ".otel_exec" / "runs").iterdir()
    record = json.loads((folder / "run.json").read_text())
    status = json.loads((folder / "status.json").read_text())
    outside = tmp_path / "elsewhere"
    outside.mkdir()
    dead = status["driver"].split(":")
    dead[2], dead[3] = "999999", "1/exec"
    holder = ":".join(dead)
    lock = outside / ".executor_status.lock"
    lock.write_text(json.dumps({"worker_id": holder, "timestamp": 1.0}), encoding="utf-8")
    record["outcome"], record["steps"][0]["output_path"] = "running", str(outside)
    (folder / "run.json").write_text(json.dumps(record), encoding="utf-8")
    (folder / "status.json").write_text(json.dumps({**status, "state": "running", "driver": holder}), encoding="utf-8")
    journal = (folder / "journal.jsonl").read_text().splitlines(keepends=True)
    (folder / "journal.jsonl").write_text("".join(line for line in journal if '"settled"' not in line and '"ended' not in line), encoding="utf-8")
    assert otel_exec(["replay", str(folder), "--endpoint", "http://127.0.0.1:9"]) == 4
    assert (folder / "spans" / "recovered.jsonl").exists()
    assert lock.exists()


class _Owned:
    """Unpickled, it leaves a mark."""

    def __reduce__(self):
        return (os.system, ("touch owned",))


def test_nothing_is_unpickled(tmp_path, prefix, monkeypatch):
    """A pickle in place of any file is a damaged file."""
    monkeypatch.chdir(tmp_path)
    for path in [path for path in prefix.rglob("*") if path.is_file()]:
        path.write_bytes(pickle.dumps(_Owned()))
    for command in (["summary", str(prefix)], ["runs", str(prefix)], ["status", str(prefix)], ["replay", str(prefix), "--endpoint", "http://127.0.0.1:9"]):
        otel_exec(command)
    with pytest.raises(OtelExecError):
        read_run(str(prefix))
    run([one()], prefix=str(prefix), executor="inline", run_json=str(tmp_path / "run.json"))
    assert not (tmp_path / "owned").exists()
