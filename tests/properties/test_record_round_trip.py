"""Random records and lines, there and back."""

from __future__ import annotations

import json
import os
import tempfile
import types
import typing

import jsonschema
import msgspec
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from otel_exec.errors import RecordError
from otel_exec.record import step_files, storage
from otel_exec.record.encoding import encode
from otel_exec.record.journal import Journal, JournalLine, read_journal
from otel_exec.record.model import SCHEMA_VERSION, RunRecord
from otel_exec.record.record_file import decode_record, write_record
from otel_exec.record.schema import schema_of
from otel_exec.record.status_model import StatusRecord
from otel_exec.record.step_files import StatusEvent
from otel_exec.semconv import Outcome

TEXT = st.text(max_size=8)
NUMBERS = st.integers(-(2**63), 2**64 - 1)
FLOATS = st.floats(allow_nan=False, allow_infinity=False)
JSON = st.recursive(
    st.none() | st.booleans() | NUMBERS | FLOATS | TEXT, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3), max_leaves=5
)
# What users put into configs: bad text, numbers that JSON lacks, objects, keys of any type.
NASTY = st.recursive(
    st.none()
    | st.integers(-(2**80), 2**80)
    | st.floats()
    | st.text(alphabet=st.characters(categories=("L", "Cs", "Cc")), max_size=5)
    | st.binary(max_size=3)
    | st.just(object)
    | st.complex_numbers(),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(alphabet="a\ud800", max_size=3) | st.integers() | st.tuples(st.integers()), inner, max_size=3)
    ),
    max_leaves=8,
)
QUICK = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])


def of_type(annotation):
    """Return a strategy for the values of an annotation."""
    if annotation is typing.Any:
        return JSON
    if isinstance(annotation, type) and issubclass(annotation, msgspec.Struct):
        hints = typing.get_type_hints(annotation)
        fixed = {"schema_version": st.just(SCHEMA_VERSION), "start_time_unix_nano": st.integers(0, 10**19 - 1).map(str)}
        return st.builds(annotation, **{field: fixed[field] if field in fixed else of_type(hints[field]) for field in annotation.__struct_fields__})
    simple = {str: TEXT, int: NUMBERS, float: FLOATS, bool: st.booleans(), type(None): st.none(), msgspec.UnsetType: st.just(msgspec.UNSET)}
    if annotation in simple:
        return simple[annotation]
    arguments = typing.get_args(annotation)
    if isinstance(annotation, types.UnionType):
        return st.one_of([of_type(each) for each in arguments])
    if typing.get_origin(annotation) is list:
        return st.lists(of_type(arguments[0]), max_size=2)
    return st.dictionaries(TEXT, of_type(arguments[1]), max_size=2)


@QUICK
@given(of_type(RunRecord))
def test_a_record_comes_back_as_it_was(record):
    """Any record that is written is read back equal, and fits its schema."""
    content = write_record(record)
    assert decode_record("run.json", content, RunRecord) == record
    jsonschema.Draft202012Validator(json.loads(schema_of("run.schema.json"))).validate(json.loads(content))


@QUICK
@given(of_type(StatusRecord))
def test_a_status_comes_back_as_it_was(status):
    """Any status that is written is read back equal."""
    assert msgspec.json.decode(encode(status), type=StatusRecord) == status


# Instants before 1970, attempts below the first and outcomes that are none are a damaged file's: readers pass them over.
LINES = st.lists(
    st.builds(
        lambda line, outcome: msgspec.structs.replace(
            line, at=abs(line.at) % (1 << 62), attempt=line.attempt and 1 + abs(line.attempt) % 1000, outcome=outcome
        ),
        of_type(JournalLine),
        st.none() | st.sampled_from([outcome.value for outcome in Outcome]),
    ),
    max_size=4,
)


@QUICK
@given(LINES, LINES, st.binary(max_size=10))
def test_a_journal_comes_back_as_it_was(before, after, torn):
    """Transitions come back in order, over a writer that was killed in the middle of a line."""
    with tempfile.TemporaryDirectory() as folder:
        for lines in (before, after):
            journal = Journal(folder)
            journal.append(lines)
            journal.close()
            if lines is before:
                with open(f"{folder}/journal.jsonl", "ab") as file:
                    file.write(b'{"at":' + torn.replace(b"\n", b""))
        assert read_journal(folder) == [*before, *after]


@QUICK
@given(st.lists(of_type(StatusEvent), max_size=4))
def test_status_lines_come_back_as_they_were(events):
    """Status events come back in order."""
    with tempfile.TemporaryDirectory() as folder:
        for event in events:
            step_files.append_event(folder, event)
        assert step_files.read_events(folder) == events


@QUICK
@given(NASTY)
def test_whatever_a_config_holds_becomes_json(value):
    """Any value is written as JSON that a strict reader takes: UTF-8, no NaN, no lone surrogate."""

    def refuse(constant):
        raise AssertionError(constant)

    text = encode({"config": value}).decode("utf-8")
    json.loads(text, parse_constant=refuse)
    msgspec.json.decode(text)


@QUICK
@given(st.data())
def test_no_damage_raises_anything_but_a_record_error(data):
    """A record cut off, or with bytes changed anywhere, is read or refused in one sentence."""
    content = bytearray(write_record(data.draw(of_type(RunRecord))))
    for _ in range(data.draw(st.integers(0, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(content)))
    try:
        decode_record("run.json", bytes(content[:cut]), RunRecord)
        refused = None
    except RecordError as error:
        refused = error
    assert refused is None or (refused.path == "run.json" and "\n" not in str(refused))


@QUICK
@given(st.lists(st.binary(max_size=30).map(lambda line: line.replace(b"\n", b"")), max_size=5))
def test_any_bytes_are_read_as_some_events(lines):
    """Whatever stands in a status file and an info file, reading them ends well."""
    with tempfile.TemporaryDirectory() as folder:
        for name in (step_files.STATUS, step_files.INFO):
            storage.replace(folder + name, b"\n".join(lines))
        assert len(step_files.read_events(folder)) <= len(lines)
        assert isinstance(step_files.read_info(folder), dict | None)
        assert sorted(os.listdir(folder)) == [".executor_info", ".executor_status"]
