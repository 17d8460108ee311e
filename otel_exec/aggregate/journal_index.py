"""A journal, by what its lines are of.

What comes in: transitions in order, also of a run that was killed. What goes out: per level, step, attempt and worker what is known of it. Reads no files.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from otel_exec.semconv import Outcome

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from otel_exec.record.run_store import JournalLine

__all__ = ["Claim", "JournalIndex", "Settled"]


class Settled(NamedTuple):
    """How a step is known to have ended. `at_ns`: nanoseconds since the Unix epoch."""

    outcome: str
    at_ns: int
    error_type: str | None = None
    message: str = ""


class Claim:
    """What the journal says of one attempt."""

    __slots__ = ("claimed_ns", "ended_ns", "span_id", "worker_id")

    def __init__(self) -> None:
        self.worker_id = ""
        self.span_id = ""
        self.claimed_ns: int | None = None
        self.ended_ns: int | None = None


class JournalIndex:
    """What a journal says. `began`: the data of its first line; `ended`: the line of the run's end, `None` without one; `workers`: those that have not ended: span, start, whether ready."""

    def __init__(self, lines: Iterable[JournalLine]) -> None:
        self.began: Mapping[str, object] = {}
        self.ended: JournalLine | None = None
        self.levels: dict[int, tuple[str, int]] = {}
        self.created: dict[str, tuple[str, int]] = {}
        self.settled: dict[str, Settled] = {}
        self.attempts: dict[str, dict[int, Claim]] = {}
        self.workers: dict[str, tuple[str, int, bool]] = {}
        for line in lines:
            self._take(line)

    def _take(self, line: JournalLine) -> None:
        what, span = line.what, line.span or ""
        number = (line.data or {}).get("level")
        if what == "began":
            self.began = line.data or {}
        elif what == "ended_run":
            self.ended = line
        elif what == "level" and span and isinstance(number, int):
            self.levels[number] = (span, line.at)
        elif what == "worker":
            self._worker(line)
        elif line.node is None:
            return
        elif what == "created" and span:
            self.created[line.node] = (span, line.at)
        elif what == "settled":
            error = line.error or {}
            self.settled[line.node] = Settled(line.outcome or Outcome.ERROR, line.at, error.get("type"), error.get("message") or "")
        elif what in {"claimed", "ended"}:
            attempt = self.attempts.setdefault(line.node, {}).setdefault(line.attempt or 1, Claim())
            attempt.worker_id = line.worker or attempt.worker_id
            if what == "claimed":
                attempt.span_id, attempt.claimed_ns = span, line.at
            else:
                attempt.ended_ns = line.at

    def _worker(self, line: JournalLine) -> None:
        worker_id = line.worker or ""
        if line.cause == "started" and line.span:
            self.workers[worker_id] = (line.span, line.at, False)
        elif line.cause == "ready" and worker_id in self.workers:
            span_id, at_ns, _ = self.workers[worker_id]
            self.workers[worker_id] = (span_id, at_ns, True)
        elif line.cause in {"stopped", "died"}:
            self.workers.pop(worker_id, None)
