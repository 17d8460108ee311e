"""The registry of names against what runs emit."""

from __future__ import annotations

import json
import re
import signal
import threading
from collections import defaultdict
from pathlib import Path

import pytest
from support.metric_checks import written_points
from support.outside import run_script

from otel_exec import StepsFailed, deferred, map_tasks, output, phase, read_run, step, time_phase
from otel_exec.record import locks
from otel_exec.record.step_files import read_events
from otel_exec.semconv import ATTRIBUTES, EDGES, EXEC_EDGE, EXEC_KIND, METRICS, SPANS, Kind
from otel_exec.testing import recorded_spans, run_in

TYPES = {
    "string": lambda value: type(value) is str,
    "int": lambda value: type(value) is int,
    "boolean": lambda value: type(value) is bool,
    "string[]": lambda value: isinstance(value, list | tuple) and all(type(each) is str for each in value),
}
REGISTRY = {on: {each.key: each for each in ATTRIBUTES if each.on == on} for on in ("span", "link", "resource")}
METADATA = {"item", "model", "tokens"}
# Only where the script lies in a git repository.
NOT_EVERYWHERE = {"vcs.ref.head.revision"}


def _item(number):
    with phase("inside", item=number):
        pass


def _make(config):
    Path(config["out"]).mkdir(parents=True, exist_ok=True)
    with time_phase("workflow-17", "node_1", "call", model="m", tokens=3):
        map_tasks(_item, range(3))


def _flaky(config):
    mark = Path(config["mark"])
    if not mark.exists():
        mark.touch()
        with phase("fails"):
            raise ValueError("the first time")


def _fail(config):
    raise LookupError("always")


make, flaky, fail = deferred(_make), deferred(_flaky), deferred(_fail)


def _verify(config, output_path):
    assert output_path


@step("make/{name}", verify=_verify, override_output_path="{name}")
def make_one(name):
    return make({"out": output()})


@step("flaky", retries=1)
def flaky_one(upstream, mark):
    return flaky({"upstream": upstream, "mark": mark})


@step("fails")
def failing(upstream):
    return fail({"upstream": upstream})


@step("group")
def group(mark):
    made = make_one("held")
    tried = flaky_one(made, mark)
    failing(tried)
    return make({"out": output(), "made": made, "tried": tried.nonblocking()})


def _held_for_a_while(path, holder, over):
    """Hold a step's lock until a run says that it waits, or is over."""
    while not over.wait(0.01):
        if "WAITING" in [event.status for event in read_events(path)]:
            break
    locks.release(path, holder)


def _run_all(folder, executor):
    """A run with everything in it that a run on one machine can show, and the same again; returns the records."""
    held = str(folder / "outputs" / "held")
    holder = locks.driver_id("exec_" + "12" * 16)
    assert locks.acquire(held, holder).taken
    over = threading.Event()
    other = threading.Thread(target=_held_for_a_while, args=(held, holder, over))
    other.start()
    records = []
    try:
        for _ in range(2):
            with pytest.raises(StepsFailed) as caught:
                run_in(folder, [group(str(folder / "mark"))], executor=executor, workers=2, gates=[lambda level: None], console_metrics=True)
            records.append(caught.value.record)
    finally:
        over.set()
        other.join()
    return records


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    return [record for executor in ("inline", "threads", "processes") for record in _run_all(tmp_path_factory.mktemp(executor), executor)]


def test_what_runs_emit_is_registered(records):
    """Each attribute of each span, link and resource of a run is in the registry, with its type and on a kind that may carry it."""
    wrong = set()
    for record in records:
        for span in recorded_spans(record):
            assert span.kind in set(Kind), span
            carried = [("span", key, value) for key, value in {EXEC_KIND: span.kind, **span.attributes}.items() if key not in METADATA]
            carried += [("link", key, value) for link in span.links for key, value in {EXEC_EDGE: link.edge, **link.attributes}.items()]
            for on, key, value in carried:
                known = REGISTRY[on].get(key)
                if known is None or not TYPES[known.type](value) or (known.kinds and span.kind not in known.kinds):
                    wrong.add((on, span.kind, key, type(value).__name__))
    assert wrong == set()


def test_spans_have_the_names_and_parents_of_the_registry(records):
    """Each span's name is its kind's template, its parent is of a kind that the registry names, and its OpenTelemetry kind is the registry's."""
    registry = {each.kind: each for each in SPANS}
    otel_kinds = {1: "INTERNAL", 2: "SERVER"}
    for record in records:
        kinds = {span.span_id: span.kind for span in recorded_spans(record)}
        for span in recorded_spans(record):
            known = registry[span.kind]
            pattern = re.sub(r"\\{\w+\\}", ".+", re.escape(known.name))
            assert re.fullmatch(pattern, span.name), span
            assert otel_kinds[span.span_kind] == known.otel_kind
            assert kinds.get(span.parent_span_id) in (known.parents or (None,)), span


# Its driver dies in the first run, and goes on in the second.
DYING = """
import os, signal
from otel_exec import deferred, executor_main, step

def _die(config):
    if not os.path.exists(config["mark"]):
        open(config["mark"], "w").close()
        os.kill(os.getpid(), signal.SIGKILL)

die = deferred(_die)

@step("dies")
def dies():
    return die({"mark": os.path.abspath("mark")})

if __name__ == "__main__":
    executor_main(steps=[dies()])
"""


@pytest.fixture(scope="module")
def gone_on(tmp_path_factory):
    """The record of a run that goes on from one whose driver was killed."""
    folder = tmp_path_factory.mktemp("dying")
    (folder / "dying.py").write_text(DYING, encoding="utf-8")
    assert run_script("dying.py", "--executor", "inline", cwd=folder).returncode == -signal.SIGKILL
    done = run_script("dying.py", "--executor", "inline", "--run-json", "again.json", cwd=folder)
    assert done.returncode == 0, done.stderr
    return read_run(str(folder / "again.json"))


def test_edges_are_those_of_the_registry(records, gone_on):
    """The links of these runs are of each kind of edge that the registry has, and of no other."""
    emitted = {link.edge for record in (*records, gone_on) for span in recorded_spans(record) for link in span.links}
    assert emitted == {word.value for word in EDGES}


def test_what_is_registered_is_emitted(records):
    """Each kind, and each attribute on each kind that always has it, is emitted by one of the runs: the registry promises nothing that never comes."""
    found = defaultdict(set)
    for record in records:
        for span in recorded_spans(record):
            for key in (EXEC_KIND, *span.attributes, *(EXEC_EDGE for _ in span.links)):
                found[key].add(span.kind)
    assert found[EXEC_KIND] == set(Kind)
    never = {each.key for on in ("span", "link") for each in REGISTRY[on].values() if not found[each.key]}
    assert never == set()
    sometimes = {"exec.outcome", "error.type"}  # on some kinds only where a worker died
    missing = {(each.key, kind) for each in REGISTRY["span"].values() if each.key not in sometimes for kind in each.kinds if kind not in found[each.key]}
    assert missing == set()


def test_resources_are_registered(records):
    """The resource of every writer's lines has the registry's keys, and their types."""
    for record in records:
        for path in Path(record.run_folder, "spans").glob("*.jsonl"):
            for line in path.read_text(encoding="utf-8").splitlines():
                (spans,) = json.loads(line)["resourceSpans"]
                keys = {pair["key"]: next(iter(pair["value"])) for pair in spans["resource"]["attributes"]}
                assert {key: f"{REGISTRY['resource'][key].type}Value" for key in keys} == keys
                assert set(REGISTRY["resource"]) - set(keys) <= NOT_EVERYWHERE


def test_metrics_are_registered_and_emitted(records):
    """Each metric of a run is in the registry, with its instrument, unit and attributes, each of its type; and each of the registry is emitted, with all its attributes."""
    instruments = {"histogram": ("histogram", None), "counter": ("sum", True), "updowncounter": ("sum", False)}
    registry = {metric.name: metric for metric in METRICS}
    types = {each.key: TYPES[each.type] for each in ATTRIBUTES}
    found, last = {}, {}
    for record in records:
        for point in written_points(record):
            metric = registry[point.metric]
            assert (point.kind, point.monotonic, point.unit, point.description) == (*instruments[metric.instrument], metric.unit, metric.brief)
            assert set(point.attributes) == set(metric.attributes)
            assert all(types[key](value) for key, value in point.attributes.items()), point
            assert point.resource.keys() <= REGISTRY["resource"].keys()
            much = point.count if point.value is None else point.value
            if metric.instrument == "updowncounter":  # a run that took long has told it more than once: the last word counts
                last[record.exec_id, point.metric, tuple(sorted(point.attributes.items()))] = much
            else:
                found[point.metric] = found.get(point.metric, 0) + much
    for (_, name, _), much in last.items():
        found[name] = found.get(name, 0) + much
    assert found.keys() == registry.keys()
    # No worker dies here, and all are gone at the end: of both there is the zero.
    assert {name for name, much in found.items() if not much} == {"otel_exec.worker.deaths", "otel_exec.workers"}


def test_metrics_have_their_question(root):
    """The page about metrics says of each metric which question it answers, and names none that there is not."""
    page = (root / "docs" / "metrics.md").read_text(encoding="utf-8")
    assert set(re.findall(r"`(otel_exec\.[a-z_.]+)`", page)) == {metric.name for metric in METRICS}


def test_examples_have_their_type():
    """Each key is registered once, with an example of its type and a sentence that ends."""
    assert len({(each.on, each.key) for each in ATTRIBUTES}) == len(ATTRIBUTES)
    for each in ATTRIBUTES:
        assert TYPES[each.type](each.example), each.key
        assert each.brief.endswith("."), each.key
