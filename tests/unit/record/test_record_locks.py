from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import uuid

import fsspec
import pytest

from otel_exec.errors import RecordError
from otel_exec.record import locks, process_id

US, THEM = "host:boot:1:1", "elsewhere:boot:2:2"


@pytest.fixture(params=["local", "memory"])
def output(request, tmp_path):
    """A step's output folder on each kind of store."""
    if request.param == "local":
        return str(tmp_path)
    return f"memory://{uuid.uuid4().hex}/step-abc123"


def put(output, content, age_s=0.0):
    """Place a lock file as another would have left it."""
    with fsspec.open(output + locks.LOCK, "wb") as file:
        file.write(content)
    if age_s and "://" not in output:
        then = time.time() - age_s
        os.utime(output + locks.LOCK, (then, then))


def lock(worker_id, age_s=0.0):
    """Return the content of a lock that was renewed some seconds ago."""
    return json.dumps({"worker_id": worker_id, "timestamp": time.time() - age_s}).encode()


def test_a_free_lock_is_taken_and_released(output):
    """A lock that nobody holds is taken at once, and gone after its release."""
    assert locks.acquire(output, US) == locks.LockState(taken=True)
    assert locks.peek(output) == US
    locks.release(output, US)
    assert locks.peek(output) == ""
    assert locks.acquire(output, THEM).taken


def test_the_file_holds_what_is_promised(output):
    """The lock file is a JSON object of worker_id and timestamp, in Unix seconds."""
    before = time.time() - 1e-3
    locks.acquire(output, US)
    with fsspec.open(output + locks.LOCK, "rb") as file:
        content = json.loads(file.read())
    assert list(content) == ["worker_id", "timestamp"]
    assert content["worker_id"] == US
    assert before <= content["timestamp"] <= time.time()


def test_a_missing_output_folder_is_made(tmp_path):
    """Taking the lock of a step that never ran makes its output folder."""
    assert locks.acquire(f"{tmp_path}/a/b-123456", US).taken
    assert locks.peek(f"{tmp_path}/a/b-123456") == US


def test_a_held_lock_says_who_has_it(output):
    """A live holder is named, with its last sign of life, and keeps the lock."""
    locks.acquire(output, THEM)
    state = locks.acquire(output, US)
    assert (state.taken, state.holder, state.taken_over_from) == (False, THEM, "")
    assert abs(state.since_s - time.time()) < 60
    assert locks.peek(output) == THEM


def test_our_own_lock_is_taken_again(output):
    """A later attempt of the same run finds the lock its own, and that is no takeover."""
    locks.acquire(output, US)
    assert locks.acquire(output, US) == locks.LockState(taken=True)


def test_another_run_of_this_process_is_another_holder(output):
    """Two runs in one process don't take each other's locks for their own."""
    first, second = locks.driver_id("exec_1"), locks.driver_id("exec_2")
    assert locks.acquire(output, first).taken
    assert locks.acquire(output, second) == locks.LockState(taken=False, holder=first, since_s=locks.acquire(output, second).since_s)


@pytest.mark.parametrize(("age_s", "taken"), [(locks.STALE_S - 5, False), (locks.STALE_S + 5, True)])
def test_a_lock_is_stale_after_ninety_seconds(output, age_s, taken):
    """A lock without a heartbeat is held for 90 s, and then taken over from its named holder."""
    put(output, lock(THEM, age_s))
    state = locks.acquire(output, US)
    assert state.taken is taken
    assert state.taken_over_from == (THEM if taken else "")
    assert locks.peek(output) == (US if taken else THEM)


def test_a_heartbeat_keeps_a_lock_alive(output):
    """A renewed lock is not stale."""
    put(output, lock(US, locks.STALE_S - 1))
    assert locks.heartbeat(output, US)
    assert locks.acquire(output, THEM).since_s == pytest.approx(time.time(), abs=30)


def test_a_lost_lease_is_noticed(output):
    """A holder whose lock another has taken over, or that is gone, learns so and disturbs nothing."""
    put(output, lock(US, locks.STALE_S + 1))
    assert locks.acquire(output, THEM).taken_over_from == US
    assert not locks.heartbeat(output, US)
    locks.release(output, US)
    assert locks.peek(output) == THEM
    locks.release(output, THEM)
    assert not locks.heartbeat(output, THEM)
    locks.release(output, THEM)


@pytest.mark.parametrize("content", [b"", b'{"worker_id": "el', b"[]", b"\xff", b'{"worker_id": 3, "timestamp": 1}'], ids=repr)
def test_a_torn_lock_is_judged_by_its_age(tmp_path, content):
    """A lock that can't be read is held while it is fresh, since its creator may be writing it, and stale after 90 s."""
    put(str(tmp_path), content)
    assert locks.acquire(str(tmp_path), US).holder == locks.UNKNOWN
    assert locks.peek(str(tmp_path)) == locks.UNKNOWN
    put(str(tmp_path), content, age_s=locks.STALE_S + 5)
    assert locks.peek(str(tmp_path)) == ""
    assert locks.acquire(str(tmp_path), US) == locks.LockState(taken=True, taken_over_from=locks.UNKNOWN)


def test_a_timestamp_in_the_future_does_not_hold_for_ever(tmp_path):
    """A lock from a clock that is far ahead is judged by the file's own time."""
    put(str(tmp_path), lock(THEM, -1e9), age_s=locks.STALE_S + 5)
    assert locks.acquire(str(tmp_path), US).taken_over_from == THEM


def test_a_longer_line_is_overwritten_whole(tmp_path):
    """Taking over from a holder with a longer name leaves nothing of it behind."""
    put(str(tmp_path), lock(THEM * 20, locks.STALE_S + 5))
    assert locks.acquire(str(tmp_path), US).taken
    assert json.loads((tmp_path / ".executor_status.lock").read_bytes())["worker_id"] == US


def test_a_dead_holder_is_taken_over_at_once(output):
    """The fresh lock of a process of this host that has ended is taken over without waiting."""
    dead = id_of_a_dead_process()
    put(output, lock(dead))
    assert locks.peek(output) == ""
    assert locks.acquire(output, US).taken_over_from == dead


def test_a_living_process_is_not_dead():
    """This process and its parent live; so does an earlier run in this process as long as the process does."""
    assert not locks.holder_dead(locks.driver_id())
    assert not locks.holder_dead(locks.driver_id("exec_1"))
    assert not locks.holder_dead(process_id._own(os.getppid()))


def test_death_is_provable_on_this_host_and_boot_alone():
    """Another host, boot or process id namespace, or an id of another form, proves nothing."""
    host, boot, pid, start = id_of_a_dead_process().split(":")
    assert locks.holder_dead(f"{host}:{boot}:{pid}:{start}/exec_1")
    for fields in [("other", boot, pid, start), (host, "other", pid, start), (host.replace("@", "@9"), boot, pid, start), (host, "", pid, start)]:
        assert not locks.holder_dead(":".join(fields))
    for pid_text in ("", "-1", "0", "x", "99999999999999999999", "4294967297", "²"):
        assert not locks.holder_dead(f"{host}:{boot}:{pid_text}:{start}")
    for holder in ("", locks.UNKNOWN, ":::", "ray-worker-7", f"{host}:{boot}:{pid}", f"{host}:{boot}:{pid}:soon"):
        assert not locks.holder_dead(holder)


def test_a_pid_given_out_again_is_another_process():
    """A living process with the holder's pid that began at another time is not the holder."""
    host, boot, pid, start = process_id._own(os.getppid()).split(":")
    assert locks.holder_dead(f"{host}:{boot}:{pid}:{int(start) + 1}")
    own = locks.driver_id().rsplit(":", 1)
    assert locks.holder_dead(f"{own[0]}:{int(own[1]) + 1}")


def test_an_ended_child_that_was_not_waited_for_is_dead():
    """A killed driver whose parent has not looked yet is dead all the same."""
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        holder = process_id._own(child.pid)
        assert not locks.holder_dead(holder)
    finally:
        child.stdin.close()
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        try:
            assert locks.holder_dead(holder)
        finally:
            child.wait()
    assert locks.holder_dead(holder)


def test_the_id_has_four_fields():
    """A worker id is host, boot id, pid and process start; a run given is part of the fourth."""
    fields = locks.driver_id("exec_1").split(":")
    assert len(fields) == 4
    assert fields[2] == str(os.getpid())
    assert fields[3].endswith("/exec_1")
    assert locks.driver_id() == locks.driver_id()


def test_a_folder_in_the_locks_place_is_named(tmp_path):
    """A lock that can't be one gives one sentence that names it."""
    (tmp_path / ".executor_status.lock").mkdir()
    with pytest.raises(RecordError) as caught:
        locks.acquire(str(tmp_path), US)
    assert caught.value.path == f"{tmp_path}/.executor_status.lock"


def test_a_pipe_in_the_locks_place_holds_nobody_up(tmp_path):
    """Opening one waits for a writer who never comes, unless it is opened so as not to wait."""
    os.mkfifo(tmp_path / ".executor_status.lock")
    for ask in (lambda: locks.acquire(str(tmp_path), US), lambda: locks.peek(str(tmp_path))):
        with pytest.raises(RecordError, match="no regular file"):
            ask()


def test_a_symlink_in_the_locks_place_is_not_followed(tmp_path):
    """A lock never writes through a symlink to a file elsewhere."""
    (tmp_path / "precious").write_text("keep")
    (tmp_path / ".executor_status.lock").symlink_to("precious")
    with pytest.raises(RecordError):
        locks.acquire(str(tmp_path), US)
    assert (tmp_path / "precious").read_text() == "keep"


def test_without_flock_a_stale_lock_is_left_and_the_way_out_said(tmp_path, monkeypatch):
    """On a file system without flock a run can lock, renew and release, but what is stale is not taken over: the error says what to do."""

    def none(_descriptor, _how):
        raise OSError(37, "No locks available")

    monkeypatch.setattr("fcntl.flock", none)
    assert locks.acquire(str(tmp_path), US).taken
    assert locks.heartbeat(str(tmp_path), US)
    locks.release(str(tmp_path), US)
    put(str(tmp_path), lock(THEM, locks.STALE_S + 5))
    with pytest.raises(RecordError, match="remove the file"):
        locks.acquire(str(tmp_path), US)
    assert locks.peek(str(tmp_path)) == ""


def test_a_stopped_process_does_not_hold_everyone_up(tmp_path, monkeypatch):
    """Where another holds the file's flock and does not go on, asking for the lock ends with its holder's name."""
    monkeypatch.setattr(locks, "_PATIENCE_S", 0.0)
    put(str(tmp_path), lock(THEM, locks.STALE_S + 5))
    with locks._held(f"{tmp_path}/.executor_status.lock") as held:
        assert held is not None
        assert locks.acquire(str(tmp_path), US).holder == THEM
        with pytest.raises(RecordError):
            locks.heartbeat(str(tmp_path), THEM)
    assert locks.acquire(str(tmp_path), US).taken_over_from == THEM


def test_a_file_that_was_removed_meanwhile_is_no_lock(tmp_path, monkeypatch):
    """Who waited for a stale lock's file while it was taken over, released and made anew by others looks at the new one, not at the file that it still has open."""
    put(str(tmp_path), lock("dead", locks.STALE_S + 5))
    real = locks._try_flock

    def meanwhile(descriptor):
        monkeypatch.setattr(locks, "_try_flock", real)
        os.unlink(f"{tmp_path}/.executor_status.lock")
        put(str(tmp_path), lock(THEM))
        return real(descriptor)

    monkeypatch.setattr(locks, "_try_flock", meanwhile)
    assert locks.acquire(str(tmp_path), US).holder == THEM
    assert locks.peek(str(tmp_path)) == THEM


def test_a_creator_that_slept_does_not_write_over_its_successor(tmp_path, monkeypatch):
    """Who created a lock and was stopped before it wrote its name finds that another has rightly taken it over."""
    real = locks._try_flock

    def meanwhile(descriptor):
        monkeypatch.setattr(locks, "_try_flock", real)
        put(str(tmp_path), lock(THEM))
        return real(descriptor)

    monkeypatch.setattr(locks, "_try_flock", meanwhile)
    assert locks.acquire(str(tmp_path), US).holder == THEM
    assert locks.peek(str(tmp_path)) == THEM


def id_of_a_dead_process():
    """Return the worker id of a process that has ended."""
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    holder = process_id._own(child.pid)
    child.communicate(b"\n")
    return holder


def test_a_holder_is_said_as_a_run_and_its_process():
    """People read the run, the process and the host; what is no id of ours is said as it stands."""
    assert process_id.holder_text("vm@4026531836:f057bb57-e1df:4711:2097188/exec_4e83") == "exec_4e83 (process 4711 on vm)"
    assert process_id.holder_text("vm@4026531836:f057bb57-e1df:4711:2097188") == "process 4711 on vm"
    assert process_id.holder_text(locks.driver_id("exec_1")).startswith(f"exec_1 (process {os.getpid()} on ")
    assert process_id.holder_text("somebody:else") == "somebody:else"
    assert process_id.holder_text("") == ""


def test_a_patched_clock_is_not_the_locks(output, monkeypatch):
    """A step that freezes the clock of the process that renews its lock does not make it stale for others."""
    assert locks.acquire(output, US).taken
    with monkeypatch.context() as patched:
        patched.setattr(time, "time", lambda: 1.0)
        patched.setattr(time, "time_ns", lambda: 1)
        assert locks.heartbeat(output, US)
    assert not locks.acquire(output, THEM).taken
