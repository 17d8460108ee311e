"""How long the next run waits for the recovery of a killed one, by the size of what that left.

    python bench/recovery.py [--phases 10000 100000] [--repeat 5]

For each count of phases: the size of the spool, seconds until what was open is closed (the fastest of the repeats: the work is the same each time),
megabytes a second, peak memory. `_AT_ONCE_BYTES` of otel_exec/driver/resume.py is where this takes some 0.4 s.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time

from otel_exec.record.find import list_runs
from otel_exec.recovery import look, recover


def killed(prefix: str, phases: int) -> None:
    """Run a step that makes so many phases and is then killed, and the driver with it."""
    from otel_exec import deferred, phase, run, step, versioned

    def _work(count: int) -> None:
        for number in range(count):
            with phase("part", number=number):
                pass
        os.kill(os.getpid(), signal.SIGKILL)

    work = deferred(_work)

    @step("work")
    def one() -> object:
        return work(count=versioned(phases))

    run([one()], prefix=prefix, run_json=f"{prefix}/run.json", executor="inline", max_task_spans=phases + 1)


def measured(prefix: str, repeat: int) -> dict[str, float]:
    """Recover so often; each time from the state that the kill left."""
    (folder,) = list_runs(prefix)
    spans = f"{folder}/spans"
    took = []
    for _ in range(repeat):
        began = time.perf_counter()
        left = look(folder)
        closed = recover(folder)
        took.append(time.perf_counter() - began)
        assert left is not None, "the run is not dead"
        assert closed, "nothing was closed"
        os.unlink(f"{spans}/recovered.jsonl")
    size = sum(os.path.getsize(f"{spans}/{name}") for name in os.listdir(spans))
    return {"bytes": size, "seconds": min(took), "mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}


def main() -> None:
    """Measure all sizes, each in processes of its own."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--phases", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--killed", metavar="PREFIX", help=argparse.SUPPRESS)
    parser.add_argument("--measured", metavar="PREFIX", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.killed:
        killed(asked.killed, asked.phases[0])
    if asked.measured:
        print(json.dumps(measured(asked.measured, asked.repeat)))
        return
    print(f"{'phases':>10}{'spool':>12}{'recovery':>12}{'rate':>12}{'memory':>12}")
    for phases in asked.phases:
        with tempfile.TemporaryDirectory() as prefix:
            subprocess.run([sys.executable, __file__, "--killed", prefix, "--phases", str(phases)], check=False)
            argv = [sys.executable, __file__, "--measured", prefix, "--repeat", str(asked.repeat)]
            told = json.loads(subprocess.run(argv, check=True, capture_output=True, text=True).stdout)
            spool_mb = told["bytes"] / 1e6
            print(f"{phases:10,}{spool_mb:9.1f} MB{told['seconds'] * 1e3:9.0f} ms{spool_mb / told['seconds']:7.0f} MB/s{told['mb']:9.0f} MB", flush=True)


if __name__ == "__main__":
    main()
