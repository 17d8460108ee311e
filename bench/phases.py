"""What a phase costs, beside a span of the OpenTelemetry SDK: `python bench/phases.py [--rounds N]`.

Ours: `with phase("x"): pass` in a task, collected (folded), listed among the open spans, and in the spool: mapped memory that a SIGKILL leaves whole, and from
there the file. The SDK's: `with tracer.start_as_current_span("x"): pass` with a BatchSpanProcessor and its in-memory exporter, which keeps references and
writes nothing. Neither has attributes of its own. Disabled: the same block outside of any run.

Each round runs both, one right after the other, and gives one ratio; what is printed is the median of the ratios and the least of the times. Times are CPU time of
the process: all its threads, the kernel's part included, so that the SDK's exporting thread counts and other programs on the machine do not.
"""

from __future__ import annotations

import argparse
import tempfile
import threading
import time
from statistics import median

from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from otel_exec import phase
from otel_exec.aggregate.task_fold import TaskFold
from otel_exec.clock import AnchoredClock
from otel_exec.spans.open_spans import OpenSpanTable
from otel_exec.spans.recorder import Recorder
from otel_exec.spans.scope import TaskScope, enter_scope
from otel_exec.spans.spool import SpoolWriter

_TASK = "f" * 16
_ATTRIBUTES = {"node.id": "work/1-abcdef", "node.name": "work/1", "exec.template": "work/{n}", "exec.attempt": 1, "exec.worker.id": "0", "exec.level": 1}
_RESOURCE = {"service.name": "bench", "service.instance.id": "exec_" + "ab" * 16, "host.name": "bench", "process.pid": 1}


class Ours:
    """A task's scope, as a worker makes it."""

    def __init__(self, folder: str) -> None:
        self.clock = AnchoredClock()
        self.spool = SpoolWriter(folder, "worker-0", _RESOURCE)
        self.recorder = Recorder(
            exec_id="exec_" + "ab" * 16, trace_id="ab" * 16, clock=self.clock, spool=self.spool, open_spans=OpenSpanTable(folder, "worker-0")
        )

    def spans(self, count: int, threads: int = 1) -> float:
        """Return the CPU seconds of so many phases in a task."""
        fold = TaskFold(_TASK, self.clock.now_ns())
        scope = TaskScope(self.recorder, span_id=_TASK, node_id="work/1-abcdef", sink=fold, attributes=_ATTRIBUTES, max_spans=count)
        with enter_scope(scope):
            spent = _timed(_phases, count, threads)
        found = fold.finish(self.clock.now_ns())["x"].count
        assert found == count, f"{found} of {count} phases were counted"
        return spent


class Theirs:
    """The SDK, with what it keeps taken away after each round."""

    def __init__(self) -> None:
        self.memory = InMemorySpanExporter()
        self.provider = TracerProvider()
        self.provider.add_span_processor(BatchSpanProcessor(self.memory))
        self.tracer = self.provider.get_tracer("bench")

    def spans(self, count: int, threads: int = 1) -> float:
        """Return the CPU seconds of so many spans."""

        def work(some: int) -> None:
            for _ in range(some):
                with self.tracer.start_as_current_span("x"):
                    pass

        spent = _timed(work, count, threads)
        self.provider.force_flush()
        self.memory.clear()
        return spent


def _phases(count: int) -> None:
    for _ in range(count):
        with phase("x"):
            pass


def _timed(work, count: int, threads: int) -> float:
    if threads == 1:
        begun = time.process_time()
        work(count)
        return time.process_time() - begun
    ready = threading.Barrier(threads + 1)

    def run() -> None:
        ready.wait()
        work(count // threads)

    started = [threading.Thread(target=run) for _ in range(threads)]
    for thread in started:
        thread.start()
    ready.wait()
    begun = time.process_time()
    for thread in started:
        thread.join()
    return time.process_time() - begun


def _both(ours: Ours, theirs: Theirs, count: int, rounds: int, threads: int) -> None:
    pairs = [(ours.spans(count, threads), theirs.spans(count, threads)) for _ in range(rounds)]
    ratio = median(mine / other for mine, other in pairs)
    mine, other = (min(each) / count * 1e6 for each in zip(*pairs, strict=True))
    print(f"{threads:2d} thread{'s' if threads > 1 else ' '}  phase {mine:6.2f} us   SDK span {other:6.2f} us   ratio {ratio:.2f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=41)
    parser.add_argument("--count", type=int, default=1008, help="phases in a round (below the SDK's queue of 2048, so that it drops none)")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        ours, theirs = Ours(folder), Theirs()
        for threads in (1, 16):
            _both(ours, theirs, given.count, given.rounds, threads)
        disabled = min(_timed(_phases, given.count, 1) for _ in range(given.rounds))
        print(f"disabled: {disabled / given.count * 1e6:.2f} us", flush=True)
        assert not ours.spool.lost, ours.spool.error
        ours.spool.close()


if __name__ == "__main__":
    main()
