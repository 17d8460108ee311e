"""Ray code that users have already, inside a run's trace: their remote functions and actor classes carry the context with each call.

What comes in: a remote function or an actor class. What goes out: one that is called in the same way. Outside of a run on Ray a call is what it was before, and so is one that an
actor makes of its own methods: the carrier goes as a keyword that only calls through Ray have. Nothing of Ray's own tracing is touched.

Each call is a span under the code that made it, as the user's own spans are: with `exec.id`, without `exec.kind`. So is what is timed inside of it by `phase`: it stands in the trace, and in no step's numbers.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
from typing import TYPE_CHECKING, Any

import ray
from ray.actor import ActorClass
from ray.remote_function import RemoteFunction

from otel_exec.aggregate.task_fold import TaskFold
from otel_exec.clock import System
from otel_exec.errors import qualified_name
from otel_exec.execute.ray_presence import guest_of, is_present
from otel_exec.known_secrets import doubt
from otel_exec.semconv import EXEC_WORKER_ID, Outcome
from otel_exec.spans.current import current_span_id
from otel_exec.spans.failure import is_cancellation
from otel_exec.spans.phases import TaskScope, current_scope, enter_scope
from otel_exec.spans.sanitise import said

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from otel_exec.execute.ray_presence import Guest

__all__ = ["traced"]

# (exec id, id of the span that called, the attributes of its task, its node id).
_Carrier = tuple[str, str, dict[str, Any], str]
# The keyword that it goes by.
_KEYWORD = "_otel_exec"


def traced(target: Any) -> Any:
    """Return a remote function or actor class whose calls, made inside a step that runs on Ray, belong to the run's trace; generators and async actors included.

    Args:
        target: what `ray.remote` made; its options stay. What `traced` made is returned as it is.

    Raises:
        TypeError: it is neither.
    """
    if isinstance(target, _Calling | _ActorMaker):
        return target
    if isinstance(target, RemoteFunction):
        options = {key: value for key, value in target._default_options.items() if value is not None}
        wrapped = _wrap(target._function, target._function.__qualname__)
        return _Calling(ray.remote(**options)(wrapped) if options else ray.remote(wrapped))
    if isinstance(target, ActorClass):
        meta = target.__ray_metadata__
        options = {key: value for key, value in target._default_options.items() if value is not None}
        cls = _traced_class(meta.modified_class)
        return _ActorMaker(ray.remote(**options)(cls) if options else ray.remote(cls))
    raise TypeError(f"traced() takes what ray.remote made, a remote function or an actor class, not {target!r}")


class _Calling:
    """A remote function, or a method of an actor, that sends the carrier along."""

    def __init__(self, target: Any) -> None:
        self._target = target

    def remote(self, *args: Any, **kwargs: Any) -> Any:
        return self._target.remote(*args, **kwargs, **_carrier())

    def options(self, **options: Any) -> _Calling:
        return _Calling(self._target.options(**options))


class _ActorMaker:
    """An actor class whose handles send the carrier with each call."""

    def __init__(self, target: Any) -> None:
        self._target = target

    def remote(self, *args: Any, **kwargs: Any) -> _Actor:
        return _Actor(self._target.remote(*args, **kwargs, **_carrier()))

    def options(self, **options: Any) -> _ActorMaker:
        return _ActorMaker(self._target.options(**options))


class _Actor:
    """An actor's handle; it may be passed on to other tasks. `ray.kill` and the like take `handle`."""

    def __init__(self, handle: Any) -> None:
        self.handle = handle

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__ray_"):  # Ray's own methods
            return getattr(self.handle, name)
        if (name.startswith("__") and name != "__call__") or name == "handle":
            raise AttributeError(name)
        return _Calling(getattr(self.handle, name))

    def __reduce__(self) -> tuple[Any, ...]:
        return _Actor, (self.handle,)


def _carrier() -> dict[str, _Carrier]:
    """Return what a call sends along: nothing outside of a run, and where the run has no home actor, since its steps run elsewhere than on Ray."""
    scope = current_scope()
    if scope is None or not is_present(scope.recorder.exec_id):
        return {}
    return {_KEYWORD: (scope.recorder.exec_id, current_span_id(), dict(scope.attributes), scope.node_id)}


def _traced_class(cls: type) -> type:
    """Return a subclass whose methods take the carrier."""
    methods: dict[str, Any] = {}
    for name, method in inspect.getmembers(cls, inspect.isroutine):
        if name.startswith("__") and name not in {"__init__", "__call__"}:
            continue
        found = inspect.getattr_static(cls, name)
        title = f"{cls.__name__}.{name}"
        if isinstance(found, staticmethod | classmethod):
            if inspect.isfunction(found.__func__):
                methods[name] = type(found)(_wrap(found.__func__, title))
        elif inspect.isfunction(method):
            methods[name] = _wrap(method, title)
    return type(cls.__name__, (cls,), {**methods, "__module__": cls.__module__, "__qualname__": cls.__qualname__, "__doc__": cls.__doc__})


def _wrap(fn: Callable[..., Any], name: str) -> Callable[..., Any]:
    """Return the function with the carrier as one more keyword: of the same sort, so that Ray treats it as it did."""
    title = f"ray {name.rpartition('.<locals>.')[2]}"
    wrapped: Callable[..., Any]
    if inspect.isasyncgenfunction(fn):

        async def wrapped(*args: Any, _otel_exec: _Carrier | None = None, **kwargs: Any) -> AsyncIterator[Any]:
            async with _inside_async(_otel_exec, title):
                async for value in fn(*args, **kwargs):
                    yield value

    elif inspect.iscoroutinefunction(fn):

        async def wrapped(*args: Any, _otel_exec: _Carrier | None = None, **kwargs: Any) -> Any:
            async with _inside_async(_otel_exec, title):
                return await fn(*args, **kwargs)

    elif inspect.isgeneratorfunction(fn):

        def wrapped(*args: Any, _otel_exec: _Carrier | None = None, **kwargs: Any) -> Iterator[Any]:
            with _inside(_otel_exec, title):
                for value in fn(*args, **kwargs):  # noqa: UP028  Ray sends into a generator what is not for it
                    yield value

    else:

        def wrapped(*args: Any, _otel_exec: _Carrier | None = None, **kwargs: Any) -> Any:
            with _inside(_otel_exec, title):
                return fn(*args, **kwargs)

    functools.update_wrapper(wrapped, fn, assigned=("__module__", "__name__", "__qualname__", "__doc__"))
    vars(wrapped).pop("__wrapped__", None)
    # By it Ray judges a call before it sends it. It goes along wherever the function does, so it holds nothing of the user's.
    parameters = [
        each.replace(annotation=each.empty, default=each.empty if each.default is each.empty else None) for each in inspect.signature(fn).parameters.values()
    ]
    at = len(parameters) - any(each.kind is each.VAR_KEYWORD for each in parameters)
    parameters.insert(at, inspect.Parameter(_KEYWORD, inspect.Parameter.KEYWORD_ONLY, default=None))
    vars(wrapped)["__signature__"] = inspect.Signature(parameters)
    return wrapped


@contextlib.contextmanager
def _inside(carrier: _Carrier | None, title: str) -> Iterator[None]:
    if carrier is None:
        yield
        return
    with _call(carrier, title) as guest:
        yield
    if guest is not None:
        guest.presence.flush()


@contextlib.asynccontextmanager
async def _inside_async(carrier: _Carrier | None, title: str) -> AsyncIterator[None]:
    if carrier is None:
        yield
        return
    import asyncio

    with _call(carrier, title) as guest:
        yield
    if guest is None:
        return
    with contextlib.suppress(Exception):
        await asyncio.wrap_future(guest.presence.tell().future())


def _guest(exec_id: str) -> Guest | None:
    """Return what is needed to be inside a run; `None` where that is over: an actor may outlive it, and start again."""
    try:
        return guest_of(exec_id, System.wall())
    except (ValueError, ray.exceptions.RayError):  # nobody has its home actor's name, or it dies just now
        return None


@contextlib.contextmanager
def _call(carrier: _Carrier, title: str) -> Iterator[Guest | None]:
    """Be inside the run for one call, and make its span; where the run is over there is none."""
    exec_id, parent_span_id, attributes, node_id = carrier
    guest = _guest(exec_id)
    if guest is None:
        yield None
        return
    attributes = {**attributes, EXEC_WORKER_ID: guest.presence.worker_id}
    recorder = guest.recorder
    start_ns, span_id = recorder.clock.now_ns(), recorder.ids.span_id()
    doubt()
    scope = TaskScope(recorder, span_id=span_id, node_id=node_id, sink=TaskFold(span_id, start_ns), attributes=attributes)
    problem: BaseException | None = None
    try:
        with enter_scope(scope):
            yield guest
    except BaseException as error:
        problem = error
        raise
    finally:
        outcome = None
        if problem is not None and not isinstance(problem, GeneratorExit):
            outcome = (Outcome.CANCELLATION if is_cancellation(problem, interrupted=False) else Outcome.FAILURE).value
        recorder.finish(
            [
                recorder.make(
                    "",
                    title,
                    start_ns,
                    recorder.clock.now_ns(),
                    span_id=span_id,
                    parent=parent_span_id,
                    attributes=attributes,
                    error_type=qualified_name(type(problem)) if outcome is not None and problem is not None else None,
                    message=said(problem) if outcome is not None else "",
                    remote=True,
                )
            ]
        )
        if problem is not None:
            with contextlib.suppress(Exception):
                guest.presence.tell()
