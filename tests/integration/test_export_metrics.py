"""Metrics of whole runs at receivers: they are what the record and the spans say, and whatever goes wrong with them is theirs alone."""

from __future__ import annotations

import os
import signal
import socket
import time
from pathlib import Path

import grpc
import pytest
from support.metric_checks import DELTA, check_metrics, latest, written_points
from support.otlp_receiver import OtlpReceiver, Reply
from support.rotel_agent import free_port

from otel_exec import StepsFailed, deferred, map_tasks, phase, step
from otel_exec.config import Endpoint
from otel_exec.record.run_store import read_record
from otel_exec.spans import metrics_file
from otel_exec.spans.cursor import read_export
from otel_exec.spans.exporter import ExporterHandle, export_once
from otel_exec.spans.metrics_file import MetricsFile
from otel_exec.spans.signal import Signal
from otel_exec.testing import recorded_spans, run_in

PROTOCOLS = ("grpc", "http/protobuf", "http/json")
SPANS = 6


def _item(number):
    with phase("inside", item=number):
        pass


def _work(config):
    with phase("call"):
        map_tasks(_item, range(3))
    for _ in range(600):
        with phase("often"):
            pass
    return config["name"]


def _flaky(config):
    mark = Path(config["mark"])
    if not mark.exists():
        mark.touch()
        raise ValueError("the first time")


def _fail(config):
    with phase("last"):
        raise LookupError("always")


work, flaky, fail = deferred(_work), deferred(_flaky), deferred(_fail)


@step("work/{name}")
def work_one(name):
    return work({"name": name})


@step("flaky", retries=1)
def flaky_one(upstream, mark):
    return flaky({"upstream": upstream, "mark": mark})


@step("fails")
def failing(upstream):
    return fail({"upstream": upstream})


@step("never")
def never(upstream):
    return work({"name": upstream})


def endpoint_at(port, protocol, signal="metrics", **more):
    return Endpoint(f"http://127.0.0.1:{port}" + ("" if protocol == "grpc" else f"/v1/{signal}"), protocol, **more)


def endpoint_of(server, protocol, signal="metrics", **more):
    if protocol == "grpc":
        return Endpoint(server.grpc_endpoint, "grpc", **more)
    return Endpoint(f"{server.http_endpoint}/v1/{signal}", protocol, **more)


def run_all(folder, **settings):
    """A run with successes, a retry, a failure, what it takes with it, a fan-out and many phases; returns its record."""
    settings = {"executor": "threads", "workers": 2, "exit_timeout_s": 20.0, **settings}
    with pytest.raises(StepsFailed) as caught:
        run_in(folder, [never(failing(flaky_one([work_one("a"), work_one("b")], str(folder / "mark"))))], **settings)
    return caught.value.record


def run_small(folder, **settings):
    return run_in(folder, [work_one("a")], **{"exit_timeout_s": 20.0, **settings})


def codes(record):
    return [warning.code for warning in record.warnings]


@pytest.mark.parametrize("executor", ["inline", "threads", "processes"])
def test_metrics_are_the_record_s_numbers(tmp_path, executor):
    """On each executor the last points are what the spool's spans and the record's outcomes come to, attempt by attempt, phase by phase; exemplars name the spans that were measured."""
    record = run_all(tmp_path, executor=executor, console_metrics=True)
    points = written_points(record)
    totals = check_metrics(points, record)
    assert totals["otel_exec.steps"] == 5
    assert totals["otel_exec.task.duration"] == 5
    assert totals["otel_exec.retries"] == 1
    assert totals["otel_exec.phase.duration"] == 2 * (1 + 3 + 600) + 1
    named = {point.metric for point in latest(points).values() if point.exemplars}
    assert named >= {
        "otel_exec.step.duration",
        "otel_exec.task.duration",
        "otel_exec.task.queue.duration",
        "otel_exec.phase.duration",
        "otel_exec.run.duration",
    }


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_metrics_at_a_receiver(tmp_path, receiver, protocol):
    """By each protocol what metrics.jsonl holds arrives whole and once; the record says so, and spans have arrived as ever."""
    record = run_all(tmp_path, traces=(endpoint_of(receiver, protocol, "traces"),), metrics=(endpoint_of(receiver, protocol),))
    assert sorted(map(repr, receiver.points)) == sorted(map(repr, written_points(record)))
    check_metrics(receiver.points, record)
    count = len(receiver.points)
    export = record.export.metrics
    assert (export.protocol, export.points, export.points_acknowledged, export.points_rejected, export.note) == (protocol, count, count, 0, None)
    assert len(receiver.spans) == len(recorded_spans(record)) == record.export.spans_acknowledged
    assert [code for code in codes(record) if "export" in code or "metrics" in code] == []
    assert read_record(str(tmp_path / "run.json")).export.metrics == export


@pytest.mark.parametrize("protocol", ["grpc", "http/protobuf"])
def test_metrics_through_a_real_collector(tmp_path, rotel, protocol):
    """A collector that is not ours takes a run's metrics and passes on the same numbers.

    Not by http/json: rotel 0.0.1a15 loses the data of every metric in JSON, of one that protobuf's own `MessageToJson` made as well.
    """
    agent, server = rotel
    record = run_all(tmp_path, metrics=(endpoint_of(agent, protocol),))
    written = written_points(record)
    server.wait_for(lambda receiver: len(receiver.points) >= len(written))
    check_metrics(server.points, record)
    assert {key: (point.value, point.count, point.buckets) for key, point in latest(server.points).items()} == {
        key: (point.value, point.count, point.buckets) for key, point in latest(written).items()
    }


def test_headers_and_compression_hold_for_metrics(tmp_path, receiver):
    """The metrics endpoint's own headers and compression are used, and no header stands in the run's folder."""
    record = run_small(tmp_path, metrics=(endpoint_of(receiver, "http/protobuf", headers=(("x-key", "top-secret"),), compression="gzip"),))
    (request, *_) = receiver.metric_requests
    assert (request.headers["x-key"], request.headers["content-encoding"]) == ("top-secret", "gzip")
    written = b"".join(path.read_bytes() for path in Path(record.run_folder).rglob("*") if path.is_file())
    assert b"top-secret" not in written


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_receiver_of_spans_alone_is_no_fault(tmp_path, protocol):
    """A receiver without a service for metrics, as Jaeger is, gets one request of them; the record has a note and no warning, and spans go out at once."""
    with OtlpReceiver(metrics=False) as receiver:
        begun = time.monotonic()
        record = run_small(tmp_path, traces=(endpoint_of(receiver, protocol, "traces"),), metrics=(endpoint_of(receiver, protocol),))
        assert time.monotonic() - begun < 15  # the exit timeout is 20 s: it was not waited for
        assert len(receiver.spans) == len(recorded_spans(record))
    assert record.export.metrics.points_acknowledged == 0
    assert ("UNIMPLEMENTED" if protocol == "grpc" else "404") in record.export.metrics.note
    assert codes(record) == []


def test_spans_do_not_wait_for_a_dead_metrics_endpoint(tmp_path, receiver):
    """Where nobody takes metrics every span is acknowledged all the same, the run's end keeps its bound, and there is one warning that names metrics."""
    begun = time.monotonic()
    with socket.create_server(("127.0.0.1", 0)) as hole:
        record = run_small(
            tmp_path,
            exit_timeout_s=6.0,
            traces=(endpoint_of(receiver, "http/protobuf", "traces"),),
            metrics=(endpoint_at(hole.getsockname()[1], "http/protobuf", timeout_s=60.0),),
        )
    assert time.monotonic() - begun < 30
    assert len(receiver.spans) == len(recorded_spans(record)) == record.export.spans_acknowledged
    assert codes(record) == ["metrics_export"]
    assert "data points were acknowledged" in record.warnings[0].message
    assert record.export.metrics.note.endswith("no answer within 6 s")


def test_two_signals_of_one_dead_host_are_one_warning(tmp_path):
    """A host that takes neither is told of once, by its spans; the metrics' reason is their note."""
    port = free_port()
    record = run_small(tmp_path, exit_timeout_s=3.0, traces=(endpoint_at(port, "http/json", "traces"),), metrics=(endpoint_at(port, "http/json"),))
    assert codes(record) == ["export"]
    assert record.export.metrics.note.endswith("connection refused: nothing listens there")


def test_metrics_do_not_prolong_the_end(run_folder):
    """Acknowledgements of metrics give a dead endpoint of spans no more time."""
    with OtlpReceiver() as receiver, socket.create_server(("127.0.0.1", 0)) as hole:
        (run_folder / "spans" / "driver.jsonl").write_text(span_line(), encoding="utf-8")
        handle = ExporterHandle.start(
            str(run_folder),
            [endpoint_at(hole.getsockname()[1], "http/protobuf", "traces")],
            exit_timeout_s=1.0,
            metrics=[endpoint_of(receiver, "http/protobuf")],
        )
        hole.accept()[0].close()
        receiver.refuse_metrics = lambda _: time.sleep(0.3)  # each acknowledgement takes a while, and there are many
        file = MetricsFile(str(run_folder))
        for number in range(3):
            file.append(metrics_line(number))
            receiver.wait_for(lambda here, number=number: len(here.points) > number)
        begun = time.monotonic()
        summary = handle.finish()
        assert time.monotonic() - begun < 2.0
    assert (summary.endpoints[0].waiting, summary.metrics[0].acknowledged) == (1, 3)


@pytest.mark.parametrize(
    ("protocol", "reply"),
    [
        ("http/protobuf", Reply(503)),
        ("http/json", Reply(429, headers={"retry-after": "0"})),
        ("grpc", Reply(grpc.StatusCode.UNAVAILABLE)),
        ("http/json", Reply(close=True)),
    ],
)
def test_a_busy_receiver_is_asked_again(run_folder, receiver, protocol, reply):
    """Metrics that were not taken for now are sent again, and arrive once."""
    MetricsFile(str(run_folder)).append(metrics_line(1))
    receiver.metric_script.append(reply)
    summary = deliver(run_folder, endpoint_of(receiver, protocol))
    assert (len(receiver.metric_requests), len(receiver.points), summary.acknowledged, summary.error) == (2, 1, 1, "")


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_partial_success_is_final(run_folder, receiver, protocol):
    """Data points that a receiver rejected are not sent again, and its reason is kept."""
    file = MetricsFile(str(run_folder))
    for number in range(4):
        file.append(metrics_line(number))
    receiver.metric_script.append(Reply(rejected=3, message="too old"))
    summary = deliver(run_folder, endpoint_of(receiver, protocol))
    assert (summary.acknowledged, summary.rejected, summary.waiting) == (1, 3, 0)
    assert summary.error.endswith("too old")
    entry = read_export(str(run_folder)).entry(Signal.METRICS, endpoint_of(receiver, protocol).shown)
    assert (entry.acknowledged, entry.rejected, entry.files["metrics.jsonl"].bytes) == (1, 3, (run_folder / "metrics.jsonl").stat().st_size)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_lines_that_are_none_are_passed_over(run_folder, receiver, protocol):
    """What others wrote into metrics.jsonl, spans among it, costs no data point."""
    file = MetricsFile(str(run_folder))
    for line in (metrics_line(1), b"{}\n", span_line().encode(), b'{"resourceMetrics":[{"scopeMetrics":[{"metrics":[1]}]}]}\n', b"\xff\n", metrics_line(2)):
        file.append(line)
    summary = deliver(run_folder, endpoint_of(receiver, protocol))
    assert ([point.value for point in receiver.points], summary.skipped) == ([1, 2], 4)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_bad_line_is_set_aside(run_folder, receiver, protocol):
    """A line that a receiver can't take is found among the others, which arrive."""
    file = MetricsFile(str(run_folder))
    for number in range(8):
        file.append(metrics_line(number))
    refusal = Reply(grpc.StatusCode.INVALID_ARGUMENT if protocol == "grpc" else 400, message="no")
    receiver.refuse_metrics = lambda points: refusal if any(point.value == 5 for point in points) else None
    summary = deliver(run_folder, endpoint_of(receiver, protocol))
    assert sorted(point.value for point in receiver.points) == [0, 1, 2, 3, 4, 6, 7]
    assert (summary.acknowledged, summary.rejected) == (7, 1)


def test_files_that_follow_each_other_arrive_in_order(run_folder, receiver, monkeypatch):
    """Data points of several files arrive in the order in which they were written."""
    monkeypatch.setattr(metrics_file, "_KEPT", 10)
    file = MetricsFile(str(run_folder), segment_bytes=2 * len(metrics_line(0)))
    for number in range(7):
        file.append(metrics_line(number))
    assert len(metrics_file.metrics_files(str(run_folder))) == 4
    deliver(run_folder, endpoint_of(receiver, "http/json"))
    assert [point.value for point in receiver.points] == list(range(7))


def test_replay_leaves_metrics_out(run_folder, receiver):
    """What catches up later sends spans alone."""
    (run_folder / "spans" / "driver.jsonl").write_text(span_line(), encoding="utf-8")
    MetricsFile(str(run_folder)).append(metrics_line(1))
    export_once(str(run_folder), [endpoint_of(receiver, "http/json", "traces")])
    assert (len(receiver.spans), receiver.points) == (1, [])


def _wait(config):
    while not Path(config["go"]).exists():
        time.sleep(0.01)


wait = deferred(_wait)


@step("wait/{number}")
def waiting(number, go):
    return wait({"number": number, "go": go})


def test_workers_are_seen_at_work(tmp_path, receiver):
    """While steps run metrics go out, at the interval: the receiver sees zeros, then how many workers are busy and how many idle, before any step has settled."""
    go = tmp_path / "go"

    def look(points):
        if any(point.metric == "otel_exec.workers" and point.attributes["exec.worker.state"] == "busy" and point.value == 2 for point in points):
            go.touch()

    receiver.refuse_metrics = look
    record = run_in(
        tmp_path,
        [waiting(1, str(go)), waiting(2, str(go))],
        executor="processes",
        workers=3,
        exit_timeout_s=20.0,
        metrics=(endpoint_of(receiver, "http/protobuf"),),
        metric_interval_s=0.1,
        timeout_s=60.0,
    )
    assert record.outcome == "success"
    check_metrics(receiver.points, record)
    states = {}
    for point in receiver.points:
        if point.metric == "otel_exec.workers":
            states.setdefault(point.at_ns, {})[point.attributes["exec.worker.state"]] = point.value
    assert {"busy": 2, "idle": 1} in states.values()
    assert list(states.values())[-1] == {"busy": 0, "idle": 0}
    steps = sorted(
        (point.at_ns, point.value) for point in receiver.points if point.metric == "otel_exec.steps" and point.attributes["exec.outcome"] == "success"
    )
    assert (steps[0][1], max(value for _, value in steps)) == (0, 2)


def _die_once(config):
    mark = Path(config["mark"])
    if not mark.exists():
        mark.touch()
        with phase("last words"):
            os.kill(os.getpid(), signal.SIGKILL)


die_once = deferred(_die_once)


@step("mortal")
def mortal(mark):
    return die_once({"mark": mark})


def test_a_worker_that_dies_counts(tmp_path):
    """A killed worker is a death, its attempt an `error` that is measured, with the phase that was open in it, and what follows is a retry."""
    record = run_in(tmp_path, [mortal(str(tmp_path / "mark"))], executor="processes", workers=1, console_metrics=True)
    totals = check_metrics(written_points(record), record)
    assert (totals["otel_exec.worker.deaths"], totals["otel_exec.retries"], totals["otel_exec.task.duration"], totals["otel_exec.steps"]) == (1, 1, 2, 1)
    assert totals["otel_exec.phase.duration"] == 1


def test_deltas_add_up(tmp_path):
    """With deltas the points of all requests add up to what cumulative ones end with."""
    record = run_all(tmp_path, console_metrics=True, metric_temporality="delta", metric_interval_s=0.1)
    points = written_points(record)
    counted = sum(point.value for point in points if point.metric == "otel_exec.steps")
    tasks = [point for point in points if point.metric == "otel_exec.task.duration"]
    assert {point.temporality for point in points if point.metric != "otel_exec.workers"} == {DELTA}
    assert (counted, sum(point.count for point in tasks)) == (5, 5)
    ends = sorted({point.at_ns for point in points})
    assert {point.start_ns for point in points} <= {int(record.start_time_unix_nano), *ends}


@pytest.mark.parametrize(("settings", "named"), [({"sampler": "always_off"}, False), ({"exemplar_filter": "always_off"}, False), ({}, True)])
def test_exemplars_are_of_spans_that_go_out(tmp_path, settings, named):
    """A run whose spans are not sampled has its numbers, and names no spans in them."""
    record = run_small(tmp_path, console_metrics=True, **settings)
    points = written_points(record)
    assert check_metrics(points, record)["otel_exec.steps"] == 1
    assert any(point.exemplars for point in points) is named


def test_without_an_endpoint_nothing_is_collected(tmp_path):
    """No endpoint and no console: there is no metrics.jsonl, and the record knows of no export of metrics."""
    record = run_small(tmp_path)
    assert metrics_file.metrics_files(record.run_folder) == []
    assert record.export.metrics is None


def test_metrics_on_the_console(tmp_path, capsys):
    """`OTEL_METRICS_EXPORTER=console` prints the run's requests at its end, as they stand in metrics.jsonl."""
    record = run_small(tmp_path, console_metrics=True)
    assert capsys.readouterr().out == Path(record.run_folder, "metrics.jsonl").read_text(encoding="utf-8")


def test_a_disk_that_takes_no_metrics_changes_nothing(tmp_path, monkeypatch):
    """Where metrics can't be written the run succeeds, with one warning."""

    def full(self, line):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(MetricsFile, "append", full)
    record = run_small(tmp_path, console_metrics=True)
    assert record.outcome == "success"
    assert [(warning.code, warning.count) for warning in record.warnings] == [("metrics_failed", 1)]


def deliver(run_folder, endpoint):
    """Send a folder's metrics by the exporter's process; returns what became of them."""
    (entry,) = ExporterHandle.start(str(run_folder), [], exit_timeout_s=20, metrics=[endpoint]).finish().metrics
    return entry


def span_line():
    from support.spool_lines import line, span

    return line(span(1))


def metrics_line(number):
    """A request with one data point, whose value is the number."""
    from otel_exec.semconv import METRICS
    from otel_exec.spans.metric_codec import MetricEncoder
    from otel_exec.spans.metric_record import CountPoint, MetricRecord

    (metric,) = [metric for metric in METRICS if metric.name == "otel_exec.steps"]
    (line,) = MetricEncoder({"service.name": "demo"}, "ab" * 16).encode([MetricRecord(metric, (CountPoint({}, number),), 1, 2 + number)])
    return line
