"""How a run is told to its caller: what it came to, whose exception that was, what is printed.

What comes in: a record and the errors of its failed steps. What goes out: an exception with its cause, or text and an exit code.
"""

from __future__ import annotations

import pickle
import signal
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

from otel_exec.printable import printable
from otel_exec.semconv import Outcome, error_text

if TYPE_CHECKING:
    from otel_exec.execute.envelope import ErrorInfo
    from otel_exec.plan.graph import Step
    from otel_exec.record.model import RunRecord

__all__ = ["Result", "complain", "first_cause", "headline", "print_failures"]


@dataclass(frozen=True, slots=True)
class Result:
    """What a run came to: its record, the failed steps' errors with what they had printed last, in the order in which they settled, and the signal that ended it, if one did."""

    record: RunRecord
    failures: tuple[tuple[Step, ErrorInfo, str], ...]
    signal: int | None


def _say(text: str) -> None:
    """Print what the user's code said, on stderr: line by line, without what a terminal obeys."""
    print("\n".join(printable(line) for line in text.rstrip("\n").split("\n")), file=sys.stderr)


def complain(text: str) -> None:
    """Say on stderr, in one line, what is wrong with what was asked for."""
    print(f"otel-exec: {printable(text)}", file=sys.stderr)


def headline(result: Result) -> str:
    """Return in one line why the run did not succeed."""
    record = result.record
    count = sum(1 for step in record.steps if step.outcome in {Outcome.FAILURE, Outcome.TIMEOUT, Outcome.ERROR} and not step.group)
    if record.outcome == Outcome.TIMEOUT:
        return "the run's timeout passed"
    gate = next((gate for gate in record.gates if gate.outcome != Outcome.SUCCESS), None)
    if gate is not None and not count:
        return f"gate {gate.name} after level {gate.level} failed"
    if record.outcome == Outcome.CANCELLATION and result.failures:
        return f"{result.failures[0][0].name} cancelled itself, and what depends on it was not run"
    return f"{count} step(s) failed"


def first_cause(result: Result) -> BaseException | None:
    """Return the first failure's own exception, as itself, with a note on where it came from."""
    if not result.failures:
        return None
    step, error, _ = result.failures[0]
    cause: BaseException | None = None
    if error.pickled is not None:
        try:
            cause = pickle.loads(error.pickled)  # noqa: S301  our own worker made it, in this run
        except Exception:
            cause = None
    if cause is None:
        cause = RuntimeError(f"{error.type}: {error.message}")
    record = next(each for each in result.record.steps if each.node_id == step.node_id)
    attempt = record.attempts[-1] if record.attempts else None
    where = f"attempt {attempt.attempt} on worker {attempt.worker_id}" if attempt is not None else "before any attempt"
    cause.add_note(f"in step {step.name!r}, {where}, trace {result.record.trace_id}")
    if error.traceback:
        cause.add_note(error.traceback)
    return cause


def print_failures(result: Result) -> int:
    """Print each failure's sentence and the user's own traceback; returns the exit code."""
    record = result.record
    if record.outcome == Outcome.SUCCESS:
        return 0
    for step, error, last_words in result.failures:
        _say(f"\n{step.name} ({step.where}) failed: {error_text(error.type, error.message)}")
        if error.traceback:
            _say(error.traceback)
        if last_words.strip():
            _say(f"what it printed last (the whole is in {step.output_path}/.executor_log):\n{last_words}")
    if result.signal is not None:
        print(f"\ncancelled by {signal.Signals(result.signal).name}", file=sys.stderr)
        return 128 + result.signal
    for gate in record.gates:
        if gate.outcome != Outcome.SUCCESS and gate.output:
            _say(f"\ngate {gate.name} printed:\n{gate.output}")
    print(f"\n{headline(result)}", file=sys.stderr)
    return 1
