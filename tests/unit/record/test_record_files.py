"""run.json, status.json, the journal and `latest`: written, and read again whatever happened to them."""

from __future__ import annotations

import json
import math
import os
import threading
import uuid

import msgspec
import pytest

from otel_exec.errors import RecordError
from otel_exec.record import run_store, storage
from otel_exec.record.encoding import encode
from otel_exec.record.model import ExecutorRecord, Experiment, RunRecord, StepRecord
from otel_exec.record.record_file import keep_foreign
from otel_exec.record.run_store import JournalLine, RunStore, read_journal, read_record, write_record
from otel_exec.record.status_model import Progress, StatusRecord

EXEC = "exec_" + "a" * 32


def record(**more):
    return RunRecord(
        "1.0", EXEC, "t", "s", "success", Experiment("demo"), ExecutorRecord("inline", 1), "/p", "/p/r", "2026-11-23T14:41:14.000001+00:00", **more
    )


def status():
    return StatusRecord("1.0", EXEC, "running", "2026-11-23T14:41:14.000001+00:00", Progress(1, 2), experiment="demo")


@pytest.fixture
def remote_prefix():
    return f"memory://{uuid.uuid4().hex}/outputs"


def test_a_run_has_its_folder(tmp_path):
    """A run's files lie under the prefix, in a folder named for the run, with a place for spans."""
    store = RunStore(str(tmp_path), EXEC)
    store.write_run(write_record(record()), also=f"{tmp_path}/run.json")
    store.write_status(status())
    store.journal([JournalLine(1, "began"), JournalLine(2, "created", node="a-1")])
    store.publish_latest()
    store.close()
    folder = tmp_path / ".otel_exec" / "runs" / EXEC
    assert store.folder == store.run_folder == str(folder)
    assert sorted(path.name for path in folder.iterdir()) == ["journal.jsonl", "run.json", "spans", "status.json"]
    assert read_record(f"{folder}/run.json") == read_record(f"{tmp_path}/run.json") == record()
    assert msgspec.json.decode((folder / "status.json").read_bytes(), type=StatusRecord) == status()
    assert read_journal(str(folder)) == [JournalLine(1, "began"), JournalLine(2, "created", node="a-1")]
    assert (tmp_path / ".otel_exec" / "latest").read_text() == EXEC + "\n"


def test_a_remote_run_is_uploaded_when_it_is_closed(remote_prefix):
    """Under a remote prefix the live files are local; run.json is in the store at once, the rest once the run is closed, and nothing stays behind locally."""
    store = RunStore(remote_prefix, EXEC)
    assert os.path.isdir(store.folder + "/spans")
    assert store.run_folder == f"{remote_prefix}/.otel_exec/runs/{EXEC}"
    store.write_run(write_record(record()))
    assert read_record(store.run_folder + "/run.json") == record()
    store.journal([JournalLine(1, "began")])
    store.write_status(status())
    store.publish_latest()
    with open(store.folder + "/spans/driver.jsonl", "wb") as file:
        file.write(b"{}\n")
    store.close()
    store.close()
    assert not os.path.exists(store.folder)
    assert read_journal(store.run_folder) == [JournalLine(1, "began")]
    assert storage.read_bytes(store.run_folder + "/spans/driver.jsonl") == b"{}\n"
    assert storage.read_bytes(f"{remote_prefix}/.otel_exec/latest") == EXEC.encode() + b"\n"


@pytest.mark.parametrize("taken", ["outputs", "outputs/.otel_exec", "outputs/.otel_exec/runs"])
def test_a_prefix_that_cannot_be_written_is_named(tmp_path, taken):
    """A prefix that can't be written gives one sentence: path, reason, what to do."""
    path = tmp_path / taken
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("a file")
    with pytest.raises(RecordError) as caught:
        RunStore(f"{tmp_path}/outputs", EXEC)
    assert caught.value.path == f"{tmp_path}/outputs"
    assert "a file stands where a folder is needed" in caught.value.reason
    assert "OTEL_EXEC_PREFIX" in caught.value.reason
    assert path.read_text() == "a file"


def test_the_folders_record_is_written_when_the_other_cannot_be(tmp_path):
    """Where the record in the working directory can't be written, the one in the run's folder is, and the error names the other."""
    store = RunStore(str(tmp_path), EXEC)
    with pytest.raises(RecordError) as caught:
        store.write_run(write_record(record()), also=f"{tmp_path}/nowhere/run.json")
    assert caught.value.path == f"{tmp_path}/nowhere/run.json"
    assert read_record(f"{store.folder}/run.json") == record()
    store.close()


def test_the_other_record_is_written_when_the_folders_cannot_be(tmp_path):
    """Where the run's folder has gone, the record in the working directory is written all the same."""
    store = RunStore(f"{tmp_path}/outputs", EXEC)
    os.rename(f"{tmp_path}/outputs", f"{tmp_path}/gone")
    with pytest.raises(RecordError) as caught:
        store.write_run(write_record(record()), also=f"{tmp_path}/run.json")
    assert caught.value.path == f"{store.folder}/run.json"
    assert read_record(f"{tmp_path}/run.json") == record()
    store.close()


@pytest.mark.parametrize("remote", [False, True])
def test_a_run_that_is_not_begun_takes_its_folder_away(tmp_path, remote_prefix, remote):
    """`discard` leaves nothing of the run, so that no list shows it; other runs stay."""
    prefix = remote_prefix if remote else str(tmp_path)
    kept, gone = RunStore(prefix, EXEC), RunStore(prefix, EXEC.replace("a", "b"))
    for store in (kept, gone):
        store.write_run(b"{}")
    gone.discard()
    gone.discard()
    assert not os.path.exists(gone.folder)
    assert not storage.exists(gone.run_folder + "/run.json")
    assert storage.exists(kept.run_folder + "/run.json")
    kept.close()


@pytest.mark.parametrize(
    ("content", "ours"),
    [
        (b"", True),
        (b" \n", True),
        (b'{"schema_version": "9.9", "exec_id": "exec_1", "steps": 7}', True),
        (b'{"schema_version":"1.0","exec_id":"exec_0af76519', True),
        (b'{"exec_id": "exec_1", "schema_version": "1.0"}', True),
        (b'{"schema_version": "1.0"}', False),
        (b'{"mine": 1}', False),
        (b"[]", False),
        (b"notes", False),
        (b"\xff\xfe", False),
        (b"[" * 100_000, False),
    ],
)
def test_what_a_run_may_replace(tmp_path, content, ours):
    """A record of ours may be replaced, of any version, whole or cut short, and an empty file; anything else is kept, by an error that names it."""
    path = tmp_path / "run.json"
    path.write_bytes(content)
    if ours:
        keep_foreign(str(path))
    else:
        with pytest.raises(RecordError) as caught:
            keep_foreign(str(path))
        assert caught.value.path == str(path)
    for fine in ("missing.json", os.devnull, "memory://anything/run.json"):
        keep_foreign(fine)


def test_a_symlink_and_a_device_are_written_to_not_replaced(tmp_path):
    """A run.json that the user made a symlink stays one; a pipe or device is written to."""
    store = RunStore(str(tmp_path), EXEC)
    (tmp_path / "link.json").symlink_to("target.json")
    store.write_run(b"{}", also=f"{tmp_path}/link.json")
    assert (tmp_path / "link.json").is_symlink()
    assert (tmp_path / "target.json").read_bytes() == b"{}"
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    store.write_run(b'{"a": 1}', also=f"{tmp_path}/pipe")
    assert os.read(reader, 100) == b'{"a": 1}'
    os.close(reader)
    store.close()


def test_a_reader_that_does_not_read_is_not_waited_for(tmp_path, monkeypatch):
    """A record that a pipe has no room for is refused when its reader goes no further; what is read goes through whole, also by a name in /dev/fd."""
    monkeypatch.setattr("otel_exec.record.storage._READER_PATIENCE_S", 0)
    content = b"x" * (4 << 20)
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    store = RunStore(str(tmp_path), EXEC)
    with pytest.raises(RecordError, match="its reader took nothing"):
        store.write_run(content, also=f"{tmp_path}/pipe")
    os.close(reader)
    monkeypatch.undo()
    out, into = os.pipe()
    got = []
    thread = threading.Thread(target=lambda: got.append(_all_of(out)))
    thread.start()
    store.write_run(content, also=f"/dev/fd/{into}")
    os.close(into)
    thread.join()
    assert got == [content]
    store.close()


def _all_of(descriptor):
    with os.fdopen(descriptor, "rb") as file:
        return file.read()


def test_replacing_never_shows_half_a_file(tmp_path, monkeypatch):
    """When writing stops half-way the old record stands, and nothing else is left."""
    store = RunStore(str(tmp_path), EXEC)
    store.write_run(write_record(record()))
    real = os.write

    def half(descriptor, content):
        real(descriptor, content[: len(content) // 2])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.write", half)
    with pytest.raises(RecordError, match="no space left"):
        store.write_run(write_record(record(duration_ns=5)))
    monkeypatch.undo()
    assert read_record(f"{store.folder}/run.json") == record()
    assert not [name for name in os.listdir(store.folder) if name.endswith(".tmp")]
    store.close()


def test_a_torn_journal_goes_on_on_a_line_of_its_own(tmp_path, monkeypatch):
    """After half a line (a full disk, a killed writer) the next transitions are read back whole."""
    store = RunStore(str(tmp_path), EXEC)
    store.journal([JournalLine(1, "began")])
    real = os.write

    def half(descriptor, content):
        if real(descriptor, content[:9]):
            raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.write", half)
    with pytest.raises(RecordError):
        store.journal([JournalLine(2, "created")])
    monkeypatch.undo()
    store.journal([JournalLine(3, "created")])
    store.close()
    with open(f"{store.folder}/journal.jsonl", "ab") as file:
        file.write(b'[1]\n{"at":"x","what":"y"}\nnull\n\xff\n{"at":4,"wh')
    reopened = RunStore(str(tmp_path), EXEC)
    reopened.journal([JournalLine(5, "ended_run")])
    reopened.close()
    assert [line.at for line in read_journal(store.folder)] == [1, 3, 5]
    assert read_journal(f"{tmp_path}/elsewhere") == []


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is empty"),
        (b"  \n", "is empty"),
        (b'{"schema_version": "1.0", "exec_', "is cut short after 32 bytes"),
        (b"hello", "is not JSON"),
        (b"\x00" * 10, "is not JSON"),
        (b"\x1f\x8b\x08", "is not JSON"),
        (b'{"schema_version": "1.0", "exec_id": "\xff"}', "is not UTF-8"),
        (b'{"a": 1}', "no run.json of otel_exec"),
        (b"[]", "no run.json of otel_exec"),
        (b"7", "no run.json of otel_exec"),
        (b'{"schema_version": 1, "exec_id": "e"}', "no run.json of otel_exec"),
        (b'{"schema_version": "one", "exec_id": "e"}', "no run.json of otel_exec"),
        (b'{"schema_version": "2.0", "exec_id": "e"}', "written by a newer otel_exec (schema 2.0); this one reads 1.x: upgrade"),
        (b'{"schema_version": "1.0", "exec_id": "e"}', "is damaged"),
        (b'{"schema_version": "1.0", "exec_id": "e", "more": ' + b"[" * 100_000, "nested too deeply"),
        (b'{"schema_version": "1.0", "exec_id": ' + b"9" * 9000 + b"}", "no run.json of otel_exec"),
    ],
    ids=lambda value: repr(value[:25]),
)
def test_a_file_that_is_no_record_says_what_it_is(tmp_path, content, said):
    """Whatever stands in the file, reading it gives the record or one sentence, and the sentence says which it is."""
    path = tmp_path / "run.json"
    path.write_bytes(content)
    with pytest.raises(RecordError) as caught:
        read_record(str(path))
    assert caught.value.path == str(path)
    assert said in caught.value.reason
    assert "\n" not in str(caught.value)


def test_what_is_no_file_says_so(tmp_path):
    """A missing file, a folder and a path through a file are told apart."""
    (tmp_path / "file").write_text("x")
    for path, said in ((f"{tmp_path}/no", "no such file"), (str(tmp_path), "is a folder"), (f"{tmp_path}/file/run.json", "can't be read")):
        with pytest.raises(RecordError) as caught:
            read_record(path)
        assert said in caught.value.reason


@pytest.mark.parametrize("version", ["2.0", "17.3"])
def test_a_newer_major_version_is_refused_however_well_it_fits(tmp_path, version):
    """A record of a newer major version is refused though all its fields could be read, in narrow types too."""

    class Narrow(msgspec.Struct):
        exec_id: str

    path = tmp_path / "run.json"
    newer = record()
    newer.schema_version = version
    path.write_bytes(write_record(newer))
    for type_ in (RunRecord, Narrow):
        with pytest.raises(RecordError, match=rf"\(schema {version}\)"):
            read_record(str(path), type_)


def test_a_newer_minor_version_is_read(tmp_path):
    """A record of a newer minor version is read, its unknown keys passed over; a narrow type takes what it names."""

    class Narrow(msgspec.Struct):
        schema_version: str
        exec_id: str

    values = json.loads(write_record(record(steps=[StepRecord("a-1", "a")])))
    values |= {"schema_version": "1.9", "of_a_newer_writer": {"deep": [1]}}
    values["steps"][0]["of_a_newer_writer"] = 1
    path = tmp_path / "run.json"
    path.write_text(json.dumps(values))
    assert read_record(str(path)).steps == [StepRecord("a-1", "a")]
    assert read_record(str(path), Narrow) == Narrow("1.9", EXEC)


class Unprintable:
    def __repr__(self):
        raise RuntimeError("no")


def test_any_value_can_be_written():
    """What JSON has no form for is written as text, null or repr; encoding never fails."""
    loop = []
    loop.append(loop)
    value = {
        "nan": math.nan,
        "inf": [math.inf, -math.inf],
        "big": 2**70,
        "huge": 10**6000,
        "text": "a\ud800b",
        "loop": loop,
        "path": object,
        3: "int key",
        "no": Unprintable(),
    }
    read = json.loads(encode(value))
    assert read["nan"] is None
    assert read["inf"] == [None, None]
    assert read["text"] == "a\\ud800b"
    assert int(read["huge"], 16) == 10**6000
    assert read["3"] == "int key"
    assert read["path"] == "<class 'object'>"
    assert "Unprintable" in read["no"]
    assert json.loads(encode({"big": 2**70, "key": {(1, 2): {3}}})) == {"big": 2**70, "key": {"(1, 2)": [3]}}


def test_a_record_with_unwritable_values_keeps_the_rest():
    """One strange value in a config doesn't cost the record anything else."""
    whole = record(steps=[StepRecord("a-1", "a", config={"x": "\udcff", "y": math.nan}), StepRecord("b-2", "b", duration_seconds=math.inf)], duration_ns=7)
    read = json.loads(write_record(whole))
    assert tuple(read) == RunRecord.__struct_fields__
    assert read["steps"][0]["config"] == {"x": "\\udcff", "y": None}
    assert read["steps"][1]["duration_seconds"] is None
    assert read["duration_ns"] == 7


def test_the_doors_of_the_room_stand_in_one_place():
    """What other rooms need of a run's folder can be had from `run_store`."""
    assert all(hasattr(run_store, name) for name in run_store.__all__)


def test_a_journal_line_with_an_outcome_that_is_none_is_passed_over(tmp_path):
    """As a torn line is: a flipped bit in a word must not end a command in a traceback."""
    (tmp_path / "journal.jsonl").write_bytes(
        b'{"at":1,"what":"settled","node":"a","outcome":"ruccess"}\n{"at":2,"what":"settled","node":"b","outcome":"success"}\n'
    )
    assert [line.node for line in read_journal(str(tmp_path))] == ["b"]
