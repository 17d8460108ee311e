"""An experiment with everything that the metrics' definitions speak of. Used by test_metrics_definitions.py; steps leave no trace but their times."""

from __future__ import annotations

import asyncio
import os
import time

from otel_exec import deferred, map_tasks, output, phase, step, versioned


def _sleep(config):
    with phase("asleep"):
        time.sleep(config["ms"] / 1000)


def _flaky(config):
    """Fail the first time."""
    time.sleep(0.004)
    try:
        os.close(os.open(config["once"], os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return
    raise OSError("not yet")


def _fail(config):
    time.sleep(config["ms"] / 1000)
    raise ValueError("no luck\nand more of it")


def _cancel(config):
    raise asyncio.CancelledError


def _nap(ms):
    time.sleep(ms / 1000)


def _fan(config):
    map_tasks(_nap, [3] * 6)


def _checked(config, output_path):
    time.sleep(0.006)


sleep, flaky, fail, cancel, fan = (deferred(fn) for fn in (_sleep, _flaky, _fail, _cancel, _fan))


@step("sleep/{ms}")
def sleeping(ms, after=()):
    return sleep({"ms": versioned(ms), "after": list(after), "out": output()})


@step("checked", verify=_checked)
def checked():
    return sleep({"ms": 2})


@step("flaky", retries=2)
def tried_again(folder):
    return flaky({"once": os.path.join(folder, "once")})


@step("failing")
def failing():
    return fail({"ms": 5})


@step("slow", timeout=0.15)
def slow():
    return sleep({"ms": 300})


@step("cancelled")
def cancelled():
    return cancel({})


@step("fan")
def fanned():
    return fan({})


@step("after the failure")
def unreached(above):
    return sleep({"ms": 1, "above": above})


@step("all")
def everything(folder):
    first = [sleeping(ms) for ms in (0, 10, 20, 30, 40)]
    checked()
    tried_again(folder)
    slow()
    cancelled()
    fanned()
    unreached(failing())
    sleeping(7, first)


def cached():
    """The step that is there before the run begins."""
    return sleeping(10)
