"""Phases outside of any run that name an execution of their own: collected and logged, never written to disk.

What comes in: an execution id, a node id, a name. What goes out: the duration, to whoever collects (`send_to`), and a line of the timing log where that is on.
Never raises. Imports no OpenTelemetry.
"""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING

from otel_exec.clock import System
from otel_exec.config_values import flag
from otel_exec.errors import ConfigError
from otel_exec.guarded_log import warn

if TYPE_CHECKING:
    from collections.abc import Callable

    from otel_exec.spans.timing_log import LogLines

__all__ = ["LOGGER", "TIMING", "OutsidePhase", "PhaseHandle", "send_to"]

TIMING = 15
LOGGER = "otel_exec.timing"
_timing = logging.getLogger(LOGGER)
_log = logging.getLogger("otel_exec.spans")

_collect: Callable[[str, str, str, int], object] | None = None
_asked = False
_lines: LogLines | None = None
_complained = False


def send_to(collect: Callable[[str, str, str, int], object]) -> None:
    """Have `collect(exec_id, node_id, phase, duration_ns)` called for each phase that ends outside of a run; from any thread."""
    global _collect
    _collect = collect


class PhaseHandle:
    """What `with phase(...) as p` gives; this one, outside of a run, does nothing."""

    def set(self, /, **attributes: object) -> None:
        """Add attributes to the phase's span."""

    def event(self, name: str, /, **attributes: object) -> None:
        """Add an event to the phase's span, at this instant."""


class OutsidePhase(PhaseHandle):
    """A phase of an execution that is no run of ours, from here to `close`."""

    def __init__(self, exec_id: str, node_id: str, name: str) -> None:
        self._row = exec_id, node_id, name
        self._start_ns = System.tick()

    def close(self, error: BaseException | None) -> None:
        """End it with the exception that ended it, or `None`. Never raises. Once."""
        duration_ns = System.tick() - self._start_ns
        try:
            if _collect is not None:
                _collect(*self._row, duration_ns)
            if not _asked:
                _set_up()
            if _lines is not None or (_timing.level and _timing.isEnabledFor(TIMING)):
                from otel_exec.spans.timing_log import say

                say(*self._row, duration_ns, failed=error is not None and not isinstance(error, GeneratorExit), lines=_lines)
        except Exception as problem:
            _complain(problem)


def _set_up() -> None:
    """Log to stderr where `OTEL_EXEC_TIMING` says so: asked once, when the first phase has ended."""
    global _asked, _lines
    _asked = True
    word = os.environ.get("OTEL_EXEC_TIMING", "").strip()
    try:
        wanted = bool(word) and flag("OTEL_EXEC_TIMING", word)
    except ConfigError as error:
        warn(_log, "%s", error)
        return
    if wanted:
        from otel_exec.spans.timing_log import log_outside

        _lines = log_outside()


def _complain(problem: Exception) -> None:
    """Say once that telemetry fails."""
    global _complained
    if not _complained:
        _complained = True
        warn(_log, "a phase outside of a run could not be collected, the program goes on: %s", problem)
