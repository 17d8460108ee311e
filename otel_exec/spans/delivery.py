"""Delivers a run's spans and metrics to their endpoints: what the live export, the export that catches up and `replay` all are.

What comes in: a run's folder and endpoints. What goes out: requests, and acknowledgements in the cursor. Only what no endpoint's cursor has is sent,
in each file's order, one request at a time an endpoint. Imports no OpenTelemetry itself.

A line leaves the queue in three ways: the receiver has acknowledged it; it is no span, no metric (skipped); or it is refused by itself, by a receiver that does
accept others or because it is not OTLP (rejected). Whatever else happens, it stays in the spool.
"""

from __future__ import annotations

import random
import threading
import time
from collections import Counter, deque
from functools import partial
from typing import TYPE_CHECKING

from otel_exec.spans.cursor import Move
from otel_exec.spans.signal import Signal
from otel_exec.spans.spool_follower import SpoolFollower
from otel_exec.spans.transport import Answer, open_transport

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from otel_exec.config import Endpoint
    from otel_exec.spans.cursor import Cursor
    from otel_exec.spans.spool_follower import Batch, Line
    from otel_exec.spans.transport import Transport

__all__ = ["LONGEST_DRAIN_S", "Delivery", "Export"]

LONGEST_DRAIN_S = 30.0
_FIRST_LOOK_S = 0.05
_LOOK_S = 0.5
_FIRST_PAUSE_S = 0.2
_LONGEST_PAUSE_S = 5.0
# So many lines refused one after the other by a receiver that never accepted any: it is the receiver, not the lines.
_STRIKES = 8


class Delivery:
    """Delivers one signal to one endpoint, in a thread of its own.

    Args:
        run_folder: the run's folder.
        endpoint: where to.
        cursor: the run's cursor, shared by the run's deliveries.
        progress: called after each acknowledgement, from the delivery's thread.
        transport: for tests; else the endpoint's own.
        signal: what is delivered.
    """

    def __init__(
        self,
        run_folder: str,
        endpoint: Endpoint,
        cursor: Cursor,
        progress: Callable[[], None],
        transport: Transport | None = None,
        signal: Signal = Signal.TRACES,
    ) -> None:
        self._name = endpoint.shown
        self._endpoint = endpoint
        self.signal = signal
        self._cursor = cursor
        self._note = partial(cursor.note, self._name, signal=signal)
        self._advance = partial(cursor.advance, self._name, signal=signal)
        self._progress = progress
        self._transport = transport
        self._follower = SpoolFollower(run_folder, lambda file: cursor.position(self._name, file, signal), signal)
        self._ending = threading.Event()
        self._abandoned = threading.Event()
        self._set_aside: list[Line] = []
        self._why_set_aside = ""
        self._strikes = 0
        self._seen_stuck = 0

    def end(self) -> None:
        """Send what is there, then stop."""
        self._ending.set()

    def abandon(self) -> None:
        """Stop as soon as the network lets go; nothing more is acknowledged."""
        self._abandoned.set()
        self._ending.set()

    def run(self) -> None:
        """Deliver until `end` and nothing is left, or the endpoint refuses for good. Never raises."""
        try:
            self._run()
        except Exception as error:  # never the run's problem; the lines stay in the spool
            self._note(f"{self._name}: {type(error).__name__}: {error}")

    def _run(self) -> None:
        self._cursor.progress(self._name, self.signal).protocol = self._endpoint.protocol
        transport = self._transport or open_transport(self._endpoint)
        acknowledged = False
        while not self._abandoned.is_set():
            ending = self._ending.is_set()
            batch = self._follower.batch()
            # Lines that were refused alone, by a receiver that never took any, wait for company.
            if batch.lines and len(batch.lines) > self._seen_stuck:
                if not self._deliver(transport, batch):
                    break
                acknowledged = True
            elif batch.tails and not batch.lines:
                self._advance(batch.tails)
            elif ending:
                break
            if not batch.full:
                self._ending.wait(_LOOK_S if acknowledged else _FIRST_LOOK_S)
        transport.close()

    def _deliver(self, transport: Transport, batch: Batch) -> bool:
        """Send a batch, halved where something in it can't be taken; returns whether the endpoint is worth going on with."""
        parts: deque[Sequence[Line]] = deque([batch.lines])
        self._set_aside = []
        while parts:
            part = parts.popleft()
            answer = self._attempt(transport, part)
            if answer is None:
                return False
            if answer.verdict == "accepted":
                self._settle(part, answer)
            elif answer.verdict == "refused":
                self._note(answer.reason, absent=answer.absent)
                return False
            elif len(part) > 1:
                middle = len(part) // 2
                parts.extendleft((part[middle:], part[:middle]))
            elif not self._give_up_on(part[0], answer):
                return False
        if self._set_aside:
            self._seen_stuck = len(batch.lines)
        else:
            self._seen_stuck = 0
            if batch.tails:
                self._advance(batch.tails)
        return True

    def _attempt(self, transport: Transport, part: Sequence[Line]) -> Answer | None:
        """Send until the receiver has decided; `None` when we are told to stop before."""
        failures = 0
        while not self._abandoned.is_set():
            try:
                answer = transport.send([line.content for line in part])
            except ValueError as error:
                return Answer("content", f"{part[0].file}: {error}")
            if answer.verdict != "again":
                return answer
            self._note(answer.reason)
            failures += 1
            if not self._pause(failures, answer.retry_after_s):
                failures = 0
        return None

    def _pause(self, failures: int, retry_after_s: float | None) -> bool:
        """Wait before the next attempt: as long as the receiver asks, else twice as long each time, with jitter; returns whether the wait was whole.

        The end of the run cuts a wait of our own short, never one that the receiver asked for.
        """
        if retry_after_s is not None:
            self._abandoned.wait(retry_after_s)
            return True
        seconds = min(_FIRST_PAUSE_S * 2 ** min(failures - 1, 16), _LONGEST_PAUSE_S) * random.uniform(0.5, 1.0)  # noqa: S311  # jitter
        if self._ending.is_set():
            return not self._abandoned.wait(seconds)
        return not self._ending.wait(seconds)

    def _settle(self, part: Sequence[Line], answer: Answer) -> None:
        """Note a request as acknowledged, and with it the lines before it that were refused by themselves.

        What the receiver says to have rejected is at most what it was sent.
        """
        moves = [Move(line.file, line.end, line.count, 0, line.skipped) for line in part]
        rejected = min(answer.rejected, sum(line.count for line in part))
        if rejected:
            last = part[-1]
            moves.append(Move(last.file, last.end, -rejected, rejected))
        moves.extend(_rejected(self._set_aside))
        self._advance(moves, rejection=answer.reason or (self._why_set_aside if self._set_aside else None))
        self._set_aside = []
        self._strikes = 0
        self._progress()

    def _give_up_on(self, line: Line, answer: Answer) -> bool:
        """Set a line aside that is refused by itself; returns whether the endpoint is worth going on with."""
        if self._cursor.progress(self._name, self.signal).acknowledged or not _fits(line):
            self._advance(_rejected([line]), rejection=answer.reason)
            self._progress()
            return True
        self._set_aside.append(line)
        self._why_set_aside = answer.reason
        self._strikes += 1
        self._note(answer.reason)
        return self._strikes < _STRIKES


def _fits(line: Line) -> bool:
    """Whether the official messages can hold a line; where they can't it is the line's fault, whoever refused it."""
    from otel_exec.spans.otlp_proto import to_request

    try:
        to_request([line.content])
    except ValueError:
        return False
    return True


def _rejected(lines: Sequence[Line]) -> list[Move]:
    return [Move(line.file, line.end, 0, line.count, line.skipped) for line in lines]


def _ignore() -> None:
    """Metrics that were acknowledged give spans no more time."""


class Export:
    """Delivers a run's spans, and its metrics, to all their endpoints at once, so that a slow one holds up no other.

    Args:
        run_folder: the run's folder.
        endpoints: where spans go.
        cursor: the run's cursor.
        progress: called after each acknowledgement of spans.
        metrics: where metrics go.
    """

    def __init__(
        self, run_folder: str, endpoints: Sequence[Endpoint], cursor: Cursor, progress: Callable[[], None] = lambda: None, metrics: Sequence[Endpoint] = ()
    ) -> None:
        self._changed = threading.Condition()
        self._acknowledgements = 0
        self._running = Counter({Signal.TRACES: len(endpoints), Signal.METRICS: len(metrics)})
        self._cursor = cursor
        self._tell = progress
        self._deliveries = [Delivery(run_folder, endpoint, cursor, self._acknowledged) for endpoint in endpoints]
        self._deliveries += [Delivery(run_folder, endpoint, cursor, _ignore, signal=Signal.METRICS) for endpoint in metrics]

    def start(self) -> None:
        """Begin to deliver."""
        for delivery in self._deliveries:
            threading.Thread(target=self._deliver, args=(delivery,), daemon=True).start()

    def end(self) -> None:
        """Send what is there, then stop; does not wait."""
        for delivery in self._deliveries:
            delivery.end()

    def wait(self, patience_s: float, longest_s: float) -> bool:
        """Wait for the end as long as acknowledgements of spans keep coming; returns whether it came. What did not get out is abandoned.

        Metrics have the same time and never prolong it: a metrics endpoint that is slow or dead changes nothing for spans.

        Args:
            patience_s: seconds without an acknowledgement.
            longest_s: seconds in all.
        """
        now = time.monotonic()
        last, quiet = now + longest_s, now + patience_s
        with self._changed:
            seen = self._spans_seen()
            while self._running.total() and (left := min(quiet, last) - time.monotonic()) > 0:
                self._changed.wait(left)
                if seen != self._spans_seen():
                    seen, quiet = self._spans_seen(), time.monotonic() + patience_s
            finished = not self._running.total()
        for delivery in self._deliveries:
            delivery.abandon()
        self._cursor.close()
        return finished

    def _deliver(self, delivery: Delivery) -> None:
        delivery.run()
        with self._changed:
            self._running[delivery.signal] -= 1
            self._changed.notify_all()

    def _spans_seen(self) -> tuple[int, int]:
        return self._acknowledgements, self._running[Signal.TRACES]

    def _acknowledged(self) -> None:
        with self._changed:
            self._acknowledgements += 1
            self._changed.notify_all()
        self._tell()
