from __future__ import annotations

import json
import os
import sys
import time

import pytest
import sample_record

from otel_exec import __version__
from otel_exec.cli.main import COMMANDS, main
from otel_exec.cli.records import load, run_line
from otel_exec.clock import to_iso
from otel_exec.metrics import FeatureMetrics
from otel_exec.record import locks
from otel_exec.record.encoding import encode
from otel_exec.record.record_file import write_record
from otel_exec.record.status_model import Progress, StatusRecord, WaitingRecord


@pytest.fixture(autouse=True)
def _own_folder(tmp_path, monkeypatch):
    """Each test has a folder of its own and an environment without our variables."""
    for name in list(os.environ):
        if name.startswith("OTEL_") or name in {"NO_COLOR", "COLUMNS"}:
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


def keep(record, prefix="outputs", number=0):
    """Put a record where its run would have."""
    record.exec_id = f"exec_{number:032x}"
    record.run_folder = f"{prefix}/.otel_exec/runs/{record.exec_id}"
    os.makedirs(record.run_folder)
    path = f"{record.run_folder}/run.json"
    with open(path, "wb") as file:
        file.write(write_record(record))
    return path


def one_line(capsys) -> str:
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert err.startswith("otel-exec: ")
    return err


@pytest.mark.parametrize("argv", [["--help"], ["-h"], ["help"]])
def test_the_help_names_every_command_and_shows_an_example(argv, capsys):
    """It ends with 0."""
    assert main(argv) == 0
    out = capsys.readouterr().out
    assert all(f"  {name}" in out for name in COMMANDS)
    assert "otel-exec summary run.json" in out
    assert max(map(len, out.splitlines())) <= 80


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_each_commands_help_shows_an_example(command, capsys):
    """It ends with 0, and the example is of that command."""
    assert main([command, "--help"]) == 0
    out = capsys.readouterr().out
    assert f"otel-exec {command}" in out.partition("example:")[2]


def test_the_version_is_the_packages(capsys):
    """`--version` prints it."""
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"otel-exec {__version__}\n"


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        ([], "which command?"),
        (["sumary"], "did you mean 'summary'? (known: "),
        (["evil\x1b[2J"], "\\x1b[2J"),
        (["--verbose"], "unknown option '--verbose'"),
        (["summary", "--sort", "size"], "'start', 'duration', 'name'"),
        (["summary", "--top", "0"], "'0' is no whole number from 1 on"),
        (["summary", "--width", "wide"], "'wide' is no whole number"),
        (["summary", "--js"], "unrecognized arguments: --js (see otel-exec summary --help)"),
        (["runs", "--prefix=a"], "unrecognized arguments: --prefix=a (RUN, or a prefix, is given without --prefix; see otel-exec runs --help)"),
        (["runs", "a", "b"], "unrecognized arguments: b (see otel-exec runs --help)"),
    ],
)
def test_a_mistake_in_usage_is_one_line_and_exit_code_2(argv, said, capsys):
    """It says what is accepted or where to read on."""
    assert main(argv) == 2
    assert said in one_line(capsys)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "there is no such file"),
        (b"", "empty"),
        (b'{"schema_version": "1.0", "exec_id": "e', "cut short"),
        (b"\x00\xff", "JSON"),
        (b'{"name": "package"}', "no run.json of otel_exec"),
        (b'{"schema_version": "2.0", "exec_id": "exec_1"}', "newer otel_exec"),
        (b"[" * 100_000, ""),
    ],
)
def test_a_record_that_cannot_be_read_is_one_line_and_exit_code_4(content, said, capsys, tmp_path):
    """Missing, empty, truncated, foreign or newer: one sentence that names the file; the file is left as it was."""
    path = tmp_path / "bad.json"
    if content is not None:
        path.write_bytes(content)
    assert main(["summary", str(path)]) == 4
    err = one_line(capsys)
    assert "bad.json" in err
    assert said in err
    if content is not None:
        assert path.read_bytes() == content


def test_a_run_is_found_by_all_its_names(capsys, tmp_path, monkeypatch):
    """By file, folder, exec id, the beginning of it, prefix, experiment, and as the latest."""
    path = keep(sample_record.twelve_steps())
    for run in (path, os.path.dirname(path), "exec_" + "0" * 32, "exec_000", "outputs", "lm_pipeline", None):
        assert main(["summary", *([run] if run else [])]) == 0
        assert "otel-exec summary: lm_pipeline" in capsys.readouterr().out
    os.rename("outputs", "elsewhere")
    assert main(["summary"]) == 4
    capsys.readouterr()
    monkeypatch.setenv("OTEL_EXEC_PREFIX", str(tmp_path / "elsewhere"))
    assert main(["summary"]) == 0


def test_the_latest_run_may_be_a_run_json_beside(capsys):
    """Without any prefix the run.json in the working directory is shown."""
    with open("run.json", "wb") as file:
        file.write(write_record(sample_record.empty()))
    assert main(["summary"]) == 0
    assert "otel-exec summary: my-app" in capsys.readouterr().out


def test_json_is_the_summary_for_machines(capsysbinary):
    """All steps unless `--top` says otherwise, in the order asked for, and nothing but JSON on stdout."""
    path = keep(sample_record.twelve_steps())
    assert main(["summary", path, "--json", "--sort", "duration"]) == 0
    told = json.loads(capsysbinary.readouterr().out)
    assert len(told["steps"]) == 12
    assert told["steps"][0]["name"] == "train_bpe/vocab=32000"
    assert told["run_json"] == path
    assert main(["summary", path, "--json", "--top", "2"]) == 0
    told = json.loads(capsysbinary.readouterr().out)
    assert (len(told["steps"]), told["steps_hidden"]) == (2, 10)


def test_the_trace_url_is_a_template(capsys, monkeypatch):
    """With `{trace_id}` the address is shown; without, one line says what is accepted and the exit code is 2."""
    path = keep(sample_record.empty())
    monkeypatch.setenv("OTEL_EXEC_TRACE_URL", "http://j/trace/{trace_id}")
    assert main(["summary", path]) == 0
    assert f"http://j/trace/{sample_record.HEX}" in capsys.readouterr().out
    monkeypatch.setenv("OTEL_EXEC_TRACE_URL", "http://j/")
    assert main(["summary", path]) == 2
    assert "OTEL_EXEC_TRACE_URL=http://j/" in one_line(capsys)


def test_export_json_is_preferred_to_the_record():
    """What was acknowledged after the record was written counts; a cursor that can't be read changes nothing."""
    record = sample_record.twelve_steps()
    path = keep(record)
    assert load(path, {})[2] is None
    with open(f"{record.run_folder}/export.json", "w", encoding="utf-8") as file:
        json.dump({"schema_version": "1.0", "endpoints": {"http://localhost:4317": {"protocol": "grpc", "spans_acknowledged": 71}}}, file)
    export = load(path, {})[2]
    assert (export.endpoint, export.spans, export.spans_acknowledged) == ("http://localhost:4317", 71, 71)
    with open(f"{record.run_folder}/export.json", "w", encoding="utf-8") as file:
        file.write("{")
    assert load(path, {})[2] is None


def test_runs_are_listed_newest_first(capsysbinary):
    """When, experiment, outcome, wall time and exec id; a record that can't be read is named and hides no other."""
    for number, record in enumerate((sample_record.twelve_steps(), sample_record.empty())):
        record.start_time_unix_nano = str(int(record.start_time_unix_nano) + number)
        keep(record, number=number)
    broken = f"outputs/.otel_exec/runs/exec_{7:032x}"
    os.makedirs(broken)
    with open(f"{broken}/run.json", "wb") as file:
        file.write(b"{")
    assert main(["runs"]) == 0
    out = capsysbinary.readouterr().out.decode()
    assert out.index("my-app") < out.index("lm_pipeline")
    assert "1.0s" in out
    assert "4m16s" in out
    assert "can't be read:" in out
    assert broken in out


def test_runs_as_json_are_a_line_each_with_its_metrics(capsysbinary):
    """Newest first, FeatureMetrics beside the run's name and outcome; a dead run is interrupted; what can't be read is told on stderr and hides no other."""
    for number, record in enumerate((sample_record.twelve_steps(), sample_record.running())):
        record.start_time_unix_nano = str(int(record.start_time_unix_nano) + number)
        keep(record, number=number)
    broken = f"outputs/.otel_exec/runs/exec_{7:032x}"
    os.makedirs(broken)
    with open(f"{broken}/run.json", "wb") as file:
        file.write(b"{")
    assert main(["runs", "--json"]) == 0
    out, err = capsysbinary.readouterr()
    lines = [json.loads(line) for line in out.splitlines()]
    assert [(line["exec_id"], line["outcome"]) for line in lines] == [(f"exec_{1:032x}", "interrupted"), (f"exec_{0:032x}", "failure")]
    whole = lines[1]
    assert FeatureMetrics.from_dict(whole).tasks_total == whole["tasks_total"] > 0
    assert whole["total_duration_ms"] == 256_230
    assert {"experiment", "start_time", "run_folder", "worker_metrics", "level_metrics"} <= set(whole)
    assert err.count(b"\n") == 1
    assert broken.encode() in err


def test_a_line_of_the_list_is_the_same_from_the_head_and_from_the_whole():
    """A compact record is read up to its steps, one that was reformatted or reordered as a whole: the line is the same."""
    path = keep(sample_record.many(300))
    folder = os.path.dirname(path)
    with open(path, "rb") as file:
        content = file.read()
    assert len(content) > 2 * 65_536
    from_head = run_line(folder)
    assert (from_head.outcome, from_head.experiment.name, from_head.exec_id) == ("success", "lm_pipeline", f"exec_{0:032x}")
    record = json.loads(content)
    for other in (json.dumps(record, indent=2), json.dumps(dict(reversed(record.items())), separators=(",", ":"))):
        with open(path, "w", encoding="utf-8") as file:
            file.write(other)
        assert run_line(folder) == from_head


def test_a_run_whose_driver_is_gone_is_listed_as_interrupted():
    """A record that says `running`, of a run that nobody drives any more, is not believed."""
    record = sample_record.running()
    path = keep(record)
    assert run_line(os.path.dirname(path)).outcome == "interrupted"


def test_runs_of_no_folder_are_an_error_and_of_an_empty_one_none(capsys, tmp_path):
    """A prefix that was named must be there; the default one need not be."""
    assert main(["runs", "nowhere"]) == 4
    assert "nowhere" in one_line(capsys)
    assert main(["runs", str(tmp_path)]) == 0
    assert "0 runs" in capsys.readouterr().out
    assert main(["runs"]) == 0


def test_an_interrupt_is_130_and_a_reader_that_left_is_fine(monkeypatch):
    """Neither leaves a traceback."""
    from otel_exec.cli import main as door

    def interrupted(_argv):
        raise KeyboardInterrupt

    def nobody_reads(_argv):
        raise BrokenPipeError

    monkeypatch.setattr(door, "_dispatch", interrupted)
    assert main(["runs"]) == 130
    monkeypatch.setattr(door, "_dispatch", nobody_reads)
    monkeypatch.setattr(door, "_reader_gone", lambda: 0)
    assert main(["runs"]) == 0


def test_a_mistake_of_ours_is_not_hidden(monkeypatch):
    """An exception that is not one of the package's own goes up: it is a bug, and its traceback is wanted."""
    from otel_exec.cli import main as door

    def broken(_argv):
        raise ZeroDivisionError

    monkeypatch.setattr(door, "_dispatch", broken)
    with pytest.raises(ZeroDivisionError):
        main(["runs"])


def test_a_killed_run_lasted_until_its_last_sign_of_life(capsys):
    """Steps that ran on when the driver was killed wrote nothing themselves: the status tells until when, and so how long they were open."""
    record = sample_record.running()
    path = keep(record)
    later = to_iso(int(record.start_time_unix_nano) + 9_050 * sample_record.MS)
    status = StatusRecord("1.0", record.exec_id, "running", later, Progress(1, 3), driver="")
    with open(f"{record.run_folder}/status.json", "wb") as file:
        file.write(encode(status))
    assert main(["summary", path, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["outcome"], told["duration_seconds"]) == ("interrupted", 9.05)
    assert [(row["name"], row["state"], row["open_seconds"]) for row in told["left_open"]] == [("second", "running", 8.0)]
    assert next(row for row in told["wall"] if row["part"] == "executing")["duration_seconds"] == 9.0


@pytest.mark.parametrize("start", ["", "soon", "-5", "1.5", "²", "9" * 20, "1" * 5000])
def test_a_record_whose_start_is_no_instant_is_damaged(start, capsys):
    """Every command says so in one line and ends with 4; the list of runs names it and shows the others."""
    record = sample_record.running()
    record.start_time_unix_nano = start
    path = keep(record, number=1)
    keep(sample_record.twelve_steps(), number=2)
    for command in ("summary", "metrics", "status"):
        assert main([command, path]) == 4
        assert "start_time_unix_nano" in one_line(capsys)
    assert main(["runs", "--width", "200"]) == 0
    out = capsys.readouterr().out
    assert "lm_pipeline" in out
    assert "can't be read:" in out
    assert main(["runs", "--json"]) == 0
    out, err = capsys.readouterr()
    assert len(out.splitlines()) == 1
    assert "can't be read:" in err


@pytest.mark.parametrize(
    "argv",
    [
        ["--help"],
        ["status"],
        ["status", "--json"],
        ["status", "--watch"],
        ["status", "--watch", "--json"],
        ["runs"],
        ["runs", "--json"],
        ["runs", "--prune", "--keep", "1"],
        ["summary"],
        ["summary", "--json"],
        ["metrics"],
        ["metrics", "--json"],
        ["replay"],
        ["doctor"],
        ["doctor", "--json"],
        ["nothing"],
    ],
    ids=" ".join,
)
def test_a_closed_stdout_changes_no_exit_code(argv, monkeypatch, capsys):
    """Where stdout, or stderr too, was closed before the command began it ends as it would have."""
    keep(sample_record.twelve_steps())
    expected = main(argv)
    for closed in (["stdout"], ["stdout", "stderr"]):
        with monkeypatch.context() as patch:
            for stream in closed:
                patch.setattr(f"sys.{stream}", None)
            assert main(argv) == expected
    capsys.readouterr()


@pytest.mark.parametrize("argv", [["--help"], ["status"], ["summary", "--json"], ["runs", "--json"]], ids=" ".join)
def test_a_full_disk_behind_stdout_is_named(argv, monkeypatch, capsys):
    """One line on stderr says that it is stdout which can't be written, and the exit code is 4."""
    keep(sample_record.twelve_steps())
    with open("/dev/full", "w", encoding="utf-8") as full:
        monkeypatch.setattr("sys.stdout", full)
        assert main(argv) == 4
        monkeypatch.setattr("sys.stdout", sys.__stdout__)
    assert capsys.readouterr().err == "otel-exec: stdout can't be written: no space left on device\n"


def test_runs_as_json_say_where_they_are_from_anywhere(tmp_path, capsysbinary):
    """`runs --json` gives the absolute folder of each run under a local prefix, however the prefix was named."""
    keep(sample_record.twelve_steps())
    assert main(["runs", "outputs", "--json"]) == 0
    folders = [json.loads(line)["run_folder"] for line in capsysbinary.readouterr().out.splitlines()]
    assert folders
    assert all(folder.startswith(str(tmp_path)) for folder in folders)


def test_a_run_that_waits_for_its_cluster_is_in_the_list(capsys):
    """It has a status and no record yet: its line says that it runs, or, where its driver has died since, that it was interrupted; neither is a file that can't be read."""
    for number, driver in enumerate((locks.driver_id(), "")):
        folder = f"outputs/.otel_exec/runs/exec_{number:032x}"
        os.makedirs(folder)
        status = StatusRecord("1.0", f"exec_{number:032x}", "running", to_iso(time.time_ns()), Progress(total=2), experiment="demo", driver=driver)
        status.start_time, status.waiting = "2026-11-27T10:00:00+00:00", [WaitingRecord("", "a local Ray cluster to start", 0)]
        with open(f"{folder}/status.json", "wb") as file:
            file.write(encode(status))
    os.makedirs("outputs/.otel_exec/runs/exec_" + "9" * 32)
    assert main(["runs"]) == 0
    out = capsys.readouterr().out
    assert [line.split()[2:5:2] for line in out.splitlines() if "demo" in line] == [["demo", "-"], ["demo", "-"]]
    assert sorted(word for word in out.split() if word in {"running", "interrupted"}) == ["interrupted", "running"]
    assert out.count("there is no such file") == 1
