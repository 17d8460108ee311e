"""What a step costs, side by side with peers: every contender in turn, round after round, in processes of their own.

    python bench/steps.py                            1,000 steps that do nothing
    python bench/steps.py --seconds 0.02             1,000 steps of 20 ms: what is added to the work itself
    python bench/steps.py --seconds 0.02 --only otel_exec otel_exec_untraced
    python bench/steps.py --scale 20000              cost a step at 20,000 steps over that at 1,000

Machines are shared and noisy: read medians and the ratios of the same round, not single figures. Peers come with the `bench` extra; those that are missing are said.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile

_HERE = os.path.dirname(os.path.abspath(__file__))
_PEERS = ("otel_exec", "concurrent.futures", "dask_threads", "dask_distributed", "luigi")
_VARIANTS = ("otel_exec_untraced", "otel_exec_threads")


def measure(name: str, steps: int, seconds: float, workers: int, folder: str) -> dict[str, float] | None:
    """Return one contender's figures, `None` where it is not installed or fails."""
    argv = [sys.executable, os.path.join(_HERE, "contenders.py"), name, str(steps), str(seconds), str(workers), tempfile.mkdtemp(dir=folder)]
    environment = dict(os.environ)
    if name == "otel_exec_untraced":
        environment["PYTHONPATH"] = os.path.join(_HERE, "untraced")
    done = subprocess.run(argv, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        print(f"{name}: {(done.stderr.strip().splitlines() or ['failed'])[-1]}", file=sys.stderr)
        return None
    return json.loads(done.stdout.strip().splitlines()[-1])


def rounds(names: list[str], steps: int, seconds: float, workers: int, count: int) -> dict[str, list[dict[str, float]]]:
    """Run every contender `count` times, in turn."""
    found: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    # Nothing is deleted before the end: for some seconds after a deletion ext4 is several times slower at making files (it passes over inodes just freed).
    with tempfile.TemporaryDirectory() as folder:
        for turn in range(count + 1):
            for name in list(found):
                start = measure(name, 1, 0.0, workers, folder)
                figures = measure(name, steps, seconds, workers, folder) if start is not None else None
                if start is None or figures is None:
                    del found[name]
                elif turn:  # the first round warms the disk's cache
                    found[name].append({**figures, "start_s": start["took_s"]})
    return found


def report(found: dict[str, list[dict[str, float]]], steps: int, seconds: float, workers: int) -> None:
    """Print microseconds a step beyond the work itself (`beyond start`: less a run of one step), and the ratio to otel_exec within the same round."""
    ideal_s = seconds * steps / workers
    print(f"{steps:,} steps of {seconds * 1000:g} ms, {workers} workers, {len(next(iter(found.values())))} rounds")
    print(f"{'':20} {'us a step':>10} {'min':>8} {'max':>8} {'beyond start':>13} {'over otel_exec':>15} {'wall over work':>15}")
    ours = [figures["took_s"] for figures in found.get("otel_exec", [])]
    for name, all_figures in found.items():
        added = sorted((figures["took_s"] - ideal_s) / steps * 1e6 for figures in all_figures)
        beyond = statistics.median((figures["took_s"] - figures["start_s"] - ideal_s) / steps * 1e6 for figures in all_figures)
        ratios = [figures["took_s"] / our for figures, our in zip(all_figures, ours, strict=False)]
        ratio = f"{statistics.median(ratios):.2f}" if ratios else "-"
        share = f"{(statistics.median(figures['took_s'] for figures in all_figures) / ideal_s - 1) * 100:+.2f} %" if ideal_s else "-"
        print(f"{name:20} {statistics.median(added):10.0f} {added[0]:8.0f} {added[-1]:8.0f} {beyond:13.0f} {ratio:>15} {share:>15}")
    for name in ("otel_exec",):
        for figures in found.get(name, [])[:1]:
            print(
                f"{name}: driver CPU {figures['driver_cpu_s'] / steps * 1e6:.0f} us a step, workers {figures['workers_cpu_s'] / steps * 1e6:.0f} us a step, start-up included"
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=0.0)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--scale", type=int, help="compare this many steps with --steps, otel_exec alone")
    parser.add_argument("--only", nargs="+", choices=[*_PEERS, *_VARIANTS])
    given = parser.parse_args()
    if given.scale:
        small = rounds(["otel_exec"], given.steps, given.seconds, given.workers, given.rounds)["otel_exec"]
        large = rounds(["otel_exec"], given.scale, given.seconds, given.workers, given.rounds)["otel_exec"]
        each = [statistics.median(figures["took_s"] for figures in found) / steps * 1e6 for found, steps in ((small, given.steps), (large, given.scale))]
        print(f"{given.steps:,} steps: {each[0]:.0f} us a step; {given.scale:,} steps: {each[1]:.0f} us a step; ratio {each[1] / each[0]:.2f}")
        return
    report(rounds(list(given.only or _PEERS), given.steps, given.seconds, given.workers, given.rounds), given.steps, given.seconds, given.workers)


if __name__ == "__main__":
    main()
