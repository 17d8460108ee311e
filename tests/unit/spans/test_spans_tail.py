"""Following a spool while it grows: each span once, whatever else is in the files."""

from __future__ import annotations

import logging
import os
import threading

import pytest

from otel_exec.spans import spool_tail
from otel_exec.spans.line_codec import LineEncoder
from otel_exec.spans.span_record import SpanRecord
from otel_exec.spans.spool_follower import MAX_LINE_BYTES
from otel_exec.spans.spool_tail import SpoolTail

DEADLINE_S = 20


def line(number, **more):
    return LineEncoder({}).encode([SpanRecord("ab" * 16, f"{number:016x}", "", f"span {number}", "phase", 1, 2, {}, **more)])


class Taker:
    """Keeps names; `wait` returns when so many have come."""

    def __init__(self):
        self.names = []
        self.came = threading.Condition()

    def __call__(self, span):
        with self.came:
            self.names.append(span.name)
            self.came.notify_all()

    def wait(self, count):
        with self.came:
            assert self.came.wait_for(lambda: len(self.names) >= count, DEADLINE_S)


@pytest.fixture
def spans(tmp_path):
    folder = tmp_path / "spans"
    folder.mkdir()
    return folder


@pytest.fixture(autouse=True)
def often(monkeypatch):
    monkeypatch.setattr(spool_tail, "_INTERVAL_S", 0.001)


def append(path, data):
    with open(path, "ab") as file:
        file.write(data)


def test_bad_lines_cost_nothing_but_themselves(spans, caplog):
    """Torn, foreign and mistyped lines in the middle are counted and said once; every span around them comes, in every file."""
    mistyped = line(9).replace(b'"startTimeUnixNano":"1"', b'"startTimeUnixNano":"soon"')
    assert mistyped != line(9)
    (spans / "a.jsonl").write_bytes(line(1) + line(2)[:40] + b"\n" + line(3) + b"\xff\xfe{]\n" + mistyped + line(4))
    (spans / "b.jsonl").write_bytes(b"no span\n" + line(5))
    taker = Taker()
    tail = SpoolTail(str(spans), taker)
    tail.finish()
    assert sorted(taker.names) == ["span 1", "span 3", "span 4", "span 5"]
    assert (tail.skipped, tail.failed) == (4, 0)
    assert len([entry for entry in caplog.records if entry.name == spool_tail.__name__]) == 1


def test_a_take_that_raises_loses_that_span_alone(spans, caplog):
    """What the taker raises for one span is said; the spans after it, in the same look, still come."""
    taken = []

    def take(span):
        if span.name == "span 2":
            raise LookupError("not this one")
        taken.append(span.name)

    (spans / "a.jsonl").write_bytes(line(1) + line(2) + line(3))
    (spans / "b.jsonl").write_bytes(line(4))
    tail = SpoolTail(str(spans), take)
    tail.finish()
    assert sorted(taken) == ["span 1", "span 3", "span 4"]
    assert tail.failed == 1
    assert [entry.levelno for entry in caplog.records if "not this one" in entry.getMessage()] == [logging.WARNING]


def test_files_and_lines_that_appear_later(spans):
    """Spans come while the run goes on: of new files, of lines that are written in two halves, each once."""
    taker = Taker()
    tail = SpoolTail(str(spans), taker)
    append(spans / "a.jsonl", line(1))
    taker.wait(1)
    append(spans / "b.jsonl", line(2) + line(3)[:30])
    taker.wait(2)
    append(spans / "b.jsonl", line(3)[30:])
    append(spans / "c.jsonl", line(4))
    taker.wait(4)
    append(spans / "a.jsonl", line(5))
    tail.finish()
    assert sorted(taker.names) == [f"span {number}" for number in range(1, 6)]
    assert taker.names[-1] == "span 5"


def test_long_lines_and_many(spans):
    """A line longer than a batch comes whole, one past what a request may hold is counted, and the end waits for all batches."""
    big = line(1, status=2, status_message="x" * (2 << 20))
    huge = line(2, status=2, status_message="x" * MAX_LINE_BYTES)
    many = b"".join(line(number, status=2, status_message="y" * 1000) for number in range(10, 4010))
    (spans / "a.jsonl").write_bytes(big + huge + line(3))
    (spans / "b.jsonl").write_bytes(many)
    taker = Taker()
    tail = SpoolTail(str(spans), taker)
    tail.finish()
    assert sorted(taker.names) == sorted(["span 1", "span 3", *(f"span {number}" for number in range(10, 4010))])
    assert tail.skipped == 1


def test_links_and_missing_folders_are_passed_over(spans, tmp_path):
    """A symbolic link is not followed, and a folder that is not there yet holds nothing."""
    (tmp_path / "elsewhere").write_bytes(line(1))
    os.symlink(tmp_path / "elsewhere", spans / "link.jsonl")
    for folder in (spans, tmp_path / "none" / "spans"):
        taker = Taker()
        SpoolTail(str(folder), taker).finish()
        assert taker.names == []
