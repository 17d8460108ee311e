from __future__ import annotations

import json
import uuid

import pytest

from otel_exec.errors import RecordError
from otel_exec.record import step_files
from otel_exec.record.step_files import StatusEvent


@pytest.fixture(params=["local", "memory"])
def output(request, tmp_path):
    """An output path that doesn't exist yet, on each kind of store."""
    return f"{tmp_path}/step-abc123" if request.param == "local" else f"memory://{uuid.uuid4().hex}/step-abc123"


def test_events_come_back_in_the_order_they_were_appended(output):
    """What is appended is read back whole and in order, on a local disk and on a remote store."""
    step_files.make_output_folder(output)
    events = [
        StatusEvent(date="2026-11-23T14:41:14.000001+00:00", status="RUNNING", task_id="step-abc123"),
        StatusEvent(
            date="2026-11-23T14:41:16.000001+00:00",
            status="SUCCESS",
            execution_start_time=1.5,
            execution_end_time=3.25,
            exec_id="exec_1",
            trace_id="t",
            span_id="s",
        ),
    ]
    for event in events:
        step_files.append_event(output, event)
    assert step_files.read_events(output) == events


def test_a_line_holds_every_promised_key(tmp_path):
    """A line of the status file has the promised keys, null where nothing is known."""
    step_files.append_event(str(tmp_path), StatusEvent(date="d", status="RUNNING"))
    (line,) = (tmp_path / ".executor_status").read_text().splitlines()
    assert list(json.loads(line))[:6] == ["date", "status", "message", "task_id", "execution_start_time", "execution_end_time"]
    assert json.loads(line)["execution_end_time"] is None


def test_no_status_file_is_no_event(output):
    """A step that never ran has no events."""
    assert step_files.read_events(output) == []


@pytest.mark.parametrize("content", ["SUCCESS", "SUCCESS\n", "  SUCCESS \n"])
def test_a_bare_word_is_that_status(tmp_path, content):
    """A file of the older format, one bare word, is read as that status."""
    (tmp_path / ".executor_status").write_text(content)
    assert [event.status for event in step_files.read_events(str(tmp_path))] == ["SUCCESS"]


@pytest.mark.parametrize("content", ["FAILED", "FAILED\n"])
def test_appending_goes_on_from_a_bare_word(tmp_path, content):
    """A file of the older format that a run appends to keeps its word as the first event."""
    (tmp_path / ".executor_status").write_text(content)
    step_files.append_event(str(tmp_path), StatusEvent(date="d", status="RUNNING"))
    assert [event.status for event in step_files.read_events(str(tmp_path))] == ["FAILED", "RUNNING"]


def test_a_torn_last_line_is_passed_over_and_never_joined(output):
    """After a writer was killed in the middle of a line, the next event stands on a line of its own and the torn one is passed over."""
    step_files.make_output_folder(output)
    first, last = StatusEvent(date="d", status="RUNNING"), StatusEvent(date="e", status="SUCCESS")
    step_files.append_event(output, first)
    tear(output + step_files.STATUS, b'{"date":"2026-')
    assert step_files.read_events(output) == [first]
    step_files.append_event(output, last)
    assert step_files.read_events(output) == [first, last]


@pytest.mark.parametrize(
    "line",
    [
        b"[]",
        b"7",
        b'"SUCCESS"',
        b"null",
        b'{"status": 3}',
        b'{"date": "d"}',
        b"\xff\xfe",
        b"\x00\x00",
        b"[" * 100_000,
        b"Success!",
    ],
    ids=lambda line: repr(line[:12]),
)
def test_foreign_lines_are_passed_over(tmp_path, line):
    """A line that is no event disturbs nobody."""
    event = StatusEvent(date="d", status="SUCCESS")
    step_files.append_event(str(tmp_path), event)
    with (tmp_path / ".executor_status").open("ab") as file:
        file.write(line + b"\n")
    assert step_files.read_events(str(tmp_path)) == [event]


def test_events_of_other_writers_keep_what_can_be_used(tmp_path):
    """An event with keys missing, unknown or of other types is read as far as it can be understood."""
    (tmp_path / ".executor_status").write_text(
        '{"status": "RUNNING", "host": "x", "message": {"a": 1}}\n{"date": 5, "status": "SUCCESS", "execution_start_time": NaN, "execution_end_time": 7, "ray_task_id": null}\n'
    )
    assert step_files.read_events(str(tmp_path)) == [
        StatusEvent(date="", status="RUNNING"),
        StatusEvent(date="", status="SUCCESS", execution_end_time=7.0),
    ]


def test_a_message_that_is_no_unicode_is_written_escaped(output):
    """Lone surrogates in an exception's text don't keep the event from being written."""
    step_files.make_output_folder(output)
    step_files.append_event(output, StatusEvent(date="d", status="FAILED", message="no such file: \udcff"))
    assert [event.message for event in step_files.read_events(output)] == ["no such file: \\udcff"]


def test_info_is_replaced_and_read_back(output):
    """The info file holds what was written last, and nothing else is left beside it."""
    step_files.make_output_folder(output)
    step_files.write_info(output, b'{"name": "old", "more": [1, 2, 3]}')
    step_files.write_info(output, b'{"name": "a"}')
    assert step_files.read_info(output) == {"name": "a"}


def test_replacing_leaves_nothing_beside(tmp_path):
    """No temporary file stays in the output folder."""
    step_files.write_info(str(tmp_path), b"{}")
    assert [path.name for path in tmp_path.iterdir()] == [".executor_info"]


@pytest.mark.parametrize("content", [b"", b"[1]", b"{", b"\xff", b"[" * 100_000])
def test_an_info_that_is_none_reads_as_none(tmp_path, content):
    """An info file that holds no JSON object is as good as none."""
    (tmp_path / ".executor_info").write_bytes(content)
    assert step_files.read_info(str(tmp_path)) is None
    assert step_files.read_info(str(tmp_path / "elsewhere")) is None


@pytest.mark.parametrize("static", [b"{}", b'{"a":1}', b' {"a": [1, {}] } \n'])
@pytest.mark.parametrize("measured", [{}, {"b": 2.5, "c": None}])
def test_measured_keys_are_added_to_the_static_ones(static, measured):
    """Merging gives the JSON object that has both sides' keys."""
    assert json.loads(step_files.merge_info(static, measured)) == {**json.loads(static), **measured}


def test_making_a_folder_that_is_there_is_fine(output):
    """A second run finds the output folder as the first left it."""
    step_files.make_output_folder(output + "/deep/er")
    step_files.make_output_folder(output + "/deep/er")


def test_a_file_in_the_way_is_named(tmp_path):
    """An output folder that can't be made gives one sentence with path, reason and way out."""
    (tmp_path / "taken").write_text("a file")
    for path in (f"{tmp_path}/taken", f"{tmp_path}/taken/below"):
        with pytest.raises(RecordError) as caught:
            step_files.make_output_folder(path)
        assert caught.value.path == path
        assert "a file stands where a folder is needed" in caught.value.reason


def test_a_full_disk_is_named(tmp_path, monkeypatch):
    """When the disk is full the error names the file, the reason and what to do, and what was there stays."""
    step_files.write_info(str(tmp_path), b'{"name": "old"}')

    def full(_descriptor, _content):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.write", full)
    with pytest.raises(RecordError) as caught:
        step_files.write_info(str(tmp_path), b'{"name": "new"}')
    with pytest.raises(RecordError, match="no space left"):
        step_files.append_event(str(tmp_path), StatusEvent(date="d", status="RUNNING"))
    assert caught.value.path == f"{tmp_path}/.executor_info"
    assert "make room on the disk" in caught.value.reason
    assert step_files.read_info(str(tmp_path)) == {"name": "old"}


def test_an_unknown_store_is_named():
    """A URL that no installed store understands gives one sentence, not a traceback of fsspec's."""
    with pytest.raises(RecordError) as caught:
        step_files.make_output_folder("nosuchstore://bucket/step")
    assert caught.value.path == "nosuchstore://bucket/step"
    assert "nosuchstore" in caught.value.reason


def tear(path, part):
    """Leave part of a line at the end of a file, as a killed writer does."""
    import fsspec

    with fsspec.open(path, "rb") as file:
        content = file.read()
    with fsspec.open(path, "wb") as file:
        file.write(content + part)
