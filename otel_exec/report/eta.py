"""How long a run will still take, once there is a basis for it.

What comes in: what is left, and mean durations by template, of this run or of earlier ones. What goes out: nanoseconds and what they were reckoned from, or `None`. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec

__all__ = ["BASES", "Eta", "basis_text", "eta"]

# What an ETA was reckoned from, and how a report says it.
BASES = {"this run": "from this run's steps", "earlier runs": "from earlier runs", "both": "from this run and earlier ones"}


class Eta(msgspec.Struct, frozen=True):
    """The time that a run will still take; `basis` is a key of `BASES`."""

    left_ns: int
    basis: str


def basis_text(basis: str | None) -> str:
    """Return a basis in words, "" where there is none."""
    return BASES.get(basis or "", "")


def eta(
    pending: Mapping[str, int],
    running: Iterable[tuple[str, int]],
    means_ns: Mapping[str, float],
    *,
    at_once: int,
    earlier_ns: Mapping[str, float] | None = None,
) -> Eta | None:
    """Return the time that the rest of a run is expected to take.

    The work left, each step at the mean of its template, is shared by the workers; it is never less than the longest single step left.
    A template without a mean in this run takes the one of earlier runs; one without either takes the mean over all steps left that have one.
    The order that dependencies force is not looked at, so a run that ends in a chain takes longer than this says.

    Args:
        pending: how many steps of each template have not begun.
        running: the template of each step that runs, and since how many nanoseconds.
        means_ns: mean execution by template in this run.
        at_once: how many steps run at the same time.
        earlier_ns: the same as `means_ns` from earlier runs.

    Returns:
        `None` while less than half of the steps left have a basis.
    """
    earlier = earlier_ns or {}
    known = {**earlier, **means_ns}
    going = list(running)
    left = sum(pending.values()) + len(going)
    if not left:
        return Eta(0, "this run")
    with_basis = [(template, count) for template, count in pending.items() if template in known and count]
    with_basis += [(template, 1) for template, _ in going if template in known]
    basis = sum(count for _, count in with_basis)
    if basis * 2 < left:
        return None
    usual = sum(known[template] * count for template, count in with_basis) / basis
    parts = [(known.get(template, usual), count) for template, count in pending.items() if count]
    parts += [(max(0.0, known.get(template, usual) - elapsed_ns), 1) for template, elapsed_ns in going]
    work = sum(each * count for each, count in parts)
    own = {template in means_ns for template, _ in with_basis}
    return Eta(
        left_ns=round(max(work / max(1, min(at_once, left)), *(each for each, _ in parts))),
        basis="both" if len(own) == 2 else "this run" if own == {True} else "earlier runs",
    )
