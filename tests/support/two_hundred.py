"""An experiment of two hundred tasks of known sleep times: two failures, a timeout, a worker that is killed under its step, a barrier. Run by test_status_two_hundred.py.

    python two_hundred.py PREFIX [hang]

`hang`: the last step never ends, and says in a file that it has begun.
"""

from __future__ import annotations

import os
import signal
import sys
import time

from otel_exec import deferred, executor_main, phase, step, versioned

FIRST, SECOND = 120, 80


def sleep_ms(number: int) -> int:
    """How long a task sleeps."""
    return (number * 37) % 40 + 10


def _task(config):
    with phase("asleep", number=config["number"]):
        time.sleep(config["ms"] / 1000)
    if config["number"] in (7, 130):
        raise ValueError(f"task {config['number']} has no luck\nand more of it")
    if config["number"] == 33:
        try:
            os.close(os.open(config["once"], os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            return
        os.kill(os.getpid(), signal.SIGKILL)


def _check(config, output_path):
    time.sleep(0.003)


def _hang(config):
    with phase("outer"), phase("endless"):
        with open(config["begun"], "w"):
            pass
        while True:
            time.sleep(1)


task, hang = deferred(_task), deferred(_hang)


@step("first/{number}")
def first(number, prefix):
    return task({"number": versioned(number), "ms": sleep_ms(number), "once": prefix + "/once"})


@step("checked/{number}", verify=_check)
def checked(number, prefix):
    return task({"number": versioned(number), "ms": sleep_ms(number), "once": ""})


@step("slow", timeout=0.3)
def slow():
    return task({"number": versioned(-1), "ms": 60_000})


@step("second/{number}")
def second(number, after):
    return task({"number": versioned(number), "ms": sleep_ms(number), "after": after})


@step("endless")
def endless(prefix, after):
    return hang({"begun": prefix + "/begun", "after": after})


def everything(prefix):
    """The steps: 119 and one that takes too long, then 80 that each come after one of them."""
    above = [first(number, prefix) for number in range(FIRST - 21)] + [checked(number, prefix) for number in range(FIRST - 21, FIRST - 1)] + [slow()]
    return [*above, *[second(FIRST + number, above[number + 8]) for number in range(SECOND)]]


if __name__ == "__main__":
    where = os.path.abspath(sys.argv[1])
    os.makedirs(where, exist_ok=True)
    asked = [endless(where, first(1, where))] if "hang" in sys.argv else everything(where)
    executor_main(steps=asked, argv=["--prefix", where, "--workers", "2", "--barrier", "--run-json", where + "/run.json"])
