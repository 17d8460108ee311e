"""`phase`, `timed`, `atimed`, `time_phase`, `atime_phase`: the public doors to timing, one implementation under five names.

What comes in: a name, metadata and, where they are given, the ids of an execution and of a node. What goes out: a phase span and two calls to the task's sink;
outside of a run, for phases with an execution id, what `outside.py` makes of it; else nothing. Never raises and never changes the user's exception.
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any, TypeVar, cast, overload

from otel_exec.errors import UsageError
from otel_exec.spans import sanitise
from otel_exec.spans.context_access import current_context
from otel_exec.spans.open_phase import OpenPhase, open_phase
from otel_exec.spans.outside import OutsidePhase, PhaseHandle
from otel_exec.spans.scope import FRAME_KEY, Frame, TaskScope, current_scope, enter_scope
from otel_exec.spans.wrapping import is_wrappable, name_of, plain_function, wrap

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

__all__ = ["Phase", "TaskScope", "Timed", "atime_phase", "atimed", "current_scope", "enter_scope", "phase", "time_phase", "timed"]

_F = TypeVar("_F")

_NOTHING = PhaseHandle()


@overload
def phase(name: str | None = None, /, **metadata: object) -> Phase: ...


@overload
def phase(name: _F, /) -> _F: ...


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
    if type(name) is not str and not metadata and is_wrappable(name):
        return Phase(None, {})(name)
    return Phase(name, metadata)


def time_phase(exec_id: object, node_id: object, name: str, **metadata: object) -> Phase:
    """Time a named part of a node, for code that carries ids of its own.

    `with time_phase("workflow-17", "node_1", "llm_call", tokens=12):`

    Args:
        exec_id: the execution's id, from whichever system. Inside a run the phase belongs to the run, and another id stays an attribute and a key of
            `timing_collector`. Outside of one the phase is collected under it; an empty one means no timing.
        node_id: the node's id. The step's own id or name is the step; others are nodes beside the steps.
        name: the phase's name.
        **metadata: as of `phase`.

    Returns:
        What `phase` returns.
    """
    return Phase(name, metadata, node_id, exec_id)


def atime_phase(exec_id: object, node_id: object, name: str, **metadata: object) -> Phase:
    """Do as `time_phase`, under the name that programs use with `async with`."""
    return Phase(name, metadata, node_id, exec_id)


@overload
def timed(phase: str | None = None, node_id_param: str = "node_id", exec_id_param: str = "execution_id") -> Timed: ...


@overload
def timed(phase: _F) -> _F: ...


def timed(phase: Any = None, node_id_param: str = "node_id", exec_id_param: str = "execution_id") -> Any:
    """Time each call of a function: `@timed("selection")`. A def, async def, generator or async generator function; a method of any sort.

    Args:
        phase: the phase's name; default the function's.
        node_id_param: the parameter of the function that holds the node's id, given by position, by keyword or as its default.
        exec_id_param: the parameter that holds the execution's id.

    Returns:
        A decorator. Calls without ids count for the task that they run in; outside of a run they are not timed.
    """
    if is_wrappable(phase):
        return Timed(None, node_id_param, exec_id_param)(phase)
    return Timed(phase, node_id_param, exec_id_param)


@overload
def atimed(phase: str | None = None, node_id_param: str = "node_id", exec_id_param: str = "execution_id") -> Timed: ...


@overload
def atimed(phase: _F) -> _F: ...


def atimed(phase: Any = None, node_id_param: str = "node_id", exec_id_param: str = "execution_id") -> Any:
    """Do as `timed`, under the name that programs use for their coroutines."""
    return timed(phase, node_id_param, exec_id_param)


class Phase:
    """One `phase(...)`. May be used again, nested in itself, and by several threads and tasks at once: each entry is an occurrence of its own."""

    __slots__ = ("_exec_id", "_metadata", "_name", "_node_id", "_open")

    def __init__(self, name: str | None, metadata: dict[str, object], node_id: object = None, exec_id: object = None) -> None:
        self._name = name
        self._metadata = metadata
        self._node_id = node_id
        self._exec_id = exec_id
        self._open: list[OpenPhase | OutsidePhase | None] = []

    def __enter__(self) -> PhaseHandle:
        name = "phase" if self._name is None else self._name
        plain = self._node_id is None and self._exec_id is None
        try:
            opened = open_phase(name, self._metadata) if plain else _begin(name, self._metadata, self._node_id, self._exec_id)
        except RecursionError:  # so near the limit there is room for the block alone
            opened = None
        self._open.append(opened)
        return _NOTHING if opened is None else opened

    def __exit__(self, exc_type: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        try:
            # Nothing is taken before it is known whose it is: other threads may enter and leave at the same time.
            here: Any = current_context().get(FRAME_KEY)
            if type(here) is OpenPhase:
                try:
                    self._open.remove(here)
                except ValueError:
                    pass
                else:
                    here.close(error, current=True)
                    return
            elif here is None and self._exec_id is None:  # outside of a run
                try:
                    self._open.remove(None)
                except ValueError:
                    pass
                else:
                    return
            opened = self._take()
            if opened is not None:
                opened.close(error)
        except RecursionError:  # so near the limit that there is no room to end it: the one around it does, or the task's end
            return

    async def __aenter__(self) -> PhaseHandle:
        return self.__enter__()

    async def __aexit__(self, exc_type: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self.__exit__(exc_type, error, traceback)

    def set(self, /, **attributes: object) -> None:
        """Add attributes to the occurrence that the code that calls is in; nothing where it is in none."""
        opened = self._current()
        if opened is not None:
            opened.set(**attributes)

    def event(self, name: str, /, **attributes: object) -> None:
        """Add an event to the occurrence that the code that calls is in; nothing where it is in none."""
        opened = self._current()
        if opened is not None:
            opened.event(name, **attributes)

    def __call__(self, function: _F) -> _F:
        """Return `function` timed: a def, async def, generator or async generator function, a static or class method."""
        name = name_of(function) if self._name is None else self._name
        metadata, node_id, exec_id = self._metadata, self._node_id, self._exec_id
        return wrap(function, lambda _args, _kwargs, *, current=True: _begin(name, metadata, node_id, exec_id, current=current))

    def _current(self) -> OpenPhase | None:
        """Return the entry that belongs to the code that calls: the innermost one that its context is inside of."""
        mine = {id(entry): entry for entry in self._open.copy() if type(entry) is OpenPhase}
        here = current_context().get(FRAME_KEY) if mine else None
        while here is not None:
            if id(here) in mine:
                return mine[id(here)]
            here = cast("Frame", here).outer
        return None

    def _take(self) -> OpenPhase | OutsidePhase | None:
        """Take the entry that the code leaves off the list.

        The one that its context is inside of. Else one that is no frame, so that no context says whose it is: they are alike. Else, since a generator may
        be closed in another context than it was opened in, whichever came last.
        """
        while self._open:
            opened: OpenPhase | OutsidePhase | None = self._current()
            if opened is None:
                entries = self._open.copy()
                loose = [entry for entry in entries if type(entry) is not OpenPhase] or entries
                opened = loose[-1] if loose else None
            try:
                self._open.remove(opened)
            except ValueError:  # another thread was quicker
                continue
            return opened
        return None


class Timed:
    """What `timed(...)` returns: a decorator that finds the ids in each call. Where the parameters stand is found out once, when it decorates."""

    __slots__ = ("_exec_id_param", "_name", "_node_id_param")

    def __init__(self, name: str | None, node_id_param: str, exec_id_param: str) -> None:
        for param in (node_id_param, exec_id_param):
            if not isinstance(param, str):
                raise UsageError(f"timed takes the name of a parameter, a string, where it was given {sanitise.text(repr(param), 100)}")
        self._name = name
        self._node_id_param = node_id_param
        self._exec_id_param = exec_id_param

    def __call__(self, function: _F) -> _F:
        """Return `function` timed."""
        name = name_of(function) if self._name is None else self._name
        node_id_in, exec_id_in = _finder(function, self._node_id_param), _finder(function, self._exec_id_param)
        return wrap(function, lambda args, kwargs, *, current=True: _begin(name, {}, node_id_in(args, kwargs), exec_id_in(args, kwargs), current=current))


def _finder(function: object, param: str) -> Callable[[tuple[Any, ...], dict[str, Any]], object]:
    """Return what finds a parameter's value in a call; it finds `None` where the function has no such parameter or the call does not give it."""
    place, default = -1, None
    try:
        parameters = inspect.signature(plain_function(function)).parameters
        if param in parameters:
            found = parameters[param]
            if found.kind in {found.VAR_POSITIONAL, found.VAR_KEYWORD}:
                return lambda _args, _kwargs: None
            default = None if found.default is found.empty else found.default
            if found.kind is not found.KEYWORD_ONLY:
                place = list(parameters).index(param)
    except (TypeError, ValueError):  # a function of C code: keywords alone are looked at
        pass

    def find(args: tuple[Any, ...], kwargs: dict[str, Any]) -> object:
        if param in kwargs:
            return kwargs[param]
        return args[place] if 0 <= place < len(args) else default

    return find


def _begin(name: object, metadata: dict[str, object], node_id: object, exec_id: object, *, current: bool = True) -> OpenPhase | OutsidePhase | None:
    """Open a phase: in the run that the code is in; else, where an execution is named, outside; else `None`. Never raises."""
    if node_id is None and exec_id is None:
        return open_phase(name, metadata, current=current)
    node, execution = sanitise.identifier(node_id), sanitise.identifier(exec_id)
    opened = open_phase(name, metadata, node or None, execution or None, current=current)
    if opened is None and execution and current_scope() is None:
        return OutsidePhase(execution, node, sanitise.said_name(name))
    return opened
