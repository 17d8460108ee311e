"""How often something may be done so that it costs at most a share of the run: rewriting the record costs at most 1 % of it.

What comes in: instants and measured costs, nanoseconds. What goes out: whether it is due.
"""

from __future__ import annotations

__all__ = ["Pace"]


class Pace:
    """Allows an action at most every `interval_ns`, and never so often that its own cost passes `share` of the time.

    Units: nanoseconds.
    """

    def __init__(self, interval_ns: int, share: float) -> None:
        self.interval_ns = interval_ns
        self.share = share
        self.due_ns = self.afforded_ns = 0

    def due(self, now_ns: int) -> bool:
        """Return whether it may be done now."""
        return now_ns >= self.due_ns

    def affords(self, now_ns: int) -> bool:
        """Return whether it may be done now though its interval has not passed: as often as its share allows."""
        return now_ns >= self.afforded_ns

    def done(self, began_ns: int, ended_ns: int) -> None:
        """It was done, and took from `began_ns` to `ended_ns`."""
        self.afforded_ns = ended_ns + int((ended_ns - began_ns) / self.share)
        self.due_ns = max(ended_ns + self.interval_ns, self.afforded_ns)
