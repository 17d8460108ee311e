"""Replay a recorded workflow: its graph as it was, its run times scaled down to sleeps.

    python examples/replay_workflow.py examples/data/survey.json --scale 0.01

Takes the two forms in which recorded workflows come:

- WfFormat of WfCommons, versions 1.5 and 1.6 (https://github.com/wfcommons/WfFormat): `workflow.specification.tasks` with `id`, `name`, `parents`
  and `workflow.execution.tasks` with `id`, `runtimeInSeconds`;
- a slim form: `{"name", "tasks": [{"id", "name", "parents", "runtime_s"}]}`.

Every task becomes a step that waits for its parents, so levels, critical path and slack of the record can be held against the graph's.
"""

from __future__ import annotations

import argparse
import graphlib
import json
import math
import re
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# --- Library: reading a workflow -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Task:
    """A task of a recorded workflow. `name` is unique within it and can stand in a path; `parents` are ids."""

    id: str
    name: str
    parents: tuple[str, ...]
    runtime_s: float


@dataclass(frozen=True)
class Workflow:
    """A recorded workflow; `tasks` has parents before children."""

    name: str
    tasks: tuple[Task, ...]


@dataclass(frozen=True)
class SleepConfig:
    """How long the task took when it was recorded, what a second of it lasts now, and what it waits for."""

    recorded_s: float
    scale: float
    parent_paths: tuple[str, ...]


class WorkflowError(ValueError):
    """The file is not a workflow that can be replayed; the message is one sentence."""


def read_workflow(path: str) -> Workflow:
    """Read a workflow in either form.

    Raises:
        WorkflowError: it can't be read, is neither form, names a parent that it does not hold, or has a cycle.
    """
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise WorkflowError(f"{path}: {error.strerror or error}") from error
    except ValueError as error:
        raise WorkflowError(f"{path}: not JSON ({error})") from error
    try:
        tasks = _rows(content)
        names = unique_names([task["name"] for task in tasks])
        found = [Task(str(task["id"]), name, tuple(map(str, task["parents"])), float(task["runtime_s"])) for task, name in zip(tasks, names, strict=True)]
        workflow_name = path_safe(str(content["name"]))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise WorkflowError(f"{path}: neither WfFormat 1.5 or 1.6 nor the slim form (at {error})") from error
    return Workflow(workflow_name, _in_order(path, found))


def _rows(content: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the tasks of either form as rows of the slim one."""
    if "workflow" not in content:
        return list(content["tasks"])
    workflow = content["workflow"]
    if "execution" not in workflow:
        raise ValueError("workflow.execution: without recorded run times there is nothing to replay")
    runtimes = {task["id"]: task["runtimeInSeconds"] for task in workflow["execution"]["tasks"]}
    return [
        {"id": task["id"], "name": task["name"], "parents": task["parents"], "runtime_s": runtimes[task["id"]]} for task in workflow["specification"]["tasks"]
    ]


def _in_order(path: str, tasks: list[Task]) -> tuple[Task, ...]:
    by_id = {task.id: task for task in tasks}
    if len(by_id) < len(tasks):
        twice = next(key for key, count in Counter(task.id for task in tasks).items() if count > 1)
        raise WorkflowError(f"{path}: two tasks have the id {twice!r}")
    for task in tasks:
        for parent in task.parents:
            if parent not in by_id:
                raise WorkflowError(f"{path}: task {task.id!r} names a parent {parent!r} that the file does not hold")
        if not (math.isfinite(task.runtime_s) and task.runtime_s >= 0):
            raise WorkflowError(f"{path}: task {task.id!r} has a run time of {task.runtime_s} s")
    try:
        order = graphlib.TopologicalSorter({task.id: task.parents for task in tasks}).static_order()
        return tuple(by_id[key] for key in order)
    except graphlib.CycleError as error:
        raise WorkflowError(f"{path}: the tasks wait for each other: {' -> '.join(error.args[1])}") from error


def path_safe(name: str) -> str:
    """Return the name with every sign that a path can't hold everywhere replaced by `_`; never empty, never dots alone."""
    safe = re.sub(r"[^\w.+-]+", "_", name)
    return safe if safe.strip(".") else f"_{safe}"


def unique_names(names: list[str]) -> list[str]:
    """Return path-safe names in the same order; where several tasks share one, each gets a number (`blast.1`, `blast.2`)."""
    safe = [path_safe(name) for name in names]
    shared = {name for name, count in Counter(safe).items() if count > 1}
    taken = set(safe)
    numbers: Counter[str] = Counter()
    unique: list[str] = []
    for name in safe:
        given = name
        while name in shared and given in taken:
            numbers[name] += 1
            given = f"{name}.{numbers[name]}"
        taken.add(given)
        unique.append(given)
    return unique


def _sleep(config: SleepConfig) -> None:
    time.sleep(config.recorded_s * config.scale)


# --- Wiring ----------------------------------------------------------------------------------------------------------------------------

from otel_exec import DeferredCall, StepRef, deferred, executor_main, step, versioned  # noqa: E402  the library above does without them

sleep = deferred(_sleep)


@step(name="{workflow}/{task}")
def replay_task(workflow: str, task: str, recorded_s: float, scale: float, parents: tuple[StepRef, ...]) -> DeferredCall:
    return sleep(SleepConfig(versioned(recorded_s), versioned(scale), tuple(parents)))


@step(name="replay/{name}")
def replay(name: str, tasks: tuple[Task, ...], scale: float) -> None:
    steps: dict[str, StepRef] = {}
    for task in tasks:
        steps[task.id] = replay_task(name, task.name, task.runtime_s, scale, tuple(steps[parent] for parent in task.parents))


def _positive(text: str) -> float:
    value = float(text)
    if not (math.isfinite(value) and value >= 0):
        raise argparse.ArgumentTypeError(f"{text} is not a factor of 0 or more")
    return value


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description="Replay a recorded workflow; what is not listed here goes to the run (--executor, --workers, --prefix, ...).", allow_abbrev=False
    )
    parser.add_argument("file", help="a workflow in WfFormat 1.5 or 1.6, or in the slim form; it comes first")
    parser.add_argument("--scale", type=_positive, default=0.001, help="what a recorded second lasts now (default 0.001: one millisecond)")
    arguments, rest = parser.parse_known_args()
    try:
        recorded = read_workflow(arguments.file)
    except WorkflowError as mistake:
        parser.exit(2, f"replay_workflow: {mistake}\n")
    executor_main(steps=[replay(recorded.name, recorded.tasks, arguments.scale)], description=f"replay of {recorded.name}", argv=rest)
