"""The examples, run as people run them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"


def run_example(name, *argv, cwd, code=0):
    """Run an example in a folder and return its record; it must end with the code."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("OTEL_")}
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / f"{name}.py"), *argv], cwd=cwd, env=environment, capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return json.loads((Path(cwd) / "run.json").read_text(encoding="utf-8")) if (Path(cwd) / "run.json").exists() else None


def _steps(record):
    return {step["name"]: step for step in record["steps"] if not step["group"]}


def _outputs(prefix):
    """What the functions wrote, by path; the executor's own files hold times and are left out."""
    return {
        str(path.relative_to(prefix)): path.read_bytes()
        for path in sorted(Path(prefix).rglob("*"))
        if path.is_file() and not path.name.startswith(".executor") and ".otel_exec" not in path.parts
    }


def test_the_first_experiment_runs_once(tmp_path):
    """hello.py computes the right sum; a second run runs nothing and keeps what is there."""
    record = run_example("hello", cwd=tmp_path)
    steps = _steps(record)
    assert set(steps) == {"primes/200000", "primes/400000", "sum"}
    assert Path(steps["sum"]["output_path"], "sum.txt").read_text(encoding="utf-8") == str(17984 + 33860)
    assert [step["level"] for step in steps.values()] == [1, 1, 2]
    before = _outputs(tmp_path / "outputs")
    again = _steps(run_example("hello", cwd=tmp_path))
    assert all(step["cached"] or step["outcome"] == "skip" for step in again.values())
    assert all(step["attempts"] == [] for step in again.values())
    assert _outputs(tmp_path / "outputs") == before


def test_a_dry_run_leaves_an_empty_folder_empty(tmp_path):
    """`--dry-run` writes nothing at all."""
    assert run_example("lm_pipeline", "--small", "--dry-run", cwd=tmp_path) is None
    assert list(tmp_path.iterdir()) == []


def test_the_language_model_pipeline_runs_whole(tmp_path):
    """lm_pipeline.py --small trains, evaluates and reports; its numbers stand in the record; made again elsewhere it is the same, byte for byte."""
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    second.mkdir()
    record = run_example("lm_pipeline", "--small", cwd=first)
    steps = _steps(record)
    assert {step["outcome"] for step in steps.values()} == {"success"}
    assert steps["lm/report"]["level"] == 8
    for vocabulary in (512, 2_048):
        assert steps[f"lm/tokens/{vocabulary}"]["items"]["completed"] == 5
        assert steps[f"lm/tokenizer/{vocabulary}"]["phases"]["merge pairs"]["count"] == 1
    report = json.loads(Path(steps["lm/report"]["output_path"], "report.json").read_text(encoding="utf-8"))
    assert [score["vocab_size"] for score in report["scores"]] == [2_048, 512]
    assert all(1.0 < score["bits_per_byte"] < 4.0 for score in report["scores"])
    run_example("lm_pipeline", "--small", cwd=second)
    made = _outputs(first / "outputs")
    assert made == _outputs(second / "outputs")
    assert any(path.endswith("report.md") for path in made)


def test_one_changed_value_reruns_what_depends_on_it(tmp_path):
    """Another limit makes its own count and the sum again, and leaves the other count alone."""
    source = (EXAMPLES / "hello.py").read_text(encoding="utf-8")
    script = tmp_path / "hello.py"
    outcomes = []
    for text in (source, source.replace("400_000", "300_000")):
        script.write_text(text, encoding="utf-8")
        subprocess.run([sys.executable, str(script)], cwd=tmp_path, capture_output=True, check=True, timeout=120)
        outcomes.append(_steps(json.loads((tmp_path / "run.json").read_text(encoding="utf-8"))))
    assert not any(step["cached"] for step in outcomes[0].values())
    assert {name: step["cached"] for name, step in outcomes[1].items()} == {"primes/200000": True, "primes/300000": False, "sum": False}


@pytest.mark.parametrize("argv", [("missing.json",), ("missing.json", "--scale", "-1"), ()])
def test_a_workflow_that_is_not_there_is_a_usage_error(tmp_path, argv):
    """What replay_workflow.py can't read ends it with code 2 before anything is written."""
    assert run_example("replay_workflow", *argv, cwd=tmp_path, code=2) is None
    assert list(tmp_path.iterdir()) == []


def test_the_agents_loop_has_a_breakdown(tmp_path):
    """As a program it is one run without steps: each node's phases with their counts, failed calls among them, tokens, and shares that add up; as text it is ASCII in 80 columns."""
    assert run_example("agent_loop", cwd=tmp_path) is None  # no run.json in the working directory
    metrics = [sys.executable, "-m", "otel_exec", "metrics", "agent-loop-1"]
    view = json.loads(subprocess.run([*metrics, "--json"], cwd=tmp_path, check=True, capture_output=True, timeout=60).stdout)
    assert (view["outcome"], view["alias"]) == ("success", "agent-loop-1")
    nodes = view["nodes"]
    assert set(nodes) == {"agent", "planner", "researcher", "writer"}
    counts = {node: {name: (phase["count"], phase["errors"]) for name, phase in nodes[node]["phases"].items()} for node in nodes}
    # The modules' own documentation, and with it how often the loop goes round, is the Python version's.
    assert {node: set(phases) for node, phases in counts.items()} == {
        "agent": {"(nodes)"},
        "planner": {"prompt_building", "llm_call", "tokenize"},
        "researcher": {"search", "llm_call", "tokenize", "retry_wait"},
        "writer": {"prompt_building", "draft", "llm_call", "tokenize", "self_check"},
    }
    tries, failed = counts["researcher"]["llm_call"]
    assert failed == counts["researcher"]["retry_wait"][0] > 0
    assert tries - failed == counts["researcher"]["search"][0] == 3 * counts["planner"]["prompt_building"][0]
    assert counts["writer"]["draft"] == (3, 0)
    assert nodes["writer"]["token_usage"]["output_tokens"] == 36
    for node in nodes.values():
        assert sum(phase["pct"] for phase in node["phases"].values()) + node["unaccounted_pct"] == pytest.approx(100)
    text = subprocess.run([*metrics, "--breakdown", "--bottlenecks"], cwd=tmp_path, check=True, capture_output=True, text=True, timeout=60).stdout
    assert text.isascii()
    assert max(map(len, text.splitlines())) <= 80


def test_the_agents_loop_runs_inside_steps(tmp_path):
    """As an experiment each question is a step; the nodes stand beside the steps, and each step shows them as one row."""
    record = run_example("agent_loop", "--as-experiment", "--prefix", str(tmp_path / "o"), "--executor", "threads", cwd=tmp_path)
    assert {step["outcome"] for step in record["steps"]} == {"success"}
    assert {node["node_id"]: len(node["attempts"]) for node in record["nodes"]} == {"planner": 3, "researcher": 3, "writer": 3}
    for step in record["steps"]:
        assert set(step["phases"]) == {"(nodes)"}
        assert step["phases"]["(nodes)"]["share_ns"] <= step["node_time_ns"]
