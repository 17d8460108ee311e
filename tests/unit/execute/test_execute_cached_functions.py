"""Functions of the script under `functools.lru_cache` and `functools.cache` travel to workers, where they begin with an empty cache."""

from __future__ import annotations

import json
import sys
import types

import pytest
from support.outside import run_script

from otel_exec.execute import packing
from otel_exec.execute.packing import BlobStore, Packer, StandInMain, open_blobs, unpack

_SCRIPT = """
import functools, json, os
from otel_exec import deferred, executor_main, map_tasks, output, step, versioned

CALLS = []

@functools.lru_cache(maxsize=3, typed=True)
def slow_square(n):
    CALLS.append(n)
    return n * n

@functools.cache
def fibonacci(n):
    return n if n < 2 else fibonacci(n - 1) + fibonacci(n - 2)

def _use(config):
    squares = [slow_square(2), slow_square(2), slow_square(2.0)]
    with open(config["path"], "w") as file:
        json.dump({
            "squares": squares,
            "fibonacci": fibonacci(50),
            "hits": slow_square.cache_info().hits,
            "parameters": slow_square.cache_parameters(),
            "pid": os.getpid(),
            "items": map_tasks(slow_square, [1, 2, 3]),
        }, file)

@functools.lru_cache
def cached_step(config):
    with open(config, "w") as file:
        file.write("made")

@step("use")
def use():
    return deferred(_use)({"path": output("out.json")})

@step("cached")
def cached():
    return deferred(cached_step)(output("out.txt"))

if __name__ == "__main__":
    slow_square(2)
    print(json.dumps({"pid": os.getpid()}))
    executor_main(steps=[use(), cached()])
"""


@pytest.mark.parametrize("executor", ["processes", "threads"])
def test_cached_functions_of_a_script(tmp_path, executor):
    """Called by a step, by itself, as a fan-out's function and as a step's own; with its parameters; in a worker the cache is empty at first and then works."""
    (tmp_path / "exp.py").write_text(_SCRIPT, encoding="utf-8")
    done = run_script("exp.py", "--executor", executor, "--workers", "1", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (out,) = (tmp_path / "outputs").glob("use-*/out.json")
    found = json.loads(out.read_text(encoding="utf-8"))
    driver = json.loads(done.stdout.splitlines()[0])["pid"]
    assert (found["pid"] == driver) == (executor == "threads")
    assert found["squares"] == [4, 4, 4.0]
    assert found["fibonacci"] == 12586269025
    # int and float are kept apart (`typed`); in the driver's own process 2 had been asked for before.
    assert found["hits"] == (2 if executor == "threads" else 1)
    assert found["parameters"] == {"maxsize": 3, "typed": True}
    assert found["items"] == [1, 4, 9]
    (made,) = (tmp_path / "outputs").glob("cached-*/out.txt")
    assert made.read_text(encoding="utf-8") == "made"


def test_each_user_of_a_cached_function_has_its_own(tmp_path, monkeypatch):
    """As with every global of a script, each function that travels brings a copy along; each copy calls itself through its own cache."""
    script = types.ModuleType("__main__")
    code = (
        "import functools\n"
        "@functools.lru_cache(maxsize=None)\n"
        "def count(n):\n    return 0 if n == 0 else 1 + count(n - 1)\n"
        "def one(): count(10); return count\n"
        "def other(): count(10); return count\n"
    )
    exec(code, script.__dict__)
    monkeypatch.setitem(sys.modules, "__main__", script)
    monkeypatch.setattr(packing, "_blobs", None)
    packer = Packer(open_blobs(BlobStore(str(tmp_path))))
    first, second, itself = packer.value(script.one), packer.value(script.other), packer.value(script.count)
    monkeypatch.setitem(sys.modules, "__main__", StandInMain("exp.py", lambda name: ""))
    one, other, count = unpack(first), unpack(second), unpack(itself)
    assert count(10) == 10
    assert (one() is other(), one() is count, count is script.count) == (False, False, False)
    assert [each.cache_info().currsize for each in (one(), other(), count)] == [11, 11, 11]
