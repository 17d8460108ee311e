"""Make a real run of many steps, for the benchmarks that read one.

python bench/make_run.py STEPS FOLDER
"""

from __future__ import annotations

import os
import sys


def main() -> None:
    steps, folder = int(sys.argv[1]), sys.argv[2]
    sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
    import otel_exec as ox
    from bench_steps import work

    os.chdir(folder)
    record = ox.run([work(index, 0.0) for index in range(steps)], prefix="outputs", run_json="run.json", executor="processes", workers=2, name="bench")
    size = os.path.getsize("run.json") / 1e6
    print(f"a run of {len(record.steps):,} steps, run.json of {size:.1f} MB")


if __name__ == "__main__":
    main()
