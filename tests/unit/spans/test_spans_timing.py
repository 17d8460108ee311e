"""The timing log of several runs in one process, and its end."""

from __future__ import annotations

import logging
import re

import pytest

from otel_exec.spans import timing_log
from otel_exec.spans.line_codec import LineEncoder
from otel_exec.spans.span_record import SpanRecord
from otel_exec.spans.timing_log import TIMING, TimingLog

LOGGER = logging.getLogger("otel_exec.timing")


def write(folder, name, exec_id, count=1):
    (folder / "spans").mkdir(parents=True, exist_ok=True)
    record = SpanRecord("ab" * 16, "1" * 16, "", name, "phase", 1, 2_000_001, {"exec.id": exec_id, "node.id": "n"})
    with open(folder / "spans" / "driver.jsonl", "ab") as file:
        file.write(LineEncoder({}).encode([record]) * count)


def start(folder):
    (folder / "spans").mkdir(parents=True, exist_ok=True)
    return TimingLog(str(folder / "spans"), str(folder / "run.log"))


def logged(folder):
    return re.findall(r"TIMING otel_exec\.timing exec_id=(\S+) node_id=n phase=(\S+) dur_ms=2\.000 status=ok$", (folder / "run.log").read_text(), re.MULTILINE)


def test_runs_at_once_share_the_logger_and_nothing_else(tmp_path, capsys):
    """Of two runs that overlap each run.log has its own lines alone, stderr has each once, and the logger is put back when the last one ends."""
    LOGGER.setLevel(logging.ERROR)
    try:
        first, second = tmp_path / "1", tmp_path / "2"
        one = start(first)
        two = start(second)
        write(first, "a", "exec_1")
        write(second, "b", "exec_2")
        one.finish()
        assert (LOGGER.level, LOGGER.propagate, len(LOGGER.handlers)) == (TIMING, False, 1)
        write(second, "c", "exec_2")
        two.finish()
        assert logged(first) == [("exec_1", "a")]
        assert logged(second) == [("exec_2", "b"), ("exec_2", "c")]
        assert capsys.readouterr().err.count("TIMING") == 3
        assert (LOGGER.level, LOGGER.propagate, LOGGER.handlers) == (logging.ERROR, True, [])
        assert not LOGGER.isEnabledFor(TIMING)
    finally:
        LOGGER.setLevel(logging.NOTSET)


def test_a_full_queue_waits(tmp_path, monkeypatch):
    """Lines past the queue's bound wait for room, and so does the end: none is lost."""
    monkeypatch.setattr(timing_log, "_QUEUE", 2)
    log = start(tmp_path)
    write(tmp_path, "a", "exec_1", count=500)
    log.finish()
    assert logged(tmp_path) == [("exec_1", "a")] * 500


def test_without_a_run_log_stderr_has_the_lines(tmp_path, capsys, caplog):
    """A run.log that can't be opened is said, and stops nothing."""
    (tmp_path / "run.log").mkdir()
    write(tmp_path, "a", "exec_1")
    start(tmp_path).finish()
    assert capsys.readouterr().err.count("TIMING") == 1
    assert "run.log" in caplog.text


def test_phases_without_a_span_are_named_in_the_last_line(tmp_path, capsys):
    """Of phases past the limit of spans a task the log says how many have no line, last, in run.log and on stderr; nothing where there are none."""
    log = start(tmp_path)
    write(tmp_path, "a", "exec_1")
    log.finish(7)
    last = (tmp_path / "run.log").read_text().splitlines()[-1]
    assert re.search(r"TIMING otel_exec\.timing 7 phases .*past the limit of spans a task", last)
    assert capsys.readouterr().err.splitlines()[-1] == last
    log = start(tmp_path / "2")
    log.finish(0)
    assert (tmp_path / "2" / "run.log").read_text() == ""


def test_a_line_holds_nothing_that_a_terminal_obeys(tmp_path, capsys):
    """Escape sequences, newlines and direction overrides in names and ids are shown, in run.log and on stderr."""
    log = start(tmp_path)
    write(tmp_path, "\x1b]0;owned\x07\nb\u202e", "exec\x1b[2J")
    log.finish()
    (line,) = (tmp_path / "run.log").read_text().splitlines()
    assert line.isprintable()
    assert r"exec_id=exec\x1b[2J node_id=n phase=\x1b]0;owned\x07\nb\u202e dur_ms" in line
    assert capsys.readouterr().err == f"{line}\n"


@pytest.mark.parametrize("kind", ["", "task"])
def test_only_phases_are_logged(tmp_path, kind):
    """Spans of other kinds give no line."""
    log = start(tmp_path)
    with open(tmp_path / "spans" / "driver.jsonl", "wb") as file:
        file.write(LineEncoder({}).encode([SpanRecord("ab" * 16, "1" * 16, "", "x", kind, 1, 2, {})]))
    log.finish()
    assert (tmp_path / "run.log").read_text() == ""
