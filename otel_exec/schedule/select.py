"""Which steps of a plan will be run, which are taken as they are, and why.

What comes in: a plan and a way to look a step's earlier status up. What goes out: one `Decision` a step. Pure but for the lookup it is given.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    from otel_exec.plan.graph import Plan, Step

__all__ = ["Decision", "Earlier", "Lookup", "select"]


@dataclass(frozen=True, slots=True)
class Earlier:
    """What an earlier run left of a step. `status` is the last event's word, "" where there is none; `held_by` names a live lock's holder.

    `version` is that of `.executor_info` there, `None` where unknown. The times are those of `cached_from` (requirement H), `None` where unknown.
    """

    status: str = ""
    held_by: str = ""
    version: object = None
    exec_id: str | None = None
    trace_id: str | None = None
    step_span_id: str | None = None
    times: dict[str, object] = field(default_factory=dict)


class Lookup(Protocol):
    """Reads what an earlier run left of a step. Called at most once a step, only for those that matter."""

    def __call__(self, step: Step) -> Earlier: ...


@dataclass(frozen=True, slots=True)
class Decision:
    """What is to be done with a step. `action` is `run`, `cached`, `skip` (not needed or not selected), `wait` (another run has it; then it is run or cached) or `failed` (failed previously, not to be run again).

    `reason` is a short phrase for the dry run. `earlier` is there where it was looked up.
    """

    action: str
    reason: str
    earlier: Earlier | None = None


def select(
    plan: Plan,
    lookup: Lookup,
    *,
    run_only: Sequence[str] = (),
    force: Sequence[str] = (),
    rerun_failed: bool = True,
) -> tuple[Decision, ...]:
    """Return one decision a step, in the plan's order.

    Raises:
        UsageError: a regex does not compile or matches no step.
        PlanError: a hashed output path holds another version.
    """
    raise NotImplementedError
