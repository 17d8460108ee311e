"""Watching a run: what is said, how often it is looked at."""

from __future__ import annotations

import msgspec
import pytest

from otel_exec.cli import status as status_command
from otel_exec.cli import watching
from otel_exec.cli.status import narrowed
from otel_exec.errors import RecordError, UsageError
from otel_exec.record.model import LevelRecord
from otel_exec.record.status_model import OpenRecord, Progress, StatusRecord, TaskStatus, WaitingRecord
from otel_exec.status import RunPlace

PLACE = RunPlace("folder", "folder/run.json")
RUNNING = StatusRecord("1.0", "exec_1", "running", "2026-11-27T14:45:00.000000+00:00", Progress(1, 3), open=[OpenRecord("step", "a", "a-1", "0", 100)])
ENDED = msgspec.structs.replace(RUNNING, state="success", progress=Progress(3, 3), open=[])


class Time:
    """A clock that goes on by what is slept and what looks cost."""

    def __init__(self):
        self.now_s = 0.0

    def sleep(self, seconds):
        self.now_s += seconds

    def monotonic_ns(self):
        return round(self.now_s * 1e9)

    time_ns = monotonic_ns


@pytest.fixture
def clock(monkeypatch):
    clock = Time()
    monkeypatch.setattr(watching, "time", clock)
    return clock


def watched(*words):
    return watching.watch(PLACE, status_command.parser().parse_args([*words, "--watch"]))


def test_what_a_step_waits_for_is_a_change():
    """A run that waits changes in nothing else."""
    waiting = msgspec.structs.replace(RUNNING, waiting=[WaitingRecord(name="b", why="no node has 1 of GPU")])
    assert watching.fingerprint(waiting) != watching.fingerprint(RUNNING)


def test_piped_a_line_is_a_change(clock, monkeypatch, capsysbinary):
    """A line as the one before, but for the instant and the ETA, is not said again; in JSON what the line does not tell is a change too."""
    later = msgspec.structs.replace(RUNNING, updated_at="2026-11-27T14:46:00.000000+00:00", eta_ms=5_000)
    elsewhere = msgspec.structs.replace(later, open=[OpenRecord("step", "b", "b-1", "0", 1)])
    shown = [RUNNING, later, elsewhere, ENDED]
    for words, count in ((), 2), (("--json",), 3):
        left = iter(shown)
        monkeypatch.setattr(watching, "read", lambda place, arguments, left=left: next(left))
        assert watched(*words) == 0
        said = capsysbinary.readouterr().out.splitlines()
        lines = [line for line in said if line.startswith((b"14:4", b"{"))]
        assert len(lines) == count


def test_a_look_that_takes_long_is_taken_seldom(clock, monkeypatch, capsysbinary):
    """Reading all tasks of a large run takes a tenth of the time at most; that the run has ended is seen at once all the same."""
    looks = []

    def read(place, arguments):
        looks.append(clock.now_s)
        clock.now_s += 2.0
        return RUNNING if clock.now_s < 100 else ENDED

    monkeypatch.setattr(watching, "read", read)
    monkeypatch.setattr(watching, "status_now", lambda place, now_ns: RUNNING if clock.now_s < 100 else ENDED)
    assert watched("--tasks") == 0
    assert [round(each) for each in looks] == [0, 22, 44, 66, 88, 100]


def test_a_level_that_a_run_has_not_told_of_yet_is_waited_for():
    """In its first moment a run has no levels: nothing is refused then; once it has some, one that is not there is a mistake."""
    starting = msgspec.structs.replace(RUNNING, levels=[])
    assert narrowed(starting, 2).levels == []
    with pytest.raises(UsageError):
        narrowed(msgspec.structs.replace(RUNNING, levels=[LevelRecord(1)]), 2)
    with pytest.raises(UsageError):
        narrowed(msgspec.structs.replace(ENDED, levels=[]), 2)


def test_one_level_has_what_is_open_in_it():
    """`--level` leaves out open steps of other levels; a gate, which is of none, stays."""
    opened = [OpenRecord("step", name, name, "0", 1) for name in ("a", "b")]
    whole = msgspec.structs.replace(
        RUNNING,
        levels=[LevelRecord(1), LevelRecord(2)],
        open=[*opened, OpenRecord("gate", "g", None, None, 1)],
        tasks=[TaskStatus("a", level=1), TaskStatus("b", level=2)],
    )
    assert [span.name for span in narrowed(whole, 2).open] == ["b", "g"]


def test_a_run_that_is_not_there_yet_is_waited_for(clock, monkeypatch):
    """Whoever watches may be quicker than the run; after five seconds it is an error as ever."""

    def locate(run, *, prefix):
        if clock.now_s < begins_s:
            raise RecordError(prefix, "there is no such run")
        return PLACE

    monkeypatch.setattr(watching, "locate", locate)
    begins_s = 3.0
    assert watching.find("demo", "outputs") == PLACE
    begins_s = 100.0
    with pytest.raises(RecordError):
        watching.find("demo", "outputs")
    assert clock.now_s == pytest.approx(8.0, abs=0.5)
