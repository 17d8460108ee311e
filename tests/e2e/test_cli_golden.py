"""The command line in a process of its own, against golden texts.

`OTEL_EXEC_UPDATE_GOLDEN=1 pytest tests/e2e/test_cli_golden.py` writes them anew; read the difference before you keep it.
"""

from __future__ import annotations

import json
import os
import pty
import re
import select
import subprocess
import sys

import pytest
import sample_record

from otel_exec.record.record_file import write_record
from otel_exec.report.text_safety import display_width

GOLDEN = os.path.join(os.path.dirname(__file__), "golden")
SAMPLES = ["twelve_steps", "all_cached", "empty", "interrupted", "hostile"]


@pytest.fixture
def folder(tmp_path):
    """A folder with one run of each sample under ./outputs."""
    for number, name in enumerate(SAMPLES):
        record = getattr(sample_record, name)()
        record.exec_id = f"exec_{number:032x}"
        record.run_folder = f"outputs/.otel_exec/runs/{record.exec_id}"
        record.start_time_unix_nano = str(int(record.start_time_unix_nano) + number)
        os.makedirs(tmp_path / record.run_folder)
        (tmp_path / record.run_folder / "run.json").write_bytes(write_record(record))
    (tmp_path / "agent.json").write_bytes(write_record(sample_record.agent()))
    return tmp_path


def environment(**more: str) -> dict[str, str]:
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith(("OTEL_", "PYTHON", "COV_")) and name not in {"NO_COLOR", "COLUMNS", "TERM"}
    }
    return {**kept, "PYTHONIOENCODING": "utf-8", "OTEL_EXEC_TRACE_URL": "http://localhost:16686/trace/{trace_id}", **more}


def otel_exec(*argv: str, cwd, **more: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([sys.executable, "-m", "otel_exec", *argv], cwd=cwd, env=environment(**more), capture_output=True, timeout=60, check=False)


def held_against(name: str, found: str) -> None:
    path = os.path.join(GOLDEN, name)
    if os.environ.get("OTEL_EXEC_UPDATE_GOLDEN"):
        with open(path, "w", encoding="utf-8") as file:
            file.write(found)
    with open(path, encoding="utf-8") as file:
        assert found == file.read()


@pytest.mark.parametrize("width", [80, 200])
@pytest.mark.parametrize(("number", "name"), list(enumerate(SAMPLES)))
def test_the_summary_reads_as_the_golden_text(folder, number, name, width):
    """Piped, at 80 and at 200 columns, byte for byte."""
    done = otel_exec("summary", f"exec_{number:032x}", "--width", str(width), cwd=folder)
    assert (done.returncode, done.stderr) == (0, b"")
    held_against(f"summary_{name}_{width}.txt", done.stdout.decode())


@pytest.mark.parametrize("width", [20, 80, 200])
@pytest.mark.parametrize(("number", "name"), list(enumerate(SAMPLES)))
def test_the_status_reads_as_the_golden_text(folder, number, name, width):
    """Of runs that are over, piped, with all tasks and workers, byte for byte."""
    done = otel_exec("status", f"exec_{number:032x}", "--width", str(width), "--tasks", "--workers", cwd=folder)
    assert (done.returncode, done.stderr) == (0, b"")
    held_against(f"status_{name}_{width}.txt", done.stdout.decode())


@pytest.mark.parametrize("more", [{"COLUMNS": "20"}, {"PYTHONIOENCODING": "ascii"}, {"PYTHONIOENCODING": "utf-16"}, {"TERM": "dumb"}])
@pytest.mark.parametrize("number", range(len(SAMPLES)))
def test_status_json_is_one_document_whatever_the_stream(folder, number, more):
    """UTF-8 on plain stdout, whatever the width and the encoding that the stream claims, and whatever the names hold."""
    done = otel_exec("status", f"exec_{number:032x}", "--json", "--tasks", cwd=folder, **more)
    assert (done.returncode, done.stderr) == (0, b"")
    told = json.loads(done.stdout)
    assert told["exec_id"] == f"exec_{number:032x}"
    assert b"\x1b" not in done.stdout


@pytest.mark.parametrize("width", [80, 200])
def test_the_list_of_runs_reads_as_the_golden_text(folder, width):
    """Newest first, whole exec ids at 80 columns."""
    done = otel_exec("runs", "--width", str(width), cwd=folder)
    assert (done.returncode, done.stderr) == (0, b"")
    held_against(f"runs_{width}.txt", done.stdout.decode())


def test_the_json_is_as_the_golden_one(folder):
    """Keys and values of `summary --json` stay."""
    done = otel_exec("summary", f"exec_{0:032x}", "--json", cwd=folder)
    assert (done.returncode, done.stderr) == (0, b"")
    json.loads(done.stdout)
    held_against("summary_twelve_steps.json", done.stdout.decode())


@pytest.mark.parametrize(
    ("name", "argv"),
    [
        ("agent_80", ["agent.json"]),
        ("agent_details_80", ["agent.json", "--breakdown", "--bottlenecks"]),
        ("agent_details_60", ["agent.json", "--breakdown", "--bottlenecks", "--width", "60"]),
        ("twelve_steps_80", ["exec_" + "0" * 32, "--breakdown", "--bottlenecks", "--top", "5"]),
        ("hostile_80", [f"exec_{4:032x}", "--breakdown"]),
        ("empty_80", [f"exec_{2:032x}", "--bottlenecks"]),
    ],
)
def test_the_breakdown_reads_as_the_golden_text(folder, name, argv):
    """Piped it is ASCII but for the user's own names, in 80 columns unless told otherwise."""
    done = otel_exec("metrics", *argv, cwd=folder)
    assert (done.returncode, done.stderr) == (0, b"")
    text = done.stdout.decode()
    assert max(map(display_width, text.splitlines())) <= (60 if "60" in argv else 80)
    held_against(f"metrics_{name}.txt", text)


def test_the_breakdown_on_a_terminal_is_the_picture(folder):
    """The tree and the signs of the documentation, where the terminal can show them; ASCII where it can't."""
    drawn = on_a_terminal(["metrics", "agent.json"], folder, COLUMNS="80", NO_COLOR="1").replace("\r\n", "\n")
    held_against("metrics_agent_terminal_80.txt", drawn)
    for line in PICTURE.splitlines():
        assert line in drawn.splitlines()
    assert on_a_terminal(["metrics", "agent.json", "--node", "node_1"], folder, COLUMNS="80", PYTHONIOENCODING="ascii", NO_COLOR="1").isascii()


PICTURE = """\
📊 Execution Metrics
⏱️  Node Timing Breakdown:
    ├─ llm_completion             3500ms (58.3%)
    ├─ memory_selection           2000ms (33.3%)
    ├─ input_extraction             50ms ( 0.8%)
    └─ (unaccounted)               450ms ( 7.5%)"""


def test_the_breakdowns_json_is_as_the_golden_one(folder):
    """Keys and values of `metrics --json` stay: those of the run's record, and the older form's beside them."""
    done = otel_exec("metrics", "agent.json", "--json", cwd=folder)
    assert (done.returncode, done.stderr) == (0, b"")
    held_against("metrics_agent.json", done.stdout.decode())
    for node in json.loads(done.stdout)["nodes"].values():
        assert sum(phase["pct"] for phase in node["phases"].values()) + node["unaccounted_pct"] == pytest.approx(100, abs=1e-9)


def on_a_terminal(argv: list[str], cwd, **more: str) -> str:
    """What a command writes to a pseudo-terminal."""
    parent, child = pty.openpty()
    try:
        process = subprocess.Popen(
            [sys.executable, "-m", "otel_exec", *argv], cwd=cwd, env=environment(TERM="xterm", **more), stdout=child, stderr=child, stdin=child
        )
    finally:
        os.close(child)
    chunks = []
    try:
        while select.select([parent], [], [], 60)[0]:
            try:
                chunk = os.read(parent, 65536)
            except OSError:  # the other side is closed
                break
            if not chunk:
                break
            chunks.append(chunk)
        assert process.wait(60) == 0
    finally:
        os.close(parent)
        if process.poll() is None:
            process.kill()
    return b"".join(chunks).decode()


def test_on_a_terminal_there_is_colour_and_bars(folder):
    """And with NO_COLOR only bars, and on a terminal that is ASCII neither sign nor byte that is not."""
    coloured = on_a_terminal(["summary", "exec_" + "0" * 32], folder, COLUMNS="80")
    assert "█" in coloured
    assert "\x1b[31m" in coloured
    plain = on_a_terminal(["summary", "exec_" + "0" * 32], folder, COLUMNS="80", NO_COLOR="1")
    assert "█" in plain
    assert "\x1b" not in plain
    assert [line.rstrip() for line in re.sub(r"\x1b\[\d+m", "", coloured).splitlines()] == [line.rstrip() for line in plain.splitlines()]
    assert on_a_terminal(["summary", f"exec_{4:032x}"], folder, COLUMNS="80", PYTHONIOENCODING="ascii", NO_COLOR="1").isascii()


def test_a_reader_that_leaves_early_is_no_error(folder):
    """A pipe whose reader is gone before the first byte: exit code 0, and not a word on stderr."""
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "otel_exec", "summary", "--json"],
            cwd=folder,
            env=environment(),
            stdout=writer,
            stderr=subprocess.PIPE,
            timeout=60,
            check=False,
        )
    finally:
        os.close(writer)
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.parametrize(
    "argv",
    [
        ["--help"],
        ["summary", "exec_" + "0" * 32],
        ["summary", "exec_" + "0" * 32, "--json"],
        ["status", "exec_" + "0" * 32],
        ["runs"],
        ["summary", "--help"],
        ["metrics", "agent.json", "--breakdown"],
    ],
)
def test_commands_that_read_a_record_import_nothing_heavy(folder, argv):
    """No OpenTelemetry, gRPC, Ray, fsspec, psutil or asyncio: `summary` starts in well under 200 ms because of it."""
    code = "import sys; from otel_exec.cli.main import main; code = main(sys.argv[1:]); print(sorted(sys.modules), file=sys.stderr); sys.exit(code)"
    done = subprocess.run([sys.executable, "-c", code, *argv], cwd=folder, env=environment(), capture_output=True, timeout=60, check=False)
    assert done.returncode == 0
    loaded = {name.partition(".")[0] for name in re.findall(r"'([^']+)'", done.stderr.decode().splitlines()[-1])}
    assert not loaded & {"opentelemetry", "grpc", "ray", "fsspec", "psutil", "asyncio", "google", "urllib3", "cloudpickle"}


def test_a_mistake_leaves_no_traceback(folder):
    """Whatever is wrong, stderr has one line and stdout nothing."""
    for argv, code in (
        (["summary", "nothing"], 4),
        (["sumary"], 2),
        (["summary", "--top", "x"], 2),
        (["summary", "/"], 4),
        (["metrics", "agent.json", "--node", "nod_1"], 2),
        (["metrics", "--latest", "agent.json"], 2),
    ):
        done = otel_exec(*argv, cwd=folder)
        assert (done.returncode, done.stdout) == (code, b"")
        assert done.stderr.decode().count("\n") == 1
        assert done.stderr.startswith(b"otel-exec: ")
