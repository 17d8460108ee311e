"""Every exception that otel_exec raises on purpose.

What comes in: the facts of a mistake, as fields. What goes out: one sentence that says what happened, where, and what to do.
Each class survives pickling, since errors cross process boundaries; tests check fields, not prose.
"""

from __future__ import annotations

import difflib
import errno
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = [
    "NO_ROOM",
    "ConfigError",
    "FanOutError",
    "ImpossibleTransition",
    "Mistake",
    "OtelExecError",
    "PlanError",
    "RecordError",
    "StepsFailed",
    "UsageError",
    "qualified_name",
    "unknown_name",
]

# What a system call says where a disk or a quota is full.
NO_ROOM: Final = frozenset({errno.ENOSPC, errno.EDQUOT})
# A name in a sentence is no longer than that.
_LONGEST = 99


class OtelExecError(Exception):
    """Root of all errors that this package raises. `exit_code` is what the command line ends with."""

    exit_code = 1


class UsageError(OtelExecError):
    """The caller asked for something that cannot be: a wrong flag, a regex that does not compile, a missing extra."""

    exit_code = 2


class ConfigError(UsageError):
    """A setting cannot be read.

    Args:
        setting: the flag's or variable's name, e.g. `OTEL_EXEC_WORKERS`.
        value: what it was given.
        accepted: what it takes, in words.
    """

    def __init__(self, setting: str, value: object, accepted: str) -> None:
        super().__init__(setting, value, accepted)
        self.setting = setting
        self.value = value
        self.accepted = accepted

    def __str__(self) -> str:
        return f"{self.setting}={self.value!s} can't be read: it takes {self.accepted}"


class Mistake(OtelExecError):
    """One mistake in an experiment's plan.

    Args:
        message: one sentence: what is wrong, in the user's own names.
        step: the step's name, or `None` where there is none.
        where: `file:line` of the user's code, or `None`.
        hint: what to do about it.
    """

    exit_code = 3

    def __init__(self, message: str, *, step: str | None = None, where: str | None = None, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.step = step
        self.where = where
        self.hint = hint

    def __reduce__(self) -> tuple[object, ...]:
        return (_make_mistake, (self.message, self.step, self.where, self.hint))

    def __str__(self) -> str:
        head = f"step {self.step!r}: " if self.step else ""
        tail = f" ({self.where})" if self.where else ""
        way_out = f"; {self.hint}" if self.hint else ""
        return f"{head}{self.message}{way_out}{tail}"


def _make_mistake(message: str, step: str | None, where: str | None, hint: str | None) -> Mistake:
    return Mistake(message, step=step, where=where, hint=hint)


class PlanError(OtelExecError, ValueError):
    """The plan could not be built; `mistakes` holds every mistake that was found, in the order found."""

    exit_code = 3

    def __init__(self, mistakes: Sequence[Mistake]) -> None:
        super().__init__(tuple(mistakes))
        self.mistakes = tuple(mistakes)

    def __str__(self) -> str:
        return "\n".join(str(mistake) for mistake in self.mistakes)


class RecordError(OtelExecError):
    """A record could not be read or written; `path` names the file, `reason` says why."""

    exit_code = 4

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(path, reason)
        self.path = path
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


class StepsFailed(OtelExecError, RuntimeError):
    """Steps of a run failed; `record` is the run's whole record, `__cause__` the first failure's own exception.

    After pickling `record` travels along; the cause does where it can be pickled itself.
    """

    exit_code = 1

    def __init__(self, message: str, record: object) -> None:
        super().__init__(message, record)
        self.message = message
        self.record = record

    def __str__(self) -> str:
        return self.message


class FanOutError(OtelExecError):
    """An item of a fan-out ended in a way that left no exception of its own: its worker died, its time ran out."""

    def __init__(self, index: int, error_type: str, message: str) -> None:
        super().__init__(index, error_type, message)
        self.index = index
        self.error_type = error_type
        self.message = message

    def __str__(self) -> str:
        return f"item {self.index}: {self.message}"


class ImpossibleTransition(OtelExecError):
    """The scheduler was told something that can't have happened: a mistake of ours, never of the experiment.

    Args:
        step: the step's name, or `None` where the whole run is meant.
        state: the state that it was in.
        what: what was said to have happened.
        story: the step's earlier transitions, oldest first: (at_ns, what happened, from, to).
    """

    def __init__(self, step: str | None, state: str, what: str, story: Sequence[tuple[int, str, str, str]] = ()) -> None:
        super().__init__(step, state, what, tuple(story))
        self.step = step
        self.state = state
        self.what = what
        self.story = tuple(story)

    def __str__(self) -> str:
        who = f"step {self.step!r}" if self.step is not None else "the run"
        told = "".join(f"\n  {at_ns} {what}: {before} -> {after}" for at_ns, what, before, after in self.story)
        return f"{who} is {self.state}: {self.what} is impossible; please report this as a bug of otel_exec{told}"


def qualified_name(kind: type[BaseException]) -> str:
    """Return an exception type's name as `error.type` has it: module and qualified name, without the module where it is `builtins`.

    Source: OpenTelemetry semantic conventions, exceptions (`ZeroDivisionError`, `requests.exceptions.ConnectionError`).
    """
    module = kind.__module__
    return kind.__qualname__ if module == "builtins" else f"{module}.{kind.__qualname__}"


def unknown_name(kind: str, name: str, known: Iterable[str]) -> str:
    """Return the sentence for a name that is not known: it lists the known ones, long ones shortened, and the closest."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1)
    guess = f"; did you mean {_short(close[0])!r}?" if close else ""
    return f"unknown {kind} {_short(name)!r}{guess} (known: {', '.join(map(_short, names)) or 'none'})"


def _short(name: str) -> str:
    """Return a name of at most `_LONGEST` characters: both ends of a longer one."""
    half = (_LONGEST - 3) // 2
    return name if len(name) <= _LONGEST else f"{name[:half]}...{name[-half:]}"
