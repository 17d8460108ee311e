"""Functions that Ray's own decorator has wrapped: as steps they run in what the executor makes of them, with the resources that they carry.

What comes in: whatever was given to `deferred`. What goes out: the plain function, and what it asks for. Imports no Ray: who has such a function has imported it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from otel_exec.plan.options import parse_resources

if TYPE_CHECKING:
    from collections.abc import Callable

    from otel_exec.plan.graph import Resources

__all__ = ["unwrapped"]

P = ParamSpec("P")
T = TypeVar("T")

# Those of Ray's options that say where a task runs and in what. Retries, names and returns are the run's own.
_KEPT = ("num_cpus", "num_gpus", "memory", "resources", "runtime_env", "scheduling_strategy")


def unwrapped(fn: Callable[P, T]) -> tuple[Callable[P, T], Resources | None]:
    """Return a function without Ray's wrapper, and what it asks for; as it is, and `None`, where it has none."""
    if (type(fn).__module__, type(fn).__name__) != ("ray.remote_function", "RemoteFunction"):
        return fn, None
    remote: Any = fn
    options = remote._default_options  # Ray has no public name for them
    return remote._function, parse_resources({key: options[key] for key in _KEPT if options.get(key) is not None}, [])
