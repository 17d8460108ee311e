"""What an experiment's code can do wrong: mistakes of its plan through `python exp.py`, and functions that misbehave on a worker."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from support.outside import run_script
from support.run_checks import EXECUTORS, Trace, check_run, outcomes, statuses, step_named

from otel_exec import read_run
from otel_exec.testing import recorded_spans

# Mistakes of the plan.

_MISTAKES = """
import threading
from dataclasses import dataclass
from otel_exec import StepRef, deferred, executor_main, output, step, versioned

def _work(config):
    open("ran", "w").close()

def _other(config):
    pass

work, other = deferred(_work), deferred(_other)

@dataclass(frozen=True)
class Config:
    rows: object
    path: str

@step("{name}")
def named(name, config=None):
    return work({"config": config})

@step("tokens/{nmae}")
def placeholder(name):
    return work(None)

@step("returns")
def returns_something():
    return 3

@step("forgets")
def forgets():
    work(None)

@step("group")
def group():
    named("member")

@step("options", retries=-1, resources={"num_cpu": 2})
def options():
    return work(None)

@step("text/{ref}")
def in_a_template(ref: StepRef):
    return work(ref)

@step("same")
def same(function):
    return function({"a": 1})

@step("nested")
def nested():
    return work({"x": versioned(versioned(1))})

STEPS = {
    "placeholder": lambda: placeholder("wiki"),
    "up": lambda: named("a/../../etc"),
    "absolute": lambda: named("/etc/passwd"),
    "nul": lambda: named("a\\0b"),
    "newline": lambda: named("a\\nb"),
    "surrogate": lambda: named("a\\ud800"),
    "long": lambda: named("x" * 300),
    "empty": lambda: named(""),
    "own": lambda: named(".otel_exec/runs"),
    "set": lambda: named("set", versioned({1, 2})),
    "bytes": lambda: named("bytes", versioned(b"raw")),
    "object": lambda: named("object", {"deep": [versioned(object())]}),
    "returns": returns_something,
    "forgets": forgets,
    "group path": lambda: named("of a group", group() / "x"),
    "options": options,
    "template": lambda: in_a_template(named("a")),
    "moved": lambda: (named("b").with_output_path("here"), named("c").with_output_path("here")),
    "function": lambda: (same(work), same(other)),
}
"""


def made(what):
    """Return a script that builds the steps of these keys."""
    return f"""{_MISTAKES}
if __name__ == "__main__":
    steps = []
    for key in {what!r}:
        made = STEPS[key]()
        steps += made if isinstance(made, tuple) else (made,)
    executor_main(steps=steps)
"""


# A key of STEPS: words of its sentence.
SAID = {
    "placeholder": ["step 'tokens/{nmae}'", "unknown placeholder 'nmae'", "did you mean 'name'?"],
    "up": ["'..'", "a/../../etc"],
    "absolute": ["absolute path", "/etc/passwd"],
    "nul": ["NUL"],
    "newline": ["control character"],
    "surrogate": ["surrogate"],
    "long": ["file systems hold"],
    "empty": ["is empty"],
    "own": ["records of runs"],
    "set": ["step 'set'", "versioned", "set"],
    "bytes": ["step 'bytes'", "versioned", "bytes"],
    "object": ["step 'object'", "versioned", "object"],
    "returns": ["step 'returns'", "neither a deferred call nor a step's reference nor None"],
    "forgets": ["step 'forgets'", "does not return it"],
    "group path": ["step 'of a group'", "group step"],
    "options": ["step 'options'", "did you mean 'num_cpus'"],
    "template": ["reference"],
}
# What is seen when all steps are known.
SAID_OF_THE_WHOLE = {
    "moved": ["here", "also that of step"],
    "function": ["step 'same'", "another function"],
}


def lines_of(done):
    """Return the sentences about mistakes; the last line counts them."""
    *lines, last = done.stderr.splitlines()
    assert all(line.startswith("otel-exec: ") for line in lines)
    plural = "s" if len(lines) != 1 else ""
    assert last == f"otel-exec: the plan could not be built: {len(lines)} mistake{plural}, nothing was run"
    return lines


def check_nothing_done(done, folder):
    assert done.returncode == 3, done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    assert [path.name for path in folder.iterdir()] == ["exp.py"]


@pytest.mark.parametrize(("all_said", "count"), [(SAID, len(SAID) + 1), (SAID_OF_THE_WHOLE, 2)])  # 'options' has two
def test_all_mistakes_of_a_plan_are_said_together(tmp_path, all_said, count):
    """Each in one sentence with step, file and line, and the way out; exit code 3; nothing is run and nothing written."""
    script = made(sorted(all_said))
    (tmp_path / "exp.py").write_text(script, encoding="utf-8")
    done = run_script("exp.py", cwd=tmp_path)
    check_nothing_done(done, tmp_path)
    lines = lines_of(done)
    for key, words in all_said.items():
        mine = [line for line in lines if all(word in line for word in words)]
        assert mine, (key, done.stderr)
        for line in mine:
            assert re.search(rf"\({re.escape(str(tmp_path / 'exp.py'))}:\d+\)$", line), line
            assert "; " in line, line  # the way out
    assert len(lines) == count


@pytest.mark.parametrize(
    ("key", "on"), [("placeholder", '@step("tokens/{nmae}")'), ("up", 'named("a/../../etc")'), ("forgets", "    work(None)"), ("returns", '@step("returns")')]
)
def test_a_mistake_is_shown_with_the_users_own_line(tmp_path, key, on):
    """File and line are those of what the user wrote: the step whose template or body it is, the call that gave the name, the call that was not returned."""
    script = made([key])
    (tmp_path / "exp.py").write_text(script, encoding="utf-8")
    (line,) = lines_of(run_script("exp.py", "--dry-run", cwd=tmp_path))
    number = next(number for number, text in enumerate(script.splitlines(), 1) if on in text)
    assert line.endswith(f"({tmp_path / 'exp.py'}:{number})")


_NESTED = """
from otel_exec import deferred, executor_main, step, versioned

def _work(config):
    pass

@step("nested")
def nested(make):
    return deferred(_work)({"x": make()})

@step("other")
def other():
    return deferred(_work)({})

if __name__ == "__main__":
    executor_main(steps=[nested(MAKE)])
"""


@pytest.mark.parametrize(
    ("make", "said"),
    [("lambda: versioned(versioned(1))", "versioned"), ("lambda: versioned(other())", "versioned"), ("lambda: versioned([1, other()])", "versioned")],
)
def test_versioned_in_versioned(tmp_path, make, said):
    """A `versioned` value within another, or one that holds a reference, is the body's own ValueError, with the user's line."""
    (tmp_path / "exp.py").write_text(_NESTED.replace("MAKE", make), encoding="utf-8")
    done = run_script("exp.py", cwd=tmp_path)
    assert done.returncode != 0
    last = done.stderr.rstrip().splitlines()[-1]
    assert "ValueError" in done.stderr or last.startswith("otel-exec: ")
    assert said in last
    assert [path.name for path in tmp_path.iterdir()] == ["exp.py"]


_UNSENDABLE = """
import socket, threading
from dataclasses import dataclass
from otel_exec import deferred, executor_main, step

LOCK = threading.Lock()

def _work(config):
    open("ran", "w").close()

def _guarded(config):
    with LOCK:
        open("ran", "w").close()

@dataclass(frozen=True)
class Inner:
    handle: object

@dataclass(frozen=True)
class Config:
    inner: Inner

@step("{name}")
def one(name, fn, config):
    return fn(config)

if __name__ == "__main__":
    work, guarded = deferred(_work), deferred(_guarded)
    executor_main(steps=[
        one("file", work, Config(Inner(open("/dev/null", "wb")))),
        one("lock", work, {"locks": [1, LOCK]}),
        one("socket", work, {"s": socket.socket()}),
        one("generator", work, {"rows": (i for i in range(3))}),
        one("global", guarded, {}),
        one("fine", work, {"n": 1}),
    ])
"""


def test_what_cannot_be_sent_to_a_worker(tmp_path):
    """Functions and configs that can't be sent are mistakes that name the field, all together, before anything runs; without workers they are fine."""
    (tmp_path / "exp.py").write_text(_UNSENDABLE, encoding="utf-8")
    done = run_script("exp.py", "--executor", "processes", cwd=tmp_path)
    check_nothing_done(done, tmp_path)
    lines = lines_of(done)
    assert len(lines) == 5
    for line, words in zip(
        lines,
        [
            ["step 'file'", "config.inner.handle", "BufferedWriter"],
            ["step 'lock'", "config['locks'][1]", "lock"],
            ["step 'socket'", "config['s']", "socket"],
            ["step 'generator'", "config['rows']", "generator"],
            ["step 'global'", "function _guarded", "lock"],
        ],
        strict=True,
    ):
        for word in (*words, "can't be sent to a worker", "--executor threads", f"({tmp_path / 'exp.py'}:"):
            assert word in line
    done = run_script("exp.py", "--executor", "threads", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "ran").exists()


# Functions that misbehave.

_MISBEHAVING = """
import os, sys, threading
from otel_exec import deferred, executor_main, map_tasks, output, phase, step, versioned

class Own(Exception):
    def __init__(self, text, code):
        super().__init__(text)
        self.lock = threading.Lock()

class Mute(Exception):
    def __str__(self):
        raise RuntimeError("no text")

def _prints(config):
    block = ("x" * 1023 + "\\n") * 1024
    print("first line")
    for _ in range(MIB):
        sys.stdout.write(block)
    print("last line", flush=True)

def _returns_much(config):
    return bytearray(300 << 20)

def _returns_a_lambda(config):
    return lambda: threading.Lock()

def _exits(config):
    sys.exit(3)

def _exits_well(config):
    sys.exit(0)

def _raises_own(config):
    raise Own("cannot be pickled", 7)

def _raises_mute(config):
    raise Mute

def _raises_odd_text(config):
    raise ValueError("a\\ud800b\\x00\\x1b[31m" + "long " * 10_000)

def _raises_group(config):
    raise ExceptionGroup("several", [ValueError("one"), Own("two", 2)])

def _raises_base(config):
    raise BaseException("of the base")

def _forks_and_returns(config):
    if os.fork() == 0:
        return
    os.wait()

def _forks_and_raises(config):
    pid = os.fork()
    if pid == 0:
        raise ValueError("in the child")
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 1

def _forks_and_exits(config):
    pid = os.fork()
    if pid == 0:
        sys.exit(5)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 5

def _times_in_a_child(config):
    if os.fork() == 0:
        with phase("of the child"):
            pass
        return
    os.wait()

def _odd_attributes(config):
    more = {"": 1, "k\\ud800": 2, "x" * 1000: 3}
    with phase("odd\\ud800", big=2**63, least=-(2**70), text="a\\ud800b", nan=float("nan"), none=None, mixed=[1, "a", None], thing=object(), **more) as p:
        p.event("event\\ud800", big=2**63)
        p.set(exec_kind=1, **{"exec.id": "mine", "exec.kind": "run"})

def _closes_streams(config):
    sys.stdout.close()
    os.close(1)
    os.close(2)

def _changes_everything(config):
    os.chdir("/")
    os.environ["HOME"] = "/nowhere"
    sys.stdout = None
    threading.Thread(target=lambda: 1 / 0).start()

def _item_forks(number):
    if os.fork() == 0:
        return None
    os.wait()
    return number

def _forks_in_items(config):
    assert map_tasks(_item_forks, [1, 2, 3]) == [1, 2, 3]

def _fans_out_badly(config):
    map_tasks(_raises_own, [1])

def _well(config):
    print("all is well")

FUNCTIONS = {name[1:]: deferred(value) for name, value in list(globals().items()) if name.startswith("_") and name[1:2].isalpha() and callable(value)}

@step("{name}")
def one(name):
    return FUNCTIONS[name]({"name": name})

if __name__ == "__main__":
    executor_main(steps=[one(name) for name in NAMES])
"""

# A function's name: the outcome, what its error's type and message hold.
SUCCESS, FAILURE = ("success", "", ""), "failure"
COMES_TO = {
    "prints": SUCCESS,
    "returns_much": SUCCESS,
    "returns_a_lambda": SUCCESS,
    "exits": (FAILURE, "SystemExit", "3"),
    "exits_well": (FAILURE, "SystemExit", "0"),
    "raises_own": (FAILURE, "__main__.Own", "cannot be pickled"),
    "raises_mute": (FAILURE, "__main__.Mute", "RuntimeError"),
    "raises_odd_text": (FAILURE, "ValueError", "a"),
    "raises_group": (FAILURE, "ExceptionGroup", "several"),
    "raises_base": (FAILURE, "BaseException", "of the base"),
    "forks_and_returns": SUCCESS,
    "forks_and_raises": SUCCESS,
    "forks_and_exits": SUCCESS,
    "forks_in_items": SUCCESS,
    "odd_attributes": SUCCESS,
    "fans_out_badly": (FAILURE, "__main__.Own", "cannot be pickled"),
    "well": SUCCESS,
}
# What changes the process that it runs in is for workers alone.
IN_PROCESSES = {"closes_streams": SUCCESS, "changes_everything": SUCCESS}


def misbehave(folder, comes_to, *flags, mib=8):
    names = list(comes_to)
    (folder / "exp.py").write_text(_MISBEHAVING.replace("NAMES", repr(names)).replace("MIB", str(mib)), encoding="utf-8")
    done = run_script("exp.py", *flags, cwd=folder)
    record = read_run(str(folder / "run.json"))
    return done, record


@pytest.mark.parametrize("executor", EXECUTORS)
def test_functions_that_misbehave(tmp_path, executor):
    """Each comes to what its code came to, on one worker that lives through all of them; what is shown is the user's own, nothing of ours."""
    comes_to = COMES_TO | (IN_PROCESSES if executor == "processes" else {})
    done, record = misbehave(tmp_path, comes_to, "--executor", executor, "--workers", "1")
    trace = check_run(record)
    assert done.returncode == 1, done.stderr
    for name, (outcome, error_type, message) in comes_to.items():
        step = step_named(record, name)
        assert (name, step.outcome) == (name, outcome)
        if outcome == "failure":
            assert step.error.type == error_type, name
            assert message in step.error.message
            assert f"{name} ({tmp_path / 'exp.py'}:" in done.stderr
            assert trace.one("task", node_name=name, exec_task_id=step.node_id).attributes["error.type"] == error_type
        assert statuses(step) == ["RUNNING", step.status]
        assert len(step.attempts) == 1
    failed = sum(outcome == "failure" for outcome, _, _ in comes_to.values())
    assert done.stderr.rstrip().splitlines()[-1] == f"{failed} step(s) failed"
    if executor == "processes":
        assert "ValueError: in the child" in Path(step_named(record, "forks_and_raises").output_path, ".executor_log").read_text(encoding="utf-8")
    assert not re.search(r"otel_exec/(?!examples)\w+/", done.stderr), "a traceback shows files of ours"
    assert "\x1b[31m" not in done.stderr
    assert all(worker.tasks_completed + worker.tasks_failed == len(comes_to) for worker in record.workers)


@pytest.mark.parametrize("executor", EXECUTORS)
def test_phases_of_a_forked_child(tmp_path, executor):
    """They are in the trace, once, under the task that forked."""
    done, record = misbehave(tmp_path, {"times_in_a_child": SUCCESS}, "--executor", executor)
    assert done.returncode == 0, done.stderr
    trace = check_run(record, files=False)
    assert trace.parent(trace.one("phase", exec_phase="of the child")) is trace.one("task")


def test_odd_attributes_are_made_fit_to_be_sent(tmp_path):
    """Numbers past 64 bits, lone surrogates, NaN and objects become text; what stands for the span model can't be overwritten."""
    _, record = misbehave(tmp_path, {"odd_attributes": SUCCESS}, "--executor", "inline")
    trace = check_run(record)
    span = trace.one("phase")
    assert (span.name, span.attributes["big"], span.attributes["least"]) == ("odd\ufffd", str(2**63), str(-(2**70)))
    assert (span.attributes["text"], span.attributes["nan"], span.attributes["mixed"]) == ("a\ufffdb", "NaN", ["1", "a"])
    assert span.attributes["thing"].startswith("<object object")
    assert "none" not in span.attributes
    assert "" not in span.attributes
    assert span.attributes["k\ufffd"] == 2
    assert span.events[0][1:] == ("event\ufffd", {"big": str(2**63)})
    assert span.attributes["exec.id"] == trace.one("run").attributes["exec.id"]


def test_a_gigabyte_of_output_is_cut_and_the_cut_is_said(tmp_path):
    """`.executor_log` keeps the first and the last of it, and says how much is missing; neither memory nor disk is filled with the rest."""
    _, record = misbehave(tmp_path, {"prints": SUCCESS}, "--executor", "processes", mib=1024)
    trace = check_run(record)
    (step,) = record.steps
    log = Path(step.output_path, ".executor_log").read_bytes()
    assert len(log) < 3 << 20
    assert log.startswith(b"first line\n")
    assert log.rstrip().endswith(b"last line")
    assert re.search(rb"\n.*\d[\d,.]* ?\w*.*(left out|cut|omitted|missing).*\n", log), log[: 1 << 20][-200:]
    assert trace.one("task").attributes["exec.outcome"] == "success"
    assert step.attempts[0].peak_rss_bytes < 300 << 20
    used = sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file())
    assert used < 8 << 20


_DIES = """
import os, signal
from otel_exec import deferred, executor_main, phase, step

def _exits_at_once(config):
    with phase("before the end"):
        pass
    with phase("never ended"):
        os._exit(9)

def _is_killed(config):
    os.kill(os.getpid(), signal.SIGKILL)

def _crashes(config):
    import ctypes
    ctypes.string_at(0)

def _well(config):
    pass

FUNCTIONS = {"exits_at_once": deferred(_exits_at_once), "is_killed": deferred(_is_killed), "crashes": deferred(_crashes), "well": deferred(_well)}

@step("{name}")
def one(name, number=0):
    return FUNCTIONS[name]({"name": name})

@step("well/{number}")
def well(number):
    return FUNCTIONS["well"]({"name": number})

if __name__ == "__main__":
    executor_main(steps=[one("exits_at_once"), one("is_killed"), one("crashes"), *map(well, range(20))])
"""


def test_a_step_that_kills_its_worker_fails_alone(tmp_path):
    """The step is an error with the worker's end in its message, after the tries that such deaths get; every other step is done, and finished phases are kept."""
    (tmp_path / "exp.py").write_text(_DIES, encoding="utf-8")
    done = run_script("exp.py", "--workers", "2", cwd=tmp_path)
    assert done.returncode == 1, done.stderr
    record = read_run(str(tmp_path / "run.json"))
    trace = check_run(record)
    said = {"exits_at_once": "9", "is_killed": "SIGKILL", "crashes": "SIGSEGV"}
    assert outcomes(record) == {**dict.fromkeys(said, "error"), **{f"well/{number}": "success" for number in range(20)}}
    for name, words in said.items():
        step = step_named(record, name)
        assert step.error.type == "worker_died"
        assert words in step.error.message
        assert len(step.attempts) == 3
        assert f"{name} ({tmp_path / 'exp.py'}:" in done.stderr
    assert len(trace.of("phase", exec_phase="before the end", exec_outcome="success")) == 3
    assert {span.attributes["error.type"] for span in trace.of("phase", exec_phase="never ended")} == {"worker_died"}
    assert "otel_exec/" not in done.stderr
    assert done.stderr.rstrip().splitlines()[-1] == "3 step(s) failed"


_FULL = """
import os, resource, sys
from otel_exec import deferred, executor_main, output, phase, step

def _fills(config):
    # No file of this process may grow past 64 KiB: the spool's is over that soon.
    resource.setrlimit(resource.RLIMIT_FSIZE, (64 << 10, resource.RLIM_INFINITY))
    for number in range(500):
        with phase("part", number=number):
            pass
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    with open(config["path"], "w") as file:
        file.write("made")

@step("fills")
def fills():
    return deferred(_fills)({"path": output("out")})

if __name__ == "__main__":
    executor_main(steps=[fills()])
"""


@pytest.mark.parametrize("executor", ["inline", "processes"])
def test_a_spool_that_is_full_costs_spans_and_nothing_else(tmp_path, executor):
    """Where the spool's file can grow no more the step goes on and succeeds; its numbers are whole; the record's warnings count what was lost."""
    (tmp_path / "exp.py").write_text(_FULL, encoding="utf-8")
    done = run_script("exp.py", "--executor", executor, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    record = read_run(str(tmp_path / "run.json"))
    (step,) = record.steps
    assert step.outcome == "success"
    assert step.phases["part"].count == 500
    kept = sum(span.kind == "phase" for span in recorded_spans(record))
    assert 0 < kept < 500
    lost = sum(warning.count for warning in record.warnings)
    assert lost >= 500 - kept, [(warning.code, warning.count, warning.message) for warning in record.warnings]


_MANY = """
import os
from otel_exec import deferred, executor_main, step, versioned

def _measure(config):
    assert len(config["text"]) == 300_000

measure = deferred(_measure)

@step("many/{number}")
def many(number):
    return measure({"number": versioned(number), "text": str(number % 10) * 300_000})

if __name__ == "__main__":
    executor_main(steps=[many(number) for number in range(200)])
"""


@pytest.mark.parametrize("executor", ["threads", "processes"])
def test_more_than_the_workers_queue_holds(tmp_path, executor):
    """Steps whose configs are larger than any pipe, and more of them than fit at once, all run, once each."""
    (tmp_path / "exp.py").write_text(_MANY, encoding="utf-8")
    done = run_script("exp.py", "--executor", executor, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    record = read_run(str(tmp_path / "run.json"))
    trace = Trace(record)
    assert len(trace.of("task")) == 200
    assert {step.outcome for step in record.steps} == {"success"}
    assert os.path.getsize(tmp_path / "run.json") < 100 << 20
