"""What an exception makes of a span: its outcome, its `error.type`, its message.

What comes in: any `BaseException`. What goes out: three words. Never raises, whatever the exception's own `__str__` does.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from otel_exec.errors import qualified_name
from otel_exec.semconv import ERROR_CANCELLED, Outcome
from otel_exec.spans import sanitise

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

__all__ = ["error_type", "error_type_told", "is_cancellation", "outcome_of"]

_MAX_MESSAGE = 1024


def error_type(error: BaseException) -> str:
    """Return the exception's qualified name: `ValueError`, `requests.exceptions.ConnectionError`."""
    return sanitise.name(qualified_name(type(error)))


def error_type_told(events: Iterable[tuple[int, str, Mapping[str, object]]]) -> str:
    """Return the `error.type` of a span of which its status alone says that it failed: the last exception that was recorded, else the specification's word."""
    told = [values["exception.type"] for _, _, values in events if "exception.type" in values]
    return str(told[-1]) if told else "_OTHER"


def outcome_of(error: BaseException) -> tuple[Outcome, str, str]:
    """Return outcome, `error.type` and message of what ended with `error`.

    A cancelled task and Ctrl-C are `cancellation`; a `GeneratorExit` is a generator that was closed in order: `success`, with no error.
    """
    if isinstance(error, GeneratorExit):
        return Outcome.SUCCESS, "", ""
    message = sanitise.said(error, _MAX_MESSAGE)
    if is_cancellation(error):
        return Outcome.CANCELLATION, ERROR_CANCELLED, message or type(error).__name__
    return Outcome.FAILURE, error_type(error), message or type(error).__name__


def is_cancellation(error: BaseException, *, interrupted: bool = False) -> bool:
    """Whether an exception is a cancellation, of a phase as of a task: Ctrl-C, a task of asyncio or a future that was cancelled.

    Args:
        error: what the user's code raised.
        interrupted: whether the code had been asked to end: then whatever it raises is its way to obey.
    """
    if interrupted or isinstance(error, KeyboardInterrupt):
        return True
    # Importing asyncio costs 20 ms; who raised its CancelledError has imported it.
    modules = (sys.modules.get("asyncio"), sys.modules.get("concurrent.futures"))
    return any(isinstance(error, module.CancelledError) for module in modules if module is not None and hasattr(module, "CancelledError"))
