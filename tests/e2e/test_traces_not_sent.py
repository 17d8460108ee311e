"""A run whose endpoint is dead, silent or unwilling: it comes to the same as without one, ends in time, and says what stayed behind."""

from __future__ import annotations

import re
import socket
import time
from pathlib import Path

import pytest
from support.otlp_receiver import Reply
from support.outside import run_script
from support.rotel_agent import free_port
from support.run_checks import check_run

from otel_exec import read_run
from otel_exec.clock import from_iso
from otel_exec.testing import recorded_spans

SCRIPT = """
import sys
from pathlib import Path
from otel_exec import StepRef, deferred, executor_main, output, phase, step, versioned

def _write(text, path):
    with phase("write"):
        Path(path).write_text(text, encoding="utf-8")

def _join(above, path):
    text = Path(above).read_text(encoding="utf-8")
    if text == "bad":
        raise ValueError("bad text")
    Path(path).write_text(text * 2, encoding="utf-8")

write, join = deferred(_write), deferred(_join)

@step("write/{text}")
def write_one(text):
    return write(versioned(text), output("out.txt"))

@step("join/{name}")
def join_one(name, above: StepRef):
    return join(above / "out.txt", output("out.txt"))

if __name__ == "__main__":
    executor_main(steps=[join_one(text, write_one(text)) for text in ("good", "fine", "bad")])
"""

EXIT_TIMEOUT_S = 1.0
# A stock exporter with nothing listening keeps a process for ten seconds and more; ours for the exit timeout. In between is room for slow machines.
BOUND_S = EXIT_TIMEOUT_S + 6.0


def outputs(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.startswith(".executor") and ".otel_exec" not in path.parts
    }


def run_against(folder, endpoint, protocol):
    """Run the experiment; returns how it ended, its record, and how long after the run's end the process was gone."""
    folder.mkdir()
    (folder / "exp.py").write_text(SCRIPT, encoding="utf-8")
    variables = {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint, "OTEL_EXPORTER_OTLP_PROTOCOL": protocol} if endpoint else {}
    done = run_script("exp.py", cwd=folder, OTEL_EXEC_EXIT_TIMEOUT=f"{EXIT_TIMEOUT_S:g}", **variables)
    gone_ns = time.time_ns()
    record = read_run(str(folder / "run.json"))
    return done, record, (gone_ns - from_iso(record.end_time)) / 1e9


def check_as_without(tmp_path, done, record, took_s):
    """The run came to what it comes to without an endpoint; nothing got out; the last line says so."""
    plain, other, _ = run_against(tmp_path / "plain", "", "")
    assert done.returncode == plain.returncode == 1
    assert {step.name: step.outcome for step in record.steps} == {step.name: step.outcome for step in other.steps}
    assert outputs(tmp_path / "run" / "outputs") == outputs(tmp_path / "plain" / "outputs")
    assert plain.stderr.splitlines()[-1] == done.stderr.splitlines()[-1] == "1 step(s) failed"
    assert "Traceback" not in done.stderr.replace("Traceback (most recent call last)", "", 1)  # the user's own
    assert "Exception in thread" not in done.stderr
    check_run(record)
    count = len(recorded_spans(record))
    assert (record.export.spans, record.export.spans_acknowledged) == (count, 0)
    said = " ".join(done.stdout.split())
    assert said.endswith(f"{count} of {count} spans did not get out and stay in the spool; otel-exec replay run.json sends them"), done.stdout
    assert len(list(Path(record.run_folder, "spans").glob("*.jsonl"))) >= 2
    assert took_s < BOUND_S
    return " ".join(warning.message for warning in record.warnings if warning.code == "export")


@pytest.mark.parametrize("protocol", ["grpc", "http/protobuf"])
def test_nothing_listens(tmp_path, protocol):
    """A dead endpoint changes neither outcome, exit code nor outputs; the record says why nothing was sent."""
    port = free_port()
    done, record, took_s = run_against(tmp_path / "run", f"http://127.0.0.1:{port}", protocol)
    why = check_as_without(tmp_path, done, record, took_s)
    assert re.search(r"0 of \d+ spans were acknowledged by .*connection refused: nothing listens there", why)


@pytest.mark.parametrize("protocol", ["grpc", "http/json"])
def test_a_black_hole(tmp_path, protocol):
    """A host that takes the connection and never answers holds the run's end up for the exit timeout and no longer."""
    with socket.create_server(("127.0.0.1", 0)) as hole:
        done, record, took_s = run_against(tmp_path / "run", f"http://127.0.0.1:{hole.getsockname()[1]}", protocol)
    why = check_as_without(tmp_path, done, record, took_s)
    assert "no answer within 1 s" in why


def test_a_receiver_that_wants_a_key(tmp_path, receiver):
    """A refusal is said once, with the receiver's own words, and ends the wait at once."""
    receiver.refuse = lambda _: Reply(401, body=b"who are you?", content_type="text/plain")
    done, record, took_s = run_against(tmp_path / "run", receiver.http_endpoint, "http/protobuf")
    why = check_as_without(tmp_path, done, record, took_s)
    assert "401" in why
    assert receiver.spans == []
