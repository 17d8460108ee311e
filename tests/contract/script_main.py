"""An experiment of its own file: what workers get of `__main__`. Run by test_executor_processes.py."""

import multiprocessing
import os
import pickle
import sys
from dataclasses import dataclass

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

from executor_rig import Rig

with open(os.environ["COUNT_RUNS"], "a") as _file:  # how often this file is run
    _file.write("x")

LIMIT = 10


@dataclass(frozen=True)
class Settings:
    path: str
    n: int


class Kept:
    def __init__(self, value):
        self.value = value

    def double(self):
        return helper(self.value)


class MyError(Exception):
    pass


def helper(n):
    return min(n * 2, LIMIT)


def store(config):
    assert type(config).__name__ == "Settings"
    assert helper(config.n) == 6
    with open(config.path, "wb") as file:
        pickle.dump(Kept(config.n), file)


def load(path):
    """Refers to no class of this file by name."""
    with open(path, "rb") as file:
        kept = pickle.load(file)
    assert kept.double() == 6


def refuse(config):
    raise MyError("of this file")


def square(q, n):
    q.put(helper(n))


def nest(config):
    assert __name__ == "__main__"
    assert sys.modules["__main__"].__file__ == __file__
    context = multiprocessing.get_context("fork")
    queue = context.SimpleQueue()
    process = context.Process(target=square, args=(queue, 4))
    process.start()
    assert queue.get() == 8
    process.join()


def main(folder):
    with Rig("processes", folder, workers=2, script=__file__) as rig:
        rig.submit(store, Settings(os.path.join(folder, "kept"), 3), name="store")
        report = rig.report("store")
        assert report.outcome == "success", report.error
        for number in range(4):  # on both workers
            rig.submit(load, os.path.join(folder, "kept"), name=f"load{number}")
        for number in range(4):
            report = rig.report(f"load{number}")
            assert report.outcome == "success", report.error
        rig.submit(refuse, name="refuse")
        report = rig.report("refuse")
        assert report.error.type == "__main__.MyError", report.error
        assert type(pickle.loads(report.error.pickled)) is MyError
        rig.submit(nest, name="nest")
        report = rig.report("nest")
        assert report.outcome == "success", report.error
    print("all well")


if __name__ == "__main__":
    main(sys.argv[1])
