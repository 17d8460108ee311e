"""Disks that are full, limited, read-only or gone: a clear error, its exit code, and no step's result lost for it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
from support.outside import clean_environment

from otel_exec.record.step_files import read_events, standing

EXPERIMENT = Path(__file__).with_name("experiment.py")
MOUNTS = sys.platform == "linux" and os.geteuid() == 0


def start(folder: Path, *flags: str, limit_bytes: int | None = None, width: int = 3) -> subprocess.Popen:
    """Start the experiment."""
    limits = [] if limit_bytes is None else ["prlimit", f"--fsize={limit_bytes}"]
    return subprocess.Popen(
        [*limits, sys.executable, str(EXPERIMENT), "--executor", "threads", "--workers", "2", *flags],
        cwd=folder,
        env=clean_environment(EVIDENCE=str(folder / "evidence"), WIDTH=str(width), RETRIES="2"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def succeeded(prefix: Path) -> set[str]:
    """Return the steps that said SUCCESS."""
    words = {path.name: standing(read_events(str(path))) for path in prefix.glob("work/*")}
    return {name for name, event in words.items() if event is not None and event.status == "SUCCESS"}


@contextmanager
def mounted(folder: Path, options: str):
    """A file system in memory, mounted for the block."""
    folder.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], check=False, capture_output=True)
    if done.returncode:
        pytest.skip("file systems can't be mounted here")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.skipif(shutil.which("prlimit") is None, reason="prlimit is not installed here")
def test_where_telemetry_has_no_room_steps_succeed(tmp_path):
    """A limit on files that the spool passes costs spans, which is said and counted; outcomes and the record stay whole."""
    out, err = start(tmp_path, "--prefix", "out", limit_bytes=30_000).communicate(timeout=120)
    record = json.loads((tmp_path / "run.json").read_text()) if (tmp_path / "run.json").stat().st_size else None
    assert len(succeeded(tmp_path / "out")) == 7, err
    assert "Traceback" not in err + out
    assert record is not None
    lost = [warning for warning in record["warnings"] if warning["code"] == "spans_lost"]
    assert lost, "nothing was lost: the limit is too wide for this test"
    assert "File too large" in lost[0]["message"]


@pytest.mark.skipif(not MOUNTS, reason="mounting takes root on Linux")
def test_a_full_disk_loses_no_result_that_was_there(tmp_path):
    """Exit code 4 and one sentence; what had succeeded is cached once there is room."""
    with mounted(tmp_path / "disk", "size=320k"):
        prefix = tmp_path / "disk" / "out"
        (tmp_path / "disk" / "ballast").write_bytes(b"x" * 180_000)
        run = start(tmp_path, "--prefix", str(prefix))
        out, err = run.communicate(timeout=120)
        assert run.returncode in {1, 4}, out + err
        assert "Traceback" not in err.replace('Traceback (most recent call last):\n  File "' + str(EXPERIMENT), "")
        assert "no space left on device" in err.lower()
        before = succeeded(prefix)
        assert not list(prefix.glob("work/*/.executor_status.lock"))
        (tmp_path / "disk" / "ballast").unlink()
        subprocess.run(["mount", "-o", "remount,size=8m", str(tmp_path / "disk")], check=True)
        again = start(tmp_path, "--prefix", str(prefix))
        out, err = again.communicate(timeout=120)
        assert again.returncode == 0, out + err
        record = json.loads((tmp_path / "run.json").read_text())
        cached = {os.path.basename(step["output_path"]) for step in record["steps"] if step["cached"]}
        assert before <= cached


FILLING = """
import os
from otel_exec import deferred, executor_main, output, phase, step

def _work(out):
    with phase("fill"):
        with open(os.path.join(out, "result"), "wb", buffering=0) as file:
            try:
                while True:
                    file.write(bytes(1 << 16))
            except OSError:
                pass
            try:
                while True:
                    file.write(bytes(64))
            except OSError:
                pass
    for _ in range(200):
        with phase("after it was full"):
            pass

work = deferred(_work)

@step("fill/{number}")
def fill(number):
    return work(out=output())

executor_main(steps=[fill(1), fill(2), fill(3)], description="fills its disk")
"""


@pytest.mark.skipif(not MOUNTS, reason="mounting takes root on Linux")
@pytest.mark.parametrize("executor", ["processes", "threads"])
def test_outcomes_find_room_on_a_disk_that_a_step_has_filled(tmp_path, executor):
    """To the last byte, on each of three steps: spans are lost and counted, the outcomes stand, and what had succeeded is not run again."""
    (tmp_path / "exp.py").write_text(FILLING, encoding="utf-8")
    argv = [sys.executable, "exp.py", "--prefix", "disk/out", "--executor", executor, "--workers", "1"]
    with mounted(tmp_path / "disk", "size=6m"):
        first = subprocess.run(argv, cwd=tmp_path, env=clean_environment(), capture_output=True, text=True, timeout=120, check=False)
        words = {path.name: standing(read_events(str(path))).status for path in (tmp_path / "disk/out/fill").iterdir()}
        assert sorted(words.values()) == ["SUCCESS"] * 3, first.stderr
        record = json.loads((tmp_path / "run.json").read_text())
        assert record["outcome"] == "success"
        assert "spans_lost" in [warning["code"] for warning in record["warnings"]]
        assert first.returncode in {0, 4}, first.stderr
        assert "Traceback" not in first.stderr
        (tmp_path / "disk/out/fill").joinpath(next(iter(words)), "result").unlink()
        again = subprocess.run(argv, cwd=tmp_path, env=clean_environment(), capture_output=True, text=True, timeout=120, check=False)
        assert again.returncode == 0, again.stderr
        record = json.loads((tmp_path / "run.json").read_text())
        assert [step["cached"] for step in record["steps"]] == [True] * 3


@pytest.mark.skipif(not MOUNTS, reason="mounting takes root on Linux")
def test_a_read_only_prefix_stops_before_anything_runs(tmp_path):
    """One sentence with the way out, exit code 4, and no step was begun."""
    with mounted(tmp_path / "disk", "ro"):
        run = start(tmp_path, "--prefix", str(tmp_path / "disk" / "out"))
        out, err = run.communicate(timeout=60)
    assert (run.returncode, out) == (4, "")
    assert err.count("\n") == 1
    assert "read-only file system" in err
    assert "--prefix" in err
    assert not (tmp_path / "evidence").exists()


def test_a_prefix_deleted_in_mid_run_is_said(tmp_path):
    """Steps go on where they can, the record is kept in the working directory alone, exit code 4."""
    prefix = tmp_path / "out"
    run = start(tmp_path, "--prefix", str(prefix), width=12)
    while not (tmp_path / "evidence").exists() and run.poll() is None:
        time.sleep(0.005)
    shutil.rmtree(prefix / ".otel_exec")
    out, err = run.communicate(timeout=120)
    assert run.returncode == 4, out + err
    assert "the record is kept in" in err
    assert "Traceback" not in err
    record = json.loads((tmp_path / "run.json").read_text())
    assert record["outcome"] == "success"
    assert len(succeeded(prefix)) == 25


def test_a_name_that_no_disk_takes_is_said(tmp_path):
    """A path that is too long stops before anything runs, with exit code 4."""
    run = start(tmp_path, "--prefix", "x" * 300)
    _, err = run.communicate(timeout=60)
    assert run.returncode == 4
    assert "file name too long" in err


@pytest.mark.skipif(not MOUNTS, reason="mounting takes root on Linux")
def test_a_disk_that_is_full_when_spans_open_ends_no_process(tmp_path):
    """A table of open spans that finds no room lists nothing and leaves no file; no store into mapped memory ends the process by SIGBUS."""
    program = (
        "import sys\n"
        "from otel_exec.spans.open_spans import OpenEntry, OpenSpanTable\n"
        "table = OpenSpanTable(sys.argv[1], 'w')\n"
        "print([table.open(OpenEntry('a' * 16, '', 'phase', 'n' * 90, 'm' * 90, 1)) for _ in range(100)] == [-1] * 100)\n"
    )
    with mounted(tmp_path / "disk", "size=96k"):
        (tmp_path / "disk" / "ballast").write_bytes(b"x" * 80_000)
        done = subprocess.run([sys.executable, "-c", program, str(tmp_path / "disk")], capture_output=True, text=True, timeout=60, check=False)
        assert (done.returncode, done.stdout) == (0, "True\n"), done.stderr
        assert os.listdir(tmp_path / "disk") == ["ballast"]
