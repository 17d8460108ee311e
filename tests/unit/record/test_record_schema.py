from __future__ import annotations

import json

import jsonschema
import msgspec
import pytest

from otel_exec.record import schema
from otel_exec.record.journal import JournalLine
from otel_exec.record.model import AttemptRecord, ExecutorRecord, Experiment, LevelRecord, PhaseRecord, RunRecord, StepRecord
from otel_exec.record.record_file import write_record
from otel_exec.record.status_model import Progress, StatusRecord

NAMES = [name for name, _, _ in schema.SCHEMAS]


def run_record(**more):
    """A small record with something of everything nested in it."""
    step = StepRecord("a-123456", "a", level=1, config={"x": [1, None]}, attempts=[AttemptRecord(1, phases={"load": PhaseRecord(1)})])
    fields = {"steps": [step], "levels": [LevelRecord(1)], **more}
    return RunRecord(
        "1.0", "exec_1", "t", "s", "success", Experiment("demo"), ExecutorRecord("inline", 1), "/p", "/p/r", "2026-11-23T14:41:14.000001+00:00", **fields
    )


def committed(name):
    with open(schema.schema_path(name), encoding="utf-8") as file:
        return json.load(file)


@pytest.mark.parametrize("name", NAMES)
def test_the_committed_schemas_are_those_of_the_types(name):
    """The committed schema is what the types give now; `python -m otel_exec.record.schema` brings it up to date."""
    with open(schema.schema_path(name), "rb") as file:
        assert file.read() == schema.schema_of(name)


@pytest.mark.parametrize("name", NAMES)
def test_the_schemas_are_valid_and_name_no_host(name):
    """Each schema is a valid one of draft 2020-12, with an id that names no host."""
    found = committed(name)
    jsonschema.Draft202012Validator.check_schema(found)
    assert found["$schema"].endswith("2020-12/schema")
    assert "://" not in found["$id"]
    assert found["title"]
    assert found["description"]


def test_a_record_fits_its_schema():
    """A written run.json fits the schema, with nulls where nothing is known and with keys of a newer writer."""
    record = json.loads(write_record(run_record()))
    assert record["steps"][0]["error"] is None
    record["of_a_newer_writer"] = record["steps"][0]["of_a_newer_writer"] = {"a": 1}
    jsonschema.Draft202012Validator(committed("run.schema.json")).validate(record)


def test_a_status_and_a_journal_line_fit_theirs():
    """A written status.json and a line of the journal fit their schemas."""
    status = StatusRecord("1.0", "exec_1", "running", "2026-11-23T14:41:14.000001+00:00", Progress(1, 2))
    jsonschema.Draft202012Validator(committed("status.schema.json")).validate(msgspec.to_builtins(status))
    line = JournalLine(1, "ended", node="a", error={"type": "x", "where": None}, data={"k": [1]})
    jsonschema.Draft202012Validator(committed("journal_line.schema.json")).validate(msgspec.to_builtins(line))


@pytest.mark.parametrize("spoil", [{"steps": {}}, {"exec_id": None}, {"duration_ns": 1.5}, {"outcome": 3}])
def test_the_schema_refuses_what_is_no_record(spoil):
    """A value of another type, or a missing name, does not fit."""
    record = {**json.loads(write_record(run_record())), **spoil}
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.Draft202012Validator(committed("run.schema.json")).validate(record)


# What is promised to readers, key by key.
PROMISED = {
    RunRecord: (
        "schema_version exec_id trace_id root_span_id outcome experiment executor prefix run_folder start_time end_time start_time_unix_nano duration_ns"
        " steps nodes levels workers gates metrics critical_path wall export resumed_from warnings environment"
    ),
    Experiment: "name description script argv",
    ExecutorRecord: "kind workers max_concurrent barrier",
    StepRecord: (
        "node_id name fn_name level description config version dependencies output_path override_output_path group depends_on pseudo_depends_on status outcome"
        " cached cached_from scheduled_time execution_start_time execution_end_time duration_seconds total_duration_seconds start_ns end_ns span_id"
        " attempts items phases error"
    ),
    AttemptRecord: (
        "attempt worker_id outcome created_ns claimed_ns settled_ns start_ns end_ns span_id wait_ns queue_ns load_ns execution_ns verification_ns store_ns"
        " backoff_ns cpu_ns peak_rss_bytes phases error"
    ),
    PhaseRecord: "count total_ns union_ns self_ns share_ns min_ns max_ns p50_ns p95_ns p99_ns errors",
    StatusRecord: "schema_version exec_id state updated_at progress levels workers metrics open eta_ms",
    Progress: "done total failed cached",
}


@pytest.mark.parametrize("type_", PROMISED, ids=lambda type_: type_.__name__)
def test_the_promised_keys_stand_in_their_order(type_):
    """The promised keys are there, in the promised order, whatever else stands between them."""
    promised = PROMISED[type_].split()
    assert [field for field in type_.__struct_fields__ if field in promised] == promised


def test_every_key_is_written():
    """A record that knows nothing has every key all the same: null is written, not left out."""
    written = json.loads(write_record(run_record()))
    assert tuple(written) == RunRecord.__struct_fields__
    assert tuple(written["steps"][0]["attempts"][0]) == AttemptRecord.__struct_fields__


def test_the_command_checks_and_writes(tmp_path, monkeypatch, capsys):
    """`--check` tells what is out of date without writing; without it the schemas are written."""
    monkeypatch.setattr(schema, "schema_path", lambda name: f"{tmp_path}/{name}")
    assert schema.main(["--check"]) == 1
    assert list(tmp_path.iterdir()) == []
    assert schema.main([]) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(NAMES)
    capsys.readouterr()
    assert schema.main(["--check"]) == 0
    assert capsys.readouterr().out == ""
