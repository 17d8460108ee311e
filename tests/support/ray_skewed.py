"""An experiment whose Ray workers seem to live on another machine, whose clock is an hour ahead. A program of its own, on the cluster of RAY_ADDRESS.

python ray_skewed.py FOLDER
"""

from __future__ import annotations

import logging
import sys
import time

from otel_exec import deferred, map_tasks, phase, step
from otel_exec.testing import run_in

AHEAD_S = 3600


def shift_clock():
    """In each worker process, before anything of ours: other wall clock, other kernel."""
    from otel_exec import clock
    from otel_exec.record import process_id

    clock.System.wall = staticmethod(lambda: time.time_ns() + AHEAD_S * 10**9)
    process_id.boot_id = lambda: "another-kernel"


def _item(seconds):
    with phase("nap"):
        time.sleep(seconds)


def _work(_config):
    with phase("items"):
        map_tasks(_item, [0.01] * 4)


work = deferred(_work)


@step("far/{n}")
def far(n):
    return work({"n": n})


if __name__ == "__main__":
    import ray

    ray.init(runtime_env={"worker_process_setup_hook": shift_clock}, log_to_driver=False, logging_level=logging.ERROR)
    run_in(sys.argv[1], [far(n) for n in range(3)], executor="ray")
