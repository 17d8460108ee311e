"""What a traced body came to: its node, with edges and identity, and the mistakes that show only now.

What comes in: the frame of a body that has ended, and what it returned. What goes out: a `StepNode`; mistakes go to the frame's `GraphTracer`.
"""

from __future__ import annotations

import inspect

from otel_exec.plan.frame import DeferredCall, Frame, function_name
from otel_exec.plan.identity import Version
from otel_exec.plan.node import Place, StepNode
from otel_exec.plan.paths import path_fault
from otel_exec.plan.refs import StepRef, Versioned
from otel_exec.plan.walk import ConfigWalk

__all__ = ["conclude"]


def conclude(frame: Frame, result: object, given: list[StepRef], description: str | None, override: str | None) -> StepNode:
    """Return the node of a body that has ended.

    Args:
        frame: the body's.
        result: what it returned.
        given: the references found in its bound arguments, in order.
        description: the filled template.
        override: the filled template of the output path.
    """
    spec = frame.spec
    call, alias, broken = _judge(frame, result)
    walk = ConfigWalk(frame, lambda message, hint: frame.mistake(message, hint, call._place if call is not None else None))
    recipe = walk.visit(call._config) if call is not None else None
    implied = [*given, *walk.outside]
    for ref in (*walk.foreign, *(ref for ref in implied if isinstance(ref._target, Frame))):
        _foreign_output(frame, ref)
    node_refs = [ref for ref in implied if isinstance(ref._target, StepNode)]
    blocking, pseudo = _edges(walk.refs, node_refs, frame.called, group=call is None)
    if call is not None:
        for ref in walk.refs:
            _check_has_path(frame, ref, call._place)
    for node in dict.fromkeys((*blocking, *pseudo)):
        for mistake in node.mistakes:
            frame.tracer.add(mistake)
    if override is not None:
        _check_override(frame, override)
    made = StepNode(
        name=frame.name,
        template=spec.name,
        defined=spec.defined,
        place=frame.place,
        version=Version(frame.name, walk.entries, [node.version for node in blocking], [node.version for node in pseudo]),
        blocking=tuple(dict.fromkeys(blocking)),
        pseudo=tuple(dict.fromkeys(pseudo)),
        resources=spec.resources if call is None or call._resources is None else spec.resources.over(call._resources),
        retries=spec.retries,
        timeout_s=spec.timeout_s,
        verify=spec.verify,
        description=description,
        override=override,
    )
    made.alias = alias
    made.broken = broken
    if call is not None:
        made.fn = call._fn
        made.fn_name = function_name(call._fn)
        made.call_style = call._style
        made.recipe = recipe
    return made


def _judge(frame: Frame, result: object) -> tuple[DeferredCall | None, StepRef | None, bool]:
    """Return the call that the step will run, or the reference it is another name for, and whether the body was wrong about it."""
    call = result if type(result) is DeferredCall and result._frame is frame else None
    for other in frame.deferred:
        if other is not call:
            frame.mistake(
                f"calls {function_name(other._fn)}(...) and does not return it, so it would never run",
                "return the deferred call; a step runs one, so give further ones steps of their own",
                other._place,
            )
    if call is not None:
        if inspect.iscoroutinefunction(call._fn) or inspect.isgeneratorfunction(call._fn) or inspect.isasyncgenfunction(call._fn):
            kind = "a generator" if inspect.isgeneratorfunction(call._fn) or inspect.isasyncgenfunction(call._fn) else "a coroutine"
            frame.mistake(
                f"{function_name(call._fn)} makes {kind}: calling it would run nothing of it",
                "defer a plain function that runs it to its end, e.g. with asyncio.run(...) or list(...)",
                call._place,
            )
        return call, None, False
    if result is None:
        return None, None, bool(frame.deferred)
    if type(result) is StepRef and isinstance(result._target, StepNode):
        return None, result, bool(frame.deferred)
    hint = "return the deferred call that the step runs, the reference of a step it called, or nothing to group the steps it called"
    if inspect.iscoroutine(result):
        result.close()
        hint = "write the body as a plain function: it only wires; what the step runs may be async"
    elif type(result) is DeferredCall:
        hint = "a deferred call belongs to the body that made it: make it here"
    elif isinstance(result, (list, tuple, dict, set)):
        hint = "return nothing: a step that returns nothing groups all the steps it called"
    elif type(result) is StepRef:
        hint = "output() and hardcoded references have no step: return the deferred call that uses them"
    what = repr(result) if isinstance(result, (StepRef, DeferredCall, Versioned)) else f"a {type(result).__name__}"
    frame.mistake(f"its body returns {what}, which is neither a deferred call nor a step's reference nor None", hint)
    return None, None, True


def _edges(config: list[StepRef], implied: list[StepRef], called: list[StepNode], *, group: bool) -> tuple[list[StepNode], list[StepNode]]:
    """Return the blocking and the pseudo dependencies in the order of the version.

    The config's references count each time. After them come the steps found in bound arguments alone and those only called, neither repeating one already listed:
    so a non-blocking reference replaces the edge that an argument or a call would have made, but not one that the config itself has. A group keeps its calls.
    """
    blocking = [_node_of(ref) for ref in config if ref._blocking]
    pseudo = [_node_of(ref) for ref in config if not ref._blocking]
    listed = {*_keys(blocking), *_keys(pseudo)}
    waited = _keys([_node_of(ref) for ref in implied if ref._blocking])
    if group:
        waited |= _keys(called)
    for ref in implied:
        node = _node_of(ref)
        key = node.version.md5
        if key in listed or (not ref._blocking and key in waited):
            continue
        listed.add(key)
        (blocking if ref._blocking else pseudo).append(node)
    for node in called:
        if node.version.md5 not in listed:
            listed.add(node.version.md5)
            blocking.append(node)
    return blocking, pseudo


def _node_of(ref: StepRef) -> StepNode:
    assert isinstance(ref._target, StepNode)
    return ref._target


def _keys(nodes: list[StepNode]) -> set[str]:
    """Return what tells steps apart: equal identities are one step."""
    return {node.version.md5 for node in nodes}


def _check_has_path(frame: Frame, ref: StepRef, place: Place) -> None:
    node = _node_of(ref)
    while node.alias is not None:
        node = _node_of(node.alias)
    if node.group and not node.broken:
        frame.mistake(
            f"its config refers to the path of {node.name!r}, a group step, which has no output",
            "refer to one of the steps that it groups, or return that step's reference from its body",
            place,
        )


def _check_override(frame: Frame, override: str) -> None:
    fault = path_fault(override)
    if fault:
        frame.mistake(f"its override_output_path {override!r} {fault}", "give a path below the prefix, an absolute one or a URL")


def _foreign_output(frame: Frame, ref: StepRef) -> None:
    """Take down that another step's output() is used here: of a step whose body still runs, that is a cycle."""
    owner = ref._target
    assert isinstance(owner, Frame)
    path = [frame.name]
    above = frame.parent
    while above is not None:
        path.append(above.name)
        if above is owner:
            path.reverse()
            cycle = " -> ".join((*path, owner.name))
            frame.mistake(
                f"is called by {owner.name!r} and uses its output(), which is a cycle: {cycle}",
                "give the inner step an output of its own and use its reference",
                frame.place,
            )
            return
        above = above.parent
    frame.mistake(f"uses output() of {owner.name!r}, whose body has ended", f"use the reference that the call of {owner.name!r} returned", frame.place)
