from __future__ import annotations

import os
import uuid

import fsspec
import pytest

from otel_exec.errors import RecordError
from otel_exec.record import find
from otel_exec.record.find import find_run, latest_run, list_runs
from otel_exec.record.model import ExecutorRecord, Experiment, RunRecord
from otel_exec.record.run_store import JournalLine, RunStore, write_record
from otel_exec.record.status_model import Progress, StatusRecord

FIRST, SECOND, THIRD = ("exec_" + digits.ljust(32, "0") for digits in ("ffff", "ab12", "ab34"))


def make(prefix, exec_id, name, began_ns, *, run_json=True, status=True, latest=False):
    """Leave a run's folder as a run would have, and return it."""
    store = RunStore(prefix, exec_id)
    store.journal([JournalLine(began_ns, "began")])
    if run_json:
        experiment, executor = Experiment(name), ExecutorRecord("inline", 1)
        store.write_run(
            write_record(RunRecord("1.0", exec_id, "t", "s", "success", experiment, executor, prefix, store.run_folder, "", start_time_unix_nano=str(began_ns)))
        )
    if status:
        store.write_status(StatusRecord("1.0", exec_id, "success", "", Progress(), experiment=name))
    if latest:
        store.publish_latest()
    store.close()
    return store.run_folder


@pytest.fixture(params=["local", "memory"])
def prefix(request, tmp_path):
    """A prefix with three runs; the order of their ids is not that of their starts."""
    path = f"{tmp_path}/outputs" if request.param == "local" else f"memory://{uuid.uuid4().hex}/outputs"
    make(path, FIRST, "demo", 100)
    make(path, SECOND, "tokenize", 200)
    make(path, THIRD, "demo", 300, latest=True)
    return path


def folder(prefix, exec_id):
    return f"{prefix}/.otel_exec/runs/{exec_id}"


def test_runs_are_listed_by_their_start(prefix):
    """The newest run is last, whatever the ids are."""
    assert list_runs(prefix) == [folder(prefix, each) for each in (FIRST, SECOND, THIRD)]


def test_a_prefix_without_runs_has_none(tmp_path):
    """Nothing there, and a file there, are no runs and no error."""
    (tmp_path / "file").write_text("x")
    assert list_runs(f"{tmp_path}/no") == list_runs(str(tmp_path)) == list_runs(f"{tmp_path}/file") == []


@pytest.mark.parametrize(
    ("run", "found"),
    [
        (None, THIRD),
        ("", THIRD),
        (SECOND, SECOND),
        ("exec_ab12", SECOND),
        ("ab12", SECOND),
        ("ffff", FIRST),
        ("demo", THIRD),
        ("tokenize", SECOND),
    ],
)
def test_a_run_is_found_by_its_names(prefix, run, found):
    """An exec id, the unique beginning of one, an experiment's name (its latest run) and nothing (the latest) lead to the run.json."""
    assert find_run(run, prefix=prefix) == folder(prefix, found) + "/run.json"


def test_a_run_is_found_by_its_paths(prefix):
    """A run.json, a run's folder and a prefix lead there by themselves, whatever the default prefix is."""
    for run, found in (
        (folder(prefix, FIRST) + "/run.json", FIRST),
        (folder(prefix, FIRST), FIRST),
        (folder(prefix, FIRST) + "/", FIRST),
        (prefix, THIRD),
        (prefix + "/", THIRD),
    ):
        assert find_run(run, prefix="elsewhere") == folder(prefix, found) + "/run.json"


def test_a_killed_run_without_a_record_is_its_folder(tmp_path):
    """A run that left a journal and no run.json is found as its folder."""
    path = make(str(tmp_path), FIRST, "demo", 1, run_json=False)
    for run in (None, FIRST, "demo", path, str(tmp_path)):
        assert find_run(run, prefix=str(tmp_path)) == path


def test_an_experiment_is_found_without_a_status(tmp_path):
    """A run without status.json, or with a damaged one, is found by the name in its run.json."""
    path = make(str(tmp_path), FIRST, "demo", 1, status=False)
    assert find_run("demo", prefix=str(tmp_path)) == path + "/run.json"
    with open(path + "/status.json", "wb") as file:
        file.write(b'{"experiment": [')
    assert find_run("demo", prefix=str(tmp_path)) == path + "/run.json"


def test_a_beginning_that_several_ids_have_is_refused(prefix):
    """An ambiguous beginning of an id lists the ids that have it."""
    with pytest.raises(RecordError) as caught:
        find_run("exec_ab", prefix=prefix)
    assert SECOND in caught.value.reason
    assert THIRD in caught.value.reason
    assert FIRST not in caught.value.reason


def test_an_unknown_name_lists_the_closest(prefix):
    """A name that is none lists the experiments that there are and the closest."""
    with pytest.raises(RecordError, match="did you mean 'tokenize'") as caught:
        find_run("tokenise", prefix=prefix)
    assert "'demo'" in caught.value.reason
    assert THIRD in caught.value.reason


def test_nothing_there_says_what_to_give(tmp_path, monkeypatch):
    """Without any run the error says what RUN may be; a path that leads nowhere is told from a name."""
    monkeypatch.chdir(tmp_path)
    for run, said in (
        (None, "run an experiment first"),
        ("demo", "no runs under"),
        ("a/run.json", "no such file"),
        ("run.json", "no such file"),
        (".", "there is no run in it"),
    ):
        with pytest.raises(RecordError) as caught:
            find_run(run)
        assert said in caught.value.reason


def test_without_runs_the_working_directorys_record_is_the_latest(tmp_path, monkeypatch):
    """With no run under the prefix, ./run.json is what nothing means."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run.json").write_text("{}")
    assert find_run(None) == "run.json"
    make("outputs", FIRST, "demo", 1)
    assert find_run(None) == f"./outputs/.otel_exec/runs/{FIRST}/run.json"


def test_a_folder_named_like_an_experiment_does_not_hide_it(tmp_path, monkeypatch):
    """A folder in the working directory that holds no run doesn't stand in the way of an experiment of its name."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "demo").mkdir()
    make("outputs", FIRST, "demo", 1)
    assert find_run("demo") == f"./outputs/.otel_exec/runs/{FIRST}/run.json"


@pytest.mark.parametrize("content", ["../../../elsewhere", "/etc", "..", ".", "", "exec_gone", "a\x1b[31m", "x" * 5000, "exec_1\nexec_2"])
def test_latest_never_leads_astray(prefix, content):
    """A `latest` that names no run of this prefix is passed over: the run that began last is the latest."""
    with fsspec.open(f"{prefix}/.otel_exec/latest", "w") as file:
        file.write(content)
    assert latest_run(prefix) == folder(prefix, THIRD)


def test_latest_is_the_run_that_it_names(prefix):
    """`latest` decides, where it names a run."""
    with fsspec.open(f"{prefix}/.otel_exec/latest", "w") as file:
        file.write(SECOND + "\n")
    assert latest_run(prefix) == folder(prefix, SECOND)


def test_strange_folders_are_passed_over(tmp_path):
    """Symlinks, files and names that are none of a run's are not listed."""
    good = make(str(tmp_path), FIRST, "demo", 1)
    runs = os.path.dirname(good)
    os.symlink("/", f"{runs}/exec_link")
    os.mkdir(f"{runs}/\x1b[31mred")
    os.mkdir(f"{runs}/-rf")
    with open(f"{runs}/exec_file", "w", encoding="utf-8") as file:
        file.write("x")
    assert list_runs(str(tmp_path)) == [good]


def test_a_start_is_read_from_what_there_is(tmp_path):
    """Without a journal the start stands in run.json, without either the folder's own time counts; damaged files tell nothing."""
    path = make(str(tmp_path), FIRST, "demo", 12345)
    assert find.started_ns(path) == 12345
    with open(path + "/journal.jsonl", "wb") as file:
        file.write(b"\xff\x00")
    assert find.started_ns(path) == 12345
    os.unlink(path + "/run.json")
    os.utime(path, (7, 7))
    assert find.started_ns(path) == 7_000_000_000
    assert find.started_ns(f"{tmp_path}/gone") == 0


def test_a_prefix_without_runs_is_named(tmp_path):
    """A prefix that has a folder for runs, and none in it, is said to have none; not some other one."""
    os.makedirs(tmp_path / "out" / ".otel_exec" / "runs")
    with pytest.raises(RecordError, match="out: there are no runs under it yet"):
        find_run(str(tmp_path / "out"))
