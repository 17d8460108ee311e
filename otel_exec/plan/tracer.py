"""Tracing: the bodies of step functions are called once, with placeholders, and what they did becomes nodes.

What comes in: calls of step functions and deferred functions. What goes out: `StepRef`s to `StepNode`s with their identity and edges.
The state is one context variable, the frame of the body that runs here. Nothing is raised for a mistake in a plan: the `GraphTracer` collects them,
and the reference of the outermost call carries them. What the user's body raises by itself goes through, with a note.
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

from otel_exec.errors import PlanError, unknown_name
from otel_exec.plan.conclude import conclude
from otel_exec.plan.frame import CURRENT, DeferredCall, Frame, GraphTracer, StepSpec, function_name
from otel_exec.plan.node import Place, show_place
from otel_exec.plan.paths import name_fault
from otel_exec.plan.refs import StepRef, _make, _require_sound, join
from otel_exec.plan.template import TemplateFault, fill
from otel_exec.plan.walk import references

if TYPE_CHECKING:
    from collections.abc import Callable

    from otel_exec.plan.graph import Resources

__all__ = ["defer", "own_output", "trace"]

_NOTE = "otel_exec: "


def trace(spec: StepSpec, args: tuple[object, ...], kwargs: dict[str, object], place: Place) -> StepRef:
    """Call a step's body with placeholders and return the reference of the node that it came to.

    Raises:
        PlanError: an outermost call was given a reference that carries mistakes.
        TypeError: the arguments don't fit the step function.
    """
    parent = CURRENT.get()
    arguments = spec.bind(args, kwargs)
    given = references(arguments.values())
    if parent is None:
        for ref in given:
            _require_sound(ref)
    frame = Frame(spec, arguments, place, parent, parent.tracer if parent is not None else GraphTracer())
    before = len(frame.tracer.mistakes)
    for sentence, hint in spec.findings:
        frame.mistake(sentence, hint)
    _name(frame, given)
    description = _fill(frame, "description", spec.description, given)
    override = _fill(frame, "override_output_path", spec.override, given)
    result, broken = _run_body(frame, args, kwargs)
    node = conclude(frame, result, given, description, override)
    node.broken = node.broken or broken
    found = tuple(frame.tracer.mistakes.values())
    node.mistakes = found if parent is None else found[before:]
    if parent is not None:
        parent.called.append(node)
    return _make(node, "", blocking=True)


def _run_body(frame: Frame, args: tuple[object, ...], kwargs: dict[str, object]) -> tuple[object, bool]:
    token = CURRENT.set(frame)
    try:
        return frame.spec.body(*args, **kwargs), False
    except PlanError as error:
        # A reference was used in a way that it can't be: a mistake like the others, so that the rest of the plan is looked at too.
        for mistake in error.mistakes:
            frame.tracer.add(mistake)
        return None, True
    except Exception as error:
        if not any(note.startswith(_NOTE) for note in getattr(error, "__notes__", ())):
            error.add_note(f"{_NOTE}raised by the body of step {frame.name!r} ({show_place(frame.spec.defined)}), called at {show_place(frame.place)}")
        raise
    finally:
        CURRENT.reset(token)


def _name(frame: Frame, given: list[StepRef]) -> None:
    name = _fill(frame, "name", frame.spec.name, given)
    if name is None:
        return
    frame.name = name
    fault = name_fault(name)
    if fault:
        frame.mistake(f"the name {name!r} {fault}", "a step's name is a relative path such as 'data/clean'", frame.place)


def _fill(frame: Frame, what: str, template: str | None, given: list[StepRef]) -> str | None:
    if template is None:
        return None
    try:
        return fill(template, frame.arguments, look_for_references=bool(given))
    except TemplateFault as fault:
        names = ", ".join(frame.arguments) or "none"
        message = unknown_name("placeholder", fault.placeholder, frame.arguments) if fault.unknown else str(fault)
        frame.mistake(f"its {what} {template!r}: {message}", fault.hint or f"placeholders are the step's own arguments ({names})")
        return None


def own_output(sub: str) -> StepRef:
    """Return the reference of `output()`, below it where `sub` is not empty.

    Raises:
        RuntimeError: no step body runs here.
    """
    frame = CURRENT.get()
    if frame is None:
        raise RuntimeError("output() called outside of step context")
    return _make(frame, join("", sub), blocking=True)


def defer(
    fn: Callable[..., object],
    frame: Frame,
    place: Place,
    *,
    signature: inspect.Signature | None,
    args: tuple[object, ...],
    kwargs: dict[str, Any],
    resources: Resources | None = None,
) -> DeferredCall:
    """Record a call of a deferred function.

    One argument is the config itself; several, or none, make a config keyed by parameter name. `resources`: what the function asks for by itself.
    """
    parameters = signature.parameters if signature is not None else {}
    plain = len(args) == 1 and not kwargs and len(parameters) == 1 and next(iter(parameters.values())).kind is inspect.Parameter.POSITIONAL_OR_KEYWORD
    bound = kwargs if plain or signature is None else signature.bind(*args, **kwargs).arguments
    config: object
    style = "kwargs"
    if len(args) == 1 and not kwargs:
        config, style = args[0], "config"
    elif not args and len(kwargs) == 1 and _can_be_positional(parameters, next(iter(kwargs))):
        config, style = next(iter(kwargs.values())), "config"
    else:
        config = named = {}
        nameless = bool(args) and signature is None
        for name, value in bound.items():
            kind = parameters[name].kind if name in parameters else inspect.Parameter.KEYWORD_ONLY
            if kind is inspect.Parameter.VAR_KEYWORD:
                named.update(value)
            else:
                nameless = nameless or kind in (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.VAR_POSITIONAL)
                named[name] = value
        if nameless:
            frame.mistake(
                f"calls {function_name(fn)}(...) with several arguments that have no names",
                "give it one config, or parameters that can be passed by name",
                place,
            )
    call = DeferredCall(fn, config, style, frame, place, resources)
    frame.deferred.append(call)
    return call


def _can_be_positional(parameters: Any, name: str) -> bool:
    """Return whether this is the first parameter and can be passed without its name, as a worker does."""
    first = next(iter(parameters.values()), None)
    return first is not None and first.name == name and first.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD
