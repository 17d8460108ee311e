"""What makes the user's own OpenTelemetry spans join the run, and its threads carry the context.

What comes in: a process that is ours. What goes out: a global `TracerProvider` that gives spans started inside a run to its recorder, set only where none is;
and threads that inherit the context of who starts them. A provider that the user set is left alone: its exporter exports its spans.
The SDK is imported by the first span that is started inside a run, not before.
"""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING, Any

from opentelemetry import context as context_api
from opentelemetry import trace
from opentelemetry.trace import NoOpTracer, ProxyTracerProvider, Tracer, TracerProvider

from otel_exec.guarded_log import warn
from otel_exec.spans.ids import IdGenerator
from otel_exec.spans.scope import frame_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from opentelemetry.context import Context
    from opentelemetry.trace import Span
    from opentelemetry.util._decorator import _AgnosticContextManager
    from opentelemetry.util.types import Attributes

__all__ = ["ScopeProvider", "install_global", "instrument_threads", "instrument_with_first_thread", "uninstrument_threads"]

_log = logging.getLogger("otel_exec.spans")
_lock = threading.Lock()
_threads_are_ours = False
_first_start: tuple[Callable[[threading.Thread], None], Callable[[threading.Thread], None]] | None = None


def install_global() -> bool:
    """Set our provider where no global one is set; returns whether ours is the global one now. For processes that are ours alone; safe to call twice. Never raises."""
    try:
        with _lock:
            current = trace.get_tracer_provider()
            if isinstance(current, ProxyTracerProvider):
                trace.set_tracer_provider(ScopeProvider())
                current = trace.get_tracer_provider()
            return isinstance(current, ScopeProvider)
    except Exception as error:
        warn(_log, "spans of the user's own can't join the run: %s", error)
        return False


class ScopeProvider(TracerProvider):
    """A provider whose tracers record inside a run and do nothing outside of one."""

    def __init__(self) -> None:
        self._sdk: TracerProvider | None = None
        self._lock = threading.Lock()

    def get_tracer(
        self,
        instrumenting_module_name: str,
        instrumenting_library_version: str | None = None,
        schema_url: str | None = None,
        attributes: Attributes = None,
    ) -> Tracer:
        """Return a tracer; the SDK is not imported yet."""
        return _ScopeTracer(self, (instrumenting_module_name, instrumenting_library_version, schema_url, attributes))

    def sdk(self) -> TracerProvider:
        """Return the SDK's provider, made at the first call: it records everything, whatever the environment's sampler, and exports nothing itself."""
        with self._lock:
            if self._sdk is None:
                from opentelemetry.sdk.resources import Resource
                from opentelemetry.sdk.trace import TracerProvider as SdkProvider

                from otel_exec.spans.processor import KeepAll, OwnIds, ScopeProcessor

                provider = SdkProvider(sampler=KeepAll(), resource=Resource.get_empty(), shutdown_on_exit=False, id_generator=OwnIds(IdGenerator()))
                provider.add_span_processor(ScopeProcessor())
                self._sdk = provider
            return self._sdk


class _ScopeTracer(Tracer):
    """A tracer that asks at each span whether it is inside a run."""

    def __init__(self, provider: ScopeProvider, identity: tuple[Any, ...]) -> None:
        self._provider = provider
        self._identity = identity
        self._real: Tracer | None = None

    def start_span(self, name: str, context: Context | None = None, *args: Any, **kwargs: Any) -> Span:
        """Start a span; see the API."""
        return self._tracer(context).start_span(name, context, *args, **kwargs)

    def start_as_current_span(self, name: str, context: Context | None = None, *args: Any, **kwargs: Any) -> _AgnosticContextManager[Span]:
        """Start a span and make it current for a block; see the API."""
        return self._tracer(context).start_as_current_span(name, context, *args, **kwargs)

    def _tracer(self, context: Context | None) -> Tracer:
        try:
            if frame_of(context or context_api.get_current()) is None:
                return _NOTHING
            if self._real is None:
                self._real = self._provider.sdk().get_tracer(*self._identity)
        except Exception as error:
            warn(_log, "spans of the user's own can't join the run: %s", error)
            return _NOTHING
        return self._real


_NOTHING = NoOpTracer()


def instrument_threads() -> bool:
    """Make threads, timers and thread pools inherit the context of who starts them; returns whether this call did it.

    Left alone where the user did so already; safe to call twice. Never raises.
    """
    global _threads_are_ours
    try:
        from opentelemetry.instrumentation.threading import ThreadingInstrumentor

        with _lock:
            instrumentor = ThreadingInstrumentor()
            if not instrumentor.is_instrumented_by_opentelemetry:
                # The check reads the metadata of every installed package; threads have no version to check.
                instrumentor.instrument(skip_dep_check=True)
                _threads_are_ours = True
                return True
    except Exception as error:
        warn(_log, "threads don't carry the run's context: %s", error)
    return False


def instrument_with_first_thread() -> None:
    """Do as `instrument_threads`, once the first thread is started: importing the instrumentation takes 50 ms, and most steps start no thread."""
    global _first_start
    with _lock:
        if _first_start is not None:
            return
        plain = threading.Thread.start

        def start(thread: threading.Thread) -> None:
            alone = _forget_first_start()
            if alone:
                instrument_threads()
            (threading.Thread.start if alone else plain)(thread)

        _first_start = (plain, start)
        threading.Thread.start = start  # type: ignore[method-assign, assignment]  # until it is called


def _forget_first_start() -> bool:
    """Put `Thread.start` back as it was, unless somebody has wrapped it meanwhile; returns whether it was put back."""
    global _first_start
    with _lock:
        if _first_start is None:
            return False
        plain, ours = _first_start
        _first_start = None
        if threading.Thread.start is not ours:
            return False
        threading.Thread.start = plain  # type: ignore[method-assign, assignment]  # it was there before
        return True


def uninstrument_threads() -> None:
    """Undo `instrument_threads` and `instrument_with_first_thread`, if it was us. Never raises."""
    global _threads_are_ours
    _forget_first_start()
    try:
        with _lock:
            if not _threads_are_ours:
                return
            from opentelemetry.instrumentation.threading import ThreadingInstrumentor

            ThreadingInstrumentor().uninstrument()
            _threads_are_ours = False
    except Exception as error:
        warn(_log, "threads still carry a run's context: %s", error)
