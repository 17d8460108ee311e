"""An experiment run again: nothing runs, or just what a changed value asks for; and a dry run leaves no trace."""

from __future__ import annotations

import subprocess
from pathlib import Path

from support.outside import EXAMPLES, otel_exec, run_script
from support.run_checks import Trace, check_run, step_named

from otel_exec import read_run

SCRIPT = """
import os, sys
from dataclasses import dataclass
from otel_exec import StepRef, deferred, executor_main, output, step, versioned

@dataclass(frozen=True)
class Config:
    name: str
    value: int
    above: list
    note: str
    path: str

def _work(config):
    with open("ran", "a") as file:
        file.write(config.name + "\\n")
    with open(config.path, "w") as file:
        file.write(f"{config.value} " + " ".join(open(path).read() for path in config.above))

work = deferred(_work)
VALUES = {"left": 1, "right": 1, "note": "", "top": 1}
for word in os.environ.get("VALUES", "").split():
    key, _, value = word.partition("=")
    VALUES[key] = type(VALUES[key])(value)

@step("{name}")
def node(name, *above):
    return work(Config(name, versioned(VALUES.get(name, 0)), [each / "out" for each in above], VALUES["note"], output("out")))

@step("all")
def everything():
    top = node("top")
    left, right = node("left", top), node("right", top)
    node("join", left, right)
    node("beside", left)

if __name__ == "__main__":
    executor_main(steps=[everything()])
"""


def ran(folder):
    """Return which steps' functions ran, and forget it."""
    path = Path(folder, "ran")
    names = sorted(path.read_text().split()) if path.exists() else []
    path.unlink(missing_ok=True)
    return names


def tree(folder):
    """Return every file below a folder with its content and time of change."""
    return {str(path): (path.read_bytes(), path.stat().st_mtime_ns) for path in sorted(Path(folder).rglob("*")) if path.is_file()}


def run_once(folder, values="", *flags):
    (folder / "exp.py").write_text(SCRIPT, encoding="utf-8")
    done = run_script("exp.py", *flags, cwd=folder, VALUES=values)
    assert done.returncode == 0, done.stderr
    record = read_run(str(folder / "run.json"))
    check_run(record)
    return done, record


def test_running_again_runs_nothing_and_says_so_at_once(tmp_path):
    """The second run starts no worker and creates no task; all it says of its steps is one line; step files stay as they are, to the byte."""
    _, first = run_once(tmp_path)
    assert ran(tmp_path) == ["beside", "join", "left", "right", "top"]
    before = {path: content for path, content in tree(tmp_path / "outputs").items() if ".otel_exec" not in path}
    done, again = run_once(tmp_path)
    assert ran(tmp_path) == []
    assert done.stderr.splitlines() == ["nothing to run: 5 steps had succeeded before"]
    assert "5: 0 ran, 5 cached" in done.stdout
    assert again.outcome == "success"
    assert again.workers == []
    trace = Trace(again)
    assert {span.kind for span in trace.spans} == {"run", "level", "step"}
    assert {step.name for step in again.steps if step.cached} == {"top", "left", "right", "join", "beside"}
    assert all(step.cached_from.exec_id == first.exec_id for step in again.steps if step.cached)
    assert {path: content for path, content in tree(tmp_path / "outputs").items() if ".otel_exec" not in path} == before
    told = otel_exec("summary", cwd=tmp_path)
    assert again.exec_id in told.stdout
    assert "5 cached" in told.stdout


def test_one_changed_value_reruns_its_step_and_what_depends_on_it(tmp_path):
    """Another value of `right` runs `right` and `join`; what they need of the rest is cached, and the first values' outputs are still there."""
    run_once(tmp_path)
    ran(tmp_path)
    _, record = run_once(tmp_path, "right=2")
    assert ran(tmp_path) == ["join", "right"]
    assert {step.name for step in record.steps if step.cached} == {"top", "left", "beside"}
    assert Path(step_named(record, "join").output_path, "out").read_text() == "0 1 1  2 1 "
    assert len(list((tmp_path / "outputs").glob("join-*"))) == 2
    _, back = run_once(tmp_path, "right=1")
    assert ran(tmp_path) == []
    assert back.outcome == "success"


def test_a_changed_value_at_the_top_reruns_everything_and_an_unversioned_one_nothing(tmp_path):
    """What is not `versioned` is no part of an identity."""
    run_once(tmp_path)
    ran(tmp_path)
    run_once(tmp_path, "note=another")
    assert ran(tmp_path) == []
    run_once(tmp_path, "top=5")
    assert ran(tmp_path) == ["beside", "join", "left", "right", "top"]


def test_a_step_without_its_status_file_is_made_again(tmp_path):
    """Without it a step has not succeeded; what was made from its earlier output is taken as it is."""
    _, record = run_once(tmp_path)
    ran(tmp_path)
    Path(step_named(record, "left").output_path, ".executor_status").unlink()
    _, second = run_once(tmp_path)
    assert ran(tmp_path) == ["left"]
    assert {step.name for step in second.steps if step.cached} == {"top", "right", "join", "beside"}


def test_a_dry_run_in_an_empty_directory_leaves_it_empty(tmp_path):
    """`find .` prints nothing but the directory after it, whatever was asked; nothing of it lands in the home or beside the script either."""
    empty, home, beside = tmp_path / "empty", tmp_path / "home", tmp_path / "beside"
    for folder in (empty, home, beside):
        folder.mkdir()
    script = beside / "exp.py"
    script.write_text(SCRIPT, encoding="utf-8")
    for command in ([script], [EXAMPLES / "lm_pipeline.py", "--small"]):
        for flags in ([], ["--barrier", "--timing"], ["--run-only", ".*"]):
            done = run_script(command[0], *command[1:], "--dry-run", *flags, cwd=empty, HOME=str(home), OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:9")
            assert done.returncode == 0, done.stderr
            assert done.stdout.splitlines()[-1].endswith("to wait for")
    found = subprocess.run(["find", ".", "-mindepth", "1"], cwd=empty, capture_output=True, text=True, check=True)
    assert found.stdout == ""
    assert [path.name for path in beside.iterdir()] == ["exp.py"]
    assert list(home.rglob("*")) == []


def test_a_dry_run_after_a_run_changes_nothing_and_tells_what_a_run_would_do(tmp_path):
    """Its decisions are the run's: with a changed value it names what would run, and no file changes."""
    run_once(tmp_path)
    ran(tmp_path)
    before = tree(tmp_path)
    done = run_script("exp.py", "--dry-run", cwd=tmp_path, VALUES="right=2")
    assert tree(tmp_path) == before
    words = {line.split()[1]: line.split()[0] for line in done.stdout.splitlines() if not line.startswith((" ", "group"))}
    del words["steps:"]
    assert words == {"top": "skip", "left": "skip", "beside": "skip", "right": "run", "join": "run"}
    assert done.stdout.splitlines()[-1] == "5 steps: 2 to run, 3 to skip, 0 to wait for"
