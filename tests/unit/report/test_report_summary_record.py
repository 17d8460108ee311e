from __future__ import annotations

import typing

import msgspec
import pytest
import sample_record

from otel_exec.record import model
from otel_exec.report import breakdown_record
from otel_exec.report import summary_record as narrow

PAIRS = [
    (narrow.SummaryPhase, model.PhaseRecord),
    (narrow.SummaryError, model.RecordedError),
    (narrow.SummaryCachedFrom, model.CachedFrom),
    (narrow.SummaryAttempt, model.AttemptRecord),
    (narrow.SummaryStep, model.StepRecord),
    (narrow.SummaryNode, model.NodeRecord),
    (narrow.SummaryWorker, model.WorkerRecord),
    (narrow.SummaryRecord, model.RunRecord),
    (narrow.RunLine, model.RunRecord),
    (breakdown_record.BreakdownAttempt, model.AttemptRecord),
    (breakdown_record.BreakdownStep, model.StepRecord),
    (breakdown_record.BreakdownNode, model.NodeRecord),
    (breakdown_record.BreakdownWorker, model.WorkerRecord),
    (breakdown_record.BreakdownRecord, model.RunRecord),
]
WIDE_OF = {small.__name__: wide for small, wide in PAIRS}


def widened(annotation: object) -> object:
    """The annotation with each narrow struct replaced by the whole one."""
    if isinstance(annotation, type) and annotation.__name__ in WIDE_OF:
        return WIDE_OF[annotation.__name__]
    arguments = typing.get_args(annotation)
    return (typing.get_origin(annotation), tuple(widened(argument) for argument in arguments)) if arguments else annotation


@pytest.mark.parametrize(("small", "wide"), PAIRS)
def test_narrow_structs_are_a_part_of_the_records(small, wide):
    """Each field that the summary reads is a field of the record, of the same name, type and default: a renamed key would be read as unknown."""
    own, whole = typing.get_type_hints(small), typing.get_type_hints(wide)
    defaults = {field.name: (field.default, field.default_factory) for field in msgspec.structs.fields(wide)}
    for field in msgspec.structs.fields(small):
        assert field.name in whole
        assert widened(own[field.name]) == widened(whole[field.name])
        assert (field.default, field.default_factory) == defaults[field.name]


@pytest.mark.parametrize("name", ["twelve_steps", "all_cached", "empty", "running", "interrupted", "hostile"])
def test_the_narrow_record_gives_the_same_summary(name):
    """The summary of a record read narrowly is that of the whole record."""
    from otel_exec.report.as_json import as_mapping
    from otel_exec.report.summary import summary

    record = getattr(sample_record, name)()
    read = msgspec.json.decode(msgspec.json.encode(record), type=narrow.SummaryRecord)
    assert as_mapping(summary(read)) == as_mapping(summary(record))
