"""Real Tempo behind the real Collector: traces come back whole, and every TraceQL query of every board has rows."""

from __future__ import annotations

import base64
import json
import time

import pytest
from support.otlp_receiver import OtlpReceiver
from support.outside import otel_exec
from support.stack_programs import Collector, Tempo, get, get_json, program, wait_until
from support.stack_runs import LARGE_TRACE_ID, figure, queries, run_example, run_turbulent, send_large, send_piece

from otel_exec.testing import recorded_spans

pytestmark = [pytest.mark.collector, pytest.mark.slow]
VARIABLES = {"experiment": ".*", "template": ".*", "phase": ".*"}
# Of spans that lie in several blocks a search shows those of one, unless each is a group of its own.
BY_SPAN = " | by(span:id)"
# A search looks only at what came a while ago (`query_frontend.query_end_cutoff`), and blocks are cut in between.
_FOUND_S = 120


@pytest.fixture(scope="module")
def filled(tmp_path_factory):
    """Tempo with two runs that came through the Collector: the example, and one in which everything happens."""
    program("collector")
    program("tempo")
    folder = tmp_path_factory.mktemp("stack")
    with OtlpReceiver() as jaeger, Tempo(folder / "tempo") as tempo:
        with Collector(folder / "collector", f"127.0.0.1:{jaeger.grpc_port}", tempo.otlp) as collector:
            records = [run_example(folder / "example", collector.grpc_endpoint), run_turbulent(folder / "turbulent", collector.grpc_endpoint)]
            for record in records:
                arrived(tempo, f'{{ span.exec.id = "{record.exec_id}" }}', len(recorded_spans(record)))
            yield tempo, collector, records, folder


def arrived(tempo, query, count, within_s=_FOUND_S):
    """Wait until so many spans are on Tempo's disk.

    Not by the trace's id: asked for one of which a part is on disk and a part still in memory, Tempo 3.0 gives both and forgets spans of the second part.
    """

    def counted():
        return sum(float(series.get("value", 0)) for series in measure(tempo, query + " | count_over_time()"))

    wait_until(lambda: counted() >= count, within_s, lambda: f"{query}: {counted()} of {count}; {tempo.tail()}")


def trace_of(tempo, trace_id):
    """The spans of a trace: id to span, as OTLP/JSON has it; each once."""
    status, body = get(f"{tempo.query}/api/traces/{trace_id}")
    assert status == 200, body
    found = {}
    for batch in json.loads(body)["batches"]:
        for scope in batch["scopeSpans"]:
            for span in scope["spans"]:
                identity = base64.b64decode(span["spanId"]).hex()
                assert identity not in found, f"{span['name']} is there twice"
                found[identity] = span
    return found


def search(tempo, query, back_s=7200, **more):
    """The spans that a TraceQL query finds, of all traces."""
    now = time.time()
    found = get_json(f"{tempo.query}/api/search", q=query, start=str(int(now - back_s)), end=str(int(now) + 10), limit="100", spss="1000", **more)
    return [span for trace in found["traces"] or () for span_set in trace["spanSets"] for span in span_set["spans"]]


def measure(tempo, query, back_s=7200):
    """The series of a TraceQL metrics query over the last hours, or longer."""
    now = time.time()
    return get_json(f"{tempo.query}/api/metrics/query", q=query, start=str(int(now - back_s)), end=str(int(now))).get("series") or []


def test_a_trace_comes_back_as_it_was_recorded(filled):
    """By its id each trace is there, span for span, once, with its times to the nanosecond, its parents, attributes and links."""
    tempo, _, records, _ = filled
    for record in records:
        spans = {span.span_id: span for span in recorded_spans(record)}
        trace = trace_of(tempo, record.trace_id)
        assert set(trace) == set(spans)
        for identity, found in trace.items():
            span = spans[identity]
            assert (int(found["startTimeUnixNano"]), int(found["endTimeUnixNano"]), found["name"]) == (span.start_ns, span.end_ns, span.name)
            assert base64.b64decode(found.get("parentSpanId", "")).hex() == span.parent_span_id
            assert {each["key"] for each in found["attributes"]} == {"exec.kind", *span.attributes} - ({"exec.kind"} if not span.kind else set())
            assert {base64.b64decode(link["spanId"]).hex() for link in found.get("links", ())} == {link.span_id for link in span.links}


def test_searches_find_what_the_record_has(filled):
    """TraceQL by exec id, outcome, node name and error finds exactly the spans that the spools have."""
    tempo, _, records, _ = filled
    example, turbulent = records
    spans = recorded_spans(turbulent)

    def ids(holds):
        return {span.span_id for span in spans if holds(span)}

    wanted = {
        f'{{ span.exec.id = "{turbulent.exec_id}" }}': ids(lambda span: True),
        f'{{ span.exec.id = "{example.exec_id}" && span.exec.kind = "step" }}': {span.span_id for span in recorded_spans(example) if span.kind == "step"},
        '{ span.exec.outcome = "failure" }': ids(lambda span: span.attributes.get("exec.outcome") == "failure"),
        '{ span.node.name = "flaky" && span.exec.kind = "task" }': ids(lambda span: span.kind == "task" and span.attributes["node.name"] == "flaky"),
        "{ status = error }": ids(lambda span: span.status == 2),
    }
    for query, found in wanted.items():
        assert found
        assert {each["spanID"] for each in search(tempo, query + BY_SPAN)} == found, query


def test_a_run_of_minutes_is_shown_whole(filled):
    """Of a run whose spans come bit by bit, and lie in several places with Tempo, the board shows each step once; so it does while the run goes on."""
    tempo, collector, _, folder = filled
    trace_id = f"{time.time_ns():032x}"
    ((_, _, query),) = [each for each in queries("tempo", VARIABLES | {"exec_id": f"exec_{trace_id}"}) if "Which steps ran when?" in each[0]]
    sent = []
    for piece in range(3):
        sent += send_piece(folder / f"piece-{piece}", collector.grpc_endpoint, trace_id, range(piece * 20, piece * 20 + 20))
        arrived(tempo, f'{{ span.exec.id = "exec_{trace_id}" }}', len(sent))
        assert sorted(each["spanID"] for each in search(tempo, query)) == sorted(sent)


def test_every_query_of_every_board_returns_rows(filled):
    """Each TraceQL query runs and returns at least one row, those of a single run for that run."""
    tempo, _, records, _ = filled
    asked = queries("tempo", VARIABLES | {"exec_id": records[1].exec_id})
    assert len(asked) > 10
    for question, _, query in asked:
        ask = measure if "over_time" in query else search
        wait_until(lambda ask=ask, query=query: ask(tempo, query), _FOUND_S, lambda question=question, query=query: f"{question}: {query}")


@pytest.mark.parametrize("days", [1, 7, 13])
def test_boards_may_look_back(filled, days):
    """Queries are answered over each board's time, over a week and nearly as far back as blocks are kept."""
    tempo, _, records, _ = filled
    of_run = f'{{ span.exec.id = "{records[1].exec_id}" }}'
    back_s = days * 86400 + 60
    wait_until(lambda: search(tempo, of_run, back_s), _FOUND_S, lambda: f"{of_run} over {days} days")
    wait_until(lambda: measure(tempo, of_run + " | count_over_time()", back_s), _FOUND_S, lambda: f"{of_run} counted over {days} days")


def test_the_longest_are_the_longest(filled):
    """What the boards call the longest is so of all spans: the first is the longest of the record, with its duration."""
    tempo, _, records, _ = filled
    ((_, _, query),) = [each for each in queries("tempo", VARIABLES | {"exec_id": records[1].exec_id}) if "Which steps had the longest try" in each[0]]
    longest = max((span for span in recorded_spans(records[1]) if span.kind == "task"), key=lambda span: span.duration_ns)

    def first():
        # A step has a series for each worker that had a part in it.
        return max(((name_of(series), float(series["value"])) for series in measure(tempo, query)), key=lambda each: each[1], default=None)

    wanted = (longest.attributes["node.name"], pytest.approx(longest.duration_ns / 1e9, rel=1e-6))
    wait_until(lambda: first() == wanted, _FOUND_S, lambda: (first(), wanted))


def name_of(series):
    """The step that a series is of."""
    return next(label["value"]["stringValue"] for label in series["labels"] if label["key"] == "span.node.name")


def test_the_doctor_finds_its_span(tmp_path, filled):
    """`otel-exec doctor` sends a span through the Collector and finds it again in Tempo."""
    tempo, collector, _, _ = filled
    done = otel_exec("doctor", "--endpoint", collector.grpc_endpoint, "--query", tempo.query, cwd=tmp_path)
    assert done.returncode == 0, done.stdout
    assert "ok found again: Tempo has the span" in done.stdout


def test_a_hundred_thousand_spans_arrive_whole(filled):
    """A trace of 100,000 spans comes back by its id, each span once."""
    tempo, collector, _, folder = filled
    count = 100_000
    sent_s = send_large(folder / "large", collector.grpc_endpoint, count)
    begun = time.perf_counter()
    arrived(tempo, f'{{ span.exec.id = "exec_{LARGE_TRACE_ID}" }}', count, within_s=240)
    arrived_s = time.perf_counter() - begun
    begun = time.perf_counter()
    assert len(trace_of(tempo, LARGE_TRACE_ID)) == count
    figure(backend="tempo", spans=count, sent_s=sent_s, whole_after_s=arrived_s, read_s=time.perf_counter() - begun)
