"""Steps for runs on Ray. A module of its own, so that workers import little."""

from __future__ import annotations

import json
import os
import signal
import threading
import time

from otel_exec import deferred, map_tasks, phase, step


def first_time(path):
    """Whether nobody has asked with this path before."""
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return False
    return True


def wait_until(path):
    while not os.path.exists(path):
        time.sleep(0.01)


def _die_once(config):
    with phase("early"):
        pass
    if first_time(config["path"] + ".died"):
        with phase("late"):
            time.sleep(1.5)  # what finished is told about each second
            os.kill(os.getpid(), signal.SIGKILL)


def _item_that_dies_once(path):
    if first_time(path + ".item"):
        time.sleep(0.3)
        os.kill(os.getpid(), signal.SIGKILL)
    return os.path.basename(path)


def _fan(config):
    with phase("fan"):
        assert map_tasks(_item_that_dies_once, [config["path"]]) == [os.path.basename(config["path"])]


def _raise(config):
    raise LookupError(f"no {config['path']}")


def _start_child(path):
    import subprocess

    with open(path + ".part", "w") as file:
        file.write(str(subprocess.Popen(["sleep", "600"]).pid))
    os.rename(path + ".part", path)


def _hang(config):
    _start_child(config["path"])
    while True:
        time.sleep(0.05)


def _hold_on(path):
    """Start a process, and let nobody else in this one do anything from then on."""
    import ctypes

    _start_child(path)
    _wait_until_told()
    ctypes.PyDLL(None).sleep(600)


def _wait_until_told():
    """Wait until the home actor knows who runs the attempt, and a moment more for the driver to hear it."""
    import ray

    from otel_exec.execute.ray_presence import _present

    (presence,) = [each for each in _present.values() if each._begun is not None]
    while presence._begun_told != presence._begun.span_id:
        time.sleep(0.01)
    ray.get(presence.home.has.remote(presence.uid, presence.tellings - 1))
    time.sleep(0.2)


def _hold(config):
    _hold_on(config["path"])


def _hold_in_an_item(config):
    map_tasks(_hold_on, [config["path"]], timeout=1.0)


def _start_and_end(config):
    _start_child(config["path"])
    time.sleep(0.02)


def _be_late(config):
    time.sleep(0.25)
    first_time(config["path"] + ".over")


def _tell_home(config):
    """Tell the home actor what has finished, and go on when it is dead."""
    import ray

    from otel_exec.execute.ray_presence import _present

    first_time(config["path"] + ".begun")
    with phase("told"):
        pass
    (presence,) = [each for each in _present.values() if each._begun is not None]
    upto = presence.tellings + 2
    while presence.tellings < upto:
        time.sleep(0.01)
    ray.get(presence.home.has.remote(presence.uid, upto - 1))
    first_time(config["path"] + ".held")
    wait_until(config["path"] + ".killed")
    assert map_tasks(lambda n: n + 1, [1, 2]) == [2, 3]


die_once, fan, fail, hang, be_late, tell_home = (deferred(each) for each in (_die_once, _fan, _raise, _hang, _be_late, _tell_home))


@step("dies once")
def dying(path):
    return die_once({"path": path})


@step("ends")
def ending():
    return deferred(dict)({})


@step("fans")
def fanning(path):
    return fan({"path": path})


@step("fails")
def failing(path):
    return fail({"path": path})


@step("hangs", timeout=1.5)
def hanging(path):
    return hang({"path": path})


@step("is late", timeout=0.2)
def overdue(path):
    return be_late({"path": path})


hold, hold_in_an_item, start_and_end = (deferred(each) for each in (_hold, _hold_in_an_item, _start_and_end))


@step("holds", timeout=1.0)
def holding(path):
    return hold({"path": path})


@step("its item holds")
def holding_in_an_item(path):
    return hold_in_an_item({"path": path})


@step("is soon late", timeout=0.01)
def soon_overdue(path):
    return start_and_end({"path": path})


@step("tells")
def telling(path):
    return tell_home({"path": path})


@step("wants {what}", resources={"unobtainium": 1}, timeout=600)
def wanting(path, what="unobtainium"):
    return die_once({"path": path})


def _use_ray(config):
    import ray

    from otel_exec.on_ray import traced

    @traced
    @traced
    @ray.remote
    def double(n):
        with phase("doubling"):
            return 2 * n

    @traced
    @ray.remote
    def count(n):
        yield from range(n)

    @traced
    @traced
    @ray.remote
    class Adder:
        def __init__(self, start):
            self.total = start

        def add(self, n):
            self.total += n
            return self.total

    @traced
    @ray.remote
    class Waiter:
        async def wait(self, n):
            return n

    with phase("ours"):
        assert ray.get([double.remote(n) for n in (1, 2)]) == [2, 4]
        assert [ray.get(ref) for ref in count.remote(3)] == [0, 1, 2]
        adder = Adder.remote(10)
        assert ray.get(adder.add.remote(5)) == 15
        assert ray.get(Waiter.remote().wait.remote(7)) == 7


use_ray = deferred(_use_ray)


_lock = threading.Lock()


def guarded(n, lock=_lock):
    """Has a default that can't be pickled, which no call by reference needs to be."""
    with lock:
        return n


def _use_odd_actors(config):
    """What calls of an actor's own code, and of any sort of method, come to: traced as plain."""
    import asyncio

    import ray

    from otel_exec.on_ray import traced

    class Odd:
        def __init__(self, start, *, step=1):
            self.total, self.step = start, step
            self._set_up()

        def _set_up(self):
            self.name = "set up"

        def add(self, n=1, *, twice=False):
            self.total += n * self.step * (2 if twice else 1)
            return self.total

        def through(self, n):
            return [self.add(n), self.add(n=n, twice=True), *map(self.add, [n]), self.nothing()]

        def nothing(self):
            return self.name

        @staticmethod
        def shape(*sizes):
            return sizes

        @classmethod
        def kind(cls, word):
            return (cls.__name__, word)

        def __call__(self, pair, third):
            return (pair, third)

        @ray.method(num_returns=2)
        def both(self):
            return 1, 2

    class Many:
        async def ask(self, n):
            return n

        async def all(self, numbers):
            return await asyncio.gather(*[self.ask(n) for n in numbers])

    def told(make):
        odd, many = make(ray.remote(num_cpus=0)(Odd)).remote(1, step=2), make(ray.remote(num_cpus=0)(Many)).remote()
        four = ("a", "b", {}, "d")
        calls = [odd.through.remote(3), odd.shape.remote(1, 2), odd.kind.remote("w"), odd.__call__.remote(four, 3), *odd.both.remote(), many.all.remote([1, 2])]
        found = ray.get([*calls, odd.__ray_ready__.remote()])
        if config["by_reference"]:
            found.append(ray.get(make(ray.remote(num_cpus=0)(guarded)).remote(5)))
        try:
            odd.add.remote(1, 2, 3)
        except TypeError as error:
            found.append(str(error))
        return found

    with open(config["path"], "w") as file:
        json.dump([told(lambda target: target), told(traced)], file)


use_odd_actors = deferred(_use_odd_actors)


@step("odd actors")
def odd_actors(path, *, by_reference):
    return use_odd_actors({"path": path, "by_reference": by_reference})


def _leave_an_actor(config):
    import ray

    from otel_exec.on_ray import traced

    class Counter:
        def __init__(self):
            self.calls = 0

        def count(self):
            self.calls += 1
            return self.calls

        def end(self):
            os._exit(1)

    counter = traced(ray.remote(num_cpus=0)(Counter)).options(name=config["name"], lifetime="detached", namespace="left", max_restarts=-1).remote()
    assert ray.get(counter.count.remote()) == 1


leave_an_actor = deferred(_leave_an_actor)


@step("leaves an actor")
def leaving(name):
    return leave_an_actor({"name": name})


def _say_where(config):
    import ray

    with open(config["path"], "w") as file:
        json.dump({"variable": os.environ.get("OF_THE_STEP"), "resources": ray.get_runtime_context().get_assigned_resources()}, file)


@step("carries options", resources={"num_cpus": 2, "scheduling_strategy": "SPREAD"})
def carrying(remote, path):
    return deferred(remote(_say_where))({"path": path})


@step("uses ray")
def using_ray(path):
    return use_ray({"path": path})


def _told_to_end(config):
    if first_time(config["path"] + ".told"):
        with phase("told"):
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(600)


def _call_that_raises(config):
    import ray

    def raise_there():  # sent by value: other workers of the cluster don't have this module
        raise LookupError("inside ray")

    ray.get(ray.remote(raise_there).options(num_cpus=0).remote())


@step("told to end")
def told_to_end(path):
    return deferred(_told_to_end)({"path": path})


@step("raised there")
def raised_there(path):
    return deferred(_call_that_raises)({"path": path})
