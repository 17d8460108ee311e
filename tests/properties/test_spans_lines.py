"""Spans to lines of OTLP/JSON and back, and what strict readers make of them."""

from __future__ import annotations

import json
import math
import tempfile

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from otel_exec.spans import sanitise
from otel_exec.spans.line_codec import LineEncoder
from otel_exec.spans.span_record import SpanLink, SpanRecord
from otel_exec.spans.spool import SpoolWriter, decode_line, read_spool

texts = st.text(st.characters(exclude_categories=("Cs",)), max_size=20)
wild_texts = st.text(st.characters(), max_size=20)
keys = texts.filter(lambda key: key not in {"", "exec.kind", "exec.edge"})
ints = st.integers(-(2**63), 2**63 - 1)
floats = st.floats(allow_nan=False, allow_infinity=False)
clean_values = st.one_of(texts, st.booleans(), ints, floats, *(st.lists(one, max_size=3) for one in (texts, st.booleans(), ints, floats)))
wild_values = st.recursive(
    st.one_of(
        st.none(),
        wild_texts,
        st.booleans(),
        st.integers(),
        st.floats(),
        st.binary(max_size=8),
        st.integers(1000, 2000).map(lambda exponent: 10**exponent),
        st.complex_numbers(),
    ),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(wild_texts, inner, max_size=2) | st.tuples(inner) | st.frozensets(wild_texts, max_size=3),
    max_leaves=5,
)
span_ids = st.integers(1, 2**64 - 1).map(lambda number: f"{number:016x}")
trace_ids = st.integers(1, 2**128 - 1).map(lambda number: f"{number:032x}")
clean_attributes = st.dictionaries(keys, clean_values, max_size=5)
instants = st.integers(0, 2**63 - 1)
links = st.builds(SpanLink, trace_ids, span_ids, st.sampled_from(["data", "nonblocking", ""]), clean_attributes)
spans = st.builds(
    SpanRecord,
    trace_ids,
    span_ids,
    st.one_of(st.just(""), span_ids),
    texts,
    st.sampled_from(["phase", "task", ""]),
    instants,
    instants,
    clean_attributes,
    st.lists(links, max_size=2).map(tuple),
    st.integers(0, 2),
    texts,
    st.integers(1, 5),
    st.lists(st.tuples(instants, texts, clean_attributes), max_size=2).map(tuple),
    texts,
    st.sampled_from([0, 1, 0x201]),
    texts,
)


@given(st.lists(spans, min_size=1, max_size=4), clean_attributes)
@settings(max_examples=150, deadline=None)
def test_spans_read_back_are_the_spans_written(records, resource):
    """Whatever clean spans are encoded, decoding their lines gives equal records, one a line."""
    lines = LineEncoder(resource).encode(records).split(b"\n")
    assert lines.pop() == b""
    assert [decoded for line in lines for decoded in decode_line(line)] == records


@given(spans)
@settings(max_examples=100, deadline=None)
def test_spans_cross_processes_whole(record):
    """A span that travels as msgpack is the same on the other side."""
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(record), type=SpanRecord) == record


@given(wild_texts, st.dictionaries(wild_texts, wild_values, max_size=5), st.dictionaries(wild_texts, wild_values, max_size=2))
@settings(max_examples=200, deadline=None)
def test_nothing_that_a_user_hands_in_makes_an_invalid_line(name, attributes, resource):
    """Names and attributes of any kind end in UTF-8 JSON with no NaN, no null, no empty value and no int past 64 bits, even if nobody cleaned them before."""
    record = SpanRecord("0" * 31 + "1", "0" * 15 + "1", "", name, "phase", 0, 1, attributes, status=2, status_message=name)
    line = LineEncoder(resource).encode([record])
    request = json.loads(line.decode("utf-8"), parse_constant=lambda word: (_ for _ in ()).throw(AssertionError(word)))
    assert line.count(b"\n") == 1
    span = request["resourceSpans"][0]["scopeSpans"][0]["spans"][0]
    for pair in [*span["attributes"], *request["resourceSpans"][0]["resource"]["attributes"]]:
        check_value(pair["value"])
    line.decode().encode("utf-16")  # a lone surrogate would not encode


def check_value(value):
    assert len(value) == 1
    ((kind, inner),) = value.items()
    if kind == "intValue":
        assert isinstance(inner, str)
        assert -(2**63) <= int(inner) < 2**63
    elif kind == "doubleValue":
        assert math.isfinite(inner)
    elif kind == "arrayValue":
        assert len({next(iter(item)) for item in inner["values"]}) <= 1
        for item in inner["values"]:
            check_value(item)
    else:
        assert (kind, type(inner)) in {("stringValue", str), ("boolValue", bool)}


@given(st.dictionaries(wild_texts, wild_values, max_size=5))
@settings(max_examples=200, deadline=None)
def test_cleaning_twice_changes_nothing_more(attributes):
    """Cleaned attributes are clean: cleaning them again gives the same, and `is_clean` never says yes to what cleaning would change."""
    cleaned = sanitise.attributes(attributes)
    assert sanitise.attributes(cleaned) == cleaned
    if sanitise.is_clean(attributes):
        assert cleaned == attributes


@given(st.lists(spans, min_size=1, max_size=4), st.integers(1, 400))
@settings(max_examples=40, deadline=None)
def test_a_spool_cut_anywhere_keeps_what_was_whole(records, cut):
    """A file that ends in the middle of a line gives the spans of the lines before it, and no error."""
    with tempfile.TemporaryDirectory() as folder:
        writer = SpoolWriter(folder, "w", {})
        writer.write(records)
        writer.close()
        with open(writer.path, "rb") as file:
            data = file.read()
        kept = max(0, len(data) - cut)
        with open(writer.path, "wb") as file:
            file.write(data[:kept])
        whole, size = 0, 0
        for line in [part + b"\n" for part in data.split(b"\n")[:-1]]:
            size += len(line)
            whole += size - 1 <= kept
        assert list(read_spool(folder)) == records[:whole]
