"""Two hundred tasks on two workers, with two failures, a timeout, a killed worker and a barrier: what the status and the record say, against the spool's spans.

The reckoning is written here, from the lines of OTLP/JSON: nothing of `aggregate/` or `metrics` has a part in it.
"""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path

import jsonschema
import pytest
import two_hundred

import otel_exec.record
from otel_exec.cli.status import json_line
from otel_exec.errors import RecordError
from otel_exec.status import locate, status_now

MS = 1_000_000
SCRIPT = os.path.abspath(two_hundred.__file__)
_SAMPLE_S = 0.02


def environment(**more):
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("OTEL_", "PYTHON", "COV_")) and name not in {"COLUMNS", "NO_COLOR"}}
    return {**kept, **more}


def status_command(prefix, *flags, **env):
    return subprocess.run(
        [sys.executable, "-m", "otel_exec", "status", str(prefix), *flags], env=environment(**env), capture_output=True, timeout=60, check=False
    )


def on_a_terminal(prefix):
    """What `status --json` writes to a pseudo-terminal."""
    parent, child = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "otel_exec", "status", str(prefix), "--json"], env=environment(TERM="xterm", COLUMNS="20"), stdout=child, stderr=child
    )
    os.close(child)
    chunks = []
    while True:
        try:
            chunk = os.read(parent, 65536)
        except OSError:
            break
        if not chunk:
            break
        chunks.append(chunk)
    os.close(parent)
    assert process.wait(30) == 0
    return b"".join(chunks)


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    """The run, its record, and what the status said every 20 ms while it went on and when it was over."""
    prefix = tmp_path_factory.mktemp("outputs")
    process = subprocess.Popen([sys.executable, SCRIPT, str(prefix)], env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    samples, asides, place = [], [], None
    try:
        deadline = time.monotonic() + 120
        while process.poll() is None:
            assert time.monotonic() < deadline
            began = time.monotonic()
            if place is None:
                try:
                    place = locate(str(prefix), prefix=str(prefix))
                except RecordError:  # it has no folder yet
                    time.sleep(_SAMPLE_S)
                    continue
            samples.append(json_line(status_now(place, time.time_ns())))
            if not asides and json.loads(samples[-1])["progress"]["done"] >= 50:
                asides.append(status_command(prefix, "--json", COLUMNS="20", PYTHONIOENCODING="ascii").stdout)
                asides.append(on_a_terminal(prefix))
                asides.append(status_command(prefix, "--json", "--tasks", "--level", "2").stdout)
            time.sleep(max(0.0, _SAMPLE_S - (time.monotonic() - began)))
    finally:
        if process.poll() is None:
            process.kill()
    assert process.wait() == 1
    samples.append(json_line(status_now(place, time.time_ns())))
    record = json.loads(Path(place.folder, "run.json").read_text())
    return prefix, record, samples, asides


@pytest.fixture(scope="module")
def spans(case):
    """Every span of the spool, as plain values."""
    found = []
    for path in sorted(Path(case[1]["run_folder"], "spans").glob("*.jsonl")):
        for line in path.read_text().splitlines():
            for resource in json.loads(line)["resourceSpans"]:
                for scope in resource["scopeSpans"]:
                    for span in scope["spans"]:
                        values = {item["key"]: next(iter(item["value"].values())) for item in span.get("attributes", ())}
                        start, end = int(span["startTimeUnixNano"]), int(span["endTimeUnixNano"])
                        found.append({"name": span["name"], "start": start, "end": end, "ns": end - start, **values})
    return found


def of(spans, kind):
    return [span for span in spans if span.get("exec.kind") == kind]


def percentile(values, share):
    values = sorted(values)
    if not values:
        return 0
    rank = share * (len(values) - 1)
    low = int(rank)
    high = min(low + 1, len(values) - 1)
    # Hundredths, so that a float does not decide on which side of a millisecond it falls.
    hundredths = round(rank * 100) - low * 100
    return (values[low] * 100 + (values[high] - values[low]) * hundredths) // 100


def test_every_sample_is_valid_and_what_is_done_never_shrinks(case):
    """`status --json` every 20 ms: its schema holds, `done` and `failed` grow, nothing is negative, and it says `running` until it is over."""
    _, _, samples, _ = case
    schema = json.loads((Path(otel_exec.record.__file__).parent / "status.schema.json").read_text())
    told = [json.loads(sample) for sample in samples]
    check = jsonschema.Draft202012Validator(schema)
    for one in told:
        check.validate(one)
    for key in ("done", "failed", "retries"):
        counts = [one["progress"][key] for one in told]
        assert counts == sorted(counts)
    assert {one["progress"]["total"] for one in told} <= {0, 200}  # 0: it has made its folder and written nothing yet
    states = [one["state"] for one in told]
    assert states == ["running"] * states.count("running") + ["failure"] * states.count("failure")
    assert {one["progress"]["done"] for one in told} & set(range(50, 197))  # it was looked at under way
    assert all(span["elapsed_ms"] >= 0 for one in told for span in one["open"])
    named = {span["name"] for one in told for span in one["open"]}
    assert "asleep" in named
    assert any(name.startswith("first/") for name in named)
    assert all(b"\n" not in sample[:-1] for sample in samples)


def test_the_last_state_is_the_records(case):
    """Counts, levels, workers, templates and metrics of the last status are run.json's, number for number."""
    prefix, record, samples, _ = case
    last = json.loads(samples[-1])
    assert last["state"] == record["outcome"] == "failure"
    assert last["progress"] == {"done": 197, "total": 200, "failed": 3, "cached": 0, "skipped": 0, "cancelled": 0, "retries": 1}
    for key in ("levels", "workers", "templates", "exec_id", "start_time"):
        assert last[key] == record[key]
    for metrics in (last["metrics"], record["metrics"]):
        metrics.pop("computed_at")
    assert last["metrics"] == record["metrics"]
    assert {(failure["name"], failure["type"]) for failure in last["failures"]} == {
        ("first/7", "ValueError"),
        ("second/130", "ValueError"),
        ("slow", "timeout"),
    }
    assert all("\n" not in failure["message"] for failure in last["failures"])
    again = json.loads(status_command(prefix, "--json").stdout)
    again["metrics"].pop("computed_at")
    assert again == last


def test_narrow_ascii_and_terminals_get_the_same_json(case):
    """COLUMNS=20, an ASCII stream, a pseudo-terminal, a level's tasks: each one document of valid JSON."""
    _, _, _, (narrow, terminal, tasks) = case
    assert json.loads(narrow)["progress"]["total"] == 200
    assert json.loads(terminal)["progress"]["total"] == 200
    assert narrow.isascii()
    level = json.loads(tasks)
    assert [each["level"] for each in level["levels"]] == [2]
    assert len(level["tasks"]) == 80
    assert {task["level"] for task in level["tasks"]} == {2}


def test_queue_execution_and_verification_are_the_spans(case, spans):
    """Of every try at every step, to the nanosecond."""
    _, record, _, _ = case
    parts = {"queue": "queue_ns", "wait": "wait_ns", "load": "load_ns", "verify": "verification_ns", "store": "store_ns", "backoff": "backoff_ns"}
    sums = defaultdict(int)
    for span in spans:
        field = parts.get(span.get("exec.kind"))
        if field:
            sums[span["node.id"], int(span["exec.attempt"]), field] += span["ns"]
    tasks = {(span["node.id"], int(span["exec.attempt"])): span for span in of(spans, "task")}
    tries = verified = 0
    for step in record["steps"]:
        if step["group"]:
            continue
        for attempt in step["attempts"]:
            tries += 1
            task = tasks[step["node_id"], attempt["attempt"]]
            assert attempt["execution_ns"] == task["ns"]
            assert attempt["worker_id"] == task["exec.worker.id"]
            verified += attempt["verification_ns"] is not None
            for field in parts.values():
                assert attempt[field] == sums.get((step["node_id"], attempt["attempt"], field))
        if step["name"].startswith(("first/", "second/", "checked/")):
            number = int(step["name"].partition("/")[2])
            assert step["attempts"][-1]["execution_ns"] >= two_hundred.sleep_ms(number) * MS
    assert (tries, verified) == (201, 20)
    assert sum(task["ns"] for task in tasks.values()) == sum(a["execution_ns"] for step in record["steps"] for a in step["attempts"])


def test_levels_are_the_spans(case, spans):
    """Duration, counts, average and percentiles of each level; the barrier holds."""
    _, record, _, _ = case
    outcomes = {step["node_id"]: step["outcome"] for step in record["steps"]}
    last = {}
    for span in sorted(of(spans, "task"), key=lambda span: int(span["exec.attempt"])):
        last[span["node.id"]] = span
    levels = sorted(of(spans, "level"), key=lambda span: int(span["exec.level"]))
    assert len(levels) == 2
    assert levels[0]["end"] < levels[1]["start"]
    for span, level, failed in zip(levels, record["levels"], (2, 1), strict=True):
        number = int(span["exec.level"])
        took = [task["ns"] for node, task in last.items() if int(task["exec.level"]) == number and outcomes[node] == "success"]
        assert (level["start_ns"], level["end_ns"]) == (span["start"] - int(record["start_time_unix_nano"]), span["end"] - int(record["start_time_unix_nano"]))
        assert level["duration_ms"] == span["ns"] // MS
        assert (level["task_count"], level["completed_count"], level["failed_count"]) == ((120, 118, 2) if number == 1 else (80, 79, 1))
        assert level["failed_count"] == failed
        assert level["sample_count"] == len(took)
        assert level["avg_task_duration_ms"] == sum(took) / len(took) / MS
        for key, share in (("p50_duration_ms", 0.5), ("p95_duration_ms", 0.95), ("p99_duration_ms", 0.99)):
            assert level[key] == percentile(took, share) // MS


def test_workers_are_the_spans(case, spans):
    """Start-up, uptime, busy time, counts and sums of each worker, of the two that were killed as well."""
    _, record, _, _ = case
    outcomes = {step["node_id"]: step["outcome"] for step in record["steps"]}
    last = {}
    for span in sorted(of(spans, "task"), key=lambda span: int(span["exec.attempt"])):
        last[span["node.id"]] = span
    assert len(record["workers"]) == 4  # one died, one was killed for the timeout
    assert sum(worker["died"] is not None for worker in record["workers"]) == 1
    for worker in record["workers"]:
        mine = [span for span in spans if span.get("exec.worker.id") == worker["worker_id"]]
        (whole,), (init,) = of(mine, "worker"), of(mine, "worker_init")
        assert worker["initialization_ms"] == init["ns"] // MS
        assert worker["uptime_ms"] == whole["ns"] // MS
        assert worker["busy_ns"] == sum(span["ns"] for span in of(mine, "task"))
        ended = {node: span for node, span in last.items() if span["exec.worker.id"] == worker["worker_id"]}
        took = [span["ns"] for node, span in ended.items() if outcomes[node] == "success"]
        assert worker["tasks_completed"] == len(took)
        assert worker["tasks_failed"] == len(ended) - len(took)
        assert worker["total_task_duration_ms"] == sum(span["ns"] for span in ended.values()) // MS
        assert worker["avg_task_duration_ms"] == (sum(took) / len(took) / MS if took else 0.0)
        assert worker["p95_duration_ms"] == percentile(took, 0.95) // MS
    assert record["metrics"]["workers_used"] == len({span["exec.worker.id"] for span in of(spans, "task")})
    assert record["metrics"]["total_duration_ms"] == of(spans, "run")[0]["ns"] // MS
