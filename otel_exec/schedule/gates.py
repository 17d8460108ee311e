"""Gates: what must pass between two levels.

What comes in: an argv list, a string (split by shlex, no shell) or `fn(level)`. What goes out: whether it passed, and the tail of what it printed.
Runs in a thread of its own, so that the driver keeps answering signals; `stop` ends a command that runs.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import tempfile
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

from otel_exec.errors import UsageError, qualified_name
from otel_exec.known_secrets import hide_known, uncut
from otel_exec.plan.commands import NotWordsError, shell_words
from otel_exec.semconv import ERROR_CANCELLED, Outcome

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from otel_exec.clock import Clock

__all__ = ["Gate", "GateResult", "GateRound", "parse_gate"]

_TAIL = 4000


@dataclass(frozen=True, slots=True)
class Gate:
    """A gate: a command (`argv`) or a function of the level; `name` is the command's first word or the function's name."""

    name: str
    argv: tuple[str, ...] = ()
    function: Callable[[int], object] | None = None


@dataclass(frozen=True, slots=True)
class GateResult:
    """What a gate came to. `output` is the tail of what it printed; instants are nanoseconds since the Unix epoch."""

    name: str
    level: int
    outcome: str
    start_ns: int
    end_ns: int
    error_type: str | None = None
    message: str = ""
    output: str = ""


def parse_gate(given: object) -> Gate:
    """Return a gate from what the user gave.

    Raises:
        UsageError: it is neither an argv list, a command as text nor a function of the level.
    """
    if callable(given):
        return Gate(str(getattr(given, "__name__", type(given).__name__)), function=given)
    try:
        argv = shell_words(given, what="gate") if isinstance(given, str) else [str(word) for word in given] if isinstance(given, (list, tuple)) else []
    except NotWordsError as error:
        raise UsageError(str(error)) from None
    if not argv:
        raise UsageError(f"gate {given!r} is neither an argv list, a command as text nor a function of the level")
    return Gate(os.path.basename(argv[0]) or argv[0], tuple(argv))


class GateRound:
    """All gates after one level, one after another, until one fails.

    Args:
        gates: in the order to be run, as `parse_gate` made them.
        level: the level that has just settled.
        clock: the run's.
        done: called from the round's thread when all have ended; must be safe there (it wakes the runner).
    """

    def __init__(self, gates: Sequence[Gate], level: int, clock: Clock, done: Callable[[], None]) -> None:
        self.level = level
        self.results: list[GateResult] = []
        self.ended = False
        self._gates = gates
        self._clock = clock
        self._done = done
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._running: tuple[Gate, int] | None = None
        self._stopped = False
        self._thread = threading.Thread(target=self._run, name=f"gates after level {level}", daemon=True)
        self._thread.start()

    @property
    def passed(self) -> bool:
        """Whether every gate passed; only meaningful when `ended`."""
        return len(self.results) == len(self._gates) and all(result.outcome == Outcome.SUCCESS for result in self.results)

    @property
    def running(self) -> tuple[str, int] | None:
        """The gate that runs now and since when, nanoseconds since the Unix epoch."""
        running = self._running
        return None if running is None or self.ended else (running[0].name, running[1])

    def stop(self, *, kill: bool = False) -> None:
        """Ask the gate that runs now to end; no further one is started. With `kill` its processes are killed, and a function is waited for no longer."""
        with self._lock:
            self._stopped = True
            process = self._process
            if process is not None and process.poll() is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL if kill else signal.SIGTERM)
            if kill and not self.ended:
                if self._running is not None:
                    gate, start_ns = self._running
                    message = f"gate {gate.name} was given up: it did not end"
                    self.results.append(GateResult(gate.name, self.level, Outcome.CANCELLATION, start_ns, self._clock.now_ns(), ERROR_CANCELLED, message))
                self.ended = True

    def _run(self) -> None:
        for gate in self._gates:
            with self._lock:
                if self._stopped:
                    break
                self._running = (gate, self._clock.now_ns())
            result = self._one(gate, self._running[1])
            with self._lock:
                if self.ended:  # given up meanwhile
                    return
                self._running = self._process = None
                self.results.append(result)
            if result.outcome != Outcome.SUCCESS:
                break
        with self._lock:
            self.ended = True
        self._done()

    def _one(self, gate: Gate, start_ns: int) -> GateResult:
        error_type: str | None = None
        message = output = ""
        try:
            if gate.function is not None:
                passed = gate.function(self.level) is not False
                message = "" if passed else f"gate {gate.name} returned False"
            else:
                output, code = self._command(gate.argv)
                passed = code == 0
                message = "" if passed else f"gate {gate.name} ended with exit code {code}"
            if not passed:
                error_type = "gate_failed"
        except BaseException as error:  # a gate is the user's code: whatever it raises is its answer
            passed = False
            error_type = qualified_name(type(error))
            message = f"gate {gate.name}: {error}"
        outcome = Outcome.SUCCESS if passed else Outcome.CANCELLATION if self._stopped else Outcome.FAILURE
        return GateResult(gate.name, self.level, outcome, start_ns, self._clock.now_ns(), error_type, hide_known(message), hide_known(output))

    def _command(self, argv: tuple[str, ...]) -> tuple[str, int]:
        """Run a command to its end; returns the tail of what it printed, and its exit code."""
        with tempfile.TemporaryFile() as printed:  # a file, not a pipe: what the command leaves behind may hold it as long as it likes
            with self._lock:
                if self._stopped:
                    return "", -signal.SIGTERM
                process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=printed, stderr=subprocess.STDOUT, start_new_session=True)
                self._process = process
            code = process.wait()
            size = printed.seek(0, os.SEEK_END)
            printed.seek(max(0, size - 2 * _TAIL))
            text = printed.read().decode(errors="replace")
            return text[uncut(text, len(text) - _TAIL, back=False) :] if len(text) > _TAIL else text, code
