"""The limits of OpenTelemetry's environment reach every process that makes spans."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from support.run_checks import EXECUTORS, check_run, step_named

from otel_exec import deferred, phase, read_run, step
from otel_exec.testing import recorded_spans, run_in


def _say_much(config):
    with phase("much", first="123456789", second=["123456789", "1"], third=3, fourth=4) as opened:
        for number in range(4):
            opened.event("said", number=number, text="123456789")


say_much = deferred(_say_much)


@step("much/{name}")
def much(name, after=()):
    return say_much({"name": name, "after": list(after)})


@pytest.mark.parametrize("executor", EXECUTORS)
def test_phases_and_steps_keep_what_the_limits_allow(tmp_path, monkeypatch, executor):
    """Values, attributes, events and links past their limits are cut, first come first kept; what the span model itself puts on a span is whole."""
    monkeypatch.setenv("OTEL_SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT", "5")
    monkeypatch.setenv("OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT", "3")
    monkeypatch.setenv("OTEL_SPAN_EVENT_COUNT_LIMIT", "2")
    monkeypatch.setenv("OTEL_SPAN_LINK_COUNT_LIMIT", "1")
    record = run_in(tmp_path, [much("last", [much("one"), much("two")])], executor=executor)
    spans = recorded_spans(record)
    phases = [span for span in spans if span.kind == "phase"]
    assert len(phases) == 3
    for span in phases:
        assert {key: value for key, value in span.attributes.items() if "." not in key} == {"first": "12345", "second": ["12345", "1"], "third": 3}
        assert span.attributes["exec.id"] == record.exec_id
        assert span.attributes["node.name"].startswith("much/")
        assert [(name, values) for _, name, values in span.events] == [("said", {"number": number, "text": "12345"}) for number in range(2)]
    last = step_named(record, "much/last")
    (whole,) = [span for span in spans if span.kind == "step" and span.attributes["node.id"] == last.node_id]
    assert [link.span_id for link in whole.links] == [step_named(record, "much/one").span_id]
    assert list(whole.attributes["exec.depends_on"]) == last.depends_on
    assert len(last.depends_on) == 2


def test_without_limits_set_all_links_are_kept(tmp_path):
    """A step has a link for each dependency, past the 128 that a span of the SDK keeps; attributes and events keep to 128."""

    def _many(config):
        with phase("many", **{f"key{number}": number for number in range(130)}) as opened:
            for _ in range(130):
                opened.event("said")

    @step("many")
    def many(after):
        return deferred(_many)({"after": after})

    record = run_in(tmp_path, [many([much(str(number)) for number in range(130)])])
    trace = check_run(record)
    assert len(trace.one("step", node_name="many").links) == 130
    (span,) = [span for span in trace.of("phase") if span.name == "many"]
    assert len([key for key in span.attributes if key.startswith("key")]) == 128
    assert len(span.events) == 128


_USERS_OWN = """
from opentelemetry import trace
from otel_exec import deferred, executor_main, step

def _trace(config):
    with trace.get_tracer("mine").start_as_current_span("own", attributes={"a": "123456789", "b": "123456789", "c": "123456789"}):
        pass

@step("traced")
def traced():
    return deferred(_trace)({})

if __name__ == "__main__":
    executor_main(steps=[traced()])
"""


@pytest.mark.parametrize("executor", EXECUTORS)
def test_spans_of_the_users_own_keep_to_the_limits(tmp_path, executor):
    """Spans by OpenTelemetry's API are cut as phases are."""
    (tmp_path / "exp.py").write_text(_USERS_OWN)
    environment = {key: value for key, value in os.environ.items() if not key.startswith("OTEL_")}
    environment |= {"OTEL_SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT": "4", "OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT": "2"}
    done = subprocess.run(
        [sys.executable, "exp.py", "--executor", executor], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    record = read_run(str(tmp_path / "run.json"))
    own = check_run(record).one("")
    assert [value for key, value in own.attributes.items() if "." not in key] == ["1234", "1234"]
    config = json.loads((tmp_path / "run.json").read_text())["config"]
    assert (config["attribute_value_length_limit"], config["attribute_count_limit"]) == (4, 2)
