"""What may run at once: workers, CPUs, GPUs, memory and whatever else steps ask for.

What comes in: the run's `Capacity` and what each step asks for. What goes out: whether one more step fits beside those in hand, and what is short if not.
Pure; counts nothing of the machine by itself.

Amounts are kept as integers of a ten-thousandth (Ray's granularity), so that 0.1 taken ten times and given back leaves nothing behind.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from otel_exec.errors import Mistake
from otel_exec.plan.graph import PlanWarning

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from otel_exec.plan.graph import Plan, Resources
    from otel_exec.schedule.select import Decision

__all__ = ["Capacity", "Demand", "Pool", "demand_of", "impossible", "oversized"]

_UNITS: Final = 10_000
SLOTS: Final = "slots"
CPUS: Final = "cpus"
GPUS: Final = "gpus"
MEMORY: Final = "memory"
_CUSTOM: Final = "custom:"
_ONLY_SLOTS: Final = (SLOTS,)


@dataclass(frozen=True, slots=True)
class Capacity:
    """What a run may use at once.

    `workers` attempts run at once; up to `prefetch` more plain ones that proved quick are handed over, so that no worker waits for the driver. `max_concurrent` bounds all that is in hand.
    The rest bounds what steps ask for; `None` bounds nothing (a cluster decides for itself). A custom resource that is not named is not there.

    Units: `memory_bytes` bytes; the others count.
    """

    workers: int
    prefetch: int = 0
    max_concurrent: int | None = None
    cpus: float | None = None
    gpus: float | None = 0
    memory_bytes: int | None = None
    custom: Mapping[str, float] | None = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.workers < 1 or self.prefetch < 0 or (self.max_concurrent is not None and self.max_concurrent < 1):
            raise ValueError(f"a run needs at least one worker and room for one attempt: {self}")


@dataclass(frozen=True, slots=True)
class Demand:
    """What one step takes while it is in hand.

    `plain`: it asked for nothing. `alone`: it wants more CPUs than there are, so it runs with nothing beside it.
    `cpus`: a step that did not say counts for one, but only towards those that did (`says_cpus`). `amounts`: the bounded resources beside CPUs.
    `kinds`: everything it can be short of.
    """

    plain: bool
    alone: bool
    says_cpus: bool
    cpus: int
    amounts: tuple[tuple[str, int], ...]
    kinds: frozenset[str]


_PLAIN: Final = Demand(plain=True, alone=False, says_cpus=False, cpus=_UNITS, amounts=(), kinds=frozenset({SLOTS, CPUS}))


def demand_of(resources: Resources, capacity: Capacity) -> Demand:
    """Return what a step with these resources takes of this capacity."""
    if resources.plain:
        return _PLAIN
    cpus = _UNITS if resources.num_cpus is None else _units(resources.num_cpus)
    amounts = []
    if resources.num_gpus and capacity.gpus is not None:
        amounts.append((GPUS, _units(resources.num_gpus)))
    if resources.memory_bytes and capacity.memory_bytes is not None:
        amounts.append((MEMORY, resources.memory_bytes))
    if capacity.custom is not None:
        amounts.extend((_CUSTOM + name, _units(amount)) for name, amount in sorted(resources.custom.items()) if amount)
    return Demand(
        plain=False,
        alone=resources.num_cpus is not None and capacity.cpus is not None and cpus > _units(capacity.cpus),
        says_cpus=resources.num_cpus is not None,
        cpus=cpus,
        amounts=tuple(amounts),
        kinds=frozenset({SLOTS, *((CPUS,) if cpus else ()), *(kind for kind, _ in amounts)}),
    )


def _units(amount: float) -> int:
    return round(amount * _UNITS)


class Pool:
    """What is in hand now, against a capacity. `short` is the rule; `take` and `give_back` the book-keeping."""

    __slots__ = ("_at_most", "_capacity", "_totals", "alone", "cpus", "cpus_total", "in_hand", "not_plain", "says_cpus", "used")

    def __init__(self, capacity: Capacity) -> None:
        self._capacity = capacity
        self._at_most = capacity.max_concurrent if capacity.max_concurrent is not None else capacity.workers + capacity.prefetch
        self.cpus_total = _units(capacity.cpus) if capacity.cpus is not None else None
        self._totals = {GPUS: _units(capacity.gpus or 0), MEMORY: capacity.memory_bytes or 0}
        self._totals |= {_CUSTOM + name: _units(amount) for name, amount in (capacity.custom or {}).items()}
        self.in_hand = 0
        self.not_plain = 0
        self.says_cpus = 0
        self.alone = 0
        self.cpus = 0
        self.used = dict.fromkeys(self._totals, 0)

    @property
    def full(self) -> bool:
        """Whether there is no room for any step at all, whatever it asks for."""
        return self.in_hand >= self._at_most or self.in_hand >= self._capacity.workers + (0 if self.not_plain else self._capacity.prefetch) or self.alone > 0

    @property
    def ahead(self) -> bool:
        """Whether what is handed over next would wait for a worker."""
        return self.in_hand >= self._capacity.workers

    def total(self, kind: str) -> int:
        """Return how much there is of a kind in all."""
        return self._totals.get(kind, 0)

    def short(self, demand: Demand) -> tuple[str, ...]:
        """Return the kinds of which there is too little for the step; () when it fits.

        What is prefetched lies with a worker that is busy: nothing that asks for resources may wait there, holding them, nor beside it.
        """
        if self.full or (demand.alone and self.in_hand) or (not demand.plain and self.in_hand >= self._capacity.workers):
            return _ONLY_SLOTS
        if demand is _PLAIN and not self.says_cpus:
            return ()
        kinds = tuple(kind for kind, amount in demand.amounts if self.used.get(kind, 0) + amount > self.total(kind))
        if self.cpus_total is None or demand.alone or not demand.cpus:
            return kinds
        # A step that did not say how many CPUs it wants is bounded by workers alone, until one that did say is in hand.
        if (demand.says_cpus or self.says_cpus) and self.cpus + demand.cpus > self.cpus_total:
            return (*kinds, CPUS)
        return kinds

    def take(self, demand: Demand) -> None:
        """Count a step as in hand."""
        self._count(demand, 1)

    def give_back(self, demand: Demand) -> None:
        """Count a step as no longer in hand."""
        self._count(demand, -1)

    def _count(self, demand: Demand, sign: int) -> None:
        self.in_hand += sign
        self.cpus += sign * demand.cpus
        if not demand.plain:
            self.not_plain += sign
            self.says_cpus += sign * demand.says_cpus
            self.alone += sign * demand.alone
            for kind, amount in demand.amounts:
                self.used[kind] = self.used.get(kind, 0) + sign * amount


def impossible(plan: Plan, decisions: Sequence[Decision], capacity: Capacity) -> list[Mistake]:
    """Return a mistake for each step to be run that this capacity can never meet: more GPUs, memory or custom resources than there are in all."""
    mistakes: list[Mistake] = []
    for step, decision in zip(plan.steps, decisions, strict=True):
        if decision.action not in {"run", "wait"} or step.resources.plain:
            continue
        wants = step.resources
        too_much: list[tuple[str, str, str]] = []
        if capacity.gpus is not None and (wants.num_gpus or 0) > capacity.gpus:
            too_much.append((f"{wants.num_gpus:g} GPUs", f"{capacity.gpus:g}", "lower `num_gpus`"))
        if capacity.memory_bytes is not None and (wants.memory_bytes or 0) > capacity.memory_bytes:
            too_much.append((f"{wants.memory_bytes} bytes of memory", str(capacity.memory_bytes), "lower `memory`"))
        if capacity.custom is not None:
            too_much.extend(
                (f"{amount:g} of {name!r}", f"{capacity.custom.get(name, 0):g}", f"give --resource {name}={amount:g}")
                for name, amount in sorted(wants.custom.items())
                if amount > capacity.custom.get(name, 0)
            )
        mistakes.extend(
            Mistake(
                f"it asks for {amount}, but this run has {there} in all",
                step=step.name,
                where=step.where or None,
                hint=f"{way_out}, or run it on a cluster that has them",
            )
            for amount, there, way_out in too_much
        )
    return mistakes


def oversized(plan: Plan, decisions: Sequence[Decision], capacity: Capacity) -> list[PlanWarning]:
    """Return a warning for each step to be run that asks for more CPUs than there are: it runs alone."""
    if capacity.cpus is None:
        return []
    return [
        PlanWarning(
            "more_cpus_than_there_are",
            f"step {step.name!r} asks for {step.resources.num_cpus:g} CPUs, but this run has {capacity.cpus:g}: it runs with nothing beside it ({step.where})",
        )
        for step, decision in zip(plan.steps, decisions, strict=True)
        if decision.action in {"run", "wait"} and step.resources.num_cpus is not None and step.resources.num_cpus > capacity.cpus
    ]
