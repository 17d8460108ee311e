"""Who holds a lock, and whether it is dead: `host:boot id:pid:process start`.

What comes in: this system's process table. What goes out: an id that no other living process has, and a proof of death, or none.

- `host` is the host's name and, after `@`, the process id namespace (Linux): containers of one machine may share its name and its boot id,
  yet a pid says nothing about another container's processes.
- `boot id` is the running kernel's own id. A pid and a start time mean something under the same kernel alone.
- `process start` is in the kernel's ticks since boot, so that a pid that was given out again is not taken for the old process.
  After a `/` follows the run, where one is given: two runs in one process are two holders.

Death is claimed only where host, namespace and boot are ours and there is no such process; anything less is no proof, and the lock's 90 s decide.
Not told apart: processes in different time namespaces of one process id namespace, and clones of one machine's memory image that share a disk.
"""

from __future__ import annotations

import os
import socket
from functools import lru_cache

__all__ = ["boot_id", "driver_id", "holder_dead", "holder_text", "of_this_host"]

# No system gives out more: `pid_t` is a signed 32-bit integer.
_PIDS = 2**31


def driver_id(run: str = "") -> str:
    """Return this process's `worker_id` in lock files: `host:boot id:pid:process start`.

    Args:
        run: the run's exec id, put after the process start (`...:4711:153309/exec_4bf9...`). Two runs in one process need it:
            without it each would take the other's locks for its own.
    """
    own = _own(os.getpid())
    return f"{own}/{run}" if run else own


def holder_text(holder: str) -> str:
    """Return a holder as it is said to people: the run and its process, `exec_4bf9... (process 4711 on laptop)`; what is no id of ours stays as it is."""
    fields = holder.split(":", 3)
    if len(fields) != 4 or not fields[2].isdecimal():
        return holder
    process = f"process {fields[2]} on {fields[0].partition('@')[0]}"
    run = fields[3].partition("/")[2]
    return f"{run} ({process})" if run else process


def of_this_host(holder: str) -> bool:
    """Whether the holder is, or was, a process of this host and boot, so that `holder_dead` can tell."""
    fields = holder.split(":", 3)
    return len(fields) == 4 and bool(fields[1]) and fields[:2] == [_host(), boot_id()]


def holder_dead(holder: str) -> bool:
    """Whether the holder is provably dead: of this host and boot, and its process is gone (or another has its pid)."""
    if not of_this_host(holder):
        return False
    fields = holder.split(":", 3)
    start = fields[3].partition("/")[0]
    if not fields[2].isascii() or not fields[2].isdecimal() or len(fields[2]) > 10 or not start.isascii() or not start.isdecimal():
        return False
    pid = int(fields[2])
    if pid == os.getpid():
        return start != _start(pid)
    return 0 < pid < _PIDS and _gone(pid, start)


@lru_cache(maxsize=4)
def _own(pid: int) -> str:
    # Kept per pid: a forked child is a process of its own.
    return f"{_host()}:{boot_id()}:{pid}:{_start(pid)}"


@lru_cache(maxsize=1)
def _host() -> str:
    name = socket.gethostname().replace(":", "_")
    try:
        # "pid:[4026531836]"
        return f"{name}@{os.readlink('/proc/self/ns/pid')[5:-1]}"
    except OSError:
        return name


@lru_cache(maxsize=1)
def boot_id() -> str:
    """Return the running kernel's own id."""
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            return file.read().strip()
    except OSError:
        import psutil

        return str(int(psutil.boot_time()))


def _stat(pid: int) -> list[str]:
    """Return the fields of /proc/<pid>/stat from the third on (the second, the command's name, may hold anything)."""
    with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
        return file.read().rpartition(")")[2].split()


def _start(pid: int) -> str:
    """Return when a process of this host began: the kernel's ticks since boot (Linux), else milliseconds since the Unix epoch."""
    try:
        return _stat(pid)[19]
    except (OSError, IndexError):
        import psutil

        return str(int(psutil.Process(pid).create_time() * 1000))


def _gone(pid: int, start: str) -> bool:
    """Whether the process that had this pid and began then has ended."""
    if not os.path.exists("/proc/self/stat"):
        import psutil

        try:
            process = psutil.Process(pid)
            return process.status() == psutil.STATUS_ZOMBIE or _start(pid) != start
        except psutil.NoSuchProcess:
            return True
        except psutil.Error:
            return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except OSError:
        pass  # it lives and is not ours
    try:
        fields = _stat(pid)
        # State Z with one thread: ended, and only its parent has not looked yet. With more, the first thread has left and others go on.
        return fields[19] != start or (fields[0] == "Z" and int(fields[17]) <= 1)
    except (OSError, IndexError, ValueError):
        return False  # hidden from us (hidepid), or gone this very moment: no proof
