"""How long a run will still take, once there is a basis for it.

What comes in: what is left, and mean durations by template, of this run or of earlier ones. What goes out: nanoseconds, or `None`. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

__all__ = ["eta_ns"]


def eta_ns(
    pending: Mapping[str, int],
    running: Iterable[tuple[str, int]],
    means_ns: Mapping[str, float],
    *,
    workers: int,
    earlier_ns: Mapping[str, float] | None = None,
) -> int | None:
    """Return the time that the rest of a run is expected to take.

    The work left, each step at the mean of its template, is shared by the workers; it is never less than the longest single step left.
    A template without a mean in this run takes the one of earlier runs; one without either takes the mean over all steps left that have one.
    The order that dependencies force is not looked at, so a run that ends in a chain takes longer than this says.

    Args:
        pending: how many steps of each template have not begun.
        running: the template of each step that runs, and since how many nanoseconds.
        means_ns: mean execution by template in this run.
        workers: how many steps run at once.
        earlier_ns: the same as `means_ns` from earlier runs.

    Returns:
        `None` while less than half of the steps left have a basis.
    """
    known = {**(earlier_ns or {}), **means_ns}
    going = list(running)
    left = sum(pending.values()) + len(going)
    if not left:
        return 0
    with_basis = [(known[template], count) for template, count in pending.items() if template in known and count]
    with_basis += [(known[template], 1) for template, _ in going if template in known]
    basis = sum(count for _, count in with_basis)
    if basis * 2 < left:
        return None
    usual = sum(mean * count for mean, count in with_basis) / basis
    parts = [(known.get(template, usual), count) for template, count in pending.items() if count]
    parts += [(max(0.0, known.get(template, usual) - elapsed_ns), 1) for template, elapsed_ns in going]
    work = sum(each * count for each, count in parts)
    return round(max(work / max(1, min(workers, left)), *(each for each, _ in parts)))
