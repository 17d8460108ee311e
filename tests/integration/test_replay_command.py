"""`otel-exec replay`: what never got out is sent, once, from the spool of a run that has ended."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest
from support.otlp_receiver import Reply
from support.outside import otel_exec, run_script
from support.rotel_agent import free_port

from otel_exec import read_run
from otel_exec.spans.cursor import Lease
from otel_exec.testing import recorded_spans

SCRIPT = """
from pathlib import Path
from otel_exec import StepRef, deferred, executor_main, output, phase, step, versioned

def _write(text, path):
    with phase("write"):
        Path(path).write_text(text, encoding="utf-8")

write = deferred(_write)

@step("write/{text}")
def write_one(text):
    return write(versioned(text), output("out.txt"))

if __name__ == "__main__":
    executor_main(steps=[write_one("a"), write_one("b")])
"""
# A run gives up on a dead endpoint after so long, and so does a replay that is told so.
EXIT_TIMEOUT = {"OTEL_EXEC_EXIT_TIMEOUT": "1.5"}


def replay(folder: Path, *argv: str, **variables: str):
    """Run `otel-exec replay`; OTLP goes over HTTP unless a test says otherwise."""
    return otel_exec("replay", *argv, cwd=folder, **({"OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf"} | variables))


def run_it(folder: Path, endpoint: str = ""):
    """Run the experiment; returns its record and what it printed."""
    (folder / "exp.py").write_text(SCRIPT, encoding="utf-8")
    done = run_script("exp.py", "--executor", "inline", cwd=folder, **EXIT_TIMEOUT, **({"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint} if endpoint else {}))
    assert done.returncode == 0, done.stderr
    return read_run(str(folder / "run.json")), done.stdout


def test_what_a_dead_endpoint_did_not_take_is_sent_once(tmp_path, receiver):
    """After a run that nobody listened to, a replay at the same address sends everything, a second one nothing, and the summary knows."""
    port = free_port()
    endpoint = f"http://127.0.0.1:{port}"
    record, said = run_it(tmp_path, endpoint + "/otlp")
    spans = {span.span_id for span in recorded_spans(record)}
    count = len(spans)
    assert " ".join(said.split()).endswith(f"{count} of {count} spans did not get out and stay in the spool; otel-exec replay run.json sends them")

    failed = replay(tmp_path, "run.json", OTEL_EXPORTER_OTLP_ENDPOINT=endpoint + "/otlp", **EXIT_TIMEOUT)
    assert failed.returncode == 4
    assert failed.stdout == f"sent 0 of {count} spans to {endpoint}/otlp/v1/traces; 0 were there already\n"
    assert failed.stderr.count("\n") == 1
    assert f"{count} spans stay in the spool: {endpoint}/otlp/v1/traces: connection refused" in failed.stderr

    sent = replay(tmp_path, "run.json", OTEL_EXPORTER_OTLP_ENDPOINT=receiver.http_endpoint)
    assert (sent.returncode, sent.stderr) == (0, "")
    assert sent.stdout == f"sent {count} of {count} spans to {receiver.http_endpoint}/v1/traces; 0 were there already\n"
    assert receiver.counts() == dict.fromkeys(spans, 1)
    assert {span.trace_id for span in receiver.spans} == {record.trace_id}

    again = replay(tmp_path, "run.json", OTEL_EXPORTER_OTLP_ENDPOINT=receiver.http_endpoint)
    assert (again.returncode, again.stderr) == (0, "")
    assert again.stdout == f"nothing to send: {receiver.http_endpoint}/v1/traces has acknowledged all {count} spans\n"
    assert len(receiver.spans) == count

    told = json.loads(otel_exec("summary", "run.json", "--json", cwd=tmp_path).stdout)["trace"]
    assert (told["endpoint"], told["spans"], told["spans_in_spool"]) == (f"{receiver.http_endpoint}/v1/traces", count, 0)


def test_a_replay_goes_on_where_the_last_one_stopped(tmp_path, receiver):
    """A span that was acknowledged is not sent again, though the replay before it failed halfway."""
    record, _ = run_it(tmp_path)
    count = len(recorded_spans(record))
    first = replay(tmp_path, OTEL_EXPORTER_OTLP_ENDPOINT=receiver.http_endpoint)
    assert first.returncode == 0, first.stderr
    more = Path(record.run_folder, "spans", "late.jsonl")
    line = Path(record.run_folder, "spans", "driver.jsonl").read_text(encoding="utf-8").splitlines()[0]
    more.write_text(line + "\n", encoding="utf-8")
    extra = sum(len(scope["spans"]) for resource in json.loads(line)["resourceSpans"] for scope in resource["scopeSpans"])
    second = replay(tmp_path, OTEL_EXPORTER_OTLP_ENDPOINT=receiver.http_endpoint)
    noun = "span" if extra == 1 else "spans"
    assert second.stdout == f"sent {extra} of {extra} {noun} to {receiver.http_endpoint}/v1/traces; {count} were there already\n"
    assert len(receiver.spans) == count + extra


@pytest.mark.parametrize("protocol", ["grpc", "http/protobuf"])
def test_the_endpoint_may_be_given_with_the_command(tmp_path, receiver, protocol):
    """`--endpoint` goes before the environment's endpoint, and before what switches exporting off; protocol and headers are the environment's."""
    record, _ = run_it(tmp_path)
    address = receiver.grpc_endpoint if protocol == "grpc" else receiver.http_endpoint
    done = replay(
        tmp_path,
        "--latest",
        "--endpoint",
        address,
        OTEL_EXPORTER_OTLP_TRACES_ENDPOINT=f"http://127.0.0.1:{free_port()}",
        OTEL_TRACES_EXPORTER="none",
        OTEL_SDK_DISABLED="true",
        OTEL_EXPORTER_OTLP_PROTOCOL=protocol,
        OTEL_EXPORTER_OTLP_HEADERS="authorization=Bearer%20abc",
    )
    assert done.returncode == 0, done.stderr
    assert len(receiver.spans) == len(recorded_spans(record))
    assert {request.headers["authorization"] for request in receiver.requests} == {"Bearer abc"}


def test_a_dry_run_sends_nothing(tmp_path, receiver):
    """It says how many spans would go where, touches no file and asks nobody."""
    record, _ = run_it(tmp_path)
    count = len(recorded_spans(record))
    done = replay(tmp_path, "--dry-run", "--endpoint", receiver.http_endpoint)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"would send {count} of {count} spans to {receiver.http_endpoint}/v1/traces; 0 were there already\n"
    assert receiver.requests == []
    assert not Path(record.run_folder, "export.json").exists()


def test_without_an_endpoint_it_says_which_variable_to_set(tmp_path):
    """Exit code 2, one line, and so for an address that can't be read."""
    run_it(tmp_path)
    done = replay(tmp_path)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert "set OTEL_EXPORTER_OTLP_ENDPOINT, or give --endpoint URL" in done.stderr
    wrong = replay(tmp_path, "--endpoint", "ftp://x")
    assert (wrong.returncode, wrong.stdout, wrong.stderr.count("\n")) == (2, "", 1)
    assert wrong.stderr.startswith("otel-exec: --endpoint=ftp://x can't be read")


def test_an_unwilling_receiver_is_quoted(tmp_path, receiver):
    """Exit code 4 with what the receiver said; the spans stay for the next replay, to which a secret in the address is never shown."""
    record, _ = run_it(tmp_path)
    receiver.refuse = lambda _: Reply(401, body=b"who are you?", content_type="text/plain")
    done = replay(tmp_path, "--endpoint", receiver.http_endpoint.replace("//", "//me:secret@"))
    assert done.returncode == 4
    assert "401" in done.stderr
    assert "secret" not in done.stdout + done.stderr
    receiver.refuse = None
    done = replay(tmp_path, "--endpoint", receiver.http_endpoint)
    assert done.returncode == 0
    assert len(receiver.spans) == len(recorded_spans(record))


def test_a_silent_receiver_is_given_up_on(tmp_path):
    """One that takes the connection and never answers: exit code 4 after the exit timeout."""
    run_it(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as hole:
        done = replay(tmp_path, "--endpoint", f"http://127.0.0.1:{hole.getsockname()[1]}", **EXIT_TIMEOUT)
    assert done.returncode == 4
    assert "no answer within 1.5 s" in done.stderr


def test_one_exporter_at_a_time(tmp_path, receiver):
    """While the run's own exporter is at work a replay does not interfere: exit code 4, nothing sent."""
    record, _ = run_it(tmp_path)
    lease = Lease.take(record.run_folder)
    try:
        done = replay(tmp_path, "--endpoint", receiver.http_endpoint)
    finally:
        lease.release()
    assert (done.returncode, done.stdout) == (4, "")
    assert "another exporter is at work on this run" in done.stderr
    assert receiver.requests == []


def test_a_run_of_any_name_may_be_replayed_and_a_moved_folder_too(tmp_path, receiver):
    """By exec id, experiment and folder; a run's folder that was moved is read where it lies; one that is gone is an error."""
    record, _ = run_it(tmp_path)
    for run in (record.exec_id, "exp", record.run_folder, "outputs"):
        done = replay(tmp_path, run, "--dry-run", "--endpoint", receiver.http_endpoint)
        assert done.stdout.startswith("would send "), done.stderr
    moved = tmp_path / "moved"
    Path(record.run_folder).rename(moved)
    for run in (str(moved), str(moved / "run.json")):
        done = replay(tmp_path, run, "--dry-run", "--endpoint", receiver.http_endpoint)
        assert done.stdout.startswith("would send "), done.stderr
    gone = replay(tmp_path, "run.json", "--endpoint", receiver.http_endpoint)
    assert gone.returncode == 4
    assert "the run's folder is gone" in gone.stderr


def test_a_prefix_means_all_its_runs(tmp_path, receiver):
    """Each run's spans are sent once; a second replay of the prefix finds nothing left in any of them."""
    records = [run_it(tmp_path)[0] for _ in range(2)]
    there = {span.span_id for record in records for span in recorded_spans(record)}
    sent = replay(tmp_path, "outputs", "--endpoint", receiver.http_endpoint)
    assert (sent.returncode, sent.stderr) == (0, "")
    assert [line.partition(":")[0] for line in sent.stdout.splitlines()] == [record.exec_id for record in records]
    assert receiver.counts() == dict.fromkeys(there, 1)
    again = replay(tmp_path, "outputs", "--endpoint", receiver.http_endpoint)
    assert again.stdout.count("nothing to send") == 2
    assert receiver.counts() == dict.fromkeys(there, 1)


def test_a_dead_endpoint_ends_the_replay_of_a_prefix_at_its_first_run(tmp_path):
    """What took nothing of one run is not waited for once more for each other one."""
    for _ in range(3):
        run_it(tmp_path)
    done = replay(tmp_path, "outputs", "--endpoint", f"http://127.0.0.1:{free_port()}", **EXIT_TIMEOUT)
    assert done.returncode == 4
    assert "2 runs after it not tried" in done.stderr
    assert done.stdout.count("sent 0 of") == 1


def test_all_sends_again_what_was_acknowledged(tmp_path, receiver):
    """To a backend that lost it: then every span is there twice, and is known to be acknowledged."""
    record, _ = run_it(tmp_path)
    there = {span.span_id for span in recorded_spans(record)}
    assert replay(tmp_path, "run.json", OTEL_EXPORTER_OTLP_ENDPOINT=receiver.http_endpoint).returncode == 0
    assert receiver.counts() == dict.fromkeys(there, 1)
    told = replay(tmp_path, "run.json", "--all", "--dry-run", OTEL_EXPORTER_OTLP_ENDPOINT=receiver.http_endpoint)
    assert told.stdout.startswith(f"would send {len(there)} of {len(there)} spans")
    sent = replay(tmp_path, "run.json", "--all", OTEL_EXPORTER_OTLP_ENDPOINT=receiver.http_endpoint)
    assert (sent.returncode, sent.stderr) == (0, "")
    assert receiver.counts() == dict.fromkeys(there, 2)
    assert "nothing to send" in replay(tmp_path, "run.json", OTEL_EXPORTER_OTLP_ENDPOINT=receiver.http_endpoint).stdout


def test_what_a_killed_run_left_open_is_closed_and_sent(tmp_path, receiver):
    """The trace of a killed run is whole at the receiver: every span has its parent there, the run span among them."""
    (tmp_path / "exp.py").write_text(
        "import os, signal\nfrom otel_exec import deferred, executor_main, phase, step\n\n"
        "def _die():\n    with phase('done'):\n        pass\n    with phase('dying'):\n        os.kill(os.getpid(), signal.SIGKILL)\n\n"
        "die = deferred(_die)\n\n@step('die')\ndef one():\n    return die()\n\nif __name__ == '__main__':\n    executor_main(steps=[one()])\n",
        encoding="utf-8",
    )
    killed = run_script("exp.py", "--executor", "inline", cwd=tmp_path)
    assert killed.returncode == -9
    sent = replay(tmp_path, "run.json", "--endpoint", receiver.http_endpoint)
    assert (sent.returncode, sent.stderr) == (0, "")
    assert "the run was killed: " in sent.stdout
    by_id = {span.span_id: span for span in receiver.spans}
    names = sorted(span.name for span in receiver.spans)
    assert names == ["die", "done", "dying", "level 1", "load", "queue", "run exp", "task _die", "worker", "worker init"]
    assert all(span.parent_span_id in by_id for span in receiver.spans if span.name != "run exp")
    record = read_run(str(tmp_path / "run.json"))
    assert record.outcome == "interrupted"
    assert record.export is not None  # the run itself had no endpoint: it is the replay's word
    assert (record.export.spans, record.export.spans_acknowledged) == (len(names), len(names))
    again = replay(tmp_path, "run.json", "--endpoint", receiver.http_endpoint)
    assert "nothing to send" in again.stdout
