"""All benchmarks, one after another: `make bench`. Each can be run by itself and says how in its first lines."""

from __future__ import annotations

import os
import subprocess
import sys

_HERE = os.path.dirname(os.path.abspath(__file__))
_ALL = (
    ("steps that do nothing, beside peers", ["steps.py"]),
    ("steps of 20 ms: what is added to the work", ["steps.py", "--seconds", "0.02", "--rounds", "3", "--only", "otel_exec", "concurrent.futures"]),
    ("spans on against spans off, steps of 20 ms", ["steps.py", "--seconds", "0.02", "--rounds", "3", "--only", "otel_exec", "otel_exec_untraced"]),
    ("cost a step at 20,000 steps over 1,000", ["steps.py", "--scale", "20000", "--rounds", "3"]),
    ("phases, beside the SDK's spans", ["phases.py"]),
    ("start-up", ["start_up.py"]),
    ("export", ["export_throughput.py"]),
    ("a collector that fails, beside no endpoint", ["collector_failures.py"]),
    ("a finished task into all metrics", ["folding.py"]),
    ("recovery of a killed run", ["recovery.py"]),
    ("on Ray, beside raw tasks", ["on_ray.py"]),
)


def main() -> None:
    failed = []
    for title, argv in _ALL:
        print(f"\n{title}\n{'-' * len(title)}", flush=True)
        script, *rest = argv
        if subprocess.run([sys.executable, os.path.join(_HERE, script), *rest], check=False).returncode:
            failed.append(" ".join(argv))
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
