from __future__ import annotations

import json

import pytest
import sample_record

from otel_exec.errors import UsageError
from otel_exec.record.model import Export, StepRecord
from otel_exec.report.as_json import as_json, as_mapping
from otel_exec.report.as_text import as_text
from otel_exec.report.look import ASCII, UNICODE, Look
from otel_exec.report.short_summary import short_summary
from otel_exec.report.steps import count_steps, reached
from otel_exec.report.summary import summary
from otel_exec.report.text_safety import display_width

SAMPLES = ["twelve_steps", "all_cached", "empty", "running", "interrupted", "hostile"]
# A path or an address stands on its line whole; all other text fits.
UNBROKEN = ("record ", "read on in ", "address ", "sent to ", "at ", "exec id ", "trace id ", "trace ")


def text_of(name: str, look: Look, **options) -> str:
    return as_text(summary(getattr(sample_record, name)(), **options), look)


@pytest.mark.parametrize("name", SAMPLES)
@pytest.mark.parametrize("width", [40, 60, 80, 81, 120, 200])
@pytest.mark.parametrize("signs", [ASCII, UNICODE])
def test_a_summary_fits_its_width(name, width, signs):
    """At any width from 40 on no line is wider, but for paths, ids and addresses, which are never broken."""
    for line in text_of(name, Look(width, signs=signs), top=15, record_path="outputs/run.json").splitlines():
        assert display_width(line) <= width or line.strip().startswith(UNBROKEN) or len(line.split()) == 1, line


@pytest.mark.parametrize("name", SAMPLES)
def test_plain_text_is_ascii_without_escapes(name):
    """With ASCII signs and an ASCII encoding nothing else is written, whatever the names hold."""
    text = text_of(name, Look(80, encoding="ascii"))
    assert text.isascii()
    assert "\x1b" not in text
    assert all(line.isprintable() for line in text.split("\n"))


@pytest.mark.parametrize("name", SAMPLES)
def test_colour_changes_nothing_but_colour(name):
    """Taking the styles out of the coloured text gives the plain text, and names that hold escapes stay neutralised."""
    import re

    plain, coloured = (text_of(name, Look(80, signs=UNICODE, colour=colour)) for colour in (False, True))
    assert coloured != plain
    # A style put around padded text leaves trailing spaces behind, nothing else.
    bare = re.sub(r"\x1b\[\d+m", "", coloured)
    assert [line.rstrip() for line in bare.split("\n")] == [line.rstrip() for line in plain.split("\n")]


def test_numbers_are_the_records_own():
    """Every duration in the JSON is the record's nanoseconds, and its seconds are those of the record's `duration_seconds`."""
    record = sample_record.twelve_steps()
    told = as_mapping(summary(record))
    by_id = {step.node_id: step for step in record.steps}
    assert len(told["steps"]) == 12
    for row in told["steps"]:
        step = by_id[row["node_id"]]
        assert row["execution_seconds"] == step.duration_seconds
        assert row["execution_ns"] == (step.attempts[-1].execution_ns if step.attempts else None)
        assert row["total_seconds"] == step.total_duration_seconds
    assert sum(row["duration_ns"] for row in told["wall"]) == told["duration_ns"] == record.duration_ns
    assert told["critical_path"]["duration_ns"] + told["critical_path"]["outside_ns"] == record.duration_ns
    assert [row["node_id"] for row in told["critical_path"]["steps"]] == record.critical_path.steps
    assert told["workers"]["busy_ns"] == sum(worker.busy_ns for worker in record.workers)


def test_json_has_the_same_keys_for_every_run():
    """A script that reads one summary can read them all: keys are there, values may be null."""
    first, *others = (as_mapping(summary(getattr(sample_record, name)())) for name in SAMPLES)
    for other in others:
        assert list(other) == list(first)
        assert [list(other[key]) for key in ("trace", "critical_path", "workers", "step_counts")] == [
            list(first[key]) for key in ("trace", "critical_path", "workers", "step_counts")
        ]


def test_json_is_valid_whatever_the_names_hold():
    """Escapes, line separators and lone surrogates come out as JSON that any reader takes."""
    record = sample_record.hostile()
    record.steps[0].name += "\ud800"
    told = json.loads(as_json(summary(record)).decode("utf-8"))
    assert told["experiment"] == "demo\x1b[2J\x07"
    assert told["steps"][0]["name"].endswith("?")


def test_steps_are_counted_once_each_and_groups_never():
    """A run of 12 steps and a group: 9 ran, 2 of them failed; 2 cached, 1 not run."""
    counts = count_steps(sample_record.twelve_steps())
    assert (counts.total, counts.ran, counts.failed, counts.cached, counts.not_run, counts.groups) == (12, 9, 2, 2, 1, 1)
    assert reached(counts, over=True) == "12: 9 ran (2 failed), 2 cached, 1 not run"


def test_a_step_counts_as_run_only_if_something_of_it_ran():
    """A failure of an earlier run that stands, a step cancelled before it began and one that nobody needed did not run."""
    record = sample_record.empty()
    record.steps = [
        StepRecord("a-1", "a", outcome="failure", reason="failed_previously"),
        StepRecord("b-1", "b", outcome="cancellation", reason="cancelled"),
        StepRecord("c-1", "c", outcome="skip", reason="not_needed"),
    ]
    counts = count_steps(record)
    assert (counts.ran, counts.failed, counts.cancelled, counts.not_run) == (0, 1, 0, 2)
    assert reached(counts, over=True) == "3: 0 ran, 1 failed before, 2 not run"


def test_steps_left_open_are_interrupted_once_the_run_is_over():
    """A step without an outcome is running or pending while its run goes on, and interrupted or not run when it was killed."""
    record = sample_record.running()
    assert [row["outcome"] for row in as_mapping(summary(record))["steps"]] == ["success", "running", "pending"]
    assert "3: 1 ran, 2 not done yet" in as_text(summary(record), Look(80))
    record.outcome = "interrupted"
    assert [row["outcome"] for row in as_mapping(summary(record))["steps"]] == ["success", "interrupted", "not run"]
    assert "3: 1 ran, 2 left open" in as_text(summary(record), Look(80))


def test_long_lists_are_cut_and_say_what_was_cut():
    """`top` keeps the steps that took longest, in the order asked for, and says how many were left out and how long they took."""
    record = sample_record.twelve_steps()
    text = text_of("twelve_steps", Look(80), top=3)
    assert "the 3 that took longest of 12" in text
    assert "and 9 more steps of at most 27s, 1m34s in all" in text
    for sort, names in (
        ("start", ["train_bpe/vocab=32000", "train_ngram/vocab=32000"]),
        ("duration", ["train_bpe/vocab=32000", "train_ngram/vocab=32000"]),
        ("name", ["train_bpe/vocab=32000", "train_ngram/vocab=32000"]),
    ):
        told = as_mapping(summary(record, sort=sort, top=2))
        assert [row["name"] for row in told["steps"]] == names
        assert told["steps_hidden"] == 10


@pytest.mark.parametrize(
    ("sort", "first", "last"), [("start", "collect", "report"), ("duration", "train_bpe/vocab=32000", "report"), ("name", "clean", "train_ngram/vocab=8000")]
)
def test_steps_come_in_the_order_asked_for(sort, first, last):
    """By start, by duration with the longest first, or by name."""
    rows = as_mapping(summary(sample_record.twelve_steps(), sort=sort))["steps"]
    assert (rows[0]["name"], rows[-1]["name"]) == (first, last)


def test_an_unknown_order_is_a_usage_error():
    """It names what is accepted."""
    with pytest.raises(UsageError, match="start, duration, name"):
        summary(sample_record.empty(), sort="size")


def test_two_steps_of_one_name_are_told_apart():
    """Where a name is not enough the node id is shown."""
    record = sample_record.all_cached()
    record.steps[1].name = record.steps[0].name
    rows = as_mapping(summary(record))["steps"]
    assert [row["name"] for row in rows[:3]] == ["collect-000000", "clean-000001", "split"]


def test_errors_give_their_first_line_and_where_to_read_on():
    """Each failed step: what, the first line of the message, the place, the log."""
    text = text_of("twelve_steps", Look(80))
    block = text[text.index("Errors (2)") :]
    assert "evaluate/vocab=8000: failure\n    ZeroDivisionError: division by zero\n    at examples/lm_pipeline.py:142\n" in block
    assert "read on in outputs/evaluate/vocab=8000-f00d5a/.executor_log" in block
    assert "evaluate/vocab=32000: timeout after 2 attempts" in block
    assert "while scoring shard 3" not in text
    assert "1 step was not run because of these." in block


def test_the_newest_export_counts_are_shown():
    """What export.json knows is preferred to the record, and what is left in the spool is said."""
    record = sample_record.twelve_steps()
    assert "69 of 71 spans; 2 still in the spool" in as_text(summary(record), Look(80))
    newer = Export(endpoint="http://localhost:4317", protocol="grpc", spans=71, spans_acknowledged=71)
    assert "all 71 spans" in as_text(summary(record, export=newer), Look(80))


def test_the_address_of_the_trace_is_the_template_filled_in():
    """`{trace_id}` is replaced and nothing else in the template is touched."""
    told = as_mapping(summary(sample_record.empty(), trace_url="http://x/{a}/{trace_id}?q={b}"))
    assert told["trace"]["url"] == f"http://x/{{a}}/{sample_record.HEX}?q={{b}}"
    assert as_mapping(summary(sample_record.empty()))["trace"]["url"] is None


def test_phases_are_summed_by_name_over_steps_and_nodes():
    """Counts, totals and errors add up, the longest is the longest, and the place is where most of it was; the rows of others are left out."""
    record = sample_record.twelve_steps()
    record.steps[2].phases["(nodes)"] = sample_record.phase(1, 999_999)
    phases = {row["phase"]: row for row in as_mapping(summary(record))["phases"]}
    assert "(nodes)" not in phases
    pairs = phases["count_pairs"]
    assert (pairs["count"], pairs["total_ns"], pairs["max_ns"], pairs["steps"], pairs["most_in"]) == (
        101,
        127_500 * sample_record.MS,
        3_900 * sample_record.MS,
        2,
        "train_bpe/vocab=32000",
    )
    assert phases["save"]["errors"] == 1
    assert phases["llm_call"]["most_in"] == "planner"
    assert next(iter(phases)) == "count_pairs"


def test_wall_percentages_add_up_as_printed():
    """The percentages beside the parts sum to 100.0, those below 0.1 aside."""
    lines = text_of("twelve_steps", Look(80)).partition("Where the wall time went\n")[2].partition("\n\n")[0].splitlines()
    shown = [word for line in lines for word in line.split() if word.endswith("%") and not word.startswith("<")]
    assert round(sum(float(word[:-1]) for word in shown), 1) == 100.0


def test_the_short_form_says_what_where_and_how_to_go_on():
    """Outcome, steps, where the time went, the slowest steps, run.json, the trace, what stayed in the spool."""
    text = short_summary(sample_record.twelve_steps(), Look(80), run_json="run.json", trace_url="http://j/trace/{trace_id}", replay="otel-exec replay")
    for part in (
        "failure after 4m16s",
        "12: 9 ran (2 failed), 2 cached, 1 not run",
        "executing 3m54s (91.5%), waiting on another run 20s (7.8%)",
        "train_bpe/vocab=32000 2m, train_ngram/vocab=32000 56s",
        "record     run.json",
        f"http://j/trace/{sample_record.HEX}",
        "2 of 71 spans did not get out",
    ):
        assert part in text
    assert len(text.splitlines()) <= 16


@pytest.mark.parametrize("name", SAMPLES)
def test_the_short_form_of_any_run_is_short(name):
    """It never takes over twenty lines and never fails for what is unknown."""
    assert len(short_summary(getattr(sample_record, name)(), Look(80)).splitlines()) <= 20
