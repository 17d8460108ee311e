"""Reading recorded workflows, in both forms and in many broken ones."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

REPOSITORY = Path(__file__).parents[3]
SAMPLE = REPOSITORY / "examples" / "data" / "survey.json"
RECORDED = REPOSITORY.parent / "shared" / "data" / "workflows"


def _slim(*tasks):
    return {"name": "w", "tasks": [{"id": key, "name": name, "parents": parents, "runtime_s": runtime} for key, name, parents, runtime in tasks]}


def _write(tmp_path, content):
    path = tmp_path / "w.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return str(path)


def test_the_sample_is_read(replay):
    """The sample in WfFormat comes out with parents before children and the recorded run times."""
    workflow = replay.read_workflow(str(SAMPLE))
    assert workflow.name == "survey"
    by_id = {task.id: task for task in workflow.tasks}
    assert len(by_id) == 12
    assert by_id["fetch_3"].runtime_s == 14.2
    assert by_id["report"].parents == ("model_linear", "model_tree", "map")
    assert by_id["map"].name == "draw_map"
    assert {by_id[key].name for key in ("fetch_1", "fetch_2", "fetch_3")} == {"fetch.1", "fetch.2", "fetch.3"}


def test_the_sample_says_what_wfformat_asks_for(replay):
    """The committed sample holds every field that WfFormat 1.5 requires, with parents and children that agree."""
    content = json.loads(SAMPLE.read_text(encoding="utf-8"))
    assert content["schemaVersion"] == "1.5"
    specification, execution = content["workflow"]["specification"], content["workflow"]["execution"]
    assert {"makespanInSeconds", "executedAt", "tasks"} <= execution.keys()
    children = {task["id"]: set(task["children"]) for task in specification["tasks"]}
    assert all(task["id"] in children[parent] for task in specification["tasks"] for parent in task["parents"])
    assert sum(map(len, children.values())) == sum(len(task["parents"]) for task in specification["tasks"])
    assert {task["id"] for task in execution["tasks"]} == children.keys()


def test_both_forms_give_the_same_workflow(replay, tmp_path):
    """A workflow in the slim form is the one that WfFormat gives."""
    full = replay.read_workflow(str(SAMPLE))
    content = json.loads(SAMPLE.read_text(encoding="utf-8"))
    runtimes = {task["id"]: task["runtimeInSeconds"] for task in content["workflow"]["execution"]["tasks"]}
    tasks = [(task["id"], task["name"], task["parents"], runtimes[task["id"]]) for task in content["workflow"]["specification"]["tasks"]]
    slim = replay.read_workflow(_write(tmp_path, {**_slim(*tasks), "name": "survey"}))
    assert slim == full


@pytest.mark.skipif(not RECORDED.is_dir(), reason="the recorded workflows are not beside this clone")
def test_recorded_workflows_are_read_whole(replay):
    """Each recorded workflow keeps all its tasks and edges, with unique names and parents first."""
    paths = sorted(RECORDED.glob("*.json"))
    assert paths
    for path in paths:
        content = json.loads(path.read_text(encoding="utf-8"))
        workflow = replay.read_workflow(str(path))
        assert {task.id: set(task.parents) for task in workflow.tasks} == {task["id"]: set(task["parents"]) for task in content["tasks"]}
        assert len({task.name for task in workflow.tasks}) == len(content["tasks"])
        seen = set()
        for task in workflow.tasks:
            assert seen >= set(task.parents)
            seen.add(task.id)


@given(st.lists(st.sampled_from(["a", "a.1", "a.2", "b", "b/c", "..", "", "ü x"]), max_size=12))
def test_names_are_unique_and_fit_into_paths(replay, names):
    """However often names repeat, each task gets one of its own that a path can hold."""
    unique = replay.unique_names(names)
    assert len(set(unique)) == len(names)
    assert all(name and os.sep not in name and name.strip(".") for name in unique)
    assert all(given == replay.path_safe(name) for given, name in zip(unique, names, strict=True) if names.count(name) == 1 and name == "b")


BROKEN = {
    "not json": ("{", "not JSON"),
    "a list": ([], "neither WfFormat"),
    "no tasks": ({"name": "w"}, "'tasks'"),
    "no run times": ({"name": "w", "workflow": {"specification": {"tasks": []}}}, "workflow.execution"),
    "a run time that is none": (_slim(("a", "a", [], "soon")), "soon"),
    "a negative run time": (_slim(("a", "a", [], -1)), "run time of -1"),
    "an endless run time": (_slim(("a", "a", [], float("inf"))), "run time of inf"),
    "a parent that is not there": (_slim(("a", "a", ["b"], 1)), "a parent 'b'"),
    "an id twice": (_slim(("a", "a", [], 1), ("a", "b", [], 1)), "two tasks have the id 'a'"),
    "a cycle": (_slim(("a", "a", ["b"], 1), ("b", "b", ["a"], 1)), "wait for each other"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_workflow_is_one_sentence(replay, tmp_path, case):
    """What can't be replayed is named in one sentence that starts with the file."""
    content, says = BROKEN[case]
    path = _write(tmp_path, content)
    with pytest.raises(replay.WorkflowError) as caught:
        replay.read_workflow(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_one_sentence(replay, tmp_path):
    """A file that is not there is named."""
    with pytest.raises(replay.WorkflowError, match="No such file"):
        replay.read_workflow(str(tmp_path / "none.json"))
