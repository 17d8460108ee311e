"""`phase`: the public door to timing inside a step.

What comes in: a name and metadata from the user's code. What goes out: a phase span, and two calls to the task's sink. Where there is no run it does nothing.
Never raises and never changes the user's exception. Imports OpenTelemetry's API alone.
"""

from __future__ import annotations

import functools
import inspect
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, cast, overload

from otel_exec.spans.scope import OpenPhase, PhaseHandle, TaskScope, close_phase, current_scope, enter_scope, open_phase

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Generator
    from types import TracebackType

__all__ = ["Phase", "TaskScope", "current_scope", "enter_scope", "phase"]

_P = ParamSpec("_P")
_R = TypeVar("_R")

_NOTHING = PhaseHandle()


@overload
def phase(name: Callable[_P, _R], /) -> Callable[_P, _R]: ...


@overload
def phase(name: str | None = None, /, **metadata: object) -> Phase: ...


def phase(name: Any = None, /, **metadata: object) -> Any:
    """Time a named part of a step.

    Works as `with phase("llm_call", model="m1"):`, with `async with`, and as a decorator, `@phase("name")` or `@phase`.

    Args:
        name: the phase's name; for a decorator it defaults to the function's. A name with few values: ids belong into metadata.
        **metadata: attributes of this occurrence's span; numbers named `tokens`, `input_tokens` and `output_tokens` are summed per node.

    Returns:
        A context manager and decorator in one. Inside a run `as p` gives `p.set(...)` and `p.event(...)`; outside nothing happens.
        A decorated generator is timed while its own code runs: each resumption is one occurrence, what its consumer does between two is not counted.
    """
    if callable(name) and not metadata:
        return Phase(None, {})(name)
    return Phase(name, metadata)


class Phase:
    """One `phase(...)`. May be used again, nested in itself, and by several threads and tasks at once: each entry is an occurrence of its own."""

    __slots__ = ("_metadata", "_name", "_open")

    def __init__(self, name: str | None, metadata: dict[str, object]) -> None:
        self._name = name
        self._metadata = metadata
        self._open: list[OpenPhase | None] = []

    def __enter__(self) -> PhaseHandle:
        opened = open_phase("phase" if self._name is None else self._name, self._metadata.copy())
        self._open.append(opened)
        return _NOTHING if opened is None else opened

    def __exit__(self, exc_type: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        opened = self._pop()
        if opened is not None:
            close_phase(opened, error)

    async def __aenter__(self) -> PhaseHandle:
        return self.__enter__()

    async def __aexit__(self, exc_type: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self.__exit__(exc_type, error, traceback)

    def set(self, **attributes: object) -> None:
        """Add attributes to the occurrence that is open in the code that calls; nothing where none is."""
        opened = self._current()
        if opened is not None:
            opened.set(**attributes)

    def event(self, name: str, **attributes: object) -> None:
        """Add an event to the occurrence that is open in the code that calls; nothing where none is."""
        opened = self._current()
        if opened is not None:
            opened.event(name, **attributes)

    def __call__(self, function: Callable[_P, _R]) -> Callable[_P, _R]:
        """Return `function` timed: a def, async def, generator or async generator function, a static or class method."""
        if isinstance(function, staticmethod | classmethod):
            return cast("Callable[_P, _R]", type(function)(self(function.__func__)))
        name = getattr(function, "__name__", type(function).__name__) if self._name is None else self._name
        if inspect.iscoroutinefunction(function):
            timed: Any = _coroutine(function, name, self._metadata)
        elif inspect.isasyncgenfunction(function):
            timed = _async_generator(function, name, self._metadata)
        elif inspect.isgeneratorfunction(function):
            timed = _generator(function, name, self._metadata)
        else:
            timed = _plain(function, name, self._metadata)
        return cast("Callable[_P, _R]", functools.wraps(function)(timed))

    def _current(self) -> OpenPhase | None:
        """Return the entry that belongs to the code that calls: the innermost one that its context is inside of."""
        entries = self._open.copy()  # at once: other threads may enter and leave meanwhile
        if len(entries) == 1:
            return entries[0]
        mine = set(map(id, entries))
        here = _frame_here()
        while here is not None:
            if id(here) in mine:
                return cast("OpenPhase", here)
            here = here.outer
        return None

    def _pop(self) -> OpenPhase | None:
        opened = self._current()
        try:
            self._open.remove(opened)
        except ValueError:  # entered in a context that this code is not in: whichever came last
            opened = self._open.pop() if self._open else None
        return opened


def _frame_here() -> Any:
    from opentelemetry import context as context_api

    from otel_exec.spans.scope import frame_of

    return frame_of(context_api.get_current())


def _plain(function: Callable[..., Any], name: str, metadata: dict[str, object]) -> Callable[..., Any]:
    def timed(*args: Any, **kwargs: Any) -> Any:
        opened = open_phase(name, metadata.copy())
        if opened is None:
            return function(*args, **kwargs)
        try:
            result = function(*args, **kwargs)
        except BaseException as error:
            close_phase(opened, error)
            raise
        close_phase(opened, None)
        return result

    return timed


def _coroutine(function: Callable[..., Any], name: str, metadata: dict[str, object]) -> Callable[..., Any]:
    async def timed(*args: Any, **kwargs: Any) -> Any:
        opened = open_phase(name, metadata.copy())
        if opened is None:
            return await function(*args, **kwargs)
        try:
            result = await function(*args, **kwargs)
        except BaseException as error:
            close_phase(opened, error)
            raise
        close_phase(opened, None)
        return result

    return timed


def _generator(function: Callable[..., Any], name: str, metadata: dict[str, object]) -> Callable[..., Any]:
    def timed(*args: Any, **kwargs: Any) -> Generator[Any, Any, Any]:
        inner = function(*args, **kwargs)
        resume: Callable[..., Any] = inner.send
        given: Any = None
        while True:
            opened = open_phase(name, metadata.copy())
            try:
                item = resume(given)
            except StopIteration as end:
                _close(opened, None)
                return end.value
            except BaseException as error:
                _close(opened, error)
                raise
            _close(opened, None)
            try:
                given = yield item
                resume = inner.send
            except GeneratorExit:
                _shut(inner, name, metadata)
                raise
            except BaseException as error:
                resume, given = inner.throw, error

    return timed


def _shut(inner: Generator[Any, Any, Any], name: str, metadata: dict[str, object]) -> None:
    """Close a generator, timing what it does at its end."""
    opened = open_phase(name, metadata.copy())
    try:
        inner.close()
    except BaseException as error:
        _close(opened, error)
        raise
    _close(opened, None)


def _async_generator(function: Callable[..., Any], name: str, metadata: dict[str, object]) -> Callable[..., Any]:
    async def timed(*args: Any, **kwargs: Any) -> AsyncGenerator[Any, Any]:
        inner = function(*args, **kwargs)
        resume: Callable[..., Any] = inner.asend
        given: Any = None
        while True:
            opened = open_phase(name, metadata.copy())
            try:
                item = await resume(given)
            except StopAsyncIteration:
                _close(opened, None)
                return
            except BaseException as error:
                _close(opened, error)
                raise
            _close(opened, None)
            try:
                given = yield item
                resume = inner.asend
            except GeneratorExit:
                await _ashut(inner, name, metadata)
                raise
            except BaseException as error:
                resume, given = inner.athrow, error

    return timed


async def _ashut(inner: AsyncGenerator[Any, Any], name: str, metadata: dict[str, object]) -> None:
    """Close an async generator, timing what it does at its end."""
    opened = open_phase(name, metadata.copy())
    try:
        await inner.aclose()
    except BaseException as error:
        _close(opened, error)
        raise
    _close(opened, None)


def _close(opened: OpenPhase | None, error: BaseException | None) -> None:
    if opened is not None:
        close_phase(opened, error)
