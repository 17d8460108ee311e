"""An experiment for Ray whose driver is killed: a step that ends, and one that goes on until it is told, in itself, in an item and in a process that it starts."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

from otel_exec import deferred, executor_main, map_tasks, output, step


def _here():
    return Path(os.environ["EVIDENCE"])


def _say(config):
    with open(Path(config["evidence"]) / "first.ran", "a") as file:
        file.write("x")


def _write(path, pid):
    path.with_suffix(".part").write_text(str(pid))
    path.with_suffix(".part").replace(path)


def _wait(evidence, name):
    _write(Path(evidence) / name, os.getpid())
    while not (Path(evidence) / "go").exists():
        time.sleep(0.02)


def _item(evidence):
    _wait(evidence, "item.pid")


def _go_on(config):
    evidence = Path(config["evidence"])
    if not (evidence / "go").exists():
        _write(evidence / "child.pid", subprocess.Popen(["sleep", "600"]).pid)
    _write(evidence / "step.pid", os.getpid())
    map_tasks(_item, [config["evidence"]])


say, go_on = deferred(_say), deferred(_go_on)


@step("first")
def first():
    return say({"evidence": str(_here()), "out": output()})


@step("long")
def long(above):
    return go_on({"evidence": str(_here()), "above": above})


if __name__ == "__main__":
    executor_main(steps=[long(first())])
