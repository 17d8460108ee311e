"""What follows a run's spool while it grows: the exporter's process, an application's own provider, the timing log.

What comes in: settings and a run's folder. What goes out: spans, elsewhere. Each is imported when it is asked for; none of them can change what the run comes to.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from otel_exec.spans.signal import Signal

if TYPE_CHECKING:
    from otel_exec.config import Config
    from otel_exec.record.model import RunRecord
    from otel_exec.spans.exporter import ExporterHandle, ExportSummary
    from otel_exec.spans.forward import SpoolForwarder
    from otel_exec.spans.timing_log import TimingLog

__all__ = ["Followers"]


class Followers:
    """The followers of one run, started here.

    Args:
        config: the run's settings.
        folder: the run's.
        sampled: whether the run's spans are to go out.
        tracer_provider: an OpenTelemetry SDK provider that they go through instead of our own exporter, or `None`.
        alias: what the program itself calls the run, or `None`.
    """

    def __init__(self, config: Config, folder: str, *, sampled: bool, tracer_provider: object = None, alias: str | None = None) -> None:
        spool_folder = os.path.join(folder, "spans")
        self._config = config
        self._folder = folder
        self._sampled = sampled
        self._exporter: ExporterHandle | None = None
        self._timing: TimingLog | None = None
        self._forward = _forwarder(spool_folder, tracer_provider)
        self._timing = _timing_log(spool_folder, os.path.join(folder, "run.log"), alias) if config.timing or config.debug else None
        self._exporter = _exporter(config, folder, spans=sampled and tracer_provider is None)  # last: none of it needs threads of this process

    def abandon(self) -> None:
        """End them, of a run that was not begun."""
        if self._forward is not None:
            self._forward.finish()
        if self._timing is not None:
            self._timing.finish()
        if self._exporter is not None:
            self._exporter.kill()

    def finish_readers(self, record: RunRecord) -> None:
        """Give the provider and the log what is left, and tell the log how much has no span. The spool is closed."""
        if self._forward is not None:
            self._forward.finish()
        if self._timing is not None:
            self._timing.finish(sum(warning.count for warning in record.warnings if warning.code == "phases_without_span"))

    def finish_export(self) -> ExportSummary | None:
        """Give the exporter its time; returns what came of it, `None` where there was none."""
        return None if self._exporter is None else self._exporter.finish()

    def print_to_console(self) -> None:
        """Print the run's spans and metrics where `console` was asked for."""
        if self._config.console and self._sampled:
            _print_lines(self._folder, Signal.TRACES)
        if self._config.console_metrics:
            _print_lines(self._folder, Signal.METRICS)


def _exporter(config: Config, folder: str, *, spans: bool) -> ExporterHandle | None:
    """Start the exporter where anything is to go out; `spans`: whether they are."""
    traces = config.traces if spans else ()
    if config.sdk_disabled or not (traces or config.metrics):
        return None
    from otel_exec.spans.exporter import ExporterHandle

    return ExporterHandle.start(folder, traces, exit_timeout_s=config.exit_timeout_s, metrics=config.metrics)


def _print_lines(folder: str, signal: Signal) -> None:
    from otel_exec.spans.exporter import print_lines

    print_lines(folder, sys.stdout, signal)


def _timing_log(spool_folder: str, path: str, alias: str | None) -> TimingLog:
    from otel_exec.spans.timing_log import TimingLog

    return TimingLog(spool_folder, path, alias=alias)


def _forwarder(spool_folder: str, tracer_provider: object) -> SpoolForwarder | None:
    if tracer_provider is None:
        return None
    from otel_exec.spans.forward import SpoolForwarder

    return SpoolForwarder(spool_folder, tracer_provider)
