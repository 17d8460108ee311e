"""How durations, shares and sizes read: `-`, `35us`, `512ms`, `1.2s`, `45s`, `4m30s`, `4m`, `2h15m`, `2h`.

What comes in: integer nanoseconds (or a ratio, or bytes), `None` where unknown. What goes out: a short text in ASCII.
Rounds half up, and into the next unit where that is reached, so that no text ever reads `60s` and a longer duration never reads shorter.
"""

from __future__ import annotations

__all__ = ["UNKNOWN", "bytes_text", "count_text", "duration_text", "exact_text", "share_text", "shares_of_whole"]

UNKNOWN = "-"

_US = 1_000
_MS = 1_000_000
_S = 1_000_000_000


def duration_text(duration_ns: int | None) -> str:
    """Return how a duration reads; `-` when it is unknown or (which can't be) negative."""
    if duration_ns is None or duration_ns < 0:
        return UNKNOWN
    if duration_ns == 0:
        return "0ms"
    if duration_ns < _US:
        return f"{duration_ns}ns"
    if (us := _rounded(duration_ns, _US)) < 1000:
        return f"{us}us"
    if (tenths := _rounded(duration_ns, _MS // 10)) < 100:
        return f"{tenths // 10}.{tenths % 10}ms"
    if (ms := _rounded(duration_ns, _MS)) < 1000:
        return f"{ms}ms"
    if (tenths := _rounded(duration_ns, _S // 10)) < 100:
        return f"{tenths // 10}.{tenths % 10}s"
    if (seconds := _rounded(duration_ns, _S)) < 60:
        return f"{seconds}s"
    if seconds < 3600:
        minutes, seconds = divmod(seconds, 60)
        return f"{minutes}m{seconds}s" if seconds else f"{minutes}m"
    hours, minutes = divmod(_rounded(duration_ns, 60 * _S), 60)
    return f"{hours}h{minutes}m" if minutes else f"{hours}h"


def exact_text(duration_ns: int | None) -> str:
    """Return a duration in four digits or more, `11.24s`, `263.1ms`, where a percentage beside it should be found again by hand; otherwise as `duration_text`."""
    if duration_ns is None or duration_ns < _MS:
        return duration_text(duration_ns)
    for unit, name, next_unit in ((_MS, "ms", _S), (_S, "s", 60 * _S)):
        for decimals in (3, 2, 1):
            digits = _rounded(duration_ns * 10**decimals, unit)
            if digits < 10_000 and digits * unit < next_unit * 10**decimals:
                return f"{digits // 10**decimals}.{digits % 10**decimals:0{decimals}}{name}"
    seconds = _rounded(duration_ns, _S)
    hours, minutes, seconds = seconds // 3600, seconds // 60 % 60, seconds % 60
    return f"{hours}h{minutes}m{seconds}s" if hours else f"{minutes}m{seconds}s"


def share_text(share: float | None) -> str:
    """Return a ratio of one as a percentage: `92.6%`, `0.4%`, `<0.1%`, `0%`."""
    if share is None:
        return UNKNOWN
    if share <= 0:
        return "0%"
    if share < 0.0005:
        return "<0.1%"
    return f"{share * 100:.1f}%"


def shares_of_whole(parts: list[int]) -> list[int]:
    """Return each part's share of their sum in tenths of a percent, rounded so that they add up to exactly 1000 (largest remainder).

    An empty or all-zero list gives zeros.
    """
    whole = sum(parts)
    if whole <= 0:
        return [0] * len(parts)
    tenths = [part * 1000 // whole for part in parts]
    remainders = sorted(range(len(parts)), key=lambda i: (-(parts[i] * 1000 % whole), i))
    for i in remainders[: 1000 - sum(tenths)]:
        tenths[i] += 1
    return tenths


def bytes_text(size_bytes: int | None) -> str:
    """Return how a size reads in powers of 1024: `512B`, `1.5K`, `412M`, `1.2G`."""
    if size_bytes is None or size_bytes < 0:
        return UNKNOWN
    if size_bytes < 1024:
        return f"{size_bytes}B"
    unit = 1024
    for letter in "KMGT":
        if (tenths := _rounded(size_bytes * 10, unit)) < 100:
            return f"{tenths // 10}.{tenths % 10}{letter}"
        if (whole := _rounded(size_bytes, unit)) < 1000:
            return f"{whole}{letter}"
        unit *= 1024
    return f"{_rounded(size_bytes, unit)}P"


def count_text(count: int | None) -> str:
    """Return a count with its thousands apart: `10,000`."""
    return UNKNOWN if count is None else f"{count:,}"


def _rounded(value: int, unit: int) -> int:
    return (value + unit // 2) // unit
