"""Reading and setting the OpenTelemetry context by the shortest way.

What comes in: nothing. What goes out: `current_context` and `attach_context`, which do what the API's `get_current` and `attach` do.
The API reaches its context variable through two calls of Python each time, which is a tenth of what a phase costs (measured: bench/phases.py). Where the runtime
context is the one that comes with the API, its variable is asked directly; where it is another, or has changed its inside, the API's own functions are.
"""

from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING

from opentelemetry import context as context_api
from opentelemetry.context.contextvars_context import ContextVarsRuntimeContext

if TYPE_CHECKING:
    from collections.abc import Callable

    from opentelemetry.context import Context

__all__ = ["attach_context", "current_context"]


def _variable() -> ContextVar[Context] | None:
    runtime = getattr(context_api, "_RUNTIME_CONTEXT", None)
    variable = getattr(runtime, "_current_context", None)
    if type(runtime) is not ContextVarsRuntimeContext or not isinstance(variable, ContextVar):
        return None
    try:
        # It answers as the API does, also where nothing was set yet.
        same = variable.get() == context_api.get_current()
    except LookupError:
        return None
    return variable if same else None


_found = _variable()

current_context: Callable[[], Context] = context_api.get_current if _found is None else _found.get
attach_context: Callable[[Context], object] = context_api.attach if _found is None else _found.set
