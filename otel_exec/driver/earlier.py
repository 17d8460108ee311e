"""How long steps took in earlier runs, so that a run has an ETA before it has numbers of its own.

What comes in: the plan's decisions, and the folders of earlier runs under the prefix. What goes out: mean durations by template, nanoseconds.
Reads the small status.json of a few runs alone; what can't be read is passed over. Writes nothing.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from otel_exec.record import storage
from otel_exec.record.find import RUNS
from otel_exec.record.status_file import read_status

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from otel_exec.plan.graph import Plan
    from otel_exec.schedule.select import Decision

__all__ = ["earlier_means"]

# The newest run is the likeliest to be like this one; a few more are looked at since it may have had other steps.
_RUNS = 5
# Three decades: no step took longer, whatever a file says.
_MOST_S = 10**9


def earlier_means(plan: Plan, decisions: Sequence[Decision], prefix: str, *, not_in: str) -> dict[str, float]:
    """Return the mean execution of each template of the plan that earlier runs tell of, nanoseconds.

    The newest run that completed steps of a template tells; where none did, what those steps took whose outputs are there.

    Args:
        plan: the steps.
        decisions: what was decided of each, with what was found of an earlier run.
        prefix: whose runs are looked at; a remote one's are not, since that takes a while.
        not_in: the exec id of this run.
    """
    wanted = {step.template for step in plan.steps if not step.group}
    means = _of_outputs(plan, decisions)
    of_runs: dict[str, float] = {}
    if not storage.is_remote(prefix):
        for folder in _newest(storage.join(prefix, *RUNS), not_in):
            status = read_status(folder)
            for row in status.templates if status is not None else ():
                if row.template in wanted and row.sample_count > 0 and 0 <= row.total_ns <= row.sample_count * _MOST_S * 10**9:
                    of_runs.setdefault(row.template, row.total_ns / row.sample_count)
            if len(of_runs) == len(wanted):
                break
    return {**means, **of_runs}


def _of_outputs(plan: Plan, decisions: Sequence[Decision]) -> dict[str, float]:
    sums: dict[str, tuple[int, float]] = {}
    for step, decision in zip(plan.steps, decisions, strict=True):
        took_s = decision.earlier.times.get("duration_seconds") if decision.earlier is not None else None
        if isinstance(took_s, (int, float)) and not isinstance(took_s, bool) and 0 <= took_s <= _MOST_S:
            count, total = sums.get(step.template, (0, 0.0))
            sums[step.template] = (count + 1, total + took_s * 1e9)
    return {template: total / count for template, (count, total) in sums.items()}


def _newest(runs: str, not_in: str) -> Iterable[str]:
    """Return the folders that were written to last, newest first."""
    try:
        with os.scandir(runs) as entries:
            found = [(entry.stat().st_mtime_ns, entry.path) for entry in entries if entry.name != not_in and entry.is_dir()]
    except OSError:
        return []
    return [path for _, path in sorted(found, reverse=True)[:_RUNS]]
