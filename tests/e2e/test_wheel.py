"""The wheel by itself: built, installed alone into a fresh environment, and used with the sources out of sight."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.slow


def _run(*argv, cwd, **environment):
    """Run a command without anything of this environment that could lead it back to the sources."""
    passed = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "VIRTUAL_ENV", "OTEL_", "COV_"))}
    done = subprocess.run([str(part) for part in argv], cwd=cwd, env={**passed, **environment}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{argv}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel, built from a copy, so that nothing is left in the tree."""
    folder = tmp_path_factory.mktemp("build")
    source = folder / "source"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    shutil.copytree(ROOT / "otel_exec", source / "otel_exec", ignore=shutil.ignore_patterns("__pycache__"))
    _run(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", folder, source, cwd=folder)
    (built,) = folder.glob("*.whl")
    return built


def test_the_wheel_holds_the_package_and_nothing_else(wheel):
    """All modules, the type marker, the schemas and the licence are in the wheel; tests and examples are not."""
    held = set(zipfile.ZipFile(wheel).namelist())
    source = {path.relative_to(ROOT).as_posix() for path in (ROOT / "otel_exec").rglob("*") if path.is_file() and "__pycache__" not in path.parts}
    assert {name for name in held if not name.split("/")[0].endswith(".dist-info")} == source
    assert any(name.endswith("licenses/LICENSE") for name in held)


def test_an_experiment_runs_from_the_wheel_alone(wheel, tmp_path):
    """In a fresh environment that holds the wheel and its dependencies, the first experiment runs and `otel-exec summary` tells of it."""
    venv = tmp_path / "venv"
    _run(sys.executable, "-m", "venv", "--without-pip", venv, cwd=tmp_path)
    python = venv / "bin" / "python"
    _run(
        sys.executable,
        "-m",
        "pip",
        "--python",
        python,
        "install",
        "--quiet",
        "--disable-pip-version-check",
        "-c",
        ROOT / "constraints.txt",
        wheel,
        cwd=tmp_path,
    )
    work = tmp_path / "work"
    work.mkdir()
    shutil.copy(ROOT / "examples" / "hello.py", work)
    where = _run(python, "-c", "import otel_exec; print(otel_exec.__file__)", cwd=work).strip()
    assert Path(where).is_relative_to(venv)
    _run(python, "hello.py", cwd=work)
    record = json.loads((work / "run.json").read_text(encoding="utf-8"))
    assert record["outcome"] == "success"
    assert {step["outcome"] for step in record["steps"]} == {"success"}
    (total,) = [step for step in record["steps"] if step["name"] == "sum"]
    assert Path(total["output_path"], "sum.txt").read_text(encoding="utf-8") == str(17984 + 33860)
    summary = _run(venv / "bin" / "otel-exec", "summary", "run.json", cwd=work)
    assert record["exec_id"] in summary
    assert "primes/400000" in summary
