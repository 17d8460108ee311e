"""The spool's writer: whole lines, whatever the disk and forks do."""

from __future__ import annotations

import errno
import json
import os
from types import SimpleNamespace

import pytest

from otel_exec.spans import spool
from otel_exec.spans.line_codec import LineEncoder
from otel_exec.spans.span_record import SpanLink, SpanRecord
from otel_exec.spans.spool import SpoolWriter, decode_line, read_spool, read_spool_file


def record(number, **fields):
    return SpanRecord("ab" * 16, f"{number:016x}", "", f"span {number}", fields.pop("kind", "phase"), 1, 2, {"exec.id": "exec_1"}, **fields)


def test_a_line_is_the_request_that_the_specification_shows():
    """Ids are hex, nanoseconds and ints strings, enums numbers, unset things left out, and `flags` says that is-remote is known."""
    line = LineEncoder({"service.name": "demo", "process.pid": 7}).encode([record(1, links=(SpanLink("cd" * 16, "ef" * 8),), status=2, status_message="no")])
    assert json.loads(line) == {
        "resourceSpans": [
            {
                "resource": {
                    "attributes": [{"key": "service.name", "value": {"stringValue": "demo"}}, {"key": "process.pid", "value": {"intValue": "7"}}],
                },
                "scopeSpans": [
                    {
                        "scope": {"name": "otel_exec"},
                        "spans": [
                            {
                                "traceId": "ab" * 16,
                                "spanId": "0000000000000001",
                                "flags": 0x101,
                                "name": "span 1",
                                "kind": 1,
                                "startTimeUnixNano": "1",
                                "endTimeUnixNano": "2",
                                "attributes": [
                                    {"key": "exec.kind", "value": {"stringValue": "phase"}},
                                    {"key": "exec.id", "value": {"stringValue": "exec_1"}},
                                ],
                                "links": [
                                    {
                                        "traceId": "cd" * 16,
                                        "spanId": "ef" * 8,
                                        "attributes": [{"key": "exec.edge", "value": {"stringValue": "data"}}],
                                    }
                                ],
                                "status": {"message": "no", "code": 2},
                            }
                        ],
                    }
                ],
            }
        ]
    }


@pytest.mark.parametrize(("flags", "on_the_wire"), [(0, 0x100), (1, 0x101), (0x201, 0x301)])
def test_flags_say_sampled_and_remote(flags, on_the_wire):
    """The low eight bits are W3C's; bit 8 is always set, bit 9 where the parent is in another process; reading gives back what was written."""
    line = LineEncoder({}).encode([record(1, flags=flags)])
    assert json.loads(line)["resourceSpans"][0]["scopeSpans"][0]["spans"][0]["flags"] == on_the_wire
    assert decode_line(line)[0].flags == flags


@pytest.mark.parametrize("line", [b"", b"{", b"null", b"[]", b'{"resourceMetrics":[]}', b'{"resourceSpans":[{"scopeSpans":[{"spans":[{}]}]}]}', b"\xff\xfe"])
def test_what_is_no_line_is_refused(line):
    """Torn and foreign lines are a `ValueError`."""
    with pytest.raises(ValueError, match=r"."):
        decode_line(line)


def test_every_write_is_in_the_file_when_it_returns(tmp_path):
    """One call is one append, seen at once by another reader; files of other kinds in the folder are left alone."""
    writer = SpoolWriter(str(tmp_path / "spans"), "w", {})
    (tmp_path / "spans" / "metrics.json").write_text("{")
    writer.write([record(1), record(2)])
    assert list(read_spool(str(tmp_path / "spans"))) == [record(1), record(2)]
    writer.write([record(3)])
    assert list(read_spool_file(writer.path)) == [record(1), record(2), record(3)]
    assert (writer.written, writer.lost, writer.error) == (3, 0, None)


def test_a_call_writes_once(tmp_path, monkeypatch):
    """Six spans in one call are one system call."""
    writer = SpoolWriter(str(tmp_path), "w", {})
    calls = []
    monkeypatch.setattr(spool.os, "write", lambda fd, data: calls.append(data) or len(data))
    writer.write([record(number) for number in range(6)])
    assert len(calls) == 1


def test_a_write_cut_short_is_gone_on_with(tmp_path, monkeypatch):
    """A short write is followed by the rest, so that nothing is lost."""
    writer = SpoolWriter(str(tmp_path), "w", {})
    whole_write = os.write
    monkeypatch.setattr(spool.os, "write", lambda fd, data: whole_write(fd, data[:50]))
    writer.write([record(1), record(2)])
    assert list(read_spool(str(tmp_path))) == [record(1), record(2)]
    assert (writer.written, writer.lost) == (2, 0)


def test_a_full_disk_costs_only_what_did_not_fit(tmp_path, monkeypatch):
    """After a torn line the next write begins on a line of its own; the error is kept, the spans that did not fit are counted.

    For a second the disk is left alone: what room there is by then is for outcomes.
    """
    now_s = [100.0]
    monkeypatch.setattr(spool, "time", SimpleNamespace(monotonic=lambda: now_s[0]))
    writer = SpoolWriter(str(tmp_path), "w", {})
    whole_write = os.write
    room = [len(LineEncoder({}).encode([record(1)])) + 50]

    def limited(fd, data):
        if not room[0]:
            raise OSError(errno.ENOSPC, "no space left on device")
        size = whole_write(fd, data[: room[0]])
        room[0] -= size
        return size

    monkeypatch.setattr(spool.os, "write", limited)
    writer.write([record(1), record(2), record(3)])
    assert (writer.written, writer.lost, writer.error.errno) == (1, 2, errno.ENOSPC)
    room[0] = 10_000
    now_s[0] += 0.9
    writer.write([record(4)])
    assert list(read_spool(str(tmp_path))) == [record(1)]
    now_s[0] += 0.2
    writer.write([record(5)])
    assert list(read_spool(str(tmp_path))) == [record(1), record(5)]
    assert (writer.written, writer.lost) == (2, 3)


def test_a_folder_that_can_not_be_made_loses_spans_and_raises_nothing(tmp_path):
    """The writer never raises: it says what went wrong and counts."""
    (tmp_path / "file").write_text("")
    writer = SpoolWriter(str(tmp_path / "file" / "spans"), "w", {})
    writer.write([record(1)])
    assert isinstance(writer.error, OSError)
    assert writer.lost == 1
    writer.close()


def test_writes_after_close_are_counted_as_lost(tmp_path):
    """Closing twice is fine; what comes later is lost and said to be."""
    writer = SpoolWriter(str(tmp_path), "w", {})
    writer.close()
    writer.close()
    writer.write([record(1)])
    assert (writer.written, writer.lost) == (0, 1)


def test_a_forked_child_writes_a_file_of_its_own(tmp_path):
    """Parent and child write at once, each whole, and the child's file is named for its process."""
    writer = SpoolWriter(str(tmp_path), "w", {})
    writer.write([record(1)])
    pid = os.fork()
    if not pid:
        writer.write([record(2)])
        os._exit(0 if writer.written == 1 else 1)
    assert os.waitpid(pid, 0)[1] == 0
    writer.write([record(3)])
    assert list(read_spool_file(writer.path)) == [record(1), record(3)]
    assert list(read_spool_file(str(tmp_path / f"w-fork-{pid}.jsonl"))) == [record(2)]


def test_a_missing_folder_holds_nothing(tmp_path):
    """Reading the spool of a run that never wrote one gives nothing."""
    assert list(read_spool(str(tmp_path / "none"))) == []
