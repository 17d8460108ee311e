"""Metrics as lines of OTLP/JSON, and as protobuf."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from support.otlp_receiver import ReceivedPoint, decode_metrics, parse_json

from otel_exec.semconv import METRICS
from otel_exec.spans.metric_codec import MetricEncoder
from otel_exec.spans.metric_record import BOUNDS_S, CountPoint, DurationPoint, MetricRecord
from otel_exec.spans.otlp_json import item_count, merge, parse_line
from otel_exec.spans.otlp_proto import to_request
from otel_exec.spans.signal import Signal

START = 1_700_000_000_000_000_000
TRACE_ID = "ab" * 16
BY_INSTRUMENT = {metric.instrument: metric for metric in METRICS}
encoder = MetricEncoder({"service.name": "demo", "process.pid": 4711}, TRACE_ID)

names = st.text(max_size=8)
counts = st.builds(CountPoint, st.dictionaries(names, st.one_of(names, st.booleans()), max_size=3), st.integers(0, 2**62))
samples = st.lists(st.tuples(st.integers(0, 10**16), st.sampled_from(["", "cd" * 8, "01" * 8])), max_size=5)


@st.composite
def histograms(draw):
    point = DurationPoint(draw(st.dictionaries(names, names, max_size=3)))
    for value_ns, span_id in draw(samples):
        point.add(value_ns, START, span_id or None)
    return point


def record_of(points, instrument, **more):
    return MetricRecord(BY_INSTRUMENT[instrument], tuple(points), START, START + 5, **more)


records = st.one_of(
    st.builds(record_of, st.lists(counts, min_size=1, max_size=3), st.sampled_from(["counter", "updowncounter"]), delta=st.booleans()),
    st.builds(record_of, st.lists(histograms(), min_size=1, max_size=3), st.just("histogram"), delta=st.booleans()),
)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.lists(records, min_size=1, max_size=3), min_size=1, max_size=3))
def test_json_and_protobuf_are_the_same_request(requests):
    """Lines read strictly by protobuf's own JSON parser, the lines merged, and the messages made by hand are the same; points are counted without parsing."""
    lines = [line for request in requests for line in encoder.encode(request)]
    parsed = [parse_line(line, Signal.METRICS) for line in lines]
    apart = [point for line in lines for point in decode_metrics(parse_json(line, ExportMetricsServiceRequest()))]
    assert decode_metrics(parse_json(merge(parsed), ExportMetricsServiceRequest())) == apart
    assert parse_json(merge(parsed), ExportMetricsServiceRequest()) == to_request(parsed)
    assert sum(map(item_count, parsed)) == len(apart)


def test_a_histogram_as_it_arrives():
    """Nanoseconds are seconds, the bounds are ours, an exemplar has its span, time, value and trace."""
    point = DurationPoint({"exec.name": "demo"})
    point.add(2_000_000, START + 7, "cd" * 8)
    point.add(400_000)
    (line,) = encoder.encode([record_of([point], "histogram")])
    (got,) = decode_metrics(parse_json(line, ExportMetricsServiceRequest()))
    metric = BY_INSTRUMENT["histogram"]
    assert got == ReceivedPoint(
        metric=metric.name,
        kind="histogram",
        unit="s",
        description=metric.brief,
        temporality=2,
        monotonic=None,
        attributes={"exec.name": "demo"},
        start_ns=START,
        at_ns=START + 5,
        count=2,
        sum=0.0024,
        min=0.0004,
        max=0.002,
        buckets=(1, 1, *([0] * (len(BOUNDS_S) - 1))),
        bounds=BOUNDS_S,
        exemplars=((START + 7, 0.002, "cd" * 8, TRACE_ID),),
        resource={"service.name": "demo", "process.pid": 4711},
        scope="otel_exec",
    )


def test_sums_say_what_they_are():
    """Counters are monotonic, what goes up and down is not; delta and cumulative are told apart."""
    lines = encoder.encode([record_of([CountPoint({}, 3)], "counter", delta=True), record_of([CountPoint({}, 4)], "updowncounter")])
    points = [point for line in lines for point in decode_metrics(parse_json(line, ExportMetricsServiceRequest()))]
    assert [(point.value, point.monotonic, point.temporality) for point in points] == [(3, True, 1), (4, False, 2)]


def test_many_series_are_several_lines():
    """No line comes near what receivers take, and no point is lost between two of them."""
    points = [DurationPoint({"exec.template": f"{number}" * 50}) for number in range(3000)]
    lines = encoder.encode([record_of(points, "histogram")])
    assert len(lines) > 1
    assert max(map(len, lines)) < 1 << 20
    assert sum(item_count(parse_line(line, Signal.METRICS)) for line in lines) == 3000


def test_nothing_is_no_line():
    """Metrics without points are left out, and nothing but them is not written at all."""
    assert encoder.encode([record_of([], "counter")]) == []


def test_names_that_are_no_text():
    """A lone surrogate in a template does not cost the line."""
    (line,) = encoder.encode([record_of([CountPoint({"exec.template": "a\ud800"}, 1)], "counter")])
    (got,) = decode_metrics(parse_json(line, ExportMetricsServiceRequest()))
    assert got.attributes["exec.template"].startswith("a")
