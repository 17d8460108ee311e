"""The sources about themselves: sizes, ignores, who imports whom."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import otel_exec

# Spelled in two parts, so that this file does not find itself.
IGNORE = re.compile(r"# (type: " + r"ignore|no" + r"qa)(?P<rest>.*)")
WITH_CODE_AND_REASON = re.compile(r"(\[[a-z-]+(, ?[a-z-]+)*\]|: [A-Z]+[0-9]+(, ?[A-Z]+[0-9]+)*) +(# )?[^#\s].*")


def _modules(root):
    return sorted((root / "otel_exec").rglob("*.py"))


def _imports(path):
    """Every module that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module


def test_no_module_is_longer_than_an_idea(root):
    """Every module of the package stays below 450 lines."""
    lengths = {str(path.relative_to(root)): len(path.read_text(encoding="utf-8").splitlines()) for path in _modules(root)}
    assert {name: length for name, length in lengths.items() if length >= 450} == {}


def test_every_module_says_what_it_is_for(root):
    """Every module has a docstring, but for the rooms' doors, which are empty."""
    silent = [path for path in _modules(root) if not ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) and path.name != "__init__.py"]
    assert silent == []
    doors = [path for path in _modules(root) if path.name == "__init__.py" and path.parent != root / "otel_exec"]
    assert doors
    assert [path for path in doors if path.read_text(encoding="utf-8").strip()] == []


def test_an_ignore_carries_its_code_and_its_reason(texts):
    """No rule of a tool is put aside without saying which and why."""
    bare = []
    for path, text in texts.items():
        if path.suffix != ".py":
            continue
        for number, line in enumerate(text.splitlines(), start=1):
            found = IGNORE.search(line)
            if found and not WITH_CODE_AND_REASON.fullmatch(found["rest"]):
                bare.append(f"{path}:{number}: {line.strip()}")
    assert bare == []


def test_opentelemetry_is_imported_in_one_room(root):
    """Only the spans room imports OpenTelemetry."""
    strangers = {
        str(path.relative_to(root))
        for path in _modules(root)
        for name in _imports(path)
        if name.split(".")[0] == "opentelemetry" and path.parent.name != "spans"
    }
    assert strangers == set()


def test_ray_is_imported_by_the_ray_executor_alone(root):
    """Only execute/on_ray.py and its parts, execute/ray_*.py, may import Ray."""
    strangers = {str(path.relative_to(root)) for path in _modules(root) for name in _imports(path) if name.split(".")[0] == "ray"}
    assert {path for path in strangers if not re.fullmatch(r"otel_exec/execute/(on_ray|ray_\w+)\.py", path)} == set()


def _loaded_by(statement, tmp_path):
    """Top-level packages outside the standard library that a statement loads in a fresh interpreter, beyond what starting it loads."""
    code = (
        "import sys\nbefore = set(sys.modules)\n"
        f"{statement}\n"
        "print(*sorted({name.split('.')[0] for name in set(sys.modules) - before} - set(sys.stdlib_module_names)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    return set(done.stdout.split()) - {"otel_exec"}


def test_the_door_costs_nothing(tmp_path):
    """`import otel_exec` loads nothing but the package's own door and the standard library."""
    assert _loaded_by("import otel_exec", tmp_path) == set()


def test_tracing_an_experiment_loads_no_telemetry(tmp_path):
    """What an experiment's definition needs loads neither OpenTelemetry nor gRPC nor Ray."""
    loaded = _loaded_by("from otel_exec import StepRef, deferred, output, step, versioned", tmp_path)
    assert loaded & {"opentelemetry", "grpc", "ray", "google", "psutil", "cloudpickle"} == set()


def test_the_command_line_loads_no_telemetry(tmp_path):
    """`otel-exec --help` loads neither OpenTelemetry nor gRPC nor Ray, nor anything else that is slow to import."""
    statement = "import contextlib, io\nfrom otel_exec.cli.main import main\nwith contextlib.redirect_stdout(io.StringIO()): main(['--help'])"
    loaded = _loaded_by(statement, tmp_path)
    assert loaded & {"opentelemetry", "grpc", "ray", "google", "psutil", "cloudpickle", "fsspec"} == set()


def test_the_door_names_each_thing_once_for_types_and_once_for_use():
    """What type checkers see behind the lazy door is what is there."""
    tree = ast.parse(Path(otel_exec.__file__).read_text(encoding="utf-8"))
    typed = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("otel_exec."):
            for alias in node.names:
                typed[alias.asname] = node.module.removeprefix("otel_exec.")
    assert typed == otel_exec._HOME
    assert set(otel_exec.__all__) == {*typed, "__version__"}


def test_every_public_name_is_there_and_says_what_it_is():
    """Each name of the door can be had, and its docstring's first line is a sentence."""
    for name in otel_exec.__all__:
        thing = getattr(otel_exec, name)
        if name == "__version__" or not (callable(thing) or isinstance(thing, type)):
            continue
        assert thing.__doc__, name
        first = thing.__doc__.strip().splitlines()[0]
        assert first.split()[0][0].isupper() or first.startswith("`"), name


def test_an_unknown_name_is_an_attribute_error():
    """The door does not swallow mistyped names."""
    with pytest.raises(AttributeError, match="stepp"):
        otel_exec.stepp
