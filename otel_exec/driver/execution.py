"""`execution`: a run without steps, for programs that are no experiments.

What comes in: a name and a block (or a function) of the user's own. What goes out: a run like any other: its folder under the prefix, its spans exported while it
goes on, its record. The block is one task of that run; phases in it that name no node belong to a node of the execution's own name.
The user's code behaves as without us: exceptions pass unchanged, and a folder that can't be written is said once, and the block runs unrecorded.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import logging
import os
import sys
import threading
from typing import TYPE_CHECKING, Any, Self, TypeVar, cast

from otel_exec import config as configuration
from otel_exec.driver.environment import experiment_of
from otel_exec.driver.open_run import OpenRun, begin
from otel_exec.errors import UsageError
from otel_exec.guarded_log import warn
from otel_exec.spans import sanitise
from otel_exec.spans.open_phase import open_phase
from otel_exec.spans.open_spans import MOST_NODE_BYTES
from otel_exec.spans.scope import scope_here

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from otel_exec.spans.open_phase import OpenPhase

__all__ = ["Execution", "execution"]

_F = TypeVar("_F", bound="Callable[..., Any]")
_log = logging.getLogger("otel_exec.execution")


def execution(name: str, exec_id: str | None = None, prefix: str | None = None, **settings: object) -> Execution:
    """Record a block of a program, or each call of a function, as a run without steps.

    `with execution("my-app") as run:`, `async with`, and `@execution("my-app")` for a def or async def. Phases, nodes, threads and tasks of asyncio inside belong to it.
    Inside a run or another execution it starts none of its own: it is a phase of the one that it is in.

    Args:
        name: the run's, and that of the node that phases without a node id belong to; its first 255 bytes of UTF-8.
        exec_id: what the program itself calls this execution: kept in the record as its `alias`, and understood by every command. The run's own id stays `exec_<hex>`.
        prefix: where the run's folder goes (`<prefix>/.otel_exec/runs/<exec_id>`); default `OTEL_EXEC_PREFIX`, else `./outputs`.
        settings: any field of `otel_exec.config.Config`, e.g. `timing=True`; what is not given comes from the environment.

    Returns:
        A context manager and decorator. `as run` gives itself; `run.exec_id` is the run's id.

    Raises:
        UsageError: when it begins, for a setting that can't be used.
    """
    return Execution(name, exec_id, prefix, settings)


class Execution:
    """One `execution(...)`. May be used again, one after the other; as a decorator also at once: each call is a run of its own."""

    def __init__(self, name: str, exec_id: str | None, prefix: str | None, settings: dict[str, object]) -> None:
        # No longer than the list of open spans has room for, by which another process knows whose a phase is.
        self._name = sanitise.name(name).encode()[:MOST_NODE_BYTES].decode(errors="ignore") or "execution"
        self._alias = None if exec_id is None else sanitise.text(exec_id)
        self._given = {**settings, "prefix": prefix}
        self._open: list[OpenRun | OpenPhase | None] = []

    @property
    def exec_id(self) -> str | None:
        """The id of the run that is open, or of the run that it is a phase of; `None` outside of the block and where nothing is recorded."""
        opened = self._open[-1] if self._open else None
        if opened is None or isinstance(opened, OpenRun):
            return None if opened is None else opened.exec_id
        return opened.scope.recorder.exec_id

    def __enter__(self) -> Self:
        self._open.append(self._begin())
        return self

    def __exit__(self, exc_type: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        opened = self._open.pop() if self._open else None
        if opened is not None:
            opened.close(error)

    async def __aenter__(self) -> Self:
        return self.__enter__()

    async def __aexit__(self, exc_type: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        opened = self._open.pop() if self._open else None
        if not isinstance(opened, OpenRun):
            if opened is not None:
                opened.close(error)
            return
        opened.leave(error)
        await _settle_beside(opened)

    def __call__(self, function: _F) -> _F:
        """Return `function` with a run around each call; of a static or class method the same."""
        if isinstance(function, staticmethod | classmethod):
            return cast("_F", type(function)(self(function.__func__)))
        if inspect.isclass(function):
            raise UsageError(
                f"execution({self._name!r}) takes a def or async def, not the class {function.__qualname__}: decorate the method that is to be a run"
            )
        if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
            raise UsageError(
                f"execution({self._name!r}) takes a def or async def: a generator's run would end who knows when; use `with execution(...)` around its use"
            )
        one = functools.partial(Execution, self._name, self._alias, cast("str | None", self._given["prefix"]), self._given)
        if inspect.iscoroutinefunction(function):

            async def recorded_coroutine(*args: Any, **kwargs: Any) -> Any:
                async with one():
                    return await function(*args, **kwargs)

            return cast("_F", functools.wraps(function)(recorded_coroutine))

        def recorded(*args: Any, **kwargs: Any) -> Any:
            with one():
                return function(*args, **kwargs)

        return cast("_F", functools.wraps(function)(recorded))

    def _begin(self) -> OpenRun | OpenPhase | None:
        if scope_here() is not None:
            return open_phase(self._name, {}, exec_id=self._alias)
        try:
            config = configuration.resolve(self._given, os.environ)
            experiment = experiment_of(self._name, None, sys.argv[1:])
        except FileNotFoundError as error:
            where = "its paths are relative to the working directory, which is gone; name a prefix by its whole path, here or as OTEL_EXEC_PREFIX"
            warn(_log, "%s is not recorded, the program goes on: %s (%s)", self._name, where, error)
            return None
        return begin(config, experiment, alias=self._alias)


async def _settle_beside(opened: OpenRun) -> None:
    """Settle a run in a thread of our own: writing the record, and waiting for what a receiver acknowledges, is not the event loop's, nor its pool's, which is the user's."""
    import asyncio

    try:
        loop = asyncio.get_running_loop()
        over = loop.create_future()
    except RuntimeError:  # another kind of event loop
        opened.settle()
        return

    def tell() -> None:
        if not over.done():  # cancelled meanwhile
            over.set_result(None)

    def settle() -> None:
        opened.settle()
        with contextlib.suppress(RuntimeError):  # the loop was closed meanwhile
            loop.call_soon_threadsafe(tell)

    try:
        threading.Thread(target=settle, name="otel_exec settle").start()
    except RuntimeError:  # no thread can be had
        opened.settle()
        return
    await over
