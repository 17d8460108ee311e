"""What a step asks for, in Ray's words.

What comes in: a step's `Resources`. What goes out: the options of its Ray task; what they take of a node. Imports no Ray.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from otel_exec.plan.graph import Step

__all__ = ["options_of", "wanted_of"]


def options_of(step: Step) -> dict[str, Any]:
    """Return the options of a step's Ray task; those that it did not give are Ray's own defaults (one CPU)."""
    resources = step.resources
    options: dict[str, Any] = dict(resources.options)
    if resources.num_cpus is not None:
        options["num_cpus"] = resources.num_cpus
    if resources.num_gpus is not None:
        options["num_gpus"] = resources.num_gpus
    if resources.memory_bytes is not None:
        options["memory"] = resources.memory_bytes
    if resources.custom:
        options["resources"] = dict(resources.custom)
    return options


def wanted_of(step: Step) -> dict[str, float]:
    """Return what a step takes of a node, by Ray's names: where it asked for nothing, one CPU."""
    resources = step.resources
    wanted = {"CPU": 1.0 if resources.num_cpus is None else resources.num_cpus, "GPU": resources.num_gpus or 0.0, "memory": float(resources.memory_bytes or 0)}
    return {name: amount for name, amount in {**wanted, **resources.custom}.items() if amount}
