"""Logs of steps stay bounded and say what was cut."""

from __future__ import annotations

import errno
import fcntl
import os
import resource

import fsspec
import pytest

from otel_exec.execute.capture import ScratchCapture, far_copy
from otel_exec.execute.output_log import Bounded, LogFile
from otel_exec.execute.salvage import keep_output
from otel_exec.execute.wire import NO_OFFSET


def test_what_fits_is_kept_whole():
    """Up to the cap nothing is cut, however it comes."""
    kept = Bounded(100)
    for piece in (b"a" * 30, b"b" * 30, b"c" * 40):
        kept.feed(piece)
    assert kept.content() == b"a" * 30 + b"b" * 30 + b"c" * 40


def test_past_the_cap_head_and_tail_are_kept():
    """Past the cap the first and the last half stay, and the number of bytes between them is exact."""
    kept = Bounded(100)
    for number in range(1000):
        kept.feed(b"%09d\n" % number)
    content = kept.content()
    assert content.startswith(b"000000000\n000000001\n")
    assert content.endswith(b"000000998\n000000999\n")
    assert b"\n... (9900 bytes left out) ...\n" in content
    assert kept.last_lines().splitlines()[-1] == "000000999"


def test_skipped_bytes_are_counted_as_cut():
    """What nobody read is in the count."""
    kept = Bounded(20)
    kept.feed(b"h" * 10)
    kept.skip(1000)
    kept.feed(b"t" * 10)
    assert kept.content() == b"h" * 10 + b"\n... (1000 bytes left out) ...\n" + b"t" * 10


def test_a_log_grows_with_its_step_and_later_attempts_go_on(tmp_path):
    """The file is right after each update; a second attempt is added under a line of its own; a new first attempt begins anew."""
    first = LogFile(str(tmp_path), 1)
    kept = Bounded(20)
    for piece in (b"one\n", b"two\n", b"x" * 40 + b"\nend\n"):
        kept.feed(piece)
        first.update(kept)
        assert (tmp_path / ".executor_log").read_bytes() == kept.content()
    first.finish(kept)
    second = LogFile(str(tmp_path), 2)
    again = Bounded(100)
    again.feed(b"more\n")
    assert second.finish(again) == str(tmp_path / ".executor_log")
    assert (tmp_path / ".executor_log").read_bytes() == kept.content() + b"--- attempt 2 ---\nmore\n"
    anew = LogFile(str(tmp_path), 1)
    anew.finish(again)
    assert (tmp_path / ".executor_log").read_bytes() == b"more\n"


def test_no_output_no_file(tmp_path):
    """Nothing printed: nothing written."""
    assert LogFile(str(tmp_path), 1).finish(Bounded(10)) is None
    assert os.listdir(tmp_path) == []


def test_remote_logs_are_written_at_the_end():
    """A store that can't append gets the log whole, attempts one after the other."""
    for attempt, text in ((1, b"first\n"), (2, b"second\n")):
        log = LogFile("memory://logs/step", attempt)
        kept = Bounded(100)
        kept.feed(text)
        log.update(kept)
        log.finish(kept)
    assert fsspec.filesystem("memory").cat_file("/logs/step/.executor_log") == b"first\n--- attempt 2 ---\nsecond\n"


def test_a_dead_workers_output_is_salvaged(tmp_path):
    """The driver keeps the slice of the worker's scratch file that belongs to the attempt; where the worker had cut it, its own log stands."""
    scratch = tmp_path / "scratch"
    scratch.write_bytes(b"of another task\nmine\nlast\n")
    out = tmp_path / "out"
    out.mkdir()
    assert keep_output(str(scratch), 16, str(out), 1, 1000) == "mine\nlast"
    assert (out / ".executor_log").read_bytes() == b"mine\nlast\n"
    (out / ".executor_log").write_bytes(b"kept current")
    assert keep_output(str(scratch), NO_OFFSET, str(out), 1, 1000).endswith("last")
    assert (out / ".executor_log").read_bytes() == b"kept current"
    assert keep_output(str(tmp_path / "none"), 0, str(out), 1, 1000) == ""


@pytest.fixture
def scratch(tmp_path, monkeypatch):
    """A capture that leaves this process's own descriptors alone."""
    monkeypatch.setattr(ScratchCapture, "_redirect", lambda self: None)
    monkeypatch.setattr(ScratchCapture, "_restore", lambda self: None)
    import sys

    saved = {name: getattr(sys, name) for name in ("stdout", "stderr", "__stdout__", "__stderr__")}
    shown = []
    made = ScratchCapture(str(tmp_path / "scratch"), 1000, shown.append)
    for name, stream in saved.items():
        setattr(sys, name, stream)
    made.shown = shown
    yield made
    os.close(made._fd)


def test_a_running_tasks_log_is_current_and_a_flood_is_cut_back(scratch, tmp_path):
    """Looking from the side brings the log up to date, shows whole lines, and cuts the scratch file when a flood has been read."""
    out = tmp_path / "out"
    out.mkdir()
    os.write(scratch._fd, b"before\n")
    scratch.begin(str(out), 1)
    os.write(scratch._fd, b"one\ntw")
    assert scratch.look() is False
    assert (out / ".executor_log").read_bytes() == b"one\ntw"
    assert scratch.shown == ["one\n"]
    for _ in range(10):
        os.write(scratch._fd, b"z" * 1_000_000 + b"\n")
    assert scratch.look() is True
    assert scratch.cut
    assert os.fstat(scratch._fd).st_size == 0
    os.write(scratch._fd, b"end\n")
    caught = scratch.end()
    log = (out / ".executor_log").read_bytes()
    assert log.startswith(b"one\ntwzzz")
    assert log.endswith(b"z\nend\n")
    assert len(log) < 1100
    assert caught.tail.endswith("end")
    scratch.begin(None, 1)
    os.write(scratch._fd, b"an item\n")
    assert scratch.end().content == b"an item\n"


@pytest.mark.parametrize(("limit", "at_least"), [(resource.RLIM_INFINITY, 100), (1024, 100), (100, 75), (64, 48), (32, 24)])
def test_a_descriptor_is_kept_far_away_as_the_limit_allows(monkeypatch, limit, at_least):
    """Where few files may be open the scratch file's descriptor is nearer, not refused."""
    asked = []
    monkeypatch.setattr(resource, "getrlimit", lambda _which: (limit, limit))
    monkeypatch.setattr(fcntl, "fcntl", lambda fd, command, at: asked.append((fd, command, at)) or at)
    assert far_copy(5) == at_least
    assert asked == [(5, fcntl.F_DUPFD_CLOEXEC, at_least)]


def test_a_descriptor_is_kept_anywhere_where_nothing_far_is_free(monkeypatch):
    """With all high numbers taken any number does."""

    def taken(_fd, _command, at):
        if at > 3:
            raise OSError(errno.EMFILE, "Too many open files")
        return 4

    monkeypatch.setattr(fcntl, "fcntl", taken)
    assert far_copy(5) == 4
