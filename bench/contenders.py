"""One contender of a benchmark, in a process of its own: runs a graph of steps and prints what it took, as JSON.

    python bench/contenders.py NAME STEPS SECONDS_A_STEP WORKERS FOLDER

What is timed is from the first line of work (the graph is described) to the last result, start of workers included; imports are not.
`shape` is flat: no step waits for another.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time


def _work(seconds: float) -> None:
    if seconds:
        time.sleep(seconds)


def otel_exec(steps: int, seconds: float, workers: int, folder: str, executor: str = "processes") -> float:
    import otel_exec as ox
    from bench_steps import work

    run = ox.run  # imports are not timed
    began = time.perf_counter()
    refs = [work(index, seconds) for index in range(steps)]
    run(refs, prefix=f"{folder}/outputs", run_json=f"{folder}/run.json", workers=workers, executor=executor, name="bench")
    return time.perf_counter() - began


def concurrent_futures(steps: int, seconds: float, workers: int, folder: str) -> float:
    from concurrent.futures import ProcessPoolExecutor

    began = time.perf_counter()
    with ProcessPoolExecutor(workers) as pool:
        for future in [pool.submit(_work, seconds) for _ in range(steps)]:
            future.result()
    return time.perf_counter() - began


def dask_threads(steps: int, seconds: float, workers: int, folder: str) -> float:
    import dask

    began = time.perf_counter()
    dask.compute(*[dask.delayed(_work, pure=False)(seconds) for _ in range(steps)], scheduler="threads", num_workers=workers)
    return time.perf_counter() - began


def dask_distributed(steps: int, seconds: float, workers: int, folder: str) -> float:
    from distributed import Client, LocalCluster

    began = time.perf_counter()
    with LocalCluster(n_workers=workers, threads_per_worker=1, processes=True, dashboard_address=None) as cluster, Client(cluster) as client:
        client.gather(client.map(lambda _: _work(seconds), range(steps), pure=False))
        return time.perf_counter() - began


def luigi(steps: int, seconds: float, workers: int, folder: str) -> float:
    import logging

    import luigi as luigi_

    logging.disable(logging.CRITICAL)

    class Work(luigi_.Task):
        index = luigi_.IntParameter()

        def output(self) -> luigi_.LocalTarget:
            return luigi_.LocalTarget(f"{folder}/{self.index}")

        def run(self) -> None:
            _work(seconds)
            with self.output().open("w") as file:
                file.write("done")

    began = time.perf_counter()
    luigi_.build([Work(index=index) for index in range(steps)], local_scheduler=True, workers=workers, log_level="ERROR")
    return time.perf_counter() - began


CONTENDERS = {
    "otel_exec": otel_exec,
    "otel_exec_untraced": otel_exec,
    "otel_exec_threads": lambda *given: otel_exec(*given, executor="threads"),
    "concurrent.futures": concurrent_futures,
    "dask_threads": dask_threads,
    "dask_distributed": dask_distributed,
    "luigi": luigi,
}


def main() -> None:
    name, steps, seconds, workers, folder = sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4]), sys.argv[5]
    sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
    os.chdir(folder)
    took = CONTENDERS[name](steps, seconds, workers, folder)
    usage, children = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    print(json.dumps({"took_s": took, "driver_cpu_s": usage.ru_utime + usage.ru_stime, "workers_cpu_s": children.ru_utime + children.ru_stime}))


if __name__ == "__main__":
    main()
