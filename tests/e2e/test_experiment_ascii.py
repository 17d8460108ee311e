"""Experiments in a process that knows ASCII alone: `LC_ALL=C` without Python's UTF-8 mode, as cron and slim containers have it."""

from __future__ import annotations

import json

from support.outside import otel_exec, run_script

ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
SCRIPT = """
import sys
from otel_exec import deferred, executor_main, output, phase, step

def _work(out):
    with phase("Gr\u00f6\u00dfe \U0001f680"):
        print("printed \U0001f680")
    raise ValueError("failed \U0001f680")

work = deferred(_work)

@step("plain \U0001f680", override_output_path="plain")
def with_a_path():
    return work(out=output())

@step("rocket \U0001f680")
def without():
    return work(out=output())

executor_main(steps=[with_a_path() if sys.argv.pop(1) == "with" else without()])
"""


def test_a_folder_that_can_not_have_its_steps_name_is_said_before_anything_runs(tmp_path):
    """One sentence with two ways out, exit code 2."""
    (tmp_path / "exp.py").write_text(SCRIPT, encoding="utf-8")
    done = run_script("exp.py", "without", "--executor", "threads", cwd=tmp_path, **ASCII)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert done.stderr.startswith("otel-exec: step 'rocket \\U0001f680' can't have a folder of its name: file names are ascii here; set LC_ALL=C.UTF-8 or")
    assert not (tmp_path / "outputs").exists()


def test_where_the_path_is_ascii_names_prints_and_errors_may_hold_anything(tmp_path):
    """They are kept as they are, and shown with escapes."""
    (tmp_path / "exp.py").write_text(SCRIPT, encoding="utf-8")
    done = run_script("exp.py", "with", "--executor", "processes", "--workers", "1", cwd=tmp_path, **ASCII)
    assert done.returncode == 1, done.stderr
    assert "plain \\U0001f680 " in done.stderr
    assert "ValueError: failed \\U0001f680" in done.stderr
    (recorded,) = json.loads((tmp_path / "run.json").read_text(encoding="utf-8"))["steps"]
    assert (recorded["name"], recorded["error"]["message"], list(recorded["phases"])) == (
        "plain \U0001f680",
        "failed \U0001f680",
        ["Gr\u00f6\u00dfe \U0001f680"],
    )
    for command in ("summary", "status", "runs"):
        told = otel_exec(command, "outputs", cwd=tmp_path, **ASCII)
        assert (told.returncode, told.stderr) == (0, "")
        assert told.stdout.isascii()
