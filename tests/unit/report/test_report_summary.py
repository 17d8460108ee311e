from __future__ import annotations

import json
import re

import msgspec
import pytest
import sample_record

from otel_exec.clock import to_iso
from otel_exec.errors import UsageError
from otel_exec.record.model import CriticalPath, Export, ItemsRecord, MetricsExport, StepRecord, Wall, WorkerRecord
from otel_exec.report.as_json import as_json, as_mapping
from otel_exec.report.as_text import as_text
from otel_exec.report.breakdown import breakdown
from otel_exec.report.breakdown_text import breakdown_text
from otel_exec.report.durations import duration_text
from otel_exec.report.look import ASCII, UNICODE, Look
from otel_exec.report.short_summary import short_summary
from otel_exec.report.steps import count_steps, reached
from otel_exec.report.summary import summary
from otel_exec.report.text_safety import display_width

SAMPLES = ["twelve_steps", "all_cached", "empty", "running", "interrupted", "hostile"]


def text_of(name: str, look: Look, **options) -> str:
    return as_text(summary(getattr(sample_record, name)(), **options), look)


@pytest.mark.parametrize("name", SAMPLES)
@pytest.mark.parametrize("width", [40, 60, 80, 81, 120, 200])
@pytest.mark.parametrize("signs", [ASCII, UNICODE])
def test_a_summary_fits_its_width(name, width, signs):
    """At any width from 40 on no line is wider, but for paths, ids and addresses, which are never broken and then stand alone."""
    for line in text_of(name, Look(width, signs=signs), top=15, record_path="outputs/run.json").splitlines():
        assert display_width(line) <= width or len(line.split()) == 1, line


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


def test_on_ray_workers_are_the_processes_that_worked_for_the_run():
    """As the list of workers has them; how many steps run at once is said as that, since a cluster starts processes as it likes."""
    record = sample_record.twelve_steps()
    record.executor.kind, record.executor.workers = "ray", 2
    text = as_text(summary(record), Look(120))
    assert f"ray, {len(record.workers)} workers, up to 2 steps at once" in text


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
    assert (counts.ran, counts.failed, counts.cancelled, counts.not_needed, counts.not_run) == (0, 1, 0, 1, 1)
    assert reached(counts, over=True) == "3: 0 ran, 1 failed before, 1 not needed, 1 not run"


def test_steps_left_open_are_interrupted_once_the_run_is_over():
    """A step without an outcome is running or pending while its run goes on; when that was killed it was interrupted, or not run where no worker had begun it."""
    record = sample_record.running()
    assert [row["outcome"] for row in as_mapping(summary(record))["steps"]] == ["success", "running", "pending"]
    assert "3: 1 ran, 1 running, 1 not begun yet" in as_text(summary(record), Look(80))
    record.outcome = "interrupted"
    assert [row["outcome"] for row in as_mapping(summary(record))["steps"]] == ["success", "interrupted", "not run"]
    assert "3: 1 ran, 1 cut off, 1 never begun" in as_text(summary(record), Look(80))


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


def test_what_became_of_metrics_is_said():
    """Where metrics were to go out there is a line on them, with the reason where not all were taken; else there is none."""
    record = sample_record.twelve_steps()
    assert "data points" not in text_of_record(record)
    record.export.metrics = MetricsExport("http://localhost:4317", "grpc", 1064, 1064)
    assert "all 1,064 data points" in text_of_record(record)
    record.export.metrics = MetricsExport("http://localhost:4317", "grpc", 1064, 0, 0, "it answers UNIMPLEMENTED")
    assert "0 of 1,064 data points: it answers UNIMPLEMENTED" in text_of_record(record)
    trace = as_mapping(summary(record))["trace"]
    assert (trace["metric_points"], trace["metric_points_acknowledged"]) == (1064, 0)


def test_the_address_of_the_trace_is_the_template_filled_in():
    """`{trace_id}` is replaced and nothing else in the template is touched."""
    told = as_mapping(summary(sample_record.empty(), trace_url="http://x/{a}/{trace_id}?q={b}"))
    assert told["trace"]["url"] == f"http://x/{{a}}/{sample_record.HEX}?q={{b}}"
    assert as_mapping(summary(sample_record.empty()))["trace"]["url"] is None


def test_phases_are_summed_by_name_over_steps_and_nodes():
    """Counts, totals and errors add up, the longest is the longest, and the place is where most of it was; the rows of others are left out."""
    record = sample_record.twelve_steps()
    record.steps[2].phases["(nodes)"] = sample_record.phase(1, 999_999)
    record.steps[2].phases["(warm-up)"] = sample_record.phase(1, 1)
    phases = {row["phase"]: row for row in as_mapping(summary(record))["phases"]}
    assert "(nodes)" not in phases
    assert "(warm-up)" in phases
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


def fanned_out():
    """A run of one step of a second, whose fan-out kept four workers busy for eight, all of it in one phase."""
    record = sample_record.empty()
    record.duration_ns = 1_500 * sample_record.MS
    record.steps = [
        sample_record.step(
            "map",
            "aaaaaa",
            1,
            [sample_record.attempt(1, 0, 100, 200, 1_200, 1_300)],
            [],
            items=ItemsRecord(count=16, completed=16, attempts=16, busy_ns=8_000 * sample_record.MS),
            phases={"work": sample_record.phase(16, 8_000)},
        )
    ]
    record.critical_path = CriticalPath(["map-aaaaaa"], 1_000 * sample_record.MS, {"map-aaaaaa": 0})
    return record


def test_phases_of_items_have_the_items_time_in_the_whole():
    """Eight seconds of a phase in the items of a step of one second are 8 of 9, in text and JSON, and the footnote says so."""
    record = fanned_out()
    (row,) = as_mapping(summary(record))["phases"]
    assert row["share"] == pytest.approx(8 / 9)
    text = as_text(summary(record), Look(120))
    assert "88.9%" in text
    assert "part of all execution, items of fan-outs included;" in text
    assert "fan-outs included" not in text_of("interrupted", Look(120))


def test_no_phase_has_more_than_all():
    """An attempt that was lost leaves its phases without an execution; their shares are then of what the phases themselves tell."""
    record = fanned_out()
    record.steps[0].attempts[0].execution_ns = None
    record.steps[0].items = record.steps[0].node_time_ns = None
    (row,) = as_mapping(summary(record))["phases"]
    assert row["share"] == 1.0


def test_workers_may_help_a_step_that_fans_out():
    """That no number of workers can make the path faster is not said of the items of its steps."""
    but = "No number of workers can make it faster, but for the fan-outs inside its steps;"
    assert but in as_text(summary(fanned_out()), Look(200))
    record = fanned_out()
    record.steps[0].items = None
    text = as_text(summary(record), Look(200))
    assert "No number of workers can make it faster; 500ms (33.3%) of the wall time lies outside it." in text
    assert "Critical path: 1.0s in 1 step\n" in text
    assert "path of 1.0s in 1 step; 33.3% of the wall time lies outside it" in " ".join(short_summary(record, Look(200)).split())


@pytest.mark.parametrize("name", ["twelve_steps", "interrupted"])
def test_a_part_has_one_percentage_everywhere(name):
    """The end of a run and its summary say the same of each part, though parts are rounded so as to make 100 %."""
    record = getattr(sample_record, name)()
    record.wall.queued_ns += 130 * sample_record.MS  # so that rounding to the nearest would not make 100 %
    record.duration_ns += 130 * sample_record.MS
    short = short_summary(record, Look(200))
    said = short.partition("time went  ")[2].partition("\n")[0]
    text = as_text(summary(record), Look(200))
    assert said.count("(") >= 1
    for part in said.split(", "):
        title, _, percent = part.rpartition(" (")
        assert re.search(rf"^  {re.escape(title.rpartition(' ')[0])} +{re.escape(title.rpartition(' ')[2])} +{re.escape(percent[:-1])}", text, re.MULTILINE), (
            part
        )


def test_how_busy_the_workers_were_can_be_worked_out_by_hand():
    """The durations beside the percentage have digits enough to give it."""
    record = sample_record.empty()
    record.workers = [
        sample_record.WorkerRecord(
            "0",
            busy_ns=11_238 * sample_record.MS,
            started_at=to_iso(sample_record.START_NS),
            stopped_at=to_iso(sample_record.START_NS + 13_411 * sample_record.MS),
        )
    ]
    assert "How busy the workers were: 83.8% (11.24s of 13.41s)" in as_text(summary(record), Look(80))


def test_steps_that_were_not_needed_are_no_alarm():
    """Ancestors of what was there are counted by themselves, beside what an upstream failure or a selection kept from running."""
    record = sample_record.empty()
    record.steps = [
        StepRecord("a-1", "a", outcome="skip", reason="not_needed"),
        StepRecord("b-1", "b", outcome="skip", reason="not_needed"),
        StepRecord("c-1", "c", outcome="success", reason="cached", cached=True),
        StepRecord("d-1", "d", outcome="skip", reason="not_selected"),
        StepRecord("e-1", "e", outcome="skip", reason="upstream_failed"),
        StepRecord("f-1", "f", outcome="skip", reason="gate_failed"),
    ]
    counts = count_steps(record)
    assert (counts.cached, counts.not_needed, counts.not_run) == (1, 2, 3)
    assert reached(counts, over=True) == "6: 0 ran, 1 cached, 2 not needed, 3 not run"
    assert as_mapping(summary(record))["step_counts"]["not_needed"] == 2


def test_a_run_in_which_nothing_ran_says_so_and_no_more():
    """No table of dashes, no workers that were never started; what the steps took when they ran, and where; all of it stays in the JSON."""
    record = sample_record.all_cached()
    text = as_text(summary(record), Look(80))
    for missing in ("Where the wall time went", "Steps\n", "worker", "Critical path", "Phases"):
        assert missing not in text
    assert "executor   processes\n" in text
    said = " ".join(text.split())
    assert f"Nothing had to run: every step that was asked for had succeeded before. They took 18s in all, in exec_{'b' * 32}." in said
    told = as_mapping(summary(record))
    assert len(told["steps"]) == 5
    assert told["steps"][0]["cached_from"]["duration_seconds"] == 1.5
    assert sum(row["duration_ns"] for row in told["wall"]) == record.duration_ns
    assert told["executor"]["workers"] == 4
    assert "time went" not in short_summary(record, Look(80))


def test_what_is_not_known_of_cached_steps_is_not_made_up():
    """Durations that some earlier runs did not tell are no zeros, and runs are counted."""
    record = sample_record.all_cached()
    record.steps[0].cached_from.duration_seconds = None
    record.steps[1].cached_from.exec_id = "exec_" + "c" * 32
    assert "4 of them are known to have taken 16s in all, in 2 earlier runs." in " ".join(text_of_record(record).split())
    for step in record.steps:
        step.cached_from = None
    assert "had succeeded before.\n" in text_of_record(record)


def test_a_run_in_which_anything_happened_has_its_tables():
    """A step that was waited for, or one that was not selected, is reason enough to show them."""
    record = sample_record.all_cached()
    record.wall.waiting_ns, record.wall.driver_ns = 9 * sample_record.MS, 5 * sample_record.MS
    assert "waiting on another run" in text_of_record(record)
    record = sample_record.all_cached()
    record.steps[0].cached, record.steps[0].outcome, record.steps[0].reason = False, "skip", "not_selected"
    assert "not selected" in text_of_record(record)


def text_of_record(record, width: int = 80) -> str:
    return as_text(summary(record), Look(width))


def test_why_a_step_did_not_run_is_seen_at_80_columns():
    """It goes before slack, CPU and memory, in words; in JSON it is the record's own word."""
    record = sample_record.twelve_steps()
    line = next(line for line in text_of_record(record).splitlines() if line.startswith("  report "))
    assert line.endswith(" upstream failed")
    assert next(row for row in as_mapping(summary(record))["steps"] if row["name"] == "report")["reason"] == "upstream_failed"


def test_the_two_shares_have_two_names():
    """Steps are a share of the wall time; steps of the critical path a share of the path."""
    text = text_of_record(sample_record.twelve_steps())
    path = text[text.index("Critical path") :]
    assert re.search(r"^  Step +Exec +Of path$", path, re.MULTILINE)


def test_what_cannot_be_broken_and_does_not_fit_has_a_line_of_its_own():
    """The record's path in a run's folder fits 80 columns so, and a log's path too; what fits beside its label stays there."""
    path = f"./outputs/.otel_exec/runs/exec_{sample_record.HEX}/run.json"
    record = sample_record.twelve_steps()
    record.steps[9].error.log = "outputs/" + "x" * 50 + "/.executor_log"
    lines = as_text(summary(record, record_path=path), Look(80)).splitlines()
    assert lines[lines.index("  record") + 1] == "    " + path
    assert lines[lines.index("    read on in") + 1] == "    " + record.steps[9].error.log
    assert "    read on in outputs/evaluate/vocab=32000-d15ea5/.executor_log" in lines
    assert max(map(len, lines)) <= 80
    assert f"  record     {path}" in as_text(summary(record, record_path=path), Look(90)).splitlines()
    narrow = as_text(summary(record, record_path=path), Look(74)).splitlines()
    assert "  " + path in narrow


def test_the_short_form_gives_an_address_only_of_what_was_sent():
    """Without an endpoint nobody has the trace: its address would lead nowhere."""
    record = sample_record.twelve_steps()
    assert "http://j/" in short_summary(record, Look(80), trace_url="http://j/{trace_id}")
    record.export = None
    assert "http://j/" not in short_summary(record, Look(80), trace_url="http://j/{trace_id}")
    record.export = Export()
    assert "http://j/" not in short_summary(record, Look(80), trace_url="http://j/{trace_id}")


def test_what_was_refused_for_good_is_not_in_the_spool():
    """Neither report sends anyone to replay what no replay can send."""
    record = sample_record.twelve_steps()
    record.export.spans_rejected = 2
    assert "spool" not in short_summary(record, Look(80), replay="otel-exec replay run.json")
    assert "69 of 71 spans; 2 refused for good" in text_of_record(record)
    assert as_mapping(summary(record))["trace"]["spans_in_spool"] == 0
    record.export.spans_acknowledged = 68
    assert "68 of 71 spans; 1 still in the spool, 2 refused for good" in text_of_record(record)
    assert "1 of 71 spans did not get out and stay" in " ".join(short_summary(record, Look(80), replay="otel-exec replay run.json").split())


def test_what_a_killed_run_left_open_is_named_with_how_long():
    """From when a worker took it, or, where none did, from when it was ready; longest first; a run that ended by itself has none."""
    record = sample_record.running()
    record.outcome, record.duration_ns = "interrupted", 5_000 * sample_record.MS
    record.steps[2].start_ns = 1_030 * sample_record.MS
    block = text_of_record(record).partition("Open when the run was broken off\n")[2].partition("\n\n")[0].splitlines()
    assert [line.split() for line in block[1:]] == [["third", "ready", "0", "-", "4.0s"], ["second", "running", "1", "1", "4.0s"]]
    rows = as_mapping(summary(record))["left_open"]
    assert [(row["name"], row["open_ns"]) for row in rows] == [("third", 3_970 * sample_record.MS), ("second", 3_950 * sample_record.MS)]
    assert "Open when" in text_of("interrupted", Look(80))
    for name in ("twelve_steps", "running", "empty"):
        assert "Open when" not in text_of(name, Look(80))


def test_who_died_and_why_is_said_in_whole_sentences():
    """Under the list of workers, whatever the width, of many the first five; the short form counts them and says why the first died."""
    record = sample_record.twelve_steps()
    reason = "killed by SIGKILL, as a kernel does that is out of memory, or a user (pid 4711 on a-host-with-a-long-name.example.org)"
    record.workers[1].died = reason
    assert f"Worker 1 died: {reason}." in " ".join(text_of_record(record).split())
    said = " ".join(short_summary(record, Look(80)).split())
    assert f"deaths 1 worker died, the first: worker 1: {reason}" in said
    record.workers = [*record.workers, *(msgspec.structs.replace(record.workers[1], worker_id=str(number)) for number in range(10, 16))]
    assert "And 2 more workers died." in text_of_record(record)
    assert "deaths" not in short_summary(sample_record.twelve_steps(), Look(80))


def test_on_ray_a_step_that_waits_for_its_items_is_said_to_be_busy():
    """As the definition has it: a union of tasks and items. Elsewhere the step's own worker runs items meanwhile."""
    record = fanned_out()
    assert "counts as busy" not in text_of_record(record)
    record.executor.kind = "ray"
    assert "A step that waits for its items counts as busy, too: on Ray others run them." in text_of_record(record, 120)


def test_a_step_that_was_ready_when_its_run_died_was_not_run():
    """It is among those that were never begun, by its word as well."""
    record = sample_record.interrupted()
    second = record.steps[1]
    second.attempts = [msgspec.structs.replace(second.attempts[0], claimed_ns=None, start_ns=None, execution_ns=None)]
    assert "3: 1 ran, 1 not run, 1 never begun" in text_of_record(record)
    assert as_mapping(summary(record))["steps"][1]["outcome"] == "not run"


def test_workers_that_start_while_a_step_fans_out_are_told_of():
    """Executing goes before worker start-up, so the wall alone would not say why items waited; without fan-outs, or where it is next to nothing, nothing is said."""
    record = fanned_out()
    wall_ns = record.duration_ns
    record.executor.startup_ns = wall_ns // 10
    record.wall = Wall(worker_startup_ns=wall_ns // 10)
    record.workers = [WorkerRecord(str(number), start_ns=wall_ns // 4, ready_ns=wall_ns // 2) for number in range(2)]
    said = f"Workers were starting for another {duration_text(wall_ns // 2 - wall_ns // 4)}, beside what counts before that"
    assert said in text_of_record(record, 200)
    assert said in breakdown_text(breakdown(record), Look(200), bottlenecks=True)
    for worker in record.workers:
        worker.ready_ns = worker.start_ns + wall_ns // 1000
    assert "Workers were starting" not in text_of_record(record, 200)
