"""The small parts of exporting: the cursor's file, the summary, the console, a receiver's wish to be left alone."""

from __future__ import annotations

import email.utils
import io
import json
import time

import pytest
from support.spool_lines import line, span, write_spool

from otel_exec.config import Endpoint
from otel_exec.errors import RecordError
from otel_exec.spans.cursor import Cursor, Lease, Move, read_export
from otel_exec.spans.exporter import print_lines, summarize
from otel_exec.spans.transport_http import _retry_after_s

ENDPOINT = Endpoint("https://h:4318/v1/traces?key=hidden", "http/json")


def test_the_cursor_is_on_disk_after_each_move(run_folder):
    """Each move stands in export.json when advance returns, totals and files alike; a new cursor goes on from there."""
    cursor = Cursor(str(run_folder))
    cursor.advance("e", [Move("spans/a.jsonl", 100, 3), Move("spans/b.jsonl", 50, 1, 1, 1)])
    cursor.advance("e", [Move("spans/a.jsonl", 150, 2)], rejection="why")
    document = json.loads((run_folder / "export.json").read_bytes())
    entry = document["endpoints"]["e"]
    assert entry["files"] == {
        "spans/a.jsonl": {"bytes": 150, "acknowledged": 5, "rejected": 0, "skipped": 0},
        "spans/b.jsonl": {"bytes": 50, "acknowledged": 1, "rejected": 1, "skipped": 1},
    }
    assert (entry["spans_acknowledged"], entry["spans_rejected"], entry["lines_skipped"], entry["last_rejection"]) == (6, 1, 1, "why")
    assert Cursor(str(run_folder)).position("e", "spans/a.jsonl") == 150
    assert Cursor(str(run_folder)).position("other", "spans/a.jsonl") == 0


def test_a_closed_cursor_moves_no_more(run_folder):
    """What is acknowledged after the cursor was closed does not count: another exporter may have the lease."""
    cursor = Cursor(str(run_folder))
    cursor.advance("e", [Move("spans/a.jsonl", 100, 3)])
    cursor.close()
    cursor.advance("e", [Move("spans/a.jsonl", 200, 3)])
    cursor.note("e", "late")
    state = read_export(str(run_folder))
    assert state is not None
    assert (state.endpoints["e"].files["spans/a.jsonl"].bytes, state.endpoints["e"].last_error) == (100, None)


def test_a_cursor_that_cannot_be_written_goes_on(tmp_path):
    """When the disk refuses, positions in memory stay right and the failure is kept for the summary."""
    cursor = Cursor(str(tmp_path / "missing"))
    cursor.advance("e", [Move("spans/a.jsonl", 100, 3)])
    assert cursor.position("e", "spans/a.jsonl") == 100
    assert cursor.save_error


def test_unknown_keys_are_no_error(run_folder):
    """A later minor version may have more keys."""
    (run_folder / "export.json").write_text('{"schema_version": "1.7", "endpoints": {"e": {"spans_acknowledged": 2, "new": 1}}, "more": []}')
    state = read_export(str(run_folder))
    assert state is not None
    assert state.endpoints["e"].acknowledged == 2


def test_the_lease_is_exclusive(run_folder):
    """One holder at a time; free after its release."""
    lease = Lease.take(str(run_folder))
    assert lease is not None
    assert Lease.take(str(run_folder)) is None
    lease.release()
    again = Lease.take(str(run_folder))
    assert again is not None
    again.release()


def test_the_summary_counts_what_waits(run_folder):
    """Spans behind the cursor are acknowledged, those after it wait, whatever the lines' length; the address shows no secrets."""
    write_spool(run_folder, "a", range(10))
    long = span(10, attributes=[{"key": "x", "value": {"stringValue": "y" * 5_000_000}}])
    with (run_folder / "spans" / "a.jsonl").open("a") as file:
        file.write(line(long) + line(span(11), span(12)))
    Cursor(str(run_folder)).advance(ENDPOINT.shown, [Move("spans/a.jsonl", sum(len(line(span(number)).encode()) for number in range(4)), 4)])
    (entry,) = summarize(str(run_folder), [ENDPOINT], silence="nobody answered").endpoints
    assert (entry.total, entry.acknowledged, entry.waiting) == (13, 4, 9)
    assert entry.url == "https://h:4318/v1/traces?key=***"
    assert entry.error == "https://h:4318/v1/traces?key=***: nobody answered"


def test_the_summary_never_raises(tmp_path):
    """A missing folder and a damaged cursor give a summary with the problem in it."""
    assert [each.waiting for each in summarize(str(tmp_path / "missing"), [ENDPOINT]).endpoints] == [0]
    (tmp_path / "export.json").write_text("{")
    with pytest.raises(RecordError):
        read_export(str(tmp_path))
    assert "export.json" in summarize(str(tmp_path), [ENDPOINT]).problem


def test_console(run_folder):
    """The console exporter prints each whole line as it is, and no torn one."""
    write_spool(run_folder, "a", range(3))
    with (run_folder / "spans" / "a.jsonl").open("a") as file:
        file.write('{"resourceSpans":')
    out = io.StringIO()
    assert print_lines(str(run_folder), out) == 3
    assert out.getvalue() == "".join(line(span(number)) for number in range(3))


def test_retry_after():
    """Retry-After is a number of seconds or a date; other words say nothing; a date that has passed means now."""
    assert _retry_after_s("7") == 7.0
    assert _retry_after_s("soon") is None
    assert _retry_after_s("") is None
    later = email.utils.formatdate(time.time() + 100, usegmt=True)
    assert 95 < (_retry_after_s(later) or 0) <= 100
    assert _retry_after_s("Wed, 21 Oct 2015 07:28:00 GMT") == 0.0
