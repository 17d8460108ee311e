"""A test kit for experiments and for tools that read otel_exec's spans.

What comes in: nothing but what a test says. What goes out: ids that count, a clock that steps, spans recorded in memory, and experiments run in a folder of the test's own.

    from otel_exec.testing import run_in, recorded_spans

    def test_tokenize(tmp_path):
        record = run_in(tmp_path, [tokenize_dataset("wiki", raw)])
        assert record.outcome == "success"
        assert {span.name for span in recorded_spans(record)} >= {"task tokenize"}
"""

from __future__ import annotations

import itertools
import os
import tempfile
import threading
from typing import TYPE_CHECKING, Any

import fsspec

from otel_exec.launch import run
from otel_exec.record import storage
from otel_exec.spans.ids import IdGenerator
from otel_exec.spans.recorder import Recorder
from otel_exec.spans.spool import read_spool

if TYPE_CHECKING:
    from collections.abc import Sequence

    from otel_exec.plan.refs import StepRef
    from otel_exec.record.model import RunRecord
    from otel_exec.spans.span_record import SpanRecord

__all__ = ["CountingIds", "SpanCollector", "SteppingClock", "memory_recorder", "recorded_spans", "run_in"]


class SteppingClock:
    """A clock that stands still until it is told to go, or goes on by `step_ns` each time it is read.

    Units: nanoseconds since the Unix epoch. Thread-safe.
    """

    def __init__(self, start_ns: int = 1_700_000_000_000_000_000, step_ns: int = 0) -> None:
        self._now_ns = start_ns
        self._step_ns = step_ns
        self._lock = threading.Lock()

    def now_ns(self) -> int:
        """Return the present instant, then go on by the step."""
        with self._lock:
            now_ns = self._now_ns
            self._now_ns += self._step_ns
            return now_ns

    def advance(self, duration_ns: int) -> None:
        """Go on by `duration_ns`.

        Raises:
            ValueError: it is negative; a run's clock never goes back.
        """
        if duration_ns < 0:
            raise ValueError(f"a clock can't go back by {-duration_ns} ns")
        with self._lock:
            self._now_ns += duration_ns


class CountingIds(IdGenerator):
    """Ids that count from 1, so that a test can name them."""

    def __init__(self) -> None:
        super().__init__()
        self._spans = itertools.count(1)
        self._traces = itertools.count(1)

    def span_id(self) -> str:
        """Return the next span id: 16 hex digits."""
        return f"{next(self._spans):016x}"

    def trace_id(self) -> str:
        """Return the next trace id: 32 hex digits."""
        return f"{next(self._traces):032x}"


class SpanCollector:
    """Keeps finished spans in memory, in the order in which they finished."""

    def __init__(self) -> None:
        self.spans: list[SpanRecord] = []

    def __call__(self, spans: Sequence[SpanRecord]) -> None:
        """Keep finished spans (a recorder's sink)."""
        self.spans.extend(spans)

    def named(self, name: str) -> list[SpanRecord]:
        """Return the spans of that name."""
        return [span for span in self.spans if span.name == name]


def memory_recorder(clock: SteppingClock | None = None, exec_id: str = "exec_test") -> tuple[Recorder, SpanCollector]:
    """Return a recorder that writes nothing, with counting ids and a stepping clock, and the collector that its spans go to."""
    collector = SpanCollector()
    ids = CountingIds()
    recorder = Recorder(exec_id=exec_id, trace_id=ids.trace_id(), clock=clock or SteppingClock(), sink=collector, ids=ids)
    return recorder, collector


def run_in(folder: str | os.PathLike[str], steps: Sequence[StepRef] | StepRef, *, executor: str = "inline", **settings: Any) -> RunRecord:
    """Run an experiment with everything that it writes below `folder`: `outputs` and `run.json`. Takes what `otel_exec.run` takes, raises what it raises."""
    root = os.fspath(folder)
    settings = {"prefix": os.path.join(root, "outputs"), "run_json": os.path.join(root, "run.json"), **settings}
    return run(steps, executor=executor, **settings)


def recorded_spans(record: RunRecord) -> list[SpanRecord]:
    """Return every span in a run's spool, in order of start; a spool under a remote prefix is copied first."""
    with tempfile.TemporaryDirectory() as copy:
        folder = storage.join(record.run_folder, "spans")
        if storage.is_remote(folder):
            files, path = fsspec.core.url_to_fs(folder)
            files.get(path.rstrip("/") + "/", copy, recursive=True)
            folder = copy
        return sorted(read_spool(folder), key=lambda span: (span.start_ns, -span.end_ns))
