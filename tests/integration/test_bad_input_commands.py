"""What a user can get wrong on the command line and in files: one sentence, the right exit code, and everything that was there still is."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path

import pytest
from support.outside import otel_exec, run_script

SCRIPT = """
import sys
from otel_exec import deferred, executor_main, output, step, versioned

def _write(config):
    with open("ran", "a") as file:
        file.write("x")
    with open(config["path"], "w") as file:
        file.write("made")

write = deferred(_write)

@step("first/{name}")
def first(name):
    return write({"name": versioned(name), "path": output("out")})

@step("second")
def second(above):
    return write({"above": above / "out", "path": output("out")})

if __name__ == "__main__":
    executor_main(steps=[second(first("a"))])
"""


def tree(folder):
    """Return every file below a folder with its content and time of change, folders too."""
    return {str(path): (path.read_bytes(), path.stat().st_mtime_ns) if path.is_file() else None for path in sorted(Path(folder).rglob("*"))}


@pytest.fixture(scope="module")
def done_folder(tmp_path_factory):
    """A folder in which the experiment has run, with a file of somebody else's; no test of this module changes anything in it."""
    folder = tmp_path_factory.mktemp("done")
    (folder / "exp.py").write_text(SCRIPT, encoding="utf-8")
    (folder / "notes.json").write_text('{"mine": true}', encoding="utf-8")
    (folder / "notes.txt").write_text("mine", encoding="utf-8")
    (folder / "folder").mkdir()
    done = run_script("exp.py", "--executor", "inline", cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder


def check_refused(done, folder, before, code, said):
    """One line on stderr, nothing of Python's, the code, and every file as it was."""
    assert done.returncode == code, done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith("otel-exec: ")
    for words in said:
        assert words in line
    assert "Traceback" not in done.stderr + done.stdout
    assert tree(folder) == before


@pytest.mark.parametrize(
    ("flags", "code", "said"),
    [
        (["--run-only", "("], 2, ["--run-only=(", "regular expressions"]),
        (["--run-only", "absent"], 2, ["--run-only", "absent"]),
        (["--force", "[z-a]"], 2, ["--force", "[z-a]"]),
        (["--force", "absent"], 2, ["--force", "absent"]),
        (["--executor", "proceses"], 2, ["--executor", "proceses", "processes", "threads", "inline"]),
        (["--workers", "0"], 2, ["--workers", "0"]),
        (["--workers", "-3"], 2, ["--workers", "-3"]),
        (["--workers", "many"], 2, ["--workers", "many"]),
        (["--max-concurrent", "0"], 2, ["--max-concurrent", "0"]),
        (["--timeout", "soon"], 2, ["--timeout", "soon"]),
        (["--timeout", "-1"], 2, ["--timeout", "-1"]),
        (["--grace", "nan"], 2, ["--grace", "nan"]),
        (["--resource", "licence"], 2, ["--resource", "licence"]),
        (["--resource", "licence=many"], 2, ["--resource", "licence=many"]),
        (["--prefix", ""], 2, ["--prefix"]),
        (["--prefix", "exp.py/outputs"], 4, ["exp.py/outputs", "--prefix"]),
        (["--prefix", "/proc/nowhere/outputs"], 4, ["/proc/nowhere", "--prefix"]),
        (["--prefix", "nosuch://bucket/x"], 4, ["nosuch://bucket/x"]),
        (["--prefix", "memory://x", "--force", ".*"], 2, ["memory://x", "threads or inline"]),
        (["--run-json", "exp.py/run.json"], 4, ["exp.py/run.json"]),
        (["--run-json", "notes.json"], 4, ["notes.json", "--run-json"]),
        (["--run-json", "notes.txt"], 4, ["notes.txt", "--run-json"]),
        (["--run-json", "folder"], 4, ["folder"]),
        (["--no-such-flag"], 2, ["--no-such-flag", "--help"]),
        (["stray"], 2, ["stray"]),
        (["--run-only"], 2, ["--run-only"]),
    ],
)
def test_flags(done_folder, flags, code, said):
    """A flag that can't be obeyed is named with its value and what would be right; nothing is run."""
    before = tree(done_folder)
    check_refused(run_script("exp.py", *flags, cwd=done_folder), done_folder, before, code, said)


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("OTEL_EXEC_EXECUTOR", "treads", ["threads"]),
        ("OTEL_EXEC_WORKERS", "0", ["0"]),
        ("OTEL_EXEC_TIMING", "perhaps", ["perhaps"]),
        ("OTEL_EXEC_EXIT_TIMEOUT", "soon", ["soon"]),
        ("OTEL_EXEC_TRACE_URL", "http://localhost:16686", ["{trace_id}"]),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "not an endpoint", ["not an endpoint"]),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "ftp://collector:4317", ["ftp://collector:4317", "http://"]),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://", ["http://"]),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "localhost:99999", ["localhost:99999"]),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:port", ["http://collector:port"]),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://[::1", ["http://[::1"]),
        ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "/v1/traces", ["/v1/traces"]),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "carrier-pigeon", ["grpc", "http/protobuf", "http/json"]),
        ("OTEL_TRACES_EXPORTER", "jeager", ["otlp", "console", "none"]),
    ],
)
def test_variables(done_folder, variable, value, said):
    """A variable that can't be read is named with its value and what it takes."""
    before = tree(done_folder)
    done = run_script("exp.py", cwd=done_folder, **{"OTEL_EXPORTER_OTLP_ENDPOINT": "http://localhost:4317", variable: value})
    check_refused(done, done_folder, before, 2, [variable, *said])


def test_a_foreign_run_json_is_not_replaced(tmp_path):
    """A run.json of somebody else's in the working directory stays; the run says so before anything is run or written."""
    (tmp_path / "exp.py").write_text(SCRIPT, encoding="utf-8")
    (tmp_path / "run.json").write_text('{"scripts": {"run": "node ."}}', encoding="utf-8")
    before = tree(tmp_path)
    check_refused(run_script("exp.py", cwd=tmp_path), tmp_path, before, 4, ["run.json", "no record of otel_exec", "--run-json"])


@pytest.mark.parametrize(
    "content",
    ["", '{"schema_version": "1.0", "exec_id": "exec_0af7651916cd43dd", "tra', '{"schema_version": "99.0", "exec_id": "exec_1", "steps": 7}'],
    ids=["empty", "cut short", "newer"],
)
def test_a_record_that_cannot_be_read_does_not_stop_a_run(tmp_path, content):
    """A record of ours, however broken, is replaced: the run that made it has its own in its folder."""
    (tmp_path / "exp.py").write_text(SCRIPT, encoding="utf-8")
    (tmp_path / "run.json").write_text(content, encoding="utf-8")
    done = run_script("exp.py", "--executor", "inline", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "run.json").read_text(encoding="utf-8"))["outcome"] == "success"


@pytest.fixture
def bad_records(tmp_path):
    """A folder of files that are no records, by what is wrong with them."""
    good = {"schema_version": "1.0", "exec_id": "exec_1", "trace_id": "ab" * 16}
    (tmp_path / "truncated.json").write_text(json.dumps(good)[:-10], encoding="utf-8")
    (tmp_path / "foreign.json").write_text('{"name": "package", "version": "1.0"}', encoding="utf-8")
    (tmp_path / "list.json").write_text("[1, 2]", encoding="utf-8")
    (tmp_path / "newer.json").write_text(json.dumps({**good, "schema_version": "2.0"}), encoding="utf-8")
    (tmp_path / "damaged.json").write_text(json.dumps({**good, "steps": "none"}), encoding="utf-8")
    (tmp_path / "binary.json").write_bytes(bytes(range(256)))
    (tmp_path / "empty.json").write_bytes(b"")
    (tmp_path / "deep.json").write_bytes(b'{"schema_version":' + b"[" * 200_000)
    (tmp_path / "loop.json").symlink_to(tmp_path / "loop.json")
    (tmp_path / "gone.json").symlink_to(tmp_path / "nowhere")
    (tmp_path / "folder.json").mkdir()
    with socket.socket(socket.AF_UNIX) as server:
        here = os.getcwd()
        os.chdir(tmp_path)  # a socket's path is short
        try:
            server.bind("socket.json")
        finally:
            os.chdir(here)
    return tmp_path


def test_records_that_cannot_be_read(bad_records):
    """Missing, unreadable, truncated, foreign, damaged or newer: `otel-exec summary` says which in one sentence with exit code 4, and leaves the file alone."""
    said = {
        "missing.json": "missing.json",
        "truncated.json": "cut short",
        "foreign.json": "no run.json of otel_exec",
        "list.json": "no run.json of otel_exec",
        "newer.json": "newer otel_exec",
        "damaged.json": "damaged",
        "binary.json": "binary.json",
        "empty.json": "empty",
        "deep.json": "deep.json",
        "loop.json": "loop.json",
        "gone.json": "gone.json",
        "folder.json": "folder.json",
        "socket.json": "socket.json",
        "../": "..",
        "": "there is no run",
    }
    before = {path: path.read_bytes() for path in bad_records.iterdir() if path.is_file()}
    for name, words in said.items():
        for more in ([], ["--json"]):
            done = otel_exec("summary", *([name] if name else []), *more, cwd=bad_records)
            assert done.returncode == 4, (name, done.stdout, done.stderr)
            (line,) = done.stderr.splitlines()
            assert line.startswith("otel-exec: ")
            assert words in line, name
            assert done.stdout == ""
    assert {path: path.read_bytes() for path in bad_records.iterdir() if path.is_file()} == before


def test_a_broken_record_among_runs_hides_no_other(tmp_path):
    """`otel-exec runs` lists what it can read and names what it can't; a summary of the prefix takes the newest that there is."""
    (tmp_path / "exp.py").write_text(SCRIPT, encoding="utf-8")
    for _ in range(2):
        assert run_script("exp.py", "--executor", "inline", cwd=tmp_path).returncode == 0
    folders = sorted((tmp_path / "outputs" / ".otel_exec" / "runs").iterdir(), key=lambda path: path.stat().st_mtime_ns)
    (folders[0] / "run.json").write_text("{", encoding="utf-8")
    listed = otel_exec("runs", cwd=tmp_path)
    assert listed.returncode == 0, listed.stderr
    assert folders[1].name in listed.stdout
    assert folders[0].name in "".join(listed.stdout.split())
    assert otel_exec("summary", cwd=tmp_path).returncode == 0
