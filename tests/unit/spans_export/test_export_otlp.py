"""Lines of OTLP/JSON, merged and as protobuf."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.otlp_receiver import decode, decode_json
from support.spool_lines import line, span

from otel_exec.spans.otlp_json import ITEM_MARK, item_count, merge, parse_line
from otel_exec.spans.otlp_proto import retry_delay_s, status_message, to_request

text = st.text(st.characters(exclude_categories=["Cs"]), max_size=10)
scalars = st.one_of(
    text.map(lambda value: {"stringValue": value}),
    st.booleans().map(lambda value: {"boolValue": value}),
    st.integers(-(2**63), 2**63 - 1).map(lambda value: {"intValue": str(value)}),
    st.floats(allow_nan=False, allow_infinity=False).map(lambda value: {"doubleValue": value}),
)
values = st.one_of(scalars, st.lists(scalars, max_size=3).map(lambda items: {"arrayValue": {"values": items}}))
attributes = st.dictionaries(text, values, max_size=4).map(lambda pairs: [{"key": key, "value": value} for key, value in pairs.items()])
spans = st.builds(
    lambda number, name, attributes, status: span(number, name=name, attributes=attributes, status=status),
    st.integers(0, 2**60),
    text,
    attributes,
    st.sampled_from([{}, {"code": 2, "message": "x"}]),
)
lines = st.lists(st.tuples(st.lists(spans, max_size=3), text, text), min_size=1, max_size=4)


def key(each):
    return (each.span_id, each.name, repr(each.attributes), repr(each.resource), each.scope, each.status)


@given(lines)
def test_merging_changes_no_span(content):
    """Lines merged to one JSON request, the same lines as protobuf, and the lines one by one hold the same spans, resources and scopes."""
    texts = [line(*each, service=service, scope=scope) for each, service, scope in content]
    parsed = [parse_line(each.encode()) for each in texts]
    apart = sorted((got for each in texts for got in decode_json(each.encode())), key=key)
    assert sorted(decode_json(merge(parsed)), key=key) == apart
    assert sorted(decode(to_request(parsed)), key=key) == apart
    assert sum(map(item_count, parsed)) == len(apart) == sum(each.encode().count(ITEM_MARK) for each in texts)


def test_one_entry_per_resource_and_scope():
    """Spans of one resource and scope lie together in the merged request."""
    parsed = [parse_line(line(span(number), service=f"s{number % 2}").encode()) for number in range(6)]
    document = json.loads(merge(parsed))
    assert [len(resource["scopeSpans"][0]["spans"]) for resource in document["resourceSpans"]] == [3, 3]
    assert len(to_request(parsed).resource_spans) == 2


def test_schema_urls_are_kept():
    """Schema addresses of resources and scopes stay with their spans."""
    request = json.loads(line(span(1)))
    request["resourceSpans"][0]["schemaUrl"] = "https://a"
    request["resourceSpans"][0]["scopeSpans"][0]["schemaUrl"] = "https://b"
    parsed = [parse_line(json.dumps(request).encode()), parse_line(line(span(2)).encode())]
    document = json.loads(merge(parsed))
    assert [resource.get("schemaUrl") for resource in document["resourceSpans"]] == ["https://a", None]
    assert document["resourceSpans"][0]["scopeSpans"][0]["schemaUrl"] == "https://b"
    message = to_request(parsed)
    assert (message.resource_spans[0].schema_url, message.resource_spans[0].scope_spans[0].schema_url) == ("https://a", "https://b")


def test_the_mark_counts_spans_whatever_they_say():
    """Spans are counted right though a name, a key or a value looks like the mark."""
    tricky = span(1, name='"startTimeUnixNano":', attributes=[{"key": '"startTimeUnixNano":', "value": {"stringValue": '"startTimeUnixNano":"1"'}}])
    assert line(tricky).encode().count(ITEM_MARK) == 1


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b"{}",
        b"null",
        b'{"resourceSpans":[',
        b'{"resourceSpans":{}}',
        b'{"resourceSpans":[{"resource":[],"scopeSpans":[]}]}',
        b'{"resourceSpans":[{"scopeSpans":[{"spans":["x"]}]}]}',
        b'{"resourceSpans":[{"scopeSpans":[{"spans":[{"a":NaN}]}]}]}',
        b'{"resourceSpans":[{"scopeSpans":[{"spans":[{"a":"\xff"}]}]}]}',
        b'{"resourceSpans":[{"scopeSpans":[{"spans":[{"a":"\\ud800"}]}]}]}',
        b'{"resourceMetrics":[]}',
    ],
)
def test_what_is_no_line(content):
    """Broken JSON, other documents and text that is no UTF-8 are refused."""
    with pytest.raises(ValueError):
        parse_line(content)


@pytest.mark.parametrize(
    "more",
    [
        {"traceId": "0af7"},
        {"traceId": "zz" * 16},
        {"spanId": None},
        {"startTimeUnixNano": "-1"},
        {"startTimeUnixNano": "soon"},
        {"name": 5},
        {"attributes": [{"key": "n", "value": {"intValue": str(2**63)}}]},
        {"attributes": [{"value": {"stringValue": "x"}}]},
        {"attributes": 5},
        {"status": {"code": 2**40}},
        {"flags": 2**32},
    ],
)
def test_what_protobuf_cannot_hold(more):
    """A span that the messages can't hold is refused, with a ValueError and no other exception."""
    with pytest.raises(ValueError):
        to_request([parse_line(line(span(1, **more)).encode())])


@given(st.binary(max_size=200))
def test_answers_may_hold_anything(content):
    """Reading a status out of any bytes ends, and gives text and a delay or nothing."""
    assert isinstance(status_message(content), str)
    assert retry_delay_s(content) is None or retry_delay_s(content) >= 0
