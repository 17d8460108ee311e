"""Real Jaeger behind the real Collector: services, operations, traces and searches say what the record says."""

from __future__ import annotations

import json
import time

import pytest
from support.otlp_receiver import OtlpReceiver
from support.outside import otel_exec
from support.stack_programs import Collector, Jaeger, get, get_json, program, wait_until
from support.stack_runs import LARGE_TRACE_ID, figure, run_example, run_turbulent, send_large

from otel_exec.testing import recorded_spans

pytestmark = [pytest.mark.collector, pytest.mark.slow]


@pytest.fixture(scope="module")
def filled(tmp_path_factory):
    """Jaeger with three runs that came through the Collector: the example, one in which everything happens, and the example again, all of it cached."""
    program("collector")
    program("jaeger")
    folder = tmp_path_factory.mktemp("stack")
    with OtlpReceiver() as tempo, Jaeger(folder / "jaeger") as jaeger:
        with Collector(folder / "collector", jaeger.otlp, f"127.0.0.1:{tempo.grpc_port}") as collector:
            records = [run_example(folder / "example", collector.grpc_endpoint), run_turbulent(folder / "turbulent", collector.grpc_endpoint)]
            records.append(run_example(folder / "example", collector.grpc_endpoint))
            for record in records:
                count = len(recorded_spans(record))
                wait_until(lambda of=record, count=count: len(spans_of(jaeger, of.trace_id)) == count, 60, jaeger.tail)
            yield jaeger, collector, records, folder


def spans_of(jaeger, trace_id):
    """The spans of a trace, as Jaeger's API has them; none where it has no such trace."""
    status, body = get(f"{jaeger.query}/api/traces/{trace_id}")
    if status == 404:
        return []
    assert status == 200, body
    (trace,) = json.loads(body)["data"]
    assert trace["warnings"] is None
    return trace["spans"]


def found_by(jaeger, service, **tags):
    """The ids of traces that a search by tags finds."""
    now = time.time()
    answer = get_json(
        f"{jaeger.query}/api/traces", service=service, tags=json.dumps(tags), start=str(int((now - 7200) * 1e6)), end=str(int((now + 60) * 1e6)), limit="100"
    )
    return {trace["traceID"] for trace in answer["data"]}


def test_services_and_operations(filled):
    """Each experiment is a service, and its operations are the names of its spans."""
    jaeger, _, (*records, _), _ = filled
    assert {record.experiment.name for record in records} <= set(get_json(f"{jaeger.query}/api/services")["data"])
    for record in records:
        operations = get_json(f"{jaeger.query}/api/operations", service=record.experiment.name)["data"]
        assert {each["name"] for each in operations} == {span.name for span in recorded_spans(record)}


def test_traces_say_what_the_record_says(filled):
    """Each span is there once, with its parent, its links and its tags; durations are run.json's to the microsecond.

    Jaeger warns of nothing, not of the steps either that did not run, whose spans are an instant.
    """
    jaeger, _, records, _ = filled
    for record in records:
        spans = {span.span_id: span for span in recorded_spans(record)}
        found = spans_of(jaeger, record.trace_id)
        assert sorted(span["spanID"] for span in found) == sorted(spans)
        for each in found:
            span = spans[each["spanID"]]
            assert not each["warnings"], each
            assert (each["startTime"], each["duration"]) == (span.start_ns // 1000, span.duration_ns // 1000)
            references = {(reference["refType"], reference["spanID"]) for reference in each["references"]}
            parent = {("CHILD_OF", span.parent_span_id)} if span.parent_span_id else set()
            assert references == parent | {("FOLLOWS_FROM", link.span_id) for link in span.links}
            tags = {tag["key"]: tag["value"] for tag in each["tags"]}
            assert tags["exec.id"] == record.exec_id
            assert tags.get("exec.outcome") == span.attributes.get("exec.outcome")
        by_id = {each["spanID"]: each for each in found}
        assert record is not records[2] or any(span.duration_ns == 0 for span in spans.values())
        assert by_id[record.root_span_id]["duration"] == record.duration_ns // 1000
        for step in record.steps:
            if not step.group and step.attempts:
                assert by_id[step.attempts[-1].span_id]["duration"] == step.attempts[-1].execution_ns // 1000
                assert by_id[step.span_id]["duration"] == (step.end_ns - step.start_ns) // 1000


def test_searches_find_what_they_should(filled):
    """By exec id, outcome, node name and error the right run is found, and no other."""
    jaeger, _, (example, turbulent, again), _ = filled
    assert found_by(jaeger, "lm_pipeline", **{"exec.id": example.exec_id}) == {example.trace_id}
    assert found_by(jaeger, "lm_pipeline", **{"exec.id": turbulent.exec_id}) == set()
    assert found_by(jaeger, "turbulent", **{"exec.outcome": "failure"}) == {turbulent.trace_id}
    assert found_by(jaeger, "lm_pipeline", **{"exec.outcome": "failure"}) == set()
    assert found_by(jaeger, "lm_pipeline", **{"exec.outcome": "success"}) == {example.trace_id, again.trace_id}
    assert found_by(jaeger, "turbulent", **{"node.name": "flaky"}) == {turbulent.trace_id}
    assert found_by(jaeger, "turbulent", error="true") == {turbulent.trace_id}
    assert found_by(jaeger, "lm_pipeline", error="true") == set()


def test_the_doctor_finds_its_span(tmp_path, filled):
    """`otel-exec doctor` sends a span through the Collector and finds it again in Jaeger, by the address of a trace's page."""
    jaeger, collector, _, _ = filled
    done = otel_exec("doctor", cwd=tmp_path, OTEL_EXPORTER_OTLP_ENDPOINT=collector.grpc_endpoint, OTEL_EXEC_TRACE_URL=jaeger.query + "/trace/{trace_id}")
    assert done.returncode == 0, done.stdout
    assert "ok found again: Jaeger has the span" in done.stdout


def test_a_hundred_thousand_spans_arrive_whole(filled):
    """A trace of 100,000 spans comes back by its id, each span once and without a warning."""
    jaeger, collector, _, folder = filled
    count = 100_000
    sent_s = send_large(folder / "large", collector.grpc_endpoint, count)
    begun = time.perf_counter()
    wait_until(lambda: len(spans_of(jaeger, LARGE_TRACE_ID)) == count, 240, jaeger.tail)
    arrived_s = time.perf_counter() - begun
    begun = time.perf_counter()
    found = spans_of(jaeger, LARGE_TRACE_ID)
    figure(backend="jaeger", spans=count, sent_s=sent_s, whole_after_s=arrived_s, read_s=time.perf_counter() - begun)
    assert len({span["spanID"] for span in found}) == count
    assert not [span for span in found if span["warnings"]]


def test_what_was_taken_outlives_a_restart(filled):
    """Jaeger ended and started again still has the traces: they are on disk."""
    jaeger, _, records, _ = filled
    jaeger.close()
    jaeger.start()
    for record in records:
        assert len(spans_of(jaeger, record.trace_id)) == len(recorded_spans(record))
