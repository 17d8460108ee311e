"""What tracing costs on Ray: our tasks over Ray's own, in one process and one cluster, round after round.

    python bench/on_ray.py                     items, steps, start and memory
    python bench/on_ray.py --only items        `map_tasks` over raw tasks with the same number in flight
    python bench/on_ray.py --only items --tasks 5000 --rounds 9

The cluster is started here, with `--cpus` CPUs, and ended at the end. Machines are shared and noisy: read the median of the ratios, each made within one round.
Raw Ray does what ours do in its simplest form: the same number of tasks that do nothing, at most as many in flight, each result fetched.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import logging
import os
import statistics
import subprocess
import sys
import tempfile
import time
from typing import TYPE_CHECKING, Any

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import ray
from bench_steps import items_of, work

import otel_exec as ox

if TYPE_CHECKING:
    from collections.abc import Callable

_INIT_S = 180
_PARTS = ("start", "items", "steps", "memory")


def run(steps: list[Any], folder: str) -> float:
    """Run steps on the cluster that this process is connected to; returns seconds."""
    began = time.perf_counter()
    place = tempfile.mkdtemp(dir=folder)
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        ox.run(steps, prefix=f"{place}/outputs", run_json=f"{place}/run.json", executor="ray", name="bench")
    return time.perf_counter() - began


def _nothing(_item: int) -> None:
    """Do nothing."""


def raw(count: int, in_flight: int) -> float:
    """Run raw Ray tasks, a bounded number in flight; returns seconds."""
    task = ray.remote(_nothing).options(max_retries=0)
    began = time.perf_counter()
    flying: list[Any] = []
    for index in range(count):
        if len(flying) >= in_flight:
            ready, flying = ray.wait(flying, num_returns=1)
            ray.get(ready)
        flying.append(task.remote(index))
    ray.get(flying)
    return time.perf_counter() - began


def raw_owned(count: int, in_flight: int) -> float:
    """Run raw tasks from within a Ray task, as a step's fan-out is; returns seconds, taken there."""
    return ray.get(ray.remote(raw).options(max_retries=0).remote(count, in_flight))


def ratio(ours: Callable[[], float], theirs: Callable[[], float], rounds: int) -> tuple[float, float, float]:
    """Return the median of the ratios, and the medians of both, in seconds; the first round warms up."""
    pairs = [(ours(), theirs()) for _ in range(rounds + 1)][1:]
    return statistics.median(our / their for our, their in pairs), statistics.median(our for our, _ in pairs), statistics.median(their for _, their in pairs)


def in_flight() -> int:
    """Return how many items of a fan-out are in flight in this cluster."""
    from otel_exec.execute.ray_fan_out import AT_LEAST, PER_CPU

    return max(AT_LEAST, PER_CPU * int(ray.cluster_resources()["CPU"]))


def _fan_out_s(tasks: int, folder: str) -> float:
    """Return how long a fan-out of no-op items takes: `map_tasks` itself, as its step measured it."""
    path = os.path.join(tempfile.mkdtemp(dir=folder), "took")
    run([items_of(tasks, path)], folder)
    with open(path) as file:
        return float(json.load(file)["took_s"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--cpus", type=int, default=2)
    parser.add_argument("--only", nargs="+", choices=_PARTS, default=list(_PARTS))
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        start(given.cpus)
        try:
            for part in given.only:
                _MEASURES[part](given.tasks, given.rounds, folder)
        finally:
            ray.shutdown()


def start(cpus: int) -> None:
    """Start a cluster and connect to it."""
    os.environ.pop("RAY_ADDRESS", None)
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ["RAY_AUTH_MODE"] = "disabled"  # another program of ours connects
    os.environ["RAY_agent_register_timeout_ms"] = "100000"  # noqa: SIM112  Ray's own name
    began = time.perf_counter()
    ray.init(address="local", num_cpus=cpus, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    init_s = time.perf_counter() - began
    ray.get(ray.remote(_nothing).remote(0))
    print(
        f"Ray's own start: {init_s:.2f} s for ray.init with {cpus} CPUs, {time.perf_counter() - began - init_s:.2f} s more to the end of a first task",
        flush=True,
    )


def first_step(folder: str) -> int:
    """Run one step on the cluster of RAY_ADDRESS; returns when it began, nanoseconds since the Unix epoch."""
    path = os.path.join(tempfile.mkdtemp(dir=folder), "took")
    run([items_of(0, path)], folder)
    with open(path) as file:
        return int(json.load(file)["began_ns"])


def first_task(_folder: str) -> int:
    """Run one raw task there; returns when it began."""
    ray.init(log_to_driver=False, logging_level=logging.ERROR)

    def now_ns() -> int:  # travels by value: this module is not on a worker's path
        return time.time_ns()

    return int(ray.get(ray.remote(now_ns).remote()))


def _program(which: str, folder: str) -> float:
    """Return how long a program of its own takes from its first line to that of its first step or task: Ray imported, the cluster found, a worker started for it."""
    code = f"import time; began_ns = time.time_ns(); import on_ray; print((on_ray.{which}({folder!r}) - began_ns) / 1e9)"
    environment = {**os.environ, "RAY_ADDRESS": ray.get_runtime_context().gcs_address, "PYTHONPATH": os.path.dirname(os.path.abspath(__file__))}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    return float(done.stdout)


def _start(_tasks: int, rounds: int, folder: str) -> None:
    """To the first line of a first step, on a cluster that runs: of a new program, as users run it, and from `run` on in one that has run before."""
    found, ours, theirs = ratio(lambda: _program("first_step", folder), lambda: _program("first_task", folder), rounds)
    print(f"a new program to its first step, over a raw one to its first task: {found:.2f} ({ours:.2f} and {theirs:.2f} s)", flush=True)
    took = []
    for _ in range(rounds + 1):
        began_ns = time.time_ns()
        took.append((first_step(folder) - began_ns) / 1e9)
    print(
        f"from run to its first step, in a program that has run before: {statistics.median(took[1:]):.2f} s (first time {took[0]:.2f} s); mark 1 s", flush=True
    )


def _items(tasks: int, rounds: int, folder: str) -> None:
    found, ours, theirs = ratio(lambda: _fan_out_s(tasks, folder), lambda: raw_owned(tasks, in_flight()), rounds)
    each = f"{ours / tasks * 1e6:.0f} and {theirs / tasks * 1e6:.0f} us each"
    print(f"{tasks:,} no-op items by map_tasks over raw tasks, {in_flight()} in flight: {found:.2f} ({each}); mark 1.4, aim 1.15", flush=True)


def _steps(tasks: int, rounds: int, folder: str) -> None:
    found, ours, theirs = ratio(lambda: run([work(index, 0.0) for index in range(tasks)], folder), lambda: raw(tasks, tasks), rounds)
    each = f"{ours / tasks * 1e6:.0f} and {theirs / tasks * 1e6:.0f} us each"
    print(f"{tasks:,} independent no-op steps over raw tasks: {found:.2f} ({each}, a run's start and end included); mark 1.3, aim 1.15", flush=True)


def _memory(_tasks: int, _rounds: int, folder: str) -> None:
    """By how much the driver grows with the items that are done, beside a run of few."""
    import tracemalloc

    few, many = 1_000, 11_000
    grown = []
    _fan_out_s(few, folder)  # what is loaded once
    for count in (few, many):
        tracemalloc.start()
        _fan_out_s(count, folder)
        grown.append(tracemalloc.get_traced_memory())
        tracemalloc.stop()
    kept, peak = ((grown[1][which] - grown[0][which]) / (many - few) for which in (0, 1))
    print(f"driver memory an item that is done and folded: {peak:.0f} bytes at the peak, {kept:.0f} kept after the run; mark 200", flush=True)


_MEASURES = {"start": _start, "items": _items, "steps": _steps, "memory": _memory}


if __name__ == "__main__":
    main()
