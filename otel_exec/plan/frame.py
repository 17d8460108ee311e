"""What is known of a step body while it is traced.

What comes in: decorated functions, their arguments, the calls they make. What goes out: `Frame`s, and the one context variable that says which body runs here
(a thread that the user starts in a body begins outside of it).
"""

from __future__ import annotations

import functools
import inspect
import sys
from contextvars import ContextVar
from typing import TYPE_CHECKING

from otel_exec.errors import Mistake
from otel_exec.plan.node import Place, StepNode, show_place

if TYPE_CHECKING:
    from collections.abc import Callable

    from otel_exec.plan.graph import Resources
    from otel_exec.plan.node import Verify
    from otel_exec.plan.options import Findings

__all__ = ["CURRENT", "DeferredCall", "Frame", "GraphTracer", "StepSpec", "current_frame", "function_name", "signature_of"]

if TYPE_CHECKING:
    from typing import Any as _AnyResult
else:
    _AnyResult = object


class DeferredCall(_AnyResult):  # type: ignore[misc]  # a subclass of Any for the checker alone: outside a body the call's value is the function's own
    """A call of a deferred function in a step body: what the step will run. It is to be returned from the body."""

    __slots__ = ("_config", "_fn", "_frame", "_place", "_resources", "_style")

    def __init__(self, fn: Callable[..., object], config: object, style: str, frame: Frame, place: Place, resources: Resources | None = None) -> None:
        self._fn = fn
        self._config = config
        self._style = style
        self._frame = frame
        self._place = place
        self._resources = resources

    def __repr__(self) -> str:
        return f"<DeferredCall {function_name(self._fn)}>"

    def __reduce_ex__(self, protocol: object) -> str:
        raise TypeError(f"{self!r} can't be sent to a worker: a deferred call is what a step body returns")


class StepSpec:
    """A decorated step function with its options, checked once."""

    __slots__ = (
        "_defaults",
        "_positional",
        "_simple",
        "body",
        "defined",
        "description",
        "findings",
        "name",
        "override",
        "resources",
        "retries",
        "signature",
        "timeout_s",
        "verify",
    )

    def __init__(
        self,
        body: Callable[..., object],
        *,
        name: str,
        description: str | None,
        override: str | None,
        resources: Resources,
        retries: int,
        timeout_s: float | None,
        verify: Verify | None,
        findings: Findings,
    ) -> None:
        self.body = body
        self.name = name
        self.description = description
        self.override = override
        self.resources = resources
        self.retries = retries
        self.timeout_s = timeout_s
        self.verify = verify
        self.findings = findings
        self.signature = signature_of(body)
        parameters = self.signature.parameters.values()
        self._simple = all(one.kind in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY) for one in parameters)
        self._positional = sum(one.kind is one.POSITIONAL_OR_KEYWORD for one in parameters)
        self._defaults: dict[str, object] = {one.name: one.default for one in parameters}
        code = inspect.unwrap(body)
        code = getattr(code, "__code__", None)
        self.defined: Place = (code.co_filename, code.co_firstlineno) if code is not None else ("<unknown>", 0)

    def bind(self, args: tuple[object, ...], kwargs: dict[str, object]) -> dict[str, object]:
        """Return all arguments by name in the order of the parameters, defaults included."""
        # `Signature.bind` takes 10 us: a tenth of what a step may cost. Plain calls of plain functions are bound here.
        if self._simple and len(args) <= self._positional:
            bound = dict(zip(self._defaults, args, strict=False))
            if bound.keys().isdisjoint(kwargs) and kwargs.keys() <= self._defaults.keys():
                for name, default in list(self._defaults.items())[len(args) :]:
                    bound[name] = kwargs.get(name, default)
                if all(value is not inspect.Parameter.empty for value in bound.values()):
                    return bound
        try:
            whole = self.signature.bind(*args, **kwargs)
        except TypeError as error:
            raise TypeError(f"step {self.name!r}: {getattr(self.body, '__qualname__', 'its function')}() {error}") from None
        whole.apply_defaults()
        return whole.arguments


class GraphTracer:
    """What one outermost step call found: its mistakes, in the order found, each once."""

    __slots__ = ("mistakes",)

    def __init__(self) -> None:
        self.mistakes: dict[tuple[str, str | None, str | None], Mistake] = {}

    def add(self, mistake: Mistake) -> None:
        """Take a mistake down, unless the same one is there."""
        self.mistakes.setdefault((mistake.message, mistake.step, mistake.where), mistake)


class Frame:
    """A body that is being traced."""

    __slots__ = ("arguments", "called", "deferred", "name", "parent", "place", "spec", "tracer")

    def __init__(self, spec: StepSpec, arguments: dict[str, object], place: Place, parent: Frame | None, tracer: GraphTracer) -> None:
        self.spec = spec
        self.arguments = arguments
        self.place = place
        self.parent = parent
        self.tracer = tracer
        self.name = spec.name
        self.called: list[StepNode] = []
        self.deferred: list[DeferredCall] = []

    def mistake(self, message: str, hint: str, place: Place | None = None) -> None:
        """Take a mistake of this step down."""
        self.tracer.add(Mistake(message, step=self.name, where=show_place(place or self.spec.defined), hint=hint))


CURRENT: ContextVar[Frame | None] = ContextVar("otel_exec_plan_frame", default=None)


def current_frame() -> Frame | None:
    """Return the frame of the step body that runs here, `None` outside any."""
    return CURRENT.get()


def signature_of(fn: Callable[..., object]) -> inspect.Signature:
    """Return a function's signature without evaluating its annotations, which newer Pythons would do."""
    if sys.version_info >= (3, 14):
        import annotationlib

        return inspect.signature(fn, annotation_format=annotationlib.Format.STRING)
    return inspect.signature(fn)


def function_name(fn: object) -> str:
    """Return a function's own name, for people and for span names."""
    while isinstance(fn, functools.partial):
        fn = fn.func
    name = getattr(fn, "__qualname__", None) or type(fn).__qualname__
    return str(name).rpartition("<locals>.")[2]
