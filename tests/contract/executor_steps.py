"""What the steps of the executors' battery do. A module of its own, so that workers import little."""

from __future__ import annotations

import contextlib
import contextvars
import importlib
import itertools
import logging
import multiprocessing
import os
import resource
import signal
import sys
import threading
import time
from dataclasses import dataclass

from otel_exec.execute.fan_out import map_tasks
from otel_exec.spans.phases import phase


@dataclass(frozen=True)
class Config:
    path: str
    n: int = 1


def nothing(config):
    return None


def add(a, b):
    assert a + b == 3


def write(config):
    with open(config.path, "w") as file:
        file.write(str(config.n))


def fail(config):
    raise ValueError(f"no luck with {config}")


def mutter_and_fail(config):
    print("half a line", end="")
    raise ValueError("no luck")


def cancel_itself(name):
    module, _, kind = name.rpartition(".")
    with phase("work"):
        raise getattr(importlib.import_module(module), kind)


def leave(config):
    sys.exit(3)


class Unpicklable(Exception):
    def __init__(self, first, second):
        super().__init__(f"{first} and {second}")
        self.lock = threading.Lock()


class BadStr(Exception):
    def __str__(self):
        raise RuntimeError("not even that")


def raise_unpicklable(config):
    raise Unpicklable("this", "that")


def raise_bad_str(config):
    raise BadStr


def raise_huge(config):
    raise ValueError("x" * 10_000_000)


def return_odd(config):
    return threading.Lock() if config == "lock" else bytearray(50_000_000)


def _unsendable(what):
    return threading.Lock() if what == "result" else raise_unpicklable(None)


def fan_unsendable(config):
    map_tasks(_unsendable, [config], timeout=60.0)  # with a timeout its owner runs none


def chatter(config):
    print("to stdout")
    print("to stderr", file=sys.stderr)
    logging.getLogger("user").info("to the log")


def shout(config):
    line = "y" * 1023
    for i in range(config):
        print(f"{i:08d}{line}")


def shout_and_fail(config):
    for i in range(100):
        print("line", i)
    raise RuntimeError("after all that")


def block(config):
    """Say that it runs, then wait to be let go: interruptible, also among threads."""
    with open(config.path + ".begun", "w"):
        pass
    while not os.path.exists(config.path):
        time.sleep(0.005)


def block_without_a_clock(config):
    """Block, the process's clocks standing still meanwhile, as a library that freezes time has them."""
    clocks = {name: getattr(time, name) for name in ("time", "time_ns", "monotonic", "monotonic_ns", "perf_counter", "perf_counter_ns")}
    for name, clock in clocks.items():
        setattr(time, name, itertools.repeat(clock()).__next__)
    try:
        block(config)
    finally:
        for name, clock in clocks.items():
            setattr(time, name, clock)


def leave_a_thread(config):
    """Start a thread that goes on after the step, until it is let go, and then times something."""
    inside = contextvars.copy_context()

    def go_on():
        while not os.path.exists(config.path):
            time.sleep(0.005)
        with phase("late"):
            pass

    threading.Thread(target=inside.run, args=(go_on,), daemon=True).start()


def block_stubbornly(config):
    print("stubborn")
    while not os.path.exists(config.path):
        try:  # whoever sees the file interrupts: already there it must find us stubborn
            with open(config.path + ".begun", "w"):
                pass
            while not os.path.exists(config.path):
                time.sleep(0.005)
        except KeyboardInterrupt:
            pass


def shoot_itself(config):
    print("famous last words", flush=True)
    os.kill(os.getpid(), signal.SIGKILL)


def quit_hard(config):
    os._exit(7)


def fork_and_return(config):
    pid = os.fork()
    if pid == 0:
        return  # the child goes on into code that is not the user's
    _, status = os.waitpid(pid, 0)
    assert status == 0


def fork_and_raise(config):
    pid = os.fork()
    if pid == 0:
        raise RuntimeError("in the child")
    os.waitpid(pid, 0)


def vandalise(config):
    os.chdir("/")
    sys.stdout = None
    os.close(1)
    os.close(2)


def forbid_all(config):
    os.umask(0o777)


def tell_umask(config):
    mask = os.umask(0)
    os.umask(mask)
    print(f"{mask:o}")


def tell_place(config):
    print(os.getcwd())
    print("still heard")


def phases(config):
    with phase("outer"):
        with phase("inner"):
            pass
        with phase("inner"):
            pass


def verify_ok(config, output_path):
    print("verifying", output_path)
    return True


def verify_false(config, output_path):
    return False


def verify_raises(config, output_path):
    raise ValueError("bad output")


def _square(q, n):
    q.put(n * n)


def square(n):
    return n * n


def nested_processes(config):
    for method in ("fork", "spawn"):
        context = multiprocessing.get_context(method)
        queue = context.SimpleQueue()
        process = context.Process(target=_square, args=(queue, 5))
        process.start()
        assert queue.get() == 25
        process.join()
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.map(square, [1, 2]) == [1, 4]


def use_cpu(config):
    end = time.process_time() + 0.05
    while time.process_time() < end:
        pass
    kept = bytearray(60_000_000)
    del kept


# --- fan-outs -------------------------------------------------------------------------------------------------------------------------------------


def fan_squares(n):
    assert map_tasks(square, range(n)) == [i * i for i in range(n)]


def slow_square(n):
    time.sleep(0.02)
    return n * n, os.getpid(), threading.get_ident()


def fan_slow(config):
    results = map_tasks(slow_square, range(config.n))
    assert [square for square, _, _ in results] == [i * i for i in range(config.n)]
    with open(config.path, "w") as file:
        file.write(str(len({(pid, thread) for _, pid, thread in results})))


def third_fails(n):
    if n == 3:
        raise ValueError(f"item {n} is bad")
    return n


def fan_failing(config):
    map_tasks(third_fails, range(8))


def fan_catching(config):
    caught = None
    try:
        map_tasks(third_fails, range(8))
    except ValueError as error:
        caught = error
    assert str(caught) == "item 3 is bad"
    assert "item 3 of map_tasks(third_fails)" in "".join(caught.__notes__)


def flaky(path):
    """Fail twice, then succeed."""
    for number in range(2):
        try:
            os.close(os.open(f"{path}.{number}", os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            continue
        raise RuntimeError(f"try {number}")
    return "done"


def fan_retrying(config):
    assert map_tasks(flaky, [config.path + "a", config.path + "b"], retries=2) == ["done", "done"]


def fails(_):
    raise ValueError("never")


def fan_retrying_in_vain(config):
    """One item, so that nothing else is cancelled."""
    map_tasks(fails, [config.path], retries=2)


def spend(n):
    with phase("llm", tokens=n):
        pass


def fan_counting_tokens(config):
    with phase("around", tokens=5):
        map_tasks(spend, [1, 2, 3])


def inner_fan(n):
    return sum(map_tasks(square, range(n)))


def fan_nested(config):
    assert map_tasks(inner_fan, [1, 2, 3, 4, 5]) == [0, 1, 5, 14, 30]


def hang(n):
    if n == 1:
        while True:
            time.sleep(0.01)
    return n


def fan_timeout(config):
    map_tasks(hang, [0, 1], timeout=0.3)


def fan_within_timeout(config):
    assert map_tasks(square, [1, 2, 3], timeout=20) == [1, 4, 9]


def count_at_once(path):
    mine = f"{path}/{os.getpid()}-{threading.get_ident()}"
    with open(mine, "w"):
        pass
    here = len(os.listdir(path))
    time.sleep(0.01)
    os.unlink(mine)
    return here


def fan_limited(config):
    os.mkdir(config.path)
    assert max(map_tasks(count_at_once, [config.path] * 12, max_workers=config.n)) <= config.n


def shoot_worker(owner):
    if os.getpid() != owner:
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(0.2)


def fan_deadly(config):
    map_tasks(shoot_worker, [os.getpid()] * 6, timeout=300)  # so that the owner, which does not shoot itself, takes none


def die_fail_and_succeed(path):
    """In this order, a try each."""
    with open(path, "a+") as file:
        file.write("x")
        tries = file.tell()
    if tries == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    if tries == 2:
        raise ValueError("not yet")


def fan_unlucky(config):
    map_tasks(die_fail_and_succeed, [config.path], retries=1, timeout=300)  # so that the owner does not take it


def talk(n):
    print(f"item {n} speaks")
    with phase("in item"):
        pass
    return n


def fan_talking(config):
    with phase("around"):
        map_tasks(talk, range(6))


def fan_blocking(config):
    map_tasks(block, [config, config])


def fan_closure(config):
    base = config.n
    assert map_tasks(lambda n: n + base, [1, 2, 3]) == [1 + base, 2 + base, 3 + base]


def fan_large(config):
    big = "z" * 300_000
    assert map_tasks(len, [big, big, big]) == [300_000] * 3
    assert [len(r) for r in map_tasks(grow, [1, 2, 3])] == [700_000, 1_400_000, 2_100_000]


def grow(n):
    return "q" * (700_000 * n)


def fan_late(config):
    map_tasks(slow_square, [1, 2], timeout=0.001)


def hold_the_gil(config):
    """Be in C code that never lets another thread run."""
    import re

    with open(config.path + ".begun", "w"):
        pass
    time.sleep(1.5)  # the worker ties itself to its driver within its first second of leisure
    re.match(r"(a+)+$", "a" * 60 + "b")


def leave_child_behind(config):
    """Start a process that would live on."""
    pid = os.fork()
    if pid == 0:
        while True:
            time.sleep(1)
    with open(config.path, "w") as file:
        file.write(str(pid))
    os.kill(os.getpid(), signal.SIGKILL)


def close_everything(config):
    os.closerange(3, 4096)
    time.sleep(60)


def close_everything_and_return(config):
    os.closerange(3, 4096)


_leaked = []


def leak(config):
    """Use up all descriptors, of sixty-four, and keep them."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, hard))
    while True:
        _leaked.append(os.open(os.devnull, os.O_RDONLY))


def leak_and_succeed(config):
    with contextlib.suppress(OSError):
        leak(config)


def user_spans(config):
    from concurrent.futures import ThreadPoolExecutor

    from opentelemetry import trace

    def in_thread():
        with phase("threaded"):
            pass

    with phase("around"), trace.get_tracer("mine").start_as_current_span("of the user"), ThreadPoolExecutor(1) as pool:
        pool.submit(in_thread).result()


def carrier(config):
    with open(config.path, "w") as file:
        file.write(os.environ["TRACEPARENT"])
