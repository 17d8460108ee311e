"""Which executor a name stands for. Each is imported only when it is asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from otel_exec.config import EXECUTORS
from otel_exec.errors import UsageError, unknown_name

if TYPE_CHECKING:
    from otel_exec.config import Config
    from otel_exec.execute.base import Executor

__all__ = ["make_executor"]


def make_executor(config: Config, kind: str | None = None) -> Executor:
    """Return an executor that has not been started.

    Args:
        config: `executor` says which, unless `kind` does; `workers` and what else it needs.
        kind: its name.

    Raises:
        UsageError: there is none of that name, or what it needs is not installed.
    """
    kind, workers = kind or config.executor, config.workers
    if kind == "inline":
        from otel_exec.execute.inline import InlineExecutor

        return InlineExecutor()
    if kind == "threads":
        from otel_exec.execute.threads import ThreadsExecutor

        return ThreadsExecutor(workers)
    if kind == "processes":
        from otel_exec.execute.processes import ProcessesExecutor

        return ProcessesExecutor(workers)
    if kind == "ray":
        try:
            from otel_exec.execute.on_ray import RayExecutor
        except ImportError as error:
            if (error.name or "").partition(".")[0] != "ray":
                raise
            raise UsageError("the ray executor needs Ray: pip install 'otel-exec[ray]'") from error
        return RayExecutor(workers or None, address=config.ray_address, resources=dict(config.resources))
    raise UsageError(unknown_name("executor", kind, EXECUTORS))
