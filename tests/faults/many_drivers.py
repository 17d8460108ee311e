"""Starts many drivers at once on one prefix, and checks that they share the work: each step runs once, all end with success, each record is whole.

python tests/faults/many_drivers.py --drivers 20 --rounds 1
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from collections import Counter
from pathlib import Path

from faults.kill_driver import Killed
from support.run_checks import check_run, step_named

from otel_exec import read_run
from otel_exec.semconv import Kind
from otel_exec.testing import recorded_spans


def one_round(base: Path, drivers: int, executor: str = "processes") -> dict[str, int]:
    """Start them, and check; returns how many steps each run made, by exec id."""
    runs = []
    for number in range(drivers):
        folder = base / f"driver-{number}"
        folder.mkdir()
        runs.append(Killed(folder, executor, shared=base))
    processes = [run.start() for run in runs]
    codes = [process.wait(600) for process in processes]
    logs = {number: (run.folder / "log").read_text()[-1500:] for number, (run, code) in enumerate(zip(runs, codes, strict=True)) if code}
    assert codes == [0] * drivers, logs
    verified = Counter(line for line in runs[0].said() if line.startswith("verified "))
    assert set(verified.values()) == {1}, f"ran more than once: {verified}"
    records = [read_run(str(run.folder / "run.json")) for run in runs]
    made: dict[str, str] = {}
    for record in records:
        for step in record.steps:
            if step.attempts and step.outcome == "success" and not step.cached and not step.group:
                assert step.node_id not in made, f"{step.name} was made by two runs"
                made[step.node_id] = record.exec_id
    by_id = {record.exec_id: record for record in records}
    for record in records:
        assert record.outcome == "success"
        check_run(record)
        links = {span.attributes["node.id"]: span.links for span in recorded_spans(record) if span.kind == Kind.STEP}
        for step in record.steps:
            if not step.cached:
                continue
            maker = by_id[made[step.node_id]]
            assert step.cached_from.exec_id == maker.exec_id
            to = [(link.trace_id, link.span_id) for link in links[step.node_id] if link.edge == "cached"]
            assert to == [(maker.trace_id, step_named(maker, step.name).span_id)]
    return dict(Counter(made.values()))


def campaign(drivers: int, rounds: int, executor: str = "processes") -> list[dict[str, int]]:
    """Run so many rounds; returns who made how many steps in each."""
    shares = []
    for _ in range(rounds):
        base = Path(tempfile.mkdtemp(prefix="otel-exec-drivers-"))
        try:
            shares.append(one_round(base, drivers, executor))
        except BaseException as error:
            error.add_note(f"kept in {base}")
            raise
        shutil.rmtree(base)
    return shares


def main() -> None:
    """Run the campaign that was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--drivers", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--executor", default="processes")
    asked = parser.parse_args()
    shares = campaign(asked.drivers, asked.rounds, asked.executor)
    print(f"many_drivers: {asked.drivers} drivers, {asked.rounds} rounds: each step ran once; steps by run: {[sorted(each.values()) for each in shares]}")


if __name__ == "__main__":
    main()
