"""Lines in mapped memory on their way to the file: none is lost, none is twice, whatever ends the process."""

from __future__ import annotations

import errno
import os
import random
import signal
import threading

import pytest
from test_spans_spool import record

from otel_exec.spans import spool
from otel_exec.spans.spool import SpoolWriter, mend_folder, mend_spool, read_spool
from otel_exec.spans.write_ahead import AHEAD_SUFFIX, LinesAhead, WriteAhead

MS = 1_000_000


def names(folder):
    return [span.name for span in read_spool(str(folder))]


def put(writer, number, at_ns=0):
    writer.put(writer.line_of(record(number)), at_ns)


def test_what_was_put_is_read_before_it_is_in_the_file(tmp_path):
    """A reader sees each span once, in memory or in the file, in order; `flush` moves them; an orderly end leaves no other file."""
    writer = SpoolWriter(str(tmp_path), "w", {})
    for number in range(5):
        put(writer, number)
    assert os.path.getsize(writer.path) == 0
    assert names(tmp_path) == [f"span {number}" for number in range(5)]
    writer.flush()
    put(writer, 5)
    writer.write([record(6)])
    put(writer, 7)
    assert names(tmp_path) == [f"span {number}" for number in range(8)]
    writer.close()
    assert names(tmp_path) == [f"span {number}" for number in range(8)]
    assert os.listdir(tmp_path) == ["w.jsonl"]
    assert (writer.written, writer.lost, writer.error) == (8, 0, None)


def test_lines_reach_the_file_with_the_next_one_after_a_while(tmp_path):
    """A line that comes 50 ms after the last ones went takes those that wait with it."""
    writer = SpoolWriter(str(tmp_path), "w", {})
    put(writer, 0, 1000 * MS)
    put(writer, 1, 1040 * MS)
    assert os.path.getsize(writer.path) == 0
    put(writer, 2, 1051 * MS)
    assert names(tmp_path) == ["span 0", "span 1", "span 2"]
    assert os.path.getsize(writer.path) > 0
    assert LinesAhead(writer.path.removesuffix(".jsonl") + AHEAD_SUFFIX).beyond(os.path.getsize(writer.path)) == b""


@pytest.mark.parametrize("flushed", [False, True])
def test_a_killed_process_loses_nothing(tmp_path, flushed):
    """After a SIGKILL what was put is read, and mending moves it into the file, once."""
    pid = os.fork()
    if not pid:
        writer = SpoolWriter(str(tmp_path), "w", {})
        for number in range(300):
            put(writer, number)
        if flushed:
            writer.flush()
        put(writer, 300)
        os.kill(os.getpid(), signal.SIGKILL)
    assert os.waitpid(pid, 0)[1] == signal.SIGKILL
    expected = [f"span {number}" for number in range(301)]
    assert names(tmp_path) == expected
    mend_spool(str(tmp_path), "w")
    mend_folder(str(tmp_path))
    assert names(tmp_path) == expected
    assert os.listdir(tmp_path) == ["w.jsonl"]


def test_a_process_killed_in_a_write_leaves_a_line_that_goes_on_in_memory(tmp_path, monkeypatch):
    """A write that was cut short is completed from memory: by a reader, and by whoever mends the file."""
    whole_write = os.write

    def dies(fd, data):
        whole_write(fd, data[: len(data) // 2 + 10])
        os.kill(os.getpid(), signal.SIGKILL)

    pid = os.fork()
    if not pid:
        writer = SpoolWriter(str(tmp_path), "w", {})
        put(writer, 0)
        put(writer, 1)
        monkeypatch.setattr(spool.os, "write", dies)
        writer.flush()
    assert os.waitpid(pid, 0)[1] == signal.SIGKILL
    assert names(tmp_path) == ["span 0", "span 1"]
    mend_spool(str(tmp_path), "w")
    assert names(tmp_path) == ["span 0", "span 1"]
    assert os.listdir(tmp_path) == ["w.jsonl"]


def test_a_writer_that_lives_is_not_mended(tmp_path):
    """Whoever mends leaves the files of a writer that still holds its own alone."""
    writer = SpoolWriter(str(tmp_path), "w", {})
    put(writer, 0)
    mend_folder(str(tmp_path))
    assert os.path.getsize(writer.path) == 0
    put(writer, 1)
    writer.close()
    assert names(tmp_path) == ["span 0", "span 1"]


def test_the_memory_is_used_round_and_round(tmp_path):
    """Lines of any length wrap around its end; what the file and the memory hold is always the whole stream."""
    picks = random.Random(7)
    path = str(tmp_path / "x.ahead")
    ahead = WriteAhead(path, 5, capacity=100)
    stream = bytearray(5)
    for _ in range(500):
        line = bytes(picks.choices(b"abc", k=picks.randint(1, 60))) + b"\n"
        if not ahead.put(line):
            todo = ahead.pending()
            stream += todo[: picks.randint(1, len(todo))]
            ahead.moved(len(stream) - ahead.flushed)
            assert ahead.put(line) or len(line) + ahead.end - ahead.flushed > 100
        whole = bytes(stream) + LinesAhead(path).beyond(len(stream))
        assert whole == bytes(stream) + ahead.pending()
    ahead.moved(len(ahead.pending()))
    assert LinesAhead(path).beyond(ahead.end) == b""


def test_a_disk_that_is_full_keeps_lines_in_memory_until_there_is_room(tmp_path, monkeypatch):
    """A failing flush loses nothing; the next one that works writes all."""
    writer = SpoolWriter(str(tmp_path), "w", {})
    put(writer, 0)

    def full(fd, data):
        raise OSError(errno.ENOSPC, "no space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(spool.os, "write", full)
        writer.flush()
        put(writer, 1, 100 * MS)
    assert writer.error.errno == errno.ENOSPC
    assert writer.lost == 0
    writer.close()
    assert names(tmp_path) == ["span 0", "span 1"]


def test_a_disk_that_is_full_at_the_end_loses_nothing_either(tmp_path, monkeypatch):
    """What the file has no room for when its writer closes stays in mapped memory: it is not lost, the file is let go, and mending brings it there."""
    writer = SpoolWriter(str(tmp_path), "w", {})
    put(writer, 1)
    put(writer, 2)

    def full(fd, data):
        raise OSError(errno.ENOSPC, "no space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        writer.close()
    assert (writer.lost, writer.error.errno) == (0, errno.ENOSPC)
    put(writer, 3)
    assert writer.lost == 1
    mend_folder(str(tmp_path))
    assert names(tmp_path) == ["span 1", "span 2"]
    assert os.listdir(tmp_path) == ["w.jsonl"]


def test_without_a_mapping_each_line_is_written_at_once(tmp_path, monkeypatch):
    """Where memory can't be mapped, or there is no room for it, a put is a write."""

    def refuses(*args):
        raise OSError(errno.ENODEV, "no such device")

    monkeypatch.setattr(spool, "WriteAhead", refuses)
    writer = SpoolWriter(str(tmp_path), "w", {})
    put(writer, 0)
    assert os.path.getsize(writer.path) > 0
    assert (names(tmp_path), writer.error, writer.lost) == (["span 0"], None, 0)


def test_a_forked_child_leaves_its_parents_lines_alone(tmp_path):
    """The child's lines go to its own file at once; the parent's are written once, by the parent."""
    writer = SpoolWriter(str(tmp_path), "w", {})
    put(writer, 0)
    pid = os.fork()
    if not pid:
        put(writer, 1)
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    put(writer, 2)
    writer.close()
    assert sorted(names(tmp_path)) == ["span 0", "span 1", "span 2"]
    assert os.path.getsize(tmp_path / f"w-fork-{pid}.jsonl") > 0


def test_threads_put_whole_lines_and_all_of_them(tmp_path):
    """Eight threads at once, past the memory's size many times: every line is there, once."""
    writer = SpoolWriter(str(tmp_path), "w", {})

    def work(first):
        for number in range(first, first + 500):
            put(writer, number, number * MS)

    threads = [threading.Thread(target=work, args=(first * 500,)) for first in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    writer.close()
    assert sorted(names(tmp_path)) == sorted(f"span {number}" for number in range(4000))
    assert (writer.written, writer.lost) == (4000, 0)


def test_what_is_no_mapped_file_of_ours_holds_nothing(tmp_path):
    """A foreign, cut or missing file has no lines, and mending it raises nothing."""
    for content in (b"", b"x" * 10, b"x" * 500, b"otelahd1" + b"\xff" * 100):
        (tmp_path / "w.ahead").write_bytes(content)
        assert LinesAhead(str(tmp_path / "w.ahead")).beyond(0) == b""
    mend_folder(str(tmp_path))
    mend_folder(str(tmp_path / "missing"))
    assert names(tmp_path) == []
