"""The driver's side of exporting: starts the exporter's process, and at the end of the run gives it a bounded time.

What comes in: a run's folder and endpoints. What goes out: an `ExportSummary`. Nothing here raises for what the network does; gRPC and HTTP clients are
not imported into the driver. `export_once` does the same work in the calling process, for `replay`.

Units: `*_s` seconds.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, TextIO

import msgspec

from otel_exec.errors import RecordError
from otel_exec.regular_file import data_chunks, open_regular
from otel_exec.spans.cursor import Cursor, ExportState, FileProgress, Lease, read_export
from otel_exec.spans.delivery import LONGEST_DRAIN_S, Export
from otel_exec.spans.exporter_process import EXIT_DONE, EXIT_LEFT_SOME, ExporterSettings
from otel_exec.spans.otlp_json import ITEM_MARK
from otel_exec.spans.signal import Signal
from otel_exec.spans.spool_follower import FILES

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from otel_exec.config import Endpoint
    from otel_exec.spans.cursor import EndpointProgress

__all__ = ["EndpointSummary", "ExportSummary", "ExporterHandle", "export_once", "items_waiting", "print_lines", "summarize"]

LOG_FILE = "export.log"
# The process gives up by itself a little earlier than it is killed, so that it can write down why.
_SELF_RESTRAINT_S = 0.1
_PACKAGE_ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


@dataclass(frozen=True, slots=True)
class EndpointSummary:
    """What became of a run's spans, or data points, at one endpoint: `total` of them, of which `acknowledged`, `rejected` for good, and the rest still waiting.

    `url` has no secrets. `error`: one sentence on why some are waiting or rejected, "" when all is well. `skipped` lines were not what they should be.
    `absent`: the receiver has no service for this signal.
    """

    url: str
    protocol: str
    total: int
    acknowledged: int
    rejected: int = 0
    skipped: int = 0
    error: str = ""
    absent: bool = False

    @property
    def waiting(self) -> int:
        """Those that are neither acknowledged nor rejected."""
        return self.total - self.acknowledged - self.rejected


@dataclass(frozen=True, slots=True)
class ExportSummary:
    """What became of a run's spans (`endpoints`) and of its metrics, an entry per endpoint. `problem`: why the exporter itself could not do its work, "" when it could."""

    endpoints: tuple[EndpointSummary, ...]
    problem: str = ""
    metrics: tuple[EndpointSummary, ...] = ()


class ExporterHandle:
    """A running exporter process; made by `start`, ended by `finish`."""

    def __init__(self, run_folder: str, endpoints: Sequence[Endpoint], exit_timeout_s: float, metrics: Sequence[Endpoint] = ()) -> None:
        self._run_folder = run_folder
        self._endpoints = tuple(endpoints)
        self._metrics = tuple(metrics)
        self._exit_timeout_s = exit_timeout_s
        self._process: subprocess.Popen[bytes] | None = None
        self._problem = ""
        self._summary: ExportSummary | None = None

    @classmethod
    def start(cls, run_folder: str, endpoints: Sequence[Endpoint], exit_timeout_s: float = 2.0, metrics: Sequence[Endpoint] = ()) -> ExporterHandle:
        """Start exporting a run's spool, and its metrics. Never raises: what goes wrong stands in the summary.

        Args:
            run_folder: the run's local folder; `spans/` in it need not exist yet.
            endpoints: where spans go.
            exit_timeout_s: how long `finish` waits without an acknowledgement.
            metrics: where metrics go.
        """
        handle = cls(run_folder, endpoints, exit_timeout_s, metrics)
        try:
            handle._start()
        except Exception as error:
            handle._problem = f"the exporter could not be started ({error})"
        return handle

    @property
    def pid(self) -> int | None:
        """The process's id; `None` when it could not be started."""
        return self._process.pid if self._process else None

    def _start(self) -> None:
        settings = msgspec.json.encode(ExporterSettings(list(self._endpoints), max(self._exit_timeout_s - _SELF_RESTRAINT_S, 0.0), list(self._metrics)))
        environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONINSPECT", "PYTHONWARNINGS")}
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, [environment.get("PYTHONPATH", ""), _PACKAGE_ROOT]))
        with open(f"{self._run_folder}/{LOG_FILE}", "ab") as log:
            self._process = subprocess.Popen(
                # -P: modules in the user's working directory must not stand in for those that the exporter needs.
                [sys.executable, "-P", "-m", "otel_exec.spans.exporter_process", self._run_folder],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env=environment,
                start_new_session=True,
                bufsize=0,
            )
        self._say(settings + b"\n")

    def _say(self, words: bytes) -> None:
        """Write to the process, which may have died: then `finish` finds out."""
        pipe = self._process.stdin if self._process else None
        if pipe is None:
            return
        with contextlib.suppress(OSError):
            pipe.write(words)

    def finish(self) -> ExportSummary:
        """Let the exporter send what is left, for as long as acknowledgements keep coming; returns what became of the spans.

        Waits at most the exit timeout without an acknowledgement and 30 s in all, then kills the process. Never raises; a second call
        returns the same summary.
        """
        if self._summary is None:
            try:
                if self._process is not None:
                    self._drain(self._process)
            except Exception as error:
                self._problem = self._problem or f"the exporter could not be ended ({error})"
            finally:
                self.kill()
            self._summary = summarize(self._run_folder, self._endpoints, self._problem, f"no answer within {self._exit_timeout_s:g} s", self._metrics)
        return self._summary

    def _drain(self, process: subprocess.Popen[bytes]) -> None:
        if process.poll() is not None:
            self._problem = f"the exporter died ({_ending(process.returncode)}; see {self._run_folder}/{LOG_FILE})"
            return
        self._say(b"\n")
        pipe = process.stdout
        assert pipe is not None
        last = time.monotonic() + LONGEST_DRAIN_S
        said = b""
        while (left := min(self._exit_timeout_s, last - time.monotonic())) > 0:
            ready, _, _ = select.select([pipe], [], [], left)
            if not ready:
                return
            words = os.read(pipe.fileno(), 65536)
            if not words:
                break
            said += words
        self._problem = said.partition(b"!")[2].decode(errors="replace")
        with contextlib.suppress(subprocess.TimeoutExpired):
            code = process.wait(1.0)
            if code not in (EXIT_DONE, EXIT_LEFT_SOME) and not self._problem:
                self._problem = f"the exporter died ({_ending(code)}; see {self._run_folder}/{LOG_FILE})"

    def kill(self) -> None:
        """End the process at once; what it had not sent stays in the spool. Never raises."""
        process = self._process
        if process is None:
            return
        with contextlib.suppress(Exception):
            if process.poll() is None:
                process.kill()
                process.wait(5.0)
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()


def export_once(
    run_folder: str,
    endpoints: Sequence[Endpoint],
    *,
    patience_s: float = 10.0,
    longest_s: float = float("inf"),
    again: bool = False,
    progress: Callable[[int], None] | None = None,
) -> ExportSummary:
    """Send what was never acknowledged, in this process, and return what became of the spans.

    Args:
        run_folder: the run's local folder.
        endpoints: where to.
        patience_s: give up after so long without an acknowledgement.
        longest_s: give up after so long in any case.
        again: send what was acknowledged too.
        progress: called after each acknowledgement, from any thread, with how many spans the endpoints have settled in all.

    Raises:
        RecordError: another exporter is at work on this run, or its cursor can't be read.
    """
    lease = Lease.take(run_folder)
    if lease is None:
        raise RecordError(run_folder, "another exporter is at work on this run")
    try:
        cursor = Cursor(run_folder)
        names = [endpoint.shown for endpoint in endpoints]
        if again:
            for name in names:
                cursor.forget(name)
        tell = (lambda: progress(cursor.settled(names))) if progress is not None else (lambda: None)
        export = Export(run_folder, endpoints, cursor, tell)
        export.start()
        export.end()
        export.wait(patience_s, longest_s)
    finally:
        lease.release()
    problem = f"{run_folder}/export.json can't be written ({cursor.save_error})" if cursor.save_error else ""
    return summarize(run_folder, endpoints, problem, f"no answer within {patience_s:g} s")


def summarize(run_folder: str, endpoints: Sequence[Endpoint], problem: str = "", silence: str = "", metrics: Sequence[Endpoint] = ()) -> ExportSummary:
    """Return what became of a run's spans and metrics, from its cursor and files. Never raises.

    Args:
        run_folder: the run's local folder.
        endpoints: the endpoints of spans to tell of.
        problem: what is known to have gone wrong with the exporter itself.
        silence: what to say of an endpoint that owes spans and gave no reason.
        metrics: the endpoints of metrics to tell of.
    """
    try:
        state = read_export(run_folder)
    except RecordError as error:
        state, problem = None, problem or str(error)
    state = state or ExportState()
    return ExportSummary(
        tuple(_endpoint_summary(run_folder, endpoint, state, Signal.TRACES, problem, silence) for endpoint in endpoints),
        problem,
        tuple(_endpoint_summary(run_folder, endpoint, state, Signal.METRICS, problem, silence) for endpoint in metrics),
    )


def _endpoint_summary(run_folder: str, endpoint: Endpoint, state: ExportState, signal: Signal, problem: str, silence: str) -> EndpointSummary:
    entry = state.entry(signal, endpoint.shown)
    waiting = items_waiting(run_folder, entry, signal)
    return EndpointSummary(
        url=endpoint.shown,
        protocol=endpoint.protocol,
        total=entry.acknowledged + entry.rejected + waiting,
        acknowledged=entry.acknowledged,
        rejected=entry.rejected,
        skipped=entry.lines_skipped,
        error=((entry.last_error or problem or f"{endpoint.shown}: {silence}") if waiting else entry.last_rejection) or "",
        absent=entry.absent,
    )


def items_waiting(run_folder: str, entry: EndpointProgress, signal: Signal = Signal.TRACES) -> int:
    """Return how many of a run's spans, or data points, an endpoint has neither acknowledged nor refused."""
    return sum(_items_after(f"{run_folder}/{file}", entry.files.get(file, FileProgress()).bytes) for file, _ in FILES[signal](run_folder))


def print_lines(run_folder: str, stream: TextIO, signal: Signal = Signal.TRACES) -> int:
    """Print a signal's lines as they are, one export request a line (`OTEL_TRACES_EXPORTER=console`, `OTEL_METRICS_EXPORTER=console`); returns how many."""
    count = 0
    for file, _ in FILES[signal](run_folder):
        with open(f"{run_folder}/{file}", encoding="utf-8", errors="replace") as lines:
            for line in lines:
                if line.endswith("\n") and line.strip():
                    stream.write(line)
                    count += 1
    stream.flush()
    return count


def _items_after(path: str, position: int) -> int:
    """Return how many spans, or data points, stand in a file after a position, without parsing it."""
    count, carried = 0, b""
    try:
        descriptor = open_regular(path, follow=False)
    except OSError:
        return count
    try:
        for _, chunk in data_chunks(descriptor, position, 1 << 22):
            count += (carried + chunk).count(ITEM_MARK)
            carried = chunk[-len(ITEM_MARK) + 1 :]
    except OSError:
        return count
    finally:
        os.close(descriptor)
    return count


def _ending(code: int) -> str:
    return f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
