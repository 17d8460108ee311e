"""Gates: what must pass between two levels (requirement A, hooks).

What comes in: an argv list, a string (split by shlex, no shell) or `fn(level)`. What goes out: whether it passed, and the tail of what it printed.
Runs in a thread of its own, so that the driver keeps answering signals; `stop` ends a command that runs.
"""

from __future__ import annotations

import shlex
import subprocess
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

from otel_exec.errors import qualified_name
from otel_exec.semconv import Outcome

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from otel_exec.clock import Clock

__all__ = ["Gate", "GateResult", "GateRound", "gate_name"]

Gate = "Sequence[str] | str | Callable[[int], object]"

_TAIL = 4000


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


def gate_name(gate: Sequence[str] | str | Callable[[int], object]) -> str:
    """Return a short name for a gate: its command's first word, or the function's name."""
    if callable(gate):
        return str(getattr(gate, "__name__", type(gate).__name__))
    argv = shlex.split(gate) if isinstance(gate, str) else [str(word) for word in gate]
    return argv[0].rsplit("/", 1)[-1] if argv else "gate"


class GateRound:
    """All gates after one level, one after another, until one fails.

    Args:
        gates: in the order to be run.
        level: the level that has just settled.
        clock: the run's.
        done: called from the round's thread when all have ended; must be safe there (it wakes the runner).
    """

    def __init__(self, gates: Sequence[Sequence[str] | str | Callable[[int], object]], level: int, clock: Clock, done: Callable[[], None]) -> None:
        self.level = level
        self.results: list[GateResult] = []
        self.ended = False
        self._gates = gates
        self._clock = clock
        self._done = done
        self._process: subprocess.Popen[str] | None = None
        self._stopped = False
        self._thread = threading.Thread(target=self._run, name=f"gates after level {level}", daemon=True)
        self._thread.start()

    @property
    def passed(self) -> bool:
        """Whether every gate passed; only meaningful when `ended`."""
        return len(self.results) == len(self._gates) and all(result.outcome == Outcome.SUCCESS for result in self.results)

    def stop(self) -> None:
        """End the command that runs now, if any; no further gate is started."""
        self._stopped = True
        process = self._process
        if process is not None and process.poll() is None:
            process.terminate()

    def _run(self) -> None:
        for gate in self._gates:
            if self._stopped:
                break
            result = self._one(gate)
            self.results.append(result)
            if result.outcome != Outcome.SUCCESS:
                break
        self.ended = True
        self._done()

    def _one(self, gate: Sequence[str] | str | Callable[[int], object]) -> GateResult:
        name = gate_name(gate)
        start_ns = self._clock.now_ns()
        error_type: str | None = None
        message = output = ""
        try:
            if callable(gate):
                passed = gate(self.level) is not False
                message = "" if passed else f"gate {name} returned False"
            else:
                argv = shlex.split(gate) if isinstance(gate, str) else [str(word) for word in gate]
                self._process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace")
                output = self._process.communicate()[0][-_TAIL:]
                passed = self._process.returncode == 0
                message = "" if passed else f"gate {name} ended with exit code {self._process.returncode}"
            if not passed:
                error_type = "gate_failed"
        except BaseException as error:  # a gate is the user's code: whatever it raises is its answer
            passed = False
            error_type = qualified_name(type(error))
            message = f"gate {name}: {error}"
        outcome = Outcome.SUCCESS if passed else Outcome.CANCELLATION if self._stopped else Outcome.FAILURE
        return GateResult(name, self.level, outcome, start_ns, self._clock.now_ns(), error_type, message, output)
