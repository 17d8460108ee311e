"""What an attack found, each as the sentence that holds now."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from otel_exec import PlanError, deferred, map_tasks, step, versioned
from otel_exec.record import locks
from otel_exec.record.step_files import StatusEvent, append_event, read_events, standing
from otel_exec.report.as_json import as_json
from otel_exec.report.table import Fact, Section
from otel_exec.testing import run_in


def _work(config: dict[str, int]) -> None:
    """Do nothing."""


async def _coroutine(config: dict[str, int]) -> None:
    """Never awaited by a worker."""


def _generator(config: dict[str, int]):
    yield config


work, coroutine, generator = deferred(_work), deferred(_coroutine), deferred(_generator)


@step(name="node/{number}")
def node(number: int):
    return work({"number": versioned(number)})


@step(name="coroutine")
def of_coroutine():
    return coroutine({})


@step(name="generator")
def of_generator():
    return generator({})


def test_a_word_on_waiting_does_not_hide_a_success(tmp_path):
    """WAITING of a run that was refused the lock may come after the SUCCESS of the run that had it: the step has succeeded."""
    record = run_in(tmp_path, [node(1)])
    path = record.steps[0].output_path
    append_event(path, StatusEvent(date="2026-01-01T00:00:00+00:00", status="WAITING", message="waiting for another"))
    assert standing(read_events(path)).status == "SUCCESS"
    assert run_in(tmp_path, [node(1)]).steps[0].cached


@pytest.mark.parametrize("made", [of_coroutine, of_generator])
def test_a_function_that_would_run_nothing_is_a_mistake(tmp_path, made):
    """A coroutine or generator function runs nothing when it is called: the plan says so, and what to do."""
    with pytest.raises(PlanError, match="calling it would run nothing") as found:
        run_in(tmp_path, [made()])
    assert [mistake.step for mistake in found.value.mistakes] == [made.__name__.removeprefix("of_")]


def test_a_lock_that_cannot_be_written_is_no_lock(tmp_path, monkeypatch):
    """A full disk leaves no empty lock that the next run would wait for."""
    plain = os.write

    def full(descriptor, data):
        if b'"worker_id"' in bytes(data):
            raise OSError(28, "No space left on device")
        return plain(descriptor, data)

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(Exception, match="room on the disk"):
        locks.acquire(str(tmp_path / "step"), "me:boot:1:1")
    monkeypatch.undo()
    assert locks.acquire(str(tmp_path / "step"), "me:boot:1:1").taken


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-"])
def test_a_closed_stream_costs_nothing_but_its_text(tmp_path, closed):
    """With stdout or stderr closed a run does its work and ends as it would."""
    script = tmp_path / "exp.py"
    script.write_text(
        "from otel_exec import deferred, executor_main, step\n"
        "def _work(config): open('done', 'w').close()\n"
        "work = deferred(_work)\n"
        "@step(name='one')\n"
        "def one(): return work({})\n"
        "if __name__ == '__main__': executor_main([one()])\n"
    )
    done = subprocess.run(["sh", "-c", f"exec {sys.executable} exp.py {closed}"], cwd=tmp_path, check=False, capture_output=True)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "run.json").read_text())["outcome"] == "success"


def _moves(config: dict[str, str]) -> None:
    os.chdir(config["to"])


moves = deferred(_moves)


@step(name="moves")
def moving(to: str):
    return moves({"to": to})


def test_a_step_that_changes_the_folder_does_not_move_the_record(tmp_path, monkeypatch):
    """The run.json of the working directory is that of the directory in which the run began."""
    from otel_exec import run

    monkeypatch.chdir(tmp_path)
    (tmp_path / "elsewhere").mkdir()
    run([moving(str(tmp_path / "elsewhere"))], executor="inline", prefix=str(tmp_path / "outputs"))
    assert json.loads((tmp_path / "run.json").read_text())["outcome"] == "success"
    assert not (tmp_path / "elsewhere" / "run.json").exists()


def test_json_holds_nothing_that_a_terminal_obeys():
    """JSON for machines is safe to look at: C1 controls and bidirectional overrides are escaped."""
    text = as_json([Section("s", "S", facts=[Fact("name", "a\u009b31mb\u202ec\u2028d", label="name")])])
    assert json.loads(text)["s"]["name"] == "a\u009b31mb\u202ec\u2028d"
    assert not any(0x7F <= ord(sign) <= 0x9F for sign in text.decode())
    assert "\u202e" not in text.decode()


def _item(number: int) -> int:
    return number


def _many(config: dict[str, int]) -> None:
    import threading

    def ident(number: int) -> int:
        return number

    failed: list[BaseException] = []

    def fan() -> None:
        try:
            assert map_tasks(ident, range(4)) == [0, 1, 2, 3]
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=fan) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed, failed


many = deferred(_many)


@step(name="many")
def fanning():
    return many({})


def test_threads_of_one_step_fan_out_at_once(tmp_path):
    """Fan-outs from several threads of one step don't get in each other's way."""
    assert run_in(tmp_path, [fanning()], executor="processes", workers=2).outcome == "success"


_GREEDY = """
import os, sys
from otel_exec import deferred, executor_main, step, versioned

def _work(number):
    kept = []
    while True:
        kept.append(os.open(os.devnull, os.O_RDONLY))

work = deferred(_work)

@step(name="greedy")
def greedy():
    return work(versioned(1))

if __name__ == "__main__":
    import resource
    resource.setrlimit(resource.RLIMIT_NOFILE, (128, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    executor_main([greedy()])
"""


@pytest.mark.parametrize("executor", ["inline", "threads"])
def test_a_step_that_uses_up_the_drivers_descriptors_fails_by_itself(tmp_path, executor):
    """The run ends, with the user's own exception and no line of ours; the step's files say so, and its lock is let go."""
    script = tmp_path / "exp.py"
    script.write_text(_GREEDY)
    done = subprocess.run(
        [sys.executable, str(script), "--prefix", "out", "--executor", executor], cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 1, done.stderr
    assert "greedy" in done.stderr
    assert "OSError: [Errno 24] Too many open files: '/dev/null'" in done.stderr
    assert "otel_exec/" not in done.stderr
    (status,) = (tmp_path / "out").glob("greedy*/.executor_status")
    assert [event.status for event in read_events(str(status.parent))] == ["RUNNING", "FAILED"]
    assert not (status.parent / ".executor_status.lock").exists()
