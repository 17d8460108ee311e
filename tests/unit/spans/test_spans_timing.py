"""The timing log of several runs in one process, its end, and what it does where nothing can be written."""

from __future__ import annotations

import io
import logging
import logging.config
import os
import re
import sys

import pytest

from otel_exec.semconv import FOREIGN_EXEC_ID
from otel_exec.spans import timing_log
from otel_exec.spans.line_codec import LineEncoder
from otel_exec.spans.log_takers import TerminalTaker
from otel_exec.spans.span_record import SpanRecord
from otel_exec.spans.timing_log import TIMING, LogLines, TimingLog

LOGGER = logging.getLogger("otel_exec.timing")


def write(folder, name, exec_id, count=1, more=None):
    (folder / "spans").mkdir(parents=True, exist_ok=True)
    record = SpanRecord("ab" * 16, "1" * 16, "", name, "phase", 1, 2_000_001, {"exec.id": exec_id, "node.id": "n", **(more or {})})
    with open(folder / "spans" / "driver.jsonl", "ab") as file:
        file.write(LineEncoder({}).encode([record]) * count)


def start(folder, alias=None):
    (folder / "spans").mkdir(parents=True, exist_ok=True)
    return TimingLog(str(folder / "spans"), str(folder / "run.log"), alias=alias)


def logged(folder):
    return re.findall(r"TIMING otel_exec\.timing exec_id=(\S+) node_id=n phase=(\S+) dur_ms=2\.000 status=ok$", (folder / "run.log").read_text(), re.MULTILINE)


def test_runs_at_once_keep_apart(tmp_path, capsys):
    """Of two runs that overlap each run.log has its own lines alone, stderr has each once, and the user's logger is as it was all the while."""
    before = (LOGGER.level, LOGGER.propagate, LOGGER.handlers[:], logging.root.handlers[:])
    first, second = tmp_path / "1", tmp_path / "2"
    one = start(first)
    two = start(second)
    write(first, "a", "exec_1")
    write(second, "b", "exec_2")
    one.finish()
    assert (LOGGER.level, LOGGER.propagate, LOGGER.handlers, logging.root.handlers) == before
    write(second, "c", "exec_2")
    two.finish()
    assert logged(first) == [("exec_1", "a")]
    assert logged(second) == [("exec_2", "b"), ("exec_2", "c")]
    assert capsys.readouterr().err.count("TIMING") == 3


def _disabled():
    logging.disable(logging.CRITICAL)


def _configured():
    logging.config.dictConfig({"version": 1, "disable_existing_loggers": True})


def _levelled():
    LOGGER.setLevel(logging.CRITICAL)


@pytest.mark.parametrize("reconfigure", [_disabled, _configured, _levelled, logging.shutdown])
def test_whatever_the_program_does_to_logging_meanwhile(tmp_path, capsys, reconfigure):
    """A program that configures, disables or shuts down logging while the log is on silences its own handlers, not the log."""
    log = start(tmp_path)
    root = (logging.root.handlers[:], logging.root.level)
    disabled = {name: each.disabled for name, each in logging.root.manager.loggerDict.items() if isinstance(each, logging.Logger)}
    try:
        reconfigure()
        write(tmp_path, "a", "exec_1")
        log.finish()
    finally:
        logging.disable(logging.NOTSET)
        LOGGER.setLevel(logging.NOTSET)
        logging.root.handlers[:], logging.root.level = root
        for name, was in disabled.items():
            logging.getLogger(name).disabled = was
    assert logged(tmp_path) == [("exec_1", "a")]
    assert capsys.readouterr().err.count("TIMING") == 1


def test_handlers_of_the_users_own_have_the_lines_too(tmp_path, caplog):
    """Where the user gave the logger a level, its handlers have each line of a run, as parameters; one that raises stops nothing and is said once."""

    class Raises(logging.Filter):
        def filter(self, record):
            raise ValueError("on purpose")

    raises = Raises()
    with caplog.at_level(TIMING, LOGGER.name):
        log = start(tmp_path / "1")
        write(tmp_path / "1", "a", "exec_1", count=2)
        log.finish()
        assert [record.args[:3] for record in caplog.records] == [("exec_1", "n", "a")] * 2
        LOGGER.addFilter(raises)
        try:
            log = start(tmp_path / "2")
            write(tmp_path / "2", "a", "exec_2", count=2)
            log.finish()
        finally:
            LOGGER.removeFilter(raises)
    assert logged(tmp_path / "2") == [("exec_2", "a")] * 2
    assert caplog.text.count("on purpose") == 1


def test_a_closed_stderr_stops_nothing(tmp_path, monkeypatch, capsys):
    """Where stderr is closed, run.log has every line, and the end comes; where another one stands in its place by then, that one has them."""
    monkeypatch.setattr(timing_log, "_QUEUE", 2)
    caught = io.StringIO()
    with monkeypatch.context() as patched:
        patched.setattr(sys, "stderr", caught)
        log = start(tmp_path / "1")
        caught.close()
        write(tmp_path / "1", "a", "exec_1", count=50)
        log.finish()
        assert logged(tmp_path / "1") == [("exec_1", "a")] * 50
        log = start(tmp_path / "2")
    write(tmp_path / "2", "b", "exec_2")
    log.finish()
    said = capsys.readouterr().err
    assert (said.count("phase=b"), said.count("Traceback"), said.count("Logging error")) == (1, 0, 0)


@pytest.mark.parametrize("stream", [None, "fails"])
def test_a_stderr_that_takes_nothing_is_said_once(tmp_path, monkeypatch, caplog, stream):
    """Without a stderr there is nothing to say; one that can't be written is named once, and run.log goes on."""

    class Fails(io.StringIO):
        def write(self, text):
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(sys, "stderr", stream and Fails())
    log = start(tmp_path)
    write(tmp_path, "a", "exec_1", count=3)
    log.finish()
    assert logged(tmp_path) == [("exec_1", "a")] * 3
    assert [record.getMessage() for record in caplog.records] == (
        ["stderr takes no more lines of the timing log: [Errno 28] No space left on device"] if stream else []
    )


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a device that is full")
def test_a_full_disk_is_said_once(tmp_path, capsys, caplog):
    """A run.log that can't be written any more is named once, without tracebacks; stderr goes on."""
    (tmp_path / "run.log").symlink_to("/dev/full")
    log = start(tmp_path)
    write(tmp_path, "a", "exec_1", count=3)
    log.finish()
    said = capsys.readouterr().err
    assert (said.count("phase=a"), said.count("Traceback")) == (3, 0)
    assert [record.getMessage() for record in caplog.records] == [
        f"{tmp_path}/run.log takes no more lines of the timing log: [Errno 28] No space left on device"
    ]


def test_nobody_waits_for_a_thread_that_is_gone(monkeypatch):
    """Where nobody takes lines from a full queue any more, putting one more into it returns."""
    monkeypatch.setattr(timing_log, "_QUEUE", 1)
    lines = LogLines([TerminalTaker()])
    lines.close()
    record = logging.LogRecord("x", TIMING, "", 0, "x", (), None)
    for _ in range(3):
        lines.put(record)


def test_a_forked_child_writes_its_lines_itself(capfd):
    """What a forked child says outside of a run is written, though the thread that writes is its parent's."""
    lines = LogLines([TerminalTaker()])
    pid = os.fork()
    if not pid:
        lines.put(logging.LogRecord("x", TIMING, "", 0, "from the child", (), None))
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    lines.close()
    assert "from the child" in capfd.readouterr().err


def test_a_line_has_the_id_that_the_users_code_knows(tmp_path, capsys):
    """The phase's own, else the alias of the run, else the run's: who searches a log for `wf-7` finds what `wf-7` did."""
    known, plain = tmp_path / "known", tmp_path / "plain"
    for folder, alias, expected in ((known, "wf-7", "wf-7"), (plain, None, "exec_1")):
        log = start(folder, alias)
        write(folder, "a", "exec_1")
        write(folder, "b", "exec_1", more={FOREIGN_EXEC_ID: "request-3"})
        log.finish()
        assert logged(folder) == [(expected, "a"), ("request-3", "b")]
    assert capsys.readouterr().err.count("TIMING") == 4


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
