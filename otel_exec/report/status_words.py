"""How a status puts its durations and its longer sentences: words that its parts share.

What comes in: milliseconds and, where there are any, nanoseconds; sentences and a `Look`. What goes out: text, and lines of the width. Pure.
"""

from __future__ import annotations

from otel_exec.record.status_model import StatusRecord
from otel_exec.report.durations import duration_text
from otel_exec.report.look import Look
from otel_exec.report.steps import plural
from otel_exec.report.text_safety import shorten, wrap

__all__ = ["and_more", "average_text", "exact_text", "first_known", "ms_as_ns", "ms_text", "run_ms", "wrapped"]

_MS = 1_000_000


def run_ms(status: StatusRecord) -> int | None:
    """Return how long the run has taken, `None` where that is not known."""
    total_ms = (status.metrics or {}).get("total_duration_ms")
    return total_ms if isinstance(total_ms, int) and total_ms >= 0 else None


def ms_text(duration_ms: int | None) -> str:
    """Return how milliseconds read."""
    return duration_text(ms_as_ns(duration_ms))


def ms_as_ns(duration_ms: int | None) -> int | None:
    """Return milliseconds as nanoseconds."""
    return None if duration_ms is None else duration_ms * _MS


def first_known(exact_ns: int | None, duration_ns: int | None) -> int | None:
    """Return the exact duration, else what was made of its milliseconds."""
    return duration_ns if exact_ns is None else exact_ns


def exact_text(duration_ns: int | None, duration_ms: int | None) -> str:
    """Return a duration as every other report has it, from its nanoseconds; of a status without, from its milliseconds."""
    return duration_text(duration_ns) if duration_ns is not None and duration_ns >= 0 else ms_text(duration_ms)


def average_text(average_ms: float) -> str:
    """Return how an average of milliseconds reads."""
    return duration_text(round(average_ms * _MS))


def wrapped(text: str, look: Look, *, indent: str = "", most: int | None = None) -> list[str]:
    """Return the text in lines of the width, words that are wider cut; of `most` lines at most, the rest left out."""
    lines = [shorten(line, look.width - len(indent), look.signs.ellipsis) for line in wrap(text, look.width - len(indent))]
    if most is not None and len(lines) > most:
        lines = [*lines[: most - 1], shorten(" ".join(lines[most - 1 :]), look.width - len(indent), look.signs.ellipsis)]
    return [indent + line for line in lines]


def and_more(count: int, what: str, look: Look, tail: str = "", *, width: int | None = None) -> str:
    """Return the line that says how many were left out."""
    said = f"{count:,} {what}" if what in {"more", "more open"} else plural(count, what)
    return look.styled(shorten(f"  {look.signs.ellipsis} and {said}{tail}", width or look.width, look.signs.ellipsis), "dim")
