"""Kills the driver with SIGKILL at random moments of a run, and checks that nothing finished was lost.

    PYTHONPATH=tests python -m faults.kill_driver --times 200 --seed 1 [--executor processes]

After each kill: the record can be read and summed up, the trace is whole, every phase that had ended is in the spool, recovery done twice is recovery done once,
the next run takes finished steps as they are, says whom it goes on from, and succeeds.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from support.run_checks import check_run

from otel_exec import read_run
from otel_exec.cli.main import main as otel_exec
from otel_exec.record.find import list_runs
from otel_exec.record.step_files import read_events, standing
from otel_exec.recovery import recover
from otel_exec.semconv import ERROR_INTERRUPTED, Kind
from otel_exec.spans.spool import read_spool

EXPERIMENT = str(Path(__file__).with_name("experiment.py"))


class Killed:
    """One run in a folder of its own, killed on its way, and the run after it."""

    def __init__(self, folder: Path, executor: str, *, width: int = 3, workers: int = 2, shared: Path | None = None, **environ: str) -> None:
        self.folder = folder
        self.prefix = (shared or folder) / "out"
        self.evidence = (shared or folder) / "evidence"
        self._argv = [sys.executable, EXPERIMENT, "--prefix", str(self.prefix), "--workers", str(workers), "--executor", executor]
        self._environ = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")} | {
            "EVIDENCE": str(self.evidence),
            "WIDTH": str(width),
            "KILLED": str(folder / "killed"),
            **environ,
        }

    def start(self) -> subprocess.Popen:
        """Start the experiment."""
        with open(self.folder / "log", "ab") as log:
            return subprocess.Popen(self._argv, cwd=self.folder, env=self._environ, stdout=log, stderr=log)

    def kill_after(self, lines: int, delay_s: float) -> None:
        """Run, and kill the driver so long after so much had ended, or let it end before."""
        process = self.start()
        while process.poll() is None and (lines and (not self.evidence.exists() or self.evidence.read_bytes().count(b"\n") < lines)):
            time.sleep(0.001)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(delay_s)
        process.kill()
        process.wait()
        time.sleep(0.1)  # its workers notice within milliseconds; until they have ended the run lives

    def said(self) -> list[str]:
        """Return the whole lines of evidence."""
        return self.evidence.read_text().split("\n")[:-1] if self.evidence.exists() else []

    def check(self) -> str:
        """Check the killed run and the one after it; returns what the killed one came to."""
        folders = [folder for folder in list_runs(str(self.prefix)) if os.path.exists(folder + "/run.json")]
        finished = {path.parent.name for path in self.prefix.glob("work/*/.executor_status") if _succeeded(path.parent)}
        before = "nothing"
        dead = None
        if folders:
            (folder,) = folders
            dead = read_run(folder)
            before = dead.outcome
            _check_summary(folder)
            self._check_spool(folder)
            if before == "interrupted":
                _check_recovered(folder)
        code = self.start().wait(120)
        assert code == 0, f"exit code {code}: {(self.folder / 'log').read_text()[-2000:]}"
        again = read_run(str(self.prefix))
        assert again.outcome == "success"
        check_run(again)
        redone = {os.path.basename(step.output_path) for step in again.steps if step.output_path and step.attempts and not step.cached}
        assert not redone & finished, f"redone: {redone & finished}"
        if before == "interrupted":
            assert again.resumed_from is not None
            assert again.resumed_from.exec_id == dead.exec_id
            assert "interrupted_run" in [warning.code for warning in again.warnings]
            (root,) = [span for span in read_spool(again.run_folder + "/spans") if span.kind == Kind.RUN]
            assert [(link.trace_id, link.span_id, link.edge) for link in root.links] == [(dead.trace_id, dead.root_span_id, "resumed")]
        left = os.listdir(self.prefix / ".otel_exec" / "running")
        assert not left, f"still said to run: {left}"
        return before

    def _check_spool(self, folder: str) -> None:
        """Every phase that had ended is in the spool."""
        there = {span.attributes.get("key") for span in read_spool(folder + "/spans") if span.kind == Kind.PHASE and not _cut_off(span)}
        ended = {line.removeprefix("phase ") for line in self.said() if line.startswith("phase ")}
        assert ended <= there, f"lost: {sorted(ended - there)}"


def _cut_off(span: object) -> bool:
    return span.attributes.get("error.type") == ERROR_INTERRUPTED


def _succeeded(output: Path) -> bool:
    last = standing(read_events(str(output)))
    return last is not None and last.status == "SUCCESS"


def _check_summary(folder: str) -> None:
    with contextlib.redirect_stdout(io.TextIOWrapper(io.BytesIO())):
        assert otel_exec(["summary", folder]) == 0
        assert otel_exec(["summary", folder, "--json"]) == 0


def _check_recovered(folder: str) -> None:
    """Recovery makes the trace whole, once; the record is the same before and after."""
    before = read_run(folder)
    closed = recover(folder)
    assert closed, "nothing was closed"
    assert recover(folder) == 0
    after = read_run(folder)
    assert after == before or _differing(before, after) == [], _differing(before, after)
    spans = list(read_spool(folder + "/spans"))
    by_id = {span.span_id: span for span in spans}
    assert len(by_id) == len(spans), "a span stands twice in the spool"
    for span in spans:
        assert span.name != "unknown", "a parent that nobody knows"
        if span.kind == Kind.RUN:
            assert (span.attributes["error.type"], span.parent_span_id) == (ERROR_INTERRUPTED, "")
            continue
        parent = by_id[span.parent_span_id]
        assert parent.start_ns <= span.start_ns, (parent.name, span.name, span.start_ns - parent.start_ns)
        assert span.end_ns <= parent.end_ns, (parent.name, span.name, parent.end_ns - span.end_ns)


def _differing(one: object, other: object) -> list[str]:
    return [name for name in one.__struct_fields__ if name != "metrics" and getattr(one, name) != getattr(other, name)]


def campaign(times: int, seed: int, executor: str = "processes", *, keep: bool = False) -> dict[str, int]:
    """Kill so often; returns how often the killed run came to what. Raises `AssertionError` with the place where it is kept."""
    chance = random.Random(seed)
    counts: dict[str, int] = {}
    base = tempfile.mkdtemp(prefix="otel-exec-faults-")
    whole = Killed(_new(base, "whole"), executor)
    began = time.monotonic()
    assert whole.start().wait(120) == 0
    length_s = time.monotonic() - began
    count = len(whole.said())
    for number in range(times):
        run = Killed(_new(base, f"kill-{number}"), executor)
        # Each moment of the run, and now and then one of its start.
        lines = chance.randrange(1, count) if chance.random() < 0.85 else 0
        delay_s = chance.uniform(0, 0.03 if lines else length_s / 2)
        try:
            run.kill_after(lines, delay_s)
            came_to = run.check()
        except BaseException as error:
            error.add_note(f"seed {seed}, kill {number} after {lines} lines and {delay_s:.3f} s, kept in {run.folder}")
            raise
        counts[came_to] = counts.get(came_to, 0) + 1
        if not keep:
            shutil.rmtree(run.folder)
    shutil.rmtree(base, ignore_errors=True)
    return counts


def _new(base: str, name: str) -> Path:
    folder = Path(base, name)
    folder.mkdir()
    return folder


def main() -> None:
    """Run the campaign that was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=200)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 32))
    parser.add_argument("--executor", default="processes")
    asked = parser.parse_args()
    print(f"kill_driver: seed {asked.seed}, {asked.times} kills, executor {asked.executor}", flush=True)
    counts = campaign(asked.times, asked.seed, asked.executor)
    print(f"kill_driver: {asked.times} of {asked.times} held; killed runs came to {counts}")


if __name__ == "__main__":
    main()
