"""What users write wiring with: `deferred`, `step` and `output`.

What comes in: the user's functions. What goes out: functions with the same parameters that record their calls while an experiment is traced.
The types are made so that wiring passes `mypy --strict`; annotations are never evaluated.
"""

from __future__ import annotations

import functools
import inspect
import os
import sys
from typing import TYPE_CHECKING, ParamSpec, cast

from otel_exec.plan import options, tracer
from otel_exec.plan.frame import DeferredCall, StepSpec, current_frame, signature_of
from otel_exec.plan.refs import StepRef
from otel_exec.plan.remote import unwrapped

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from datetime import timedelta

__all__ = ["DeferredCall", "deferred", "output", "step"]

P = ParamSpec("P")


def deferred(fn: Callable[P, object]) -> Callable[P, DeferredCall]:
    """Make a library function one that a step can run; also as a decorator.

    In a step body a call is recorded, to be returned from the body; anywhere else it calls `fn`. What `fn` returns is dropped on the worker.
    A function that `ray.remote` has wrapped keeps the resources that it was given there, where its step does not say otherwise.
    """
    if not callable(fn):
        raise TypeError(f"deferred() takes a function, not {fn!r}")
    fn, resources = unwrapped(fn)
    try:
        signature: inspect.Signature | None = signature_of(fn)
    except (TypeError, ValueError):  # some builtins have none
        signature = None

    def call(*args: P.args, **kwargs: P.kwargs) -> DeferredCall:
        frame = current_frame()
        if frame is None:
            return cast("DeferredCall", fn(*args, **kwargs))
        caller = sys._getframe(1)
        return tracer.defer(fn, frame, (caller.f_code.co_filename, caller.f_lineno), signature=signature, args=args, kwargs=kwargs, resources=resources)

    functools.update_wrapper(call, fn)
    return call


def step(
    name: str,
    *,
    description: str | None = None,
    resources: Mapping[str, object] | None = None,
    retries: int = 0,
    timeout: float | timedelta | None = None,
    verify: str | Sequence[str] | Callable[..., object] | None = None,
    override_output_path: str | os.PathLike[str] | None = None,
) -> Callable[[Callable[P, object]], Callable[P, StepRef]]:
    """Make a wiring function a step: calling it traces its body and returns the reference of its output.

    Args:
        name: a `str.format` template over all bound arguments, defaults included; part of the identity and of the output path.
        description: a template too, for people.
        resources: `{"num_cpus": 2, "num_gpus": 0, "memory": "4GB", ...}`; other names are custom resources.
        retries: further attempts after a failing one.
        timeout: what an attempt may take, in seconds or as a `timedelta`.
        verify: a command, formatted with `{output_path}` and run in the output folder, or `fn(config, output_path)`.
        override_output_path: a template for the output's place instead of the hashed one; relative: under the prefix.

    Returns:
        A decorator. The body returns the deferred call to run, the reference of a step it called (then it is another name for that step),
        or nothing (then it groups the steps it called).
    """
    if not isinstance(name, str):
        raise TypeError(f"@step needs a name, as in @step(name='data/clean'), and was given {name!r}; did you forget the brackets?")
    findings: options.Findings = []
    checked_resources = options.parse_resources(resources, findings)
    checked_retries = options.parse_retries(retries, findings)
    timeout_s = options.parse_timeout(timeout, findings)
    checked_verify = options.parse_verify(verify, findings)
    override = os.fspath(override_output_path) if override_output_path is not None else None

    def decorate(body: Callable[P, object]) -> Callable[P, StepRef]:
        spec = StepSpec(
            body,
            name=name,
            description=description,
            override=override,
            resources=checked_resources,
            retries=checked_retries,
            timeout_s=timeout_s,
            verify=checked_verify,
            findings=findings,
        )

        def call(*args: P.args, **kwargs: P.kwargs) -> StepRef:
            caller = sys._getframe(1)
            return tracer.trace(spec, args, kwargs, (caller.f_code.co_filename, caller.f_lineno))

        functools.update_wrapper(call, body)
        return call

    return decorate


def output(sub: str | os.PathLike[str] = "") -> StepRef:
    """Return the reference of the step's own output, or of a path below it.

    Raises:
        RuntimeError: it is called outside of a step body.
    """
    root = tracer.own_output("")
    return root / sub if sub != "" else root
