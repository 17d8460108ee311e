"""How far another host's clock is from the driver's, from round trips.

What comes in: instants of one question and its answer. What goes out: an offset and its uncertainty. Pure.

Source: RFC 5905 (NTPv4), section 8: offset and round-trip delay of the on-wire protocol, here with one instant at the server; of several the one with the least delay.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Offset", "RoundTrip", "estimate"]


class RoundTrip(NamedTuple):
    """A question sent at `sent_ns` and answered at `received_ns` by the asker's clock, at `answered_ns` by the other one."""

    sent_ns: int
    answered_ns: int
    received_ns: int


class Offset(NamedTuple):
    """What to add to the asker's clock to read the other's; it is right to within `error_ns` either way."""

    offset_ns: int
    error_ns: int


def estimate(trips: Sequence[RoundTrip]) -> Offset:
    """Return the offset by the round trip that took the least time; at least one is needed."""
    best = min(trips, key=lambda trip: trip.received_ns - trip.sent_ns)
    half_ns = (best.received_ns - best.sent_ns + 1) // 2
    return Offset(best.answered_ns - (best.sent_ns + best.received_ns) // 2, max(0, half_ns))
