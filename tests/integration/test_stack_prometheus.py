"""Real Prometheus, asking the real Collector: every query of every board has series, and they count what the record counts."""

from __future__ import annotations

import time
from collections import Counter

import pytest
from support.otlp_receiver import OtlpReceiver
from support.stack_programs import Collector, Prometheus, get_json, program, wait_until
from support.stack_runs import queries, run_example, run_turbulent

from otel_exec.testing import recorded_spans

pytestmark = [pytest.mark.collector, pytest.mark.slow]
GRAFANAS = {"__range": "10m", "__rate_interval": "10m", "experiment": ".*", "template": ".*", "phase": ".*", "past": "20s"}


@pytest.fixture(scope="module")
def filled(tmp_path_factory):
    """Prometheus with the metrics of three runs: the example, and twice one in which everything happens."""
    program("collector")
    program("prometheus")
    folder = tmp_path_factory.mktemp("stack")
    with OtlpReceiver() as backend:
        address = f"127.0.0.1:{backend.grpc_port}"
        # Flushed less often than asked for, so that each counter is seen at 0 first.
        with Collector(folder / "collector", address, address, flush="3s") as collector, Prometheus(folder / "prometheus", collector) as prometheus:
            records = [run_example(folder / "example", collector.grpc_endpoint)]
            records += [run_turbulent(folder / "turbulent", collector.grpc_endpoint, salt) for salt in ("one", "two")]
            wait_until(lambda: _counted(prometheus) == _recorded(records), 60, lambda: (_counted(prometheus), _recorded(records)))
            yield collector, prometheus, records, folder


def _recorded(records):
    counts = Counter()
    for record in records:
        for span in recorded_spans(record):
            counts[record.experiment.name, span.kind, span.attributes.get("exec.outcome", "")] += 1
    return counts


def _counted(prometheus):
    found = prometheus.ask("sum by (service_name, exec_kind, exec_outcome) (otel_exec_spans_calls_total)")
    return Counter(
        {(each["metric"]["service_name"], each["metric"].get("exec_kind", ""), each["metric"].get("exec_outcome", "")): int(each["value"][1]) for each in found}
    )


def test_counts_are_the_records(filled):
    """Spans by experiment, kind and outcome, and seconds of tasks by template, are those of the three runs' records."""
    _, prometheus, records, _ = filled
    assert _counted(prometheus) == _recorded(records)
    seconds = Counter()
    for record in records:
        for span in recorded_spans(record):
            if span.kind == "task":
                seconds[span.attributes["exec.template"]] += span.duration_ns / 1e9
    found = prometheus.ask('sum by (exec_template) (otel_exec_spans_duration_seconds_sum{exec_kind="task"})')
    assert {each["metric"]["exec_template"]: float(each["value"][1]) for each in found} == pytest.approx(dict(seconds))


def test_what_runs_say_themselves_adds_up(filled):
    """Runs' own metrics, each counted from its run's start, are the sum over the runs: settled steps by experiment, template and outcome, and seconds of tasks."""
    _, prometheus, records, _ = filled
    steps = Counter()
    for record in records:
        for step in record.steps:
            if not step.group:
                steps[record.experiment.name, step.template, step.outcome] += 1

    def told():
        found = prometheus.ask("sum by (job, exec_template, exec_outcome) (otel_exec_steps_total) > 0")
        return {(each["metric"]["job"], each["metric"]["exec_template"], each["metric"]["exec_outcome"]): int(each["value"][1]) for each in found}

    wait_until(lambda: told() == steps, 30, lambda: (told(), steps))
    found = prometheus.ask("sum by (job) (otel_exec_run_duration_seconds_count)")
    assert {each["metric"]["job"]: int(each["value"][1]) for each in found} == Counter(record.experiment.name for record in records)


def test_increase_counts_each_run(filled):
    """Though runs are shorter than anything that rates are made for, increases are the counts: each counter was seen at 0 before it was seen at its value."""
    _, prometheus, records, _ = filled
    found = prometheus.ask('sum by (service_name) (increase(otel_exec_spans_calls_total{exec_kind="run"}[10m]))')
    increases = {each["metric"]["service_name"]: float(each["value"][1]) for each in found}
    assert increases == pytest.approx(Counter(record.experiment.name for record in records), rel=0.2)


def test_no_run_is_lost_between_two_points(filled):
    """A panel's line, asked for point by point as Grafana does, holds each run: what two points have between them is in one of them."""
    _, prometheus, records, _ = filled
    ((_, _, query),) = [each for each in queries("prometheus", GRAFANAS | {"__rate_interval": "20s"}) if "What do steps come to?" in each[0]]
    now = time.time()
    answer = get_json(f"{prometheus.query}/api/v1/query_range", query=query, start=str(now - 600), end=str(now), step="15")
    found = {each["metric"]["exec_outcome"]: sum(float(value) for _, value in each["values"]) for each in answer["data"]["result"]}
    steps = Counter(step.outcome for record in records for step in record.steps if not step.group)
    assert {outcome for outcome, count in steps.items() if found.get(outcome, 0) < 0.8 * count} == set(), (found, steps)


def test_every_query_of_every_board_returns_series(filled):
    """Each PromQL query runs and returns at least one series with a number."""
    _, prometheus, _, _ = filled
    asked = queries("prometheus", GRAFANAS)
    assert len(asked) > 15
    # What is compared with the past has none until some seconds after the counters were first seen.
    wait_until(lambda: not _silent(prometheus, asked), 60, lambda: _silent(prometheus, asked))


def _silent(prometheus, asked):
    return [question for question, _, query in asked if not _numbers(prometheus, query)]


def _numbers(prometheus, query):
    return [each for each in prometheus.ask(query) if each["value"][1] != "NaN"]


def test_rules_are_evaluated(filled):
    """Prometheus has loaded the alert rules, evaluates them without an error, and tells the failures and the dead worker of these runs."""
    _, prometheus, _, _ = filled

    def firing():
        groups = get_json(f"{prometheus.query}/api/v1/rules")["data"]["groups"]
        rules = [rule for group in groups for rule in group["rules"]]
        assert all(rule["health"] in ("ok", "unknown") for rule in rules), rules
        return {rule["name"] for rule in rules if rule.get("state") == "firing"} >= {"OtelExecStepsFail", "OtelExecWorkersDie"}

    wait_until(firing, 60, lambda: get_json(f"{prometheus.query}/api/v1/rules"))


def test_series_do_not_grow_with_runs(filled):
    """A further run of the same experiment adds no series."""
    collector, prometheus, records, folder = filled

    def series():
        found = prometheus.ask('count({__name__=~"otel_exec_.+"})')
        return int(found[0]["value"][1])

    before = series()
    record = run_turbulent(folder / "turbulent", collector.grpc_endpoint, "three")
    wait_until(lambda: _counted(prometheus) == _recorded([*records, record]), 60, lambda: _counted(prometheus))
    assert series() == before
    records.append(record)


def test_exemplars_lead_to_traces(filled):
    """Prometheus keeps, beside the buckets, trace ids of these runs."""
    _, prometheus, records, _ = filled
    now = time.time()
    answer = get_json(f"{prometheus.query}/api/v1/query_exemplars", query="otel_exec_spans_duration_seconds_bucket", start=str(now - 600), end=str(now + 60))
    found = {exemplar["labels"]["trace_id"] for series in answer["data"] for exemplar in series["exemplars"]}
    assert found & {record.trace_id for record in records}
