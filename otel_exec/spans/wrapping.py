"""Functions wrapped so that each call is a phase: def, async def, generators, async generators, static and class methods.

What comes in: a function and `begin(args, kwargs)`, which opens a phase or returns `None`. What goes out: a function that behaves as the one that came in.
A generator is timed while its own code runs: each resumption is one occurrence, what its consumer does between two is not counted.
What it does when it is closed is one too, which never becomes the current phase: the garbage collector may close it in the midst of anything, and a context
variable that is set then, while another is being set, ends the process (CPython).
Never raises anything of its own. Imports no OpenTelemetry.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, cast

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Generator

__all__ = ["Begin", "Opened", "name_of", "plain_function", "wrap"]

_F = TypeVar("_F")


class Begin(Protocol):
    """What opens a phase."""

    def __call__(self, args: tuple[Any, ...], kwargs: dict[str, Any], /, *, current: bool = True) -> Opened | None:
        """Open one for a call with these arguments, or return `None`. `current`: make it the one that the code is in."""
        ...


class Opened(Protocol):
    """A phase that is open."""

    def close(self, error: BaseException | None) -> None:
        """End it with the exception that ended it, or `None`. Never raises. Once."""
        ...


def plain_function(function: object) -> Callable[..., Any]:
    """Return the function inside a static or class method; anything else as it is."""
    return cast("Callable[..., Any]", function.__func__ if isinstance(function, staticmethod | classmethod) else function)


def name_of(function: object) -> str:
    """Return a function's name; of a callable object its class's."""
    inner = plain_function(function)
    return str(getattr(inner, "__name__", type(inner).__name__))


def wrap(function: _F, begin: Begin) -> _F:
    """Return `function` with a phase around each call (around each resumption where it is a generator)."""
    if isinstance(function, staticmethod | classmethod):
        return cast("_F", type(function)(wrap(function.__func__, begin)))
    inner = plain_function(function)
    if inspect.iscoroutinefunction(inner):
        wrapped: Any = _coroutine(inner, begin)
    elif inspect.isasyncgenfunction(inner):
        wrapped = _async_generator(inner, begin)
    elif inspect.isgeneratorfunction(inner):
        wrapped = _generator(inner, begin)
    else:
        wrapped = _plain(inner, begin)
    return cast("_F", functools.wraps(inner)(wrapped))


def _plain(function: Callable[..., Any], begin: Begin) -> Callable[..., Any]:
    def timed(*args: Any, **kwargs: Any) -> Any:
        opened = begin(args, kwargs)
        if opened is None:
            return function(*args, **kwargs)
        try:
            result = function(*args, **kwargs)
        except BaseException as error:
            opened.close(error)
            raise
        opened.close(None)
        return result

    return timed


def _coroutine(function: Callable[..., Any], begin: Begin) -> Callable[..., Any]:
    async def timed(*args: Any, **kwargs: Any) -> Any:
        opened = begin(args, kwargs)
        if opened is None:
            return await function(*args, **kwargs)
        try:
            result = await function(*args, **kwargs)
        except BaseException as error:
            opened.close(error)
            raise
        opened.close(None)
        return result

    return timed


def _generator(function: Callable[..., Any], begin: Begin) -> Callable[..., Any]:
    def timed(*args: Any, **kwargs: Any) -> Generator[Any, Any, Any]:
        inner = function(*args, **kwargs)
        resume: Callable[..., Any] = inner.send
        given: Any = None
        while True:
            opened = begin(args, kwargs)
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
                _shut(inner, begin(args, kwargs, current=False))
                raise
            except BaseException as error:
                resume, given = inner.throw, error

    return timed


def _shut(inner: Generator[Any, Any, Any], opened: Opened | None) -> None:
    """Close a generator, timing what it does at its end."""
    try:
        inner.close()
    except BaseException as error:
        _close(opened, error)
        raise
    _close(opened, None)


def _async_generator(function: Callable[..., Any], begin: Begin) -> Callable[..., Any]:
    async def timed(*args: Any, **kwargs: Any) -> AsyncGenerator[Any, Any]:
        inner = function(*args, **kwargs)
        resume: Callable[..., Any] = inner.asend
        given: Any = None
        while True:
            opened = begin(args, kwargs)
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
                await _ashut(inner, begin(args, kwargs))
                raise
            except BaseException as error:
                resume, given = inner.athrow, error

    return timed


async def _ashut(inner: AsyncGenerator[Any, Any], opened: Opened | None) -> None:
    """Close an async generator, timing what it does at its end."""
    try:
        await inner.aclose()
    except BaseException as error:
        _close(opened, error)
        raise
    _close(opened, None)


def _close(opened: Opened | None, error: BaseException | None) -> None:
    if opened is not None:
        opened.close(error)
