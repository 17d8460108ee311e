"""What a run's status is, whatever its files are met like: whole, half, foreign, of a dead driver, not there."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys

import jsonschema
import msgspec
import pytest
import sample_record

import otel_exec.record
from otel_exec.clock import System, to_iso
from otel_exec.errors import RecordError
from otel_exec.record import locks
from otel_exec.record.encoding import encode
from otel_exec.record.journal import Journal, JournalLine
from otel_exec.record.model import AttemptRecord, LevelRecord, WorkerRecord
from otel_exec.record.record_file import write_record
from otel_exec.record.status_model import OpenRecord, Progress, StatusRecord, WaitingRecord
from otel_exec.semconv import Kind
from otel_exec.spans.open_spans import OpenEntry, OpenSpanTable
from otel_exec.status import RunPlace, gone, locate, status_now

MS = 1_000_000
START_NS = sample_record.START_NS
NOW_NS = START_NS + 9_050 * MS


@pytest.fixture
def place(tmp_path):
    """The folder of the sample run that says `running`, without a status."""
    record = sample_record.running()
    folder = tmp_path / "outputs" / ".otel_exec" / "runs" / record.exec_id
    (folder / "spans").mkdir(parents=True)
    record.run_folder = str(folder)
    (folder / "run.json").write_bytes(write_record(record))
    return RunPlace(str(folder), str(folder / "run.json"))


@pytest.fixture(scope="module")
def dead_driver():
    """The id of a driver of this host that has ended."""
    code = "from otel_exec.record.locks import driver_id; print(driver_id())"
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.strip()


def written(place, driver=None, **more):
    """Put a status into the run's folder as its driver would have."""
    values = {
        "schema_version": "1.0",
        "exec_id": "exec_" + sample_record.HEX,
        "state": "running",
        "updated_at": to_iso(NOW_NS - 50 * MS),
        "progress": Progress(1, 3),
        "driver": locks.driver_id() if driver is None else driver,
        "experiment": "demo",
    }
    status = StatusRecord(**{**values, **more})
    with open(place.status_path, "wb") as file:
        file.write(encode(status))
    return status


def valid(status):
    """Hold a status against its schema and the promise that nothing is negative; returns it as JSON."""
    with open(os.path.join(os.path.dirname(otel_exec.record.__file__), "status.schema.json"), encoding="utf-8") as file:
        schema = json.load(file)
    told = json.loads(encode(status))
    jsonschema.validate(told, schema)

    def look(value, key=""):
        if isinstance(value, dict):
            for name, each in value.items():
                look(each, name)
        elif isinstance(value, list):
            for each in value:
                look(each, key)
        elif isinstance(value, (int, float)):
            assert value >= 0, f"{key} is {value}"

    look(told)
    return told


def test_of_a_run_that_goes_on_times_are_advanced_to_now(place):
    """Uptimes, elapsed times and the run's total grow by what has passed since the driver wrote; the ETA shrinks; a worker that has stopped stands still."""
    written(
        place,
        workers=[
            WorkerRecord("0", started_at=to_iso(START_NS), uptime_ms=9000),
            WorkerRecord("1", started_at=to_iso(START_NS), stopped_at=to_iso(START_NS + 5000 * MS), uptime_ms=5000),
        ],
        metrics={"total_duration_ms": 9000, "worker_metrics": [{"worker_id": "0", "uptime_ms": 9000}, {"worker_id": "1", "uptime_ms": 5000}]},
        open=[OpenRecord(Kind.STEP, "a", "a-1", "0", 100)],
        eta_ms=70,
        eta_basis="this run",
    )
    told = valid(status_now(place, NOW_NS))
    assert [worker["uptime_ms"] for worker in told["workers"]] == [9050, 5000]
    assert [worker["uptime_ms"] for worker in told["metrics"]["worker_metrics"]] == [9050, 5000]
    assert (told["metrics"]["total_duration_ms"], told["open"][0]["elapsed_ms"], told["eta_ms"]) == (9050, 150, 20)
    assert valid(status_now(place, NOW_NS + 3600 * 1000 * MS))["eta_ms"] == 0


def test_a_status_from_the_future_or_another_time_zone_makes_nothing_negative(place):
    """A driver whose clock is ahead, or who writes another zone: elapsed times stay what they were, or count from the same instant."""
    written(place, updated_at=to_iso(NOW_NS + 10**12), open=[OpenRecord(Kind.STEP, "a", "a-1", "0", 100)], eta_ms=5)
    told = valid(status_now(place, NOW_NS))
    assert (told["open"][0]["elapsed_ms"], told["eta_ms"]) == (100, 5)
    written(place, updated_at="2026-11-28T01:41:23.000000+11:00", open=[OpenRecord(Kind.STEP, "a", "a-1", "0", 100)])
    assert valid(status_now(place, NOW_NS))["open"][0]["elapsed_ms"] == 150
    written(place, updated_at="yesterday", open=[OpenRecord(Kind.STEP, "a", "a-1", "0", 100)])
    assert valid(status_now(place, NOW_NS))["open"][0]["elapsed_ms"] == 100


def test_phases_come_from_mapped_memory_while_the_run_goes_on(place):
    """What is open in a step is what its worker's table says now, not what the driver heard a while ago; another worker's leftovers are not the step's."""
    written(place, open=[OpenRecord(Kind.STEP, "a", "a-1", "0", 100), OpenRecord(Kind.PHASE, "old", "a-1", "0", 90)])
    mine, theirs = (OpenSpanTable(place.folder + "/spans", f"worker-{number}") for number in "01")
    mine.open(OpenEntry("1" * 16, "9" * 16, Kind.TASK, "task a", "a-1", NOW_NS - 80 * MS))
    mine.open(OpenEntry("2" * 16, "1" * 16, Kind.PHASE, "new", "a-1", NOW_NS - 30 * MS))
    theirs.open(OpenEntry("3" * 16, "2" * 16, Kind.TASK, "task item", "a-1", NOW_NS - 20 * MS))
    theirs.open(OpenEntry("5" * 16, "8" * 16, Kind.TASK, "task a", "a-1", NOW_NS - 5000 * MS))
    theirs.open(OpenEntry("6" * 16, "5" * 16, Kind.PHASE, "of a try that died", "a-1", NOW_NS - 5000 * MS))
    told = valid(status_now(place, NOW_NS))
    assert [(span["kind"], span["name"], span["worker_id"], span["elapsed_ms"]) for span in told["open"]] == [
        ("step", "a", "0", 150),
        ("phase", "new", "0", 30),
        ("task", "task item", "1", 20),
    ]
    mine.remove()
    theirs.remove()


def test_without_tables_phases_are_what_the_driver_heard(place):
    """Workers of other machines tell their driver what is open."""
    written(place, open=[OpenRecord(Kind.STEP, "a", "a-1", "0", 100), OpenRecord(Kind.PHASE, "far", "a-1", "0", 90), OpenRecord(Kind.GATE, "g", None, None, 1)])
    assert {(span.kind, span.name) for span in status_now(place, NOW_NS).open} == {("step", "a"), ("phase", "far"), ("gate", "g")}


def test_a_dead_drivers_run_is_interrupted_and_names_what_was_open(place, dead_driver):
    """The state is `interrupted`, there is no ETA, and the steps and phases that were open are named, as of the last sign of life."""
    record = sample_record.running()
    step = next(each for each in record.steps if not each.group and each.outcome is None)
    journal = Journal(place.folder)
    journal.append(
        [
            JournalLine(START_NS + 100 * MS, "created", node=step.node_id, span="a" * 16),
            JournalLine(START_NS + 200 * MS, "claimed", node=step.node_id, attempt=1, worker="0", span="b" * 16),
        ]
    )
    journal.close()
    table = OpenSpanTable(place.folder + "/spans", "worker-0")
    table.open(OpenEntry("b" * 16, "a" * 16, Kind.TASK, "task x", step.node_id, START_NS + 210 * MS))
    table.open(OpenEntry("c" * 16, "b" * 16, Kind.PHASE, "llm_call", step.node_id, START_NS + 9_000 * MS))
    written(place, driver=dead_driver, eta_ms=7, eta_basis="this run")
    told = valid(status_now(place, NOW_NS + 10**12))
    assert (told["state"], told["eta_ms"], told["eta_basis"]) == ("interrupted", None, None)
    assert [(span["kind"], span["name"], span["worker_id"]) for span in told["open"]] == [("step", step.name, "0"), ("phase", "llm_call", "0")]
    assert told["open"][0]["elapsed_ms"] == 8_800
    assert told["updated_at"] == to_iso(NOW_NS - 50 * MS)
    table.remove()


def test_a_dead_run_without_a_record_is_told_from_its_status(place, dead_driver):
    """Where run.json is gone, the last status is what there is, and it is not believed that it runs."""
    os.unlink(place.record_path)
    written(place, driver=dead_driver, open=[OpenRecord(Kind.STEP, "a", "a-1", "0", 100)], eta_ms=5)
    status = status_now(place, NOW_NS)
    assert (status.state, status.eta_ms, [span.name for span in status.open]) == ("interrupted", None, ["a"])


def test_another_hosts_driver_is_given_up_after_ninety_seconds_of_silence(place):
    """Nothing can be proven of it: 90 s without a word in the status or the journal, as with locks."""
    Journal(place.folder).close()
    elsewhere = "far@1:11111111-2222:4711:1"
    written(place, driver=elsewhere)
    os.utime(place.folder + "/journal.jsonl", ns=(NOW_NS, NOW_NS))
    assert status_now(place, NOW_NS + 80_000 * MS).state == "running"
    assert status_now(place, NOW_NS + 91_000 * MS).state == "interrupted"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b'{"schema_version":"1.0","exec_id":"exec_1","sta',
        b'{"schema_version":"9.0","exec_id":"exec_1","state":"running","updated_at":"","progress":{}}',
        b'{"schema_version":1,"exec_id":null}',
        b"[1,2,3]",
        b"\xff\xfe\x00",
        b"[" * 100_000,
        b'{"schema_version":"1.0","exec_id":"e","state":"running","updated_at":"","progress":{"done":"many"}}',
    ],
)
def test_a_status_that_cant_be_read_is_passed_over(place, content):
    """Half written, of a newer schema, somebody else's: the status is made from the record, the journal and the spool; the lock of a driver on its spool says that the run goes on."""
    with open(place.status_path, "wb") as file:
        file.write(content)
    assert valid(status_now(place, NOW_NS))["state"] == "interrupted"
    with open(place.folder + "/spans/driver.jsonl", "ab") as spool:
        fcntl.flock(spool, fcntl.LOCK_EX)
        told = valid(status_now(place, NOW_NS))
    assert told["state"] == "running"
    assert told["progress"]["total"] > 0
    assert told["metrics"]["tasks_total"] == told["progress"]["total"]


def test_a_run_that_has_just_made_its_folder_is_starting(place):
    """Neither status nor record yet, and a journal of this moment: it runs, and nothing is known of it. Later there is an error that says what is missing."""
    os.unlink(place.record_path)
    Journal(place.folder).close()
    os.utime(place.folder + "/journal.jsonl", ns=(NOW_NS, NOW_NS))
    told = valid(status_now(place, NOW_NS))
    assert (told["exec_id"], told["state"], told["progress"]["total"], told["metrics"]) == (os.path.basename(place.folder), "running", 0, None)
    with pytest.raises(RecordError, match="there is no such file"):
        status_now(place, NOW_NS + 100_000 * MS)


def test_a_run_that_begins_between_two_looks(place, monkeypatch):
    """Its first status is written after it was looked for, and its record is not there yet: it goes on."""
    os.unlink(place.record_path)
    monkeypatch.setattr("otel_exec.status._starting", lambda place, _now_ns: bool(written(place)) and False)
    assert status_now(place, NOW_NS).state == "running"


def test_a_newer_record_is_refused_in_one_sentence(place):
    """Where neither file can be read there is an error that says why."""
    with open(place.record_path, "wb") as file:
        file.write(b'{"schema_version":"9.1","exec_id":"exec_1"}')
    with pytest.raises(RecordError, match="newer otel_exec"):
        status_now(place, NOW_NS)


def test_the_status_of_a_run_that_ended_is_the_file(place):
    """Nothing is advanced or made anew."""
    status = written(place, state="failure", levels=[LevelRecord(1)], eta_ms=None)
    assert msgspec.structs.asdict(status_now(place, NOW_NS + 10**15)) == msgspec.structs.asdict(status)


@pytest.mark.parametrize("sample", ["twelve_steps", "all_cached", "empty", "interrupted", "hostile"])
def test_a_record_alone_gives_a_status(tmp_path, sample):
    """A copy of run.json, without the run's folder, is enough: counts, levels, failures, every task."""
    record = getattr(sample_record, sample)()
    record.run_folder = str(tmp_path / "gone")
    (tmp_path / "run.json").write_bytes(write_record(record))
    place = locate(str(tmp_path / "run.json"), prefix=str(tmp_path))
    told = valid(status_now(place, NOW_NS, tasks=True))
    assert told["state"] == record.outcome
    assert len(told["tasks"]) == sum(not step.group for step in record.steps)
    assert [failure["node_id"] for failure in told["failures"]] == [
        step.node_id
        for step in record.steps
        if step.outcome in {"failure", "timeout", "error"} and not step.group and not (step.error and step.error.type == "interrupted")
    ]
    assert all("\n" not in failure["message"] for failure in told["failures"])
    assert not gone(place)
    os.unlink(place.record_path)
    os.rmdir(tmp_path / "gone") if (tmp_path / "gone").exists() else None
    assert gone(RunPlace(str(tmp_path / "gone"), place.record_path))


def test_tasks_have_their_states(place):
    """Of a run that goes on: settled, running and pending ones; TaskMetrics are null where nothing is known."""
    written(place)
    rows = status_now(place, NOW_NS, tasks=True).tasks
    states = {row.state for row in rows}
    assert states <= {"success", "cached", "running", "pending", "failure", "timeout", "error", "skip", "cancellation"}
    assert {"running", "pending"} & states
    assert all(row.execution_duration_ms is None for row in rows if row.state == "pending")


def test_the_present_is_the_runs_own(place, monkeypatch):
    """On the driver's host elapsed times go by the run's clock, whatever became of the wall clock since it was anchored: set, or ahead by what the machine slept."""
    more = {"metrics": {"total_duration_ms": 9000}, "start_time": to_iso(START_NS), "open": [OpenRecord(Kind.STEP, "a", "a-1", "0", 100)], "eta_ms": 70}
    monkeypatch.setattr(System, "tick", lambda: 5 * MS)
    for wall_ns in (NOW_NS + 3_600_000 * MS, NOW_NS - 3_600_000 * MS):
        written(place, clock_offset_ns=str(NOW_NS - 5 * MS), **more)
        told = valid(status_now(place, wall_ns))
        assert (told["metrics"]["total_duration_ms"], told["open"][0]["elapsed_ms"], told["eta_ms"]) == (9050, 150, 20)
    for strange in ("soon", "", "٣"):
        written(place, clock_offset_ns=strange, **more)
        assert valid(status_now(place, NOW_NS))["metrics"]["total_duration_ms"] == 9050
    written(place, driver="far@1:11111111-2222:4711:1", clock_offset_ns="0", **more)
    assert valid(status_now(place, NOW_NS))["metrics"]["total_duration_ms"] == 9050


def test_with_tasks_the_runs_total_is_the_same(place):
    """`--tasks` and `--level` make the numbers anew from the journal, whose last word may be long ago: the run's total goes on to the present all the same."""
    written(place, start_time=to_iso(START_NS), metrics={"total_duration_ms": 9000})
    bare, whole = (valid(status_now(place, NOW_NS + 60_000 * MS, tasks=tasks)) for tasks in (False, True))
    assert bare["metrics"]["total_duration_ms"] == whole["metrics"]["total_duration_ms"] == 69_050


def test_tries_are_those_that_a_worker_took(tmp_path):
    """An attempt that was cancelled in the queue after one that failed is no second try, in failures as in tasks."""
    record = sample_record.twelve_steps()
    record.run_folder = str(tmp_path / "gone")
    step = next(each for each in record.steps if each.outcome == "failure")
    tried = sum(attempt.claimed_ns is not None for attempt in step.attempts)
    step.attempts.append(AttemptRecord(len(step.attempts) + 1, created_ns=1))
    (tmp_path / "run.json").write_bytes(write_record(record))
    status = status_now(locate(str(tmp_path / "run.json"), prefix=str(tmp_path)), NOW_NS, tasks=True)
    assert {failure.attempts for failure in status.failures if failure.node_id == step.node_id} == {tried}
    assert {row.attempts for row in status.tasks if row.task_id == step.node_id} == {tried}


def test_a_run_whose_files_were_taken_away_does_not_start(place):
    """Neither status nor record, and a spool that nobody writes: the run is dead, however young its journal is; while somebody writes it, it starts."""
    os.unlink(place.record_path)
    Journal(place.folder).close()
    os.utime(place.folder + "/journal.jsonl", ns=(NOW_NS, NOW_NS))
    with open(place.folder + "/spans/driver.jsonl", "wb") as spool:
        with pytest.raises(RecordError, match="there is no such file"):
            status_now(place, NOW_NS)
        fcntl.flock(spool, fcntl.LOCK_EX)
        assert status_now(place, NOW_NS).state == "running"


def test_with_tasks_open_steps_agree_with_them(place):
    """A step that has settled since the driver wrote is open no longer, and one that runs has one elapsed time."""
    steps = [step for step in sample_record.running().steps if not step.group and step.outcome is None][:2]
    journal = Journal(place.folder)
    for step in steps:
        journal.append(
            [JournalLine(START_NS, "created", node=step.node_id), JournalLine(NOW_NS - 600 * MS, "claimed", node=step.node_id, attempt=1, worker="0")]
        )
    journal.append([JournalLine(NOW_NS - 1, "settled", node=steps[0].node_id, outcome="success")])
    journal.close()
    written(place, open=[OpenRecord(Kind.STEP, step.name, step.node_id, "0", 100) for step in steps])
    status = status_now(place, NOW_NS, tasks=True)
    assert [(span.node_id, span.elapsed_ms) for span in status.open] == [(steps[1].node_id, 600)]
    assert [row.elapsed_ms for row in status.tasks if row.task_id == steps[1].node_id] == [600]


def test_a_foreign_status_shows_nothing_that_no_run_comes_to(place):
    """Whatever numbers and metrics a file has, a status has none that is negative or past 64 bits, and metrics are FeatureMetrics or null."""
    written(
        place,
        state="success",
        progress=Progress(-1, 3, retries=-2),
        workers=[WorkerRecord("0", uptime_ms=-5, tasks_completed=10**30)],
        levels=[LevelRecord(1, duration_ms=-1, start_ns=-9)],
        eta_ms=-3,
        metrics={"tasks_total": -4, "total_duration_ms": -1, "level_metrics": [{"level": 1, "p99_duration_ms": -1}], "of_another": -5},
    )
    told = valid(status_now(place, NOW_NS))
    assert (told["progress"]["done"], told["levels"][0]["duration_ms"], told["workers"][0]["tasks_completed"]) == (0, None, 0)
    assert (told["metrics"]["tasks_total"], told["metrics"]["total_duration_ms"]) == (0, None)
    assert "of_another" not in told["metrics"]
    for strange in ({"worker_metrics": 5}, {"tasks_total": "many"}, {"level_metrics": [{}]}):
        written(place, state="success", metrics=strange)
        assert valid(status_now(place, NOW_NS))["metrics"] is None


def test_a_run_that_waits_for_its_cluster_says_so(place, dead_driver):
    """It has a status and no record yet: what it waits for, and since when; no tasks are known. Where its driver dies then, it waits for nothing any more."""
    os.unlink(place.record_path)
    early = {"progress": Progress(total=3), "waiting": [WaitingRecord("", "a local Ray cluster to start", 0)], "start_time": to_iso(NOW_NS - 50 * MS)}
    written(place, **early)
    for tasks in (False, True):
        told = valid(status_now(place, NOW_NS, tasks=tasks))
        assert (told["state"], told["waiting"][0]["elapsed_ms"], told["metrics"], told.get("tasks")) == ("running", 50, None, None)
    written(place, driver=dead_driver, **early)
    dead = status_now(place, NOW_NS)
    assert (dead.state, dead.waiting) == ("interrupted", [])
