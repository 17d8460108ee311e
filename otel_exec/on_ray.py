"""The door to what users of Ray need: `from otel_exec.on_ray import traced`.

Names are imported when they are first used, so that this module can be imported without Ray.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from otel_exec.errors import UsageError

if TYPE_CHECKING:
    from otel_exec.execute.ray_traced import traced

__all__ = ["traced"]


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        from otel_exec.execute import ray_traced
    except ImportError as error:
        if (error.name or "").partition(".")[0] != "ray":
            raise
        raise UsageError("otel_exec.on_ray needs Ray: pip install 'otel-exec[ray]'") from error
    return getattr(ray_traced, name)
