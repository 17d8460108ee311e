"""The two signals that leave a run. What differs between them is said in tables by signal, beside what they share."""

from __future__ import annotations

from enum import StrEnum

__all__ = ["Signal"]


class Signal(StrEnum):
    """A signal of OpenTelemetry, by the word in its OTLP path."""

    TRACES = "traces"
    METRICS = "metrics"
