"""A prefix on a real S3-compatible server: step files and records go there, runs share it, and locks are created exclusively."""

from __future__ import annotations

import urllib.request

import fsspec
import pytest
from support.outside import run_script

from otel_exec import deferred, output, phase, read_run, run, step, versioned
from otel_exec.cli.main import main as otel_exec
from otel_exec.record import locks

moto_server = pytest.importorskip("moto.server", reason="moto is not installed: pip install -e '.[dev]'")
pytest.importorskip("s3fs", reason="s3fs is not installed: pip install -e '.[dev]'")

# What s3fs and botocore leave to the collector is theirs to close.
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::DeprecationWarning")


@pytest.fixture
def bucket(monkeypatch):
    """A bucket on a server of its own, on loopback."""
    server = moto_server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    for name, value in {
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
    }.items():
        monkeypatch.setenv(name, value)
    # What the server holds is its process's: the test before left its bucket there.
    urllib.request.urlopen(urllib.request.Request(f"http://{host}:{port}/moto-api/reset", method="POST")).close()
    fsspec.filesystem("s3").clear_instance_cache()
    fsspec.filesystem("s3").mkdir("bucket")
    yield "s3://bucket/prefix"
    fsspec.filesystem("s3").clear_instance_cache()
    server.stop()


def _put(number, out):
    with phase("put"), fsspec.open(f"{out}/data", "w") as file:
        file.write(str(number))


put = deferred(_put)


@step("put/{number}")
def one(number, upstream=()):
    """A step that writes to its output path, wherever that is."""
    return put(number=versioned(number), out=output())


@pytest.mark.parametrize("executor", ["threads", "processes"])
def test_a_run_on_s3(tmp_path, bucket, executor):
    """Step files, the record and the spool are there at the end; the second run takes all as cached; nothing stays behind on the local disk."""
    first = run([one(1), one(2)], prefix=bucket, executor=executor, workers=2, run_json=str(tmp_path / "run.json"))
    assert first.outcome == "success"
    store = fsspec.filesystem("s3")
    there = {path.removeprefix("bucket/prefix/") for path in store.find("bucket/prefix")}
    folder = f".otel_exec/runs/{first.exec_id}"
    assert {f"{folder}/run.json", f"{folder}/status.json", f"{folder}/journal.jsonl", f"{folder}/spans/driver.jsonl", ".otel_exec/latest"} <= there
    for each in first.steps:
        inside = each.output_path.removeprefix(bucket + "/")
        assert {f"{inside}/.executor_status", f"{inside}/.executor_info", f"{inside}/data"} <= there
        assert f"{inside}/.executor_status.lock" not in there
    again = run([one(1), one(2)], prefix=bucket, executor=executor, workers=2, run_json=str(tmp_path / "run.json"))
    assert [each.cached_from.exec_id for each in again.steps] == [first.exec_id] * 2
    assert read_run(bucket).exec_id == again.exec_id
    assert otel_exec(["summary", bucket]) == 0
    assert otel_exec(["runs", bucket]) == 0


def test_a_lock_on_s3_is_created_by_one_alone(bucket):
    """The store creates exclusively: of many that ask at once one has it, the others hear who."""
    output_path = f"{bucket}/step"
    states = [locks.acquire(output_path, f"holder-{number}") for number in range(4)]
    assert [state.taken for state in states] == [True, False, False, False]
    assert {state.holder for state in states[1:]} == {"holder-0"}
    assert not locks.heartbeat(output_path, "holder-1")
    assert locks.heartbeat(output_path, "holder-0")
    locks.release(output_path, "holder-0")
    assert locks.acquire(output_path, "holder-1").taken


def test_pruning_a_prefix_on_s3(tmp_path, bucket, capsys):
    """Older runs' folders go, outputs stay."""
    for _ in range(2):
        run([one(1)], prefix=bucket, executor="threads", run_json=str(tmp_path / "run.json"))
    assert otel_exec(["runs", bucket, "--prune", "--keep", "1", "--yes"]) == 0
    assert "removed 1 run" in capsys.readouterr().out
    store = fsspec.filesystem("s3")
    store.invalidate_cache()
    assert len(store.ls("bucket/prefix/.otel_exec/runs")) == 1
    assert any(path.endswith("/data") for path in store.find("bucket/prefix"))


KILLED = """
import os, signal, sys
from otel_exec import deferred, executor_main, output, phase, step, versioned

def _work(number, up, out):
    with phase("first"):
        pass
    if number == 2 and not os.path.exists("again"):
        with phase("endless"):
            os.kill(os.getpid(), signal.SIGKILL)

work = deferred(_work)

@step("work/{number}")
def one(number, up=None):
    return work(number=versioned(number), up=up, out=output())

executor_main(steps=[one(2, one(1))], argv=["--prefix", sys.argv[1], "--executor", "inline"])
"""


def test_what_a_killed_driver_left_on_its_machine_comes_home_with_the_next_run(tmp_path, bucket):
    """The next run there says whom it goes on from, and puts the whole record and the spans in the store; nothing stays behind on the local disk."""
    (tmp_path / "exp.py").write_text(KILLED, encoding="utf-8")
    (tmp_path / "tmp").mkdir()
    first, second = (_started(tmp_path, bucket, again) for again in (False, True))
    assert (first.returncode, second.returncode) == (-9, 0), second.stderr
    assert "was killed before it could end" in (tmp_path / "run.json").read_text(encoding="utf-8")
    again = read_run(bucket)
    assert [(each.name, each.cached) for each in again.steps] == [("work/1", True), ("work/2", False)]
    dead = read_run(f"{bucket}/.otel_exec/runs/{again.resumed_from.exec_id}")
    assert (dead.outcome, {each.name: each.outcome for each in dead.steps}) == ("interrupted", {"work/1": "success", "work/2": "error"})
    assert otel_exec(["summary", f"{bucket}/.otel_exec/runs/{dead.exec_id}"]) == 0
    store = fsspec.filesystem("s3")
    store.invalidate_cache()
    folder = f"bucket/prefix/.otel_exec/runs/{dead.exec_id}"
    spans = b"".join(store.cat_file(path) for path in store.find(f"{folder}/spans") if path.endswith(".jsonl"))
    assert all(f'"name":"{name}"'.encode() in spans for name in ("first", "endless", "task _work", "work/2"))
    assert list(tmp_path.glob("tmp/otel-exec-live-*/*/*")) == []


def _started(folder, prefix, again):
    if again:
        (left,) = (folder / "tmp").glob("otel-exec-live-*/*/exec_*/run.json")
        assert left.exists()
        (folder / "again").touch()
    return run_script("exp.py", prefix, cwd=folder, TMPDIR=str(folder / "tmp"))
