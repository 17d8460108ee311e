"""The real OpenTelemetry Collector, with the very otelcol.yaml that compose uses: what goes in comes out, and a kill loses nothing."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections import Counter
from functools import partial
from pathlib import Path

import pytest
from support.otlp_receiver import OtlpReceiver
from support.outside import EXAMPLES, clean_environment, run_script
from support.received_checks import check_received
from support.rotel_agent import free_port
from support.stack_programs import CONFIG, Collector, program, wait_until

from otel_exec import read_run
from otel_exec.testing import recorded_spans

pytestmark = pytest.mark.collector
PATIENCE = {"OTEL_EXEC_EXIT_TIMEOUT": "30"}

# Ten steps whose spans are acknowledged while the last one waits for a file.
WAITING = """
import os, sys, time
from otel_exec import deferred, executor_main, output, step, versioned

def _quick(config):
    os.makedirs(config["path"], exist_ok=True)

def _wait(config):
    while not os.path.exists(config["go"]):
        time.sleep(0.02)

quick, wait = deferred(_quick), deferred(_wait)

@step("quick/{number}")
def quick_one(number):
    return quick({"path": output(), "number": versioned(number)})

@step("last")
def last(before, go):
    return wait({"before": before, "go": go})

if __name__ == "__main__":
    executor_main(steps=[last([quick_one(number) for number in range(10)], os.path.abspath("go"))])
"""


@pytest.fixture(scope="module")
def collector(tmp_path_factory):
    """A collector that sends to two receivers of ours in place of Jaeger and Tempo."""
    program("collector")  # before anything is started
    with OtlpReceiver() as jaeger, OtlpReceiver() as tempo:
        with Collector(tmp_path_factory.mktemp("collector"), f"127.0.0.1:{jaeger.grpc_port}", f"127.0.0.1:{tempo.grpc_port}") as running:
            yield running, jaeger, tempo


def test_the_file_is_valid():
    """The collector itself finds nothing wrong with otelcol.yaml, and has no word of warning about it."""
    done = subprocess.run(
        [program("collector"), "validate", "--config", str(CONFIG / "otelcol.yaml")], capture_output=True, text=True, check=False, env=clean_environment()
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("protocol", ["grpc", "http/protobuf"])
def test_the_example_goes_through_span_for_span(tmp_path, collector, protocol):
    """Both backends get each span of the example's run once, as it stands in the spool and with the durations of run.json; so they do of a second run, which is all cached.

    Jaeger alone gets instants as 1 ns, which it would else make of them itself, with a warning.
    """
    running, jaeger, tempo = collector
    endpoint = running.grpc_endpoint if protocol == "grpc" else running.http_endpoint
    first = _through(tmp_path, endpoint, protocol, jaeger, tempo)
    assert not any(span.end_ns == span.start_ns for span in jaeger.spans)
    tasks = {span.attributes["exec.task.id"]: span for span in jaeger.spans if span.attributes.get("exec.kind") == "task"}
    for step in first.steps:
        if not step.group:
            span = tasks[step.node_id]
            assert round(step.duration_seconds * 1e6) == round((span.end_ns - span.start_ns) / 1e3)
    _through(tmp_path, endpoint, protocol, jaeger, tempo)
    cached = [span for span in tempo.spans if span.attributes.get("exec.cached")]
    assert cached
    assert {span.end_ns - span.start_ns for span in cached} == {0}
    assert {span.end_ns - span.start_ns for span in jaeger.spans if span.attributes.get("exec.cached")} == {1}


def _through(folder, endpoint, protocol, jaeger, tempo):
    """Run the example, and hold what both backends got against its record, which is returned."""
    jaeger.clear()
    tempo.clear()
    done = run_script(
        EXAMPLES / "lm_pipeline.py",
        *("--small", "--prefix", str(folder / "outputs")),
        cwd=folder,
        OTEL_EXPORTER_OTLP_ENDPOINT=endpoint,
        OTEL_EXPORTER_OTLP_PROTOCOL=protocol,
        **PATIENCE,
    )
    assert done.returncode == 0, done.stderr
    record = read_run(str(folder / "run.json"))
    count = len(recorded_spans(record))
    assert (record.export.spans_acknowledged, record.export.protocol) == (count, protocol)
    for backend, instant_ns in ((jaeger, 1), (tempo, 0)):
        backend.wait_for(count)
        check_received(backend.spans, record, "lm_pipeline", instant_ns=instant_ns)
    return record


def test_what_was_acknowledged_outlives_a_kill(tmp_path):
    """Killed in mid run with nobody behind it to send to, then started again: all that was acknowledged arrives, and so does what came after."""
    (tmp_path / "exp.py").write_text(WAITING, encoding="utf-8")
    program("collector")
    port = free_port()
    with OtlpReceiver() as tempo, Collector(tmp_path / "collector", f"127.0.0.1:{port}", f"127.0.0.1:{tempo.grpc_port}") as running:
        driver = subprocess.Popen(
            [sys.executable, "exp.py"],
            cwd=tmp_path,
            env=clean_environment(OTEL_EXPORTER_OTLP_ENDPOINT=running.grpc_endpoint, **PATIENCE),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        try:
            early = wait_until(lambda: _acknowledged(tmp_path, at_least=30), 60, running.tail)
            running.kill()
            with OtlpReceiver(grpc_port=port) as jaeger:
                running.start()
                (tmp_path / "go").touch()
                said, _ = driver.communicate(timeout=90)
                assert driver.returncode == 0, said
                record = read_run(str(tmp_path / "run.json"))
                spans = {span.span_id for span in recorded_spans(record)}
                assert record.export.spans_acknowledged == len(spans) > early
                jaeger.wait_for(lambda receiver: len({span.span_id for span in receiver.spans}) >= len(spans), 60)
                assert {span.span_id for span in jaeger.spans} == spans
        finally:
            driver.kill()
            driver.wait(10)


def _acknowledged(folder: Path, *, at_least: int) -> int:
    """How many spans the run's export.json says were acknowledged, 0 while they are fewer."""
    for path in folder.glob("outputs/.otel_exec/runs/*/export.json"):
        try:
            endpoints = json.loads(path.read_text(encoding="utf-8"))["endpoints"]
        except (ValueError, KeyError):
            continue
        count = sum(each["spans_acknowledged"] for each in endpoints.values())
        return count if count >= at_least else 0
    return 0


LINE = re.compile(r"^(?P<name>\w+)\{(?P<labels>.*)\} (?P<value>\S+)(?: |$)")


def _series(text):
    """Series of an exposition: (name, labels) to value."""
    found = {}
    for line in text.splitlines():
        if match := LINE.match(line):
            labels = frozenset(re.findall(r'(\w+)="((?:[^"\\]|\\.)*)"', match["labels"]))
            found[match["name"], labels] = float(match["value"])
    return found


def _calls(series):
    """How many spans of each kind and outcome the metrics count, for one experiment."""
    counts = Counter()
    for (name, labels), value in series.items():
        known = dict(labels)
        if name == "otel_exec_spans_calls_total" and known["service_name"] == "counted":
            counts[known.get("exec_kind", ""), known.get("exec_outcome", "")] += int(value)
    return counts


def _counts_are(collector, wanted):
    return _calls(_series(collector.exposed())) == wanted


COUNTED = """
import os
from otel_exec import deferred, executor_main, output, phase, step, versioned

def _make(config):
    with phase("inside"):
        pass

def _fail(config):
    raise ValueError("always")

make, fail = deferred(_make), deferred(_fail)

@step("make/{number}")
def make_one(number, salt):
    return make({"path": output(), "number": versioned(number), "salt": versioned(salt)})

@step("fails", retries=1)
def failing(before):
    return fail({"before": before})

@step("never")
def never(before):
    return make({"before": before})

if __name__ == "__main__":
    salt = os.environ["SALT"]
    executor_main(steps=[never(failing([make_one(number, salt) for number in range(3)]))])
"""


def test_metrics_made_of_spans_count_what_the_record_counts(tmp_path, collector):
    """Of two runs the counters say what both spools say, by kind and outcome; another run makes no new series, and no label holds a run, a process or a step's own name."""
    running, _, _ = collector
    (tmp_path / "counted.py").write_text(COUNTED, encoding="utf-8")
    wanted = Counter()
    sizes = []
    for salt in ("one", "two", "three"):
        done = run_script("counted.py", cwd=tmp_path, OTEL_EXPORTER_OTLP_ENDPOINT=running.grpc_endpoint, SALT=salt, **PATIENCE)
        assert done.returncode == 1, done.stderr
        record = read_run(str(tmp_path / "run.json"))
        wanted.update((span.kind, span.attributes.get("exec.outcome", "")) for span in recorded_spans(record))
        wait_until(partial(_counts_are, running, wanted), 30, running.exposed)
        sizes.append(len(_series(running.exposed())))
    series = _series(running.exposed())
    assert sizes[1] == sizes[2], "series grow with the number of runs"
    names = {key for _, labels in series for key, _ in labels}
    assert not names & {"instance", "service_instance_id", "process_pid", "exec_id", "node_id", "node_name", "span_name", "exec_worker_id", "exec_task_id"}
    assert not [labels for _, labels in series for _, value in labels if re.search(r"exec_[0-9a-f]{32}|make/[0-2]$", value)]
    steps = [
        value
        for (name, labels), value in series.items()
        if name == "otel_exec_spans_duration_seconds_count" and ("exec_template", "make/{number}") in labels and ("exec_kind", "step") in labels
    ]
    assert sum(steps) == 9
