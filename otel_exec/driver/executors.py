"""Which executor a name stands for. Each is imported only when it is asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from otel_exec.errors import UsageError, unknown_name

if TYPE_CHECKING:
    from otel_exec.execute.base import Executor

__all__ = ["make_executor"]


def make_executor(kind: str, workers: int) -> Executor:
    """Return an executor that has not been started.

    Raises:
        UsageError: there is none of that name, or this version can't run it.
    """
    if kind == "inline":
        from otel_exec.execute.inline import InlineExecutor

        return InlineExecutor()
    if kind == "threads":
        from otel_exec.execute.threads import ThreadsExecutor

        return ThreadsExecutor(workers)
    if kind == "processes":
        from otel_exec.execute.processes import ProcessesExecutor

        return ProcessesExecutor(workers)
    raise UsageError(unknown_name("executor", kind, ("inline", "processes", "threads")))
