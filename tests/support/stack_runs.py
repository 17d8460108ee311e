"""Runs that the stack is filled with: the example, and one in which everything happens that boards and alerts ask for.

What comes in: a folder and the endpoint. What goes out: the runs' records.
"""

from __future__ import annotations

import itertools
import json
import os
import random
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from support.outside import EXAMPLES, run_script
from support.stack_programs import ROOT

from otel_exec import RunRecord, read_run
from otel_exec.config import Endpoint
from otel_exec.spans.exporter import export_once
from otel_exec.spans.line_codec import LineEncoder
from otel_exec.spans.span_record import SpanRecord
from otel_exec.testing import recorded_spans

# Two fan-outs, phases that fail, a try that fails and one that succeeds, a worker that dies, a step that fails and one that is skipped for it, a gate.
TURBULENT = """
import os, signal
from otel_exec import deferred, executor_main, map_tasks, output, phase, step, versioned

def _square(number):
    with phase("square"):
        return number * number

def _make(config):
    os.makedirs(config["path"], exist_ok=True)
    with phase("compute"):
        map_tasks(_square, range(4))

def _flaky(config):
    if not os.path.exists(config["marker"]):
        open(config["marker"], "w").close()
        with phase("fails"):
            raise OSError("not yet")

def _deadly(config):
    if not os.path.exists(config["marker"]):
        open(config["marker"], "w").close()
        os.kill(os.getpid(), signal.SIGKILL)

def _broken(config):
    raise ValueError("broken")

make, flaky, deadly, broken = deferred(_make), deferred(_flaky), deferred(_deadly), deferred(_broken)

@step("make/{name}")
def make_one(name, salt):
    return make({"path": output(), "name": versioned(name), "salt": versioned(salt)})

@step("flaky", retries=1)
def flaky_one(after, salt):
    return flaky({"after": after, "marker": os.path.abspath("flaky-" + salt)})

@step("deadly")
def deadly_one(after, salt):
    return deadly({"after": after, "marker": os.path.abspath("deadly-" + salt)})

@step("broken")
def broken_one(after):
    return broken({"after": after})

@step("never")
def never(after):
    return make({"path": output(), "after": after})

if __name__ == "__main__":
    salt = os.environ["SALT"]
    first = [make_one("a", salt), make_one("b", salt)]
    executor_main(steps=[never(broken_one(deadly_one(flaky_one(first, salt), salt)))], gates=["true"])
"""
PATIENCE = {"OTEL_EXEC_EXIT_TIMEOUT": "30"}


def run_example(folder: Path, endpoint: str) -> RunRecord:
    """Run the language-model pipeline, small; returns its record, all of whose spans were acknowledged."""
    folder.mkdir(parents=True, exist_ok=True)
    done = run_script(EXAMPLES / "lm_pipeline.py", "--small", cwd=folder, OTEL_EXPORTER_OTLP_ENDPOINT=endpoint, **PATIENCE)
    assert done.returncode == 0, done.stderr
    return _record(folder)


def run_turbulent(folder: Path, endpoint: str, salt: str = "one") -> RunRecord:
    """Run the experiment in which everything happens; returns its record, all of whose spans were acknowledged."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "turbulent.py").write_text(TURBULENT, encoding="utf-8")
    done = run_script("turbulent.py", "--workers", "2", cwd=folder, OTEL_EXPORTER_OTLP_ENDPOINT=endpoint, SALT=salt, **PATIENCE)
    assert done.returncode == 1, done.stderr
    return _record(folder)


LARGE_TRACE_ID = f"{random.Random(8).getrandbits(128):032x}"


def send_large(folder: Path, endpoint: str, count: int) -> float:
    """Send a trace of so many spans, a run with steps under it, as `otel-exec replay` would; returns the seconds until the last one was acknowledged."""
    start_ns = time.time_ns() - 300 * 10**9
    exec_id = f"exec_{LARGE_TRACE_ID}"
    root = f"{1:016x}"

    def spans() -> Iterator[SpanRecord]:
        yield SpanRecord(
            LARGE_TRACE_ID, root, "", "run large", "run", start_ns, start_ns + count * 1000 + 10**6, {"exec.id": exec_id, "exec.name": "large"}, span_kind=2
        )
        for number in range(2, count + 1):
            at_ns = start_ns + number * 1000
            attributes = {
                "exec.id": exec_id,
                "exec.template": "part/{number}",
                "node.id": f"part/{number}-1f6e23",
                "node.name": f"part/{number}",
                "exec.outcome": "success",
            }
            yield SpanRecord(LARGE_TRACE_ID, f"{number:016x}", root, "part/{number}", "step", at_ns, at_ns + 500 + number % 500, attributes)

    return _send(folder, endpoint, exec_id, "large", spans(), count)


def send_piece(folder: Path, endpoint: str, trace_id: str, numbers: range) -> list[str]:
    """Send some steps of a run that goes on; returns the ids of their spans."""
    exec_id = f"exec_{trace_id}"
    now_ns = time.time_ns()
    spans = [
        SpanRecord(
            trace_id,
            f"{random.Random(f'{trace_id}{number}').getrandbits(64):016x}",
            f"{1:016x}",
            f"part/{number}",
            "step",
            now_ns - 10**9,
            now_ns,
            {"exec.id": exec_id, "exec.template": "part/{number}", "node.name": f"part/{number}", "exec.level": 1, "exec.outcome": "success"},
        )
        for number in numbers
    ]
    _send(folder, endpoint, exec_id, "pieces", iter(spans), len(spans))
    return [span.span_id for span in spans]


def _send(folder: Path, endpoint: str, exec_id: str, service: str, spans: Iterator[SpanRecord], count: int) -> float:
    (folder / "spans").mkdir(parents=True)
    encoder = LineEncoder({"service.name": service, "service.instance.id": exec_id})
    with (folder / "spans" / "driver.jsonl").open("wb") as file:
        for batch in _batches(spans, 1000):
            file.write(encoder.encode(batch))
    begun = time.perf_counter()
    (entry,) = export_once(str(folder), [Endpoint(endpoint, "grpc")], patience_s=30.0).endpoints
    assert (entry.acknowledged, entry.rejected, entry.waiting) == (count, 0, 0), entry.error
    return time.perf_counter() - begun


def _batches(values: Iterator[SpanRecord], size: int) -> Iterator[tuple[SpanRecord, ...]]:
    while batch := tuple(itertools.islice(values, size)):
        yield batch


def figure(**figures: object) -> None:
    """Keep what was measured where `OTEL_EXEC_FIGURES` names a file; a line of JSON each."""
    if path := os.environ.get("OTEL_EXEC_FIGURES"):
        with open(path, "a", encoding="utf-8") as file:
            file.write(json.dumps(figures) + "\n")


def _record(folder: Path) -> RunRecord:
    record = read_run(str(folder / "run.json"))
    assert record.export.spans_acknowledged == len(recorded_spans(record))
    return record


def queries(language: str, values: dict[str, str]) -> list[tuple[str, dict[str, Any], str]]:
    """Return every query of every board in a language (`prometheus` or `tempo`): board and question, the target, the query with Grafana's variables filled in.

    Args:
        language: the type of the data source.
        values: a variable's name to its value; those of Grafana itself (`__range`) too.
    """
    found = []
    for path in sorted((ROOT / "dashboards").glob("*.json")):
        board = json.loads(path.read_text(encoding="utf-8"))
        for panel in board["panels"]:
            for target in panel["targets"]:
                if target["datasource"]["type"] == language:
                    text = target.get("expr") or target["query"]
                    filled = re.sub(r"\$(\w+)", lambda match: values[match[1]], text)
                    found.append((f"{board['title']}: {panel['title']}", target, filled))
    return found
