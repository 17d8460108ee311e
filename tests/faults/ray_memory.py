"""A step that eats the memory of its node: Ray ends its worker, the attempt is `oom_killed` with the phases that had ended, and the next one succeeds. Takes some gigabytes.

python tests/faults/ray_memory.py FOLDER
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

for folder in ("tests", "tests/support"):
    sys.path.insert(0, str(Path(__file__).parents[2] / folder))

import psutil
from support.ray_cluster import start
from support.ray_steps import first_time
from support.run_checks import check_run, step_named

from otel_exec import deferred, phase, step
from otel_exec.testing import run_in

ROOM_BYTES = 2_500_000_000


def _eat(config):
    with phase("early"):
        pass
    if first_time(config["path"]):
        eaten = []
        with phase("eats"):
            while True:
                if len(eaten) < 60:
                    eaten.append(bytearray(b"x") * 100_000_000)
                time.sleep(0.1)


eat = deferred(_eat)


@step("eats")
def eating(path):
    return eat({"path": path})


def main(folder):
    memory = psutil.virtual_memory()
    os.environ["RAY_memory_usage_threshold"] = f"{(memory.total - memory.available + ROOM_BYTES) / memory.total:.4f}"
    os.environ["RAY_memory_monitor_refresh_ms"] = "100"
    ray = start(object_store_memory=200_000_000)
    try:
        record = run_in(folder, eating(os.path.join(folder, "eaten")), executor="ray", timeout_s=200.0)
    finally:
        ray.shutdown()
    trace = check_run(record)
    attempts = step_named(record, "eats").attempts
    print([(attempt.outcome, attempt.error.type if attempt.error else None) for attempt in attempts])
    assert [attempt.outcome for attempt in attempts] == ["error", "success"]
    assert attempts[0].error.type == "oom_killed"
    assert [span.name for span in trace.of("phase", exec_attempt=1)] == ["early", "eats"]


if __name__ == "__main__":
    main(sys.argv[1])
