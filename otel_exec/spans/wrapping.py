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
import sys
import types
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, cast

from otel_exec.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Generator

__all__ = ["Begin", "Opened", "is_wrappable", "name_of", "plain_function", "wrap"]

_F = TypeVar("_F")
_HOLDERS = (staticmethod, classmethod, property, functools.cached_property)
_CACHE = ("cache_info", "cache_clear", "cache_parameters")


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
    """Return the function inside a static or class method or a property; anything else as it is."""
    if isinstance(function, staticmethod | classmethod):
        return cast("Callable[..., Any]", function.__func__)
    if isinstance(function, property):
        return cast("Callable[..., Any]", function.fget)
    return cast("Callable[..., Any]", function.func if isinstance(function, functools.cached_property) else function)


def is_wrappable(function: object) -> bool:
    """Return whether `wrap` takes it, or refuses it with a reason."""
    return callable(function) or isinstance(function, _HOLDERS)


def name_of(function: object) -> str:
    """Return a function's name; of a callable object its class's."""
    inner = plain_function(function)
    return str(getattr(inner, "__name__", type(inner).__name__))


def wrap(function: _F, begin: Begin) -> _F:
    """Return `function` with a phase around each call (around each resumption where it is a generator).

    Raises:
        UsageError: it is a class, or nothing that is called.
    """
    if isinstance(function, staticmethod | classmethod):
        return cast("_F", type(function)(wrap(function.__func__, begin)))
    if isinstance(function, property) and function.fget is not None:
        return cast("_F", property(wrap(function.fget, begin), function.fset, function.fdel, function.__doc__))
    if isinstance(function, functools.cached_property):
        return cast("_F", functools.cached_property(wrap(function.func, begin)))
    if isinstance(function, type):
        raise UsageError(f"a phase can't time the class {function.__qualname__}, which would become a function: decorate its __init__ or its methods")
    if not callable(function):
        raise UsageError(f"a phase can't time an object of type {type(function).__name__}, which is not a function: decorate the function inside it")
    inner = cast("Callable[..., Any]", function)
    call = type(inner).__call__ if not isinstance(inner, functools.partial) and not inspect.isroutine(inner) else inner
    if inspect.iscoroutinefunction(call):
        wrapped: Any = _coroutine(inner, begin)
    elif inspect.isasyncgenfunction(call):
        wrapped = _async_generator(inner, begin)
    elif inspect.isgeneratorfunction(call):
        wrapped = _generator(inner, begin)
        if getattr(getattr(call, "__code__", None), "co_flags", 0) & inspect.CO_ITERABLE_COROUTINE:
            wrapped = types.coroutine(wrapped)
    else:
        wrapped = _plain(inner, begin)
    wrapped = functools.wraps(inner)(wrapped)
    for name in _CACHE:  # of `functools.lru_cache`, which keeps them out of the function's `__dict__`
        if hasattr(inner, name):
            setattr(wrapped, name, getattr(inner, name))
    return cast("_F", wrapped)


def _plain(function: Callable[..., Any], begin: Begin) -> Callable[..., Any]:
    def timed(*args: Any, **kwargs: Any) -> Any:
        try:
            opened = begin(args, kwargs)
        except RecursionError:  # so near the limit there is room for the function alone
            opened = None
        if opened is None:
            return function(*args, **kwargs)
        try:
            result = function(*args, **kwargs)
        except BaseException as error:
            try:
                opened.close(error)
            except RecursionError:
                opened = None
            raise
        try:
            opened.close(None)
        except RecursionError:
            opened = None
        return result

    return timed


def _coroutine(function: Callable[..., Any], begin: Begin) -> Callable[..., Any]:
    async def timed(*args: Any, **kwargs: Any) -> Any:
        try:
            opened = begin(args, kwargs)
        except RecursionError:  # so near the limit there is room for the function alone
            opened = None
        if opened is None:
            return await function(*args, **kwargs)
        try:
            result = await function(*args, **kwargs)
        except BaseException as error:
            try:
                opened.close(error)
            except RecursionError:
                opened = None
            raise
        try:
            opened.close(None)
        except RecursionError:
            opened = None
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
        resume: Callable[..., Any] = _apart(inner)
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


def _apart(inner: AsyncGenerator[Any, Any]) -> Callable[[Any], Any]:
    """Return what begins an async generator unseen by the event loop: at its end it would close this one, beside the one around it that does so."""

    def begin(given: Any) -> Any:
        hooks = sys.get_asyncgen_hooks()
        sys.set_asyncgen_hooks(None, None)
        try:
            return inner.asend(given)
        finally:
            sys.set_asyncgen_hooks(*hooks)

    return begin


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
