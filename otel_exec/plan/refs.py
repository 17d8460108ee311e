"""Placeholders that stand in configs while an experiment is traced: references to outputs, and values that count for the identity.

What comes in: the user's paths and values. What goes out: immutable `StepRef` and `Versioned` objects, replaced by plain values before any user function sees a config.
Never knows where a path will be: that is `build.py`'s.

For a type checker a `StepRef` is a subclass of `Any`, so that it is accepted in every config field; `versioned` returns the type that it was given.
"""

from __future__ import annotations

import dataclasses
import os
import sys
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar, cast

from otel_exec.errors import Mistake, PlanError
from otel_exec.plan.frame import current_frame
from otel_exec.plan.node import Place, StepNode, show_place

if TYPE_CHECKING:
    from typing import Any as _AnyField
else:
    _AnyField = object

__all__ = ["StepRef", "Versioned", "join", "versioned"]

T = TypeVar("T")


def join(base: str, sub: str) -> str:
    """Return `base/sub` without pathlib, which would break URLs; an empty part adds nothing."""
    if not sub:
        return base
    if not base:
        return sub
    return f"{base}{sub}" if base.endswith("/") else f"{base}/{sub}"


def _text_of(path: object) -> str:
    if type(path) is Versioned:
        path = path.value  # what lies below a reference is part of the identity anyway
    text = os.fspath(cast("str", path))
    if not isinstance(text, str):
        raise TypeError(f"a path is text, not {type(path).__name__}")
    return text


class StepRef(_AnyField):  # type: ignore[misc]  # a subclass of Any for the checker alone, so that any config field takes it
    """The output of a step, before its path is known.

    `ref / "a" / "b.txt"` is a path below it. A step call returns one, `output()` is one of the step's own output, `StepRef.hardcoded(path)` is one without a step.
    """

    __slots__ = ("_blocking", "_sub", "_target")

    # A node; the frame of the body that called output(); or the text of a hardcoded path.
    _target: object
    _sub: str
    _blocking: bool

    def __init__(self) -> None:
        raise TypeError("a StepRef is what a step call returns; StepRef.hardcoded(path) makes one of a fixed path")

    @staticmethod
    def hardcoded(path: str | os.PathLike[str]) -> StepRef:
        """Return a reference to a path that no step makes; a relative one is under the prefix."""
        text = _text_of(path)
        if not text:
            raise ValueError("StepRef.hardcoded() needs a path")
        return _make(text, "", blocking=True)

    def nonblocking(self) -> StepRef:
        """Return the reference as one that counts for the identity and is not waited for.

        Raises:
            ValueError: there is no step behind it (`output()`, hardcoded).
        """
        node = self._step("nonblocking")
        return _make(node, self._sub, blocking=False)

    def with_output_path(self, path: str | os.PathLike[str]) -> StepRef:
        """Move the output of the step itself and return the reference; the identity stays.

        Args:
            path: a relative one is under the prefix; an absolute one, or one with `://`, is taken as it is.

        Raises:
            ValueError: there is no step behind it (`output()`, hardcoded).
        """
        node = self._step("with_output_path")
        while node.alias is not None and isinstance(node.alias._target, StepNode):
            node = node.alias._target
        node.moved.append((_text_of(path), _caller()))
        return self

    def __truediv__(self, sub: str | os.PathLike[str]) -> StepRef:
        _require_sound(self)
        if type(sub) is not str and not isinstance(sub, (str, os.PathLike, Versioned)):
            return NotImplemented
        text = _text_of(sub)
        if text.startswith("/") or "://" in text:
            raise ValueError(f"what follows a reference is a path below it, not {text!r}")
        return _make(self._target, join(self._sub, text), blocking=self._blocking)

    def __eq__(self, other: object) -> bool:
        if type(other) is not StepRef:
            return NotImplemented
        return self._blocking is other._blocking and self._sub == other._sub and (self._target is other._target or self._hardcoded == other._hardcoded != "")

    def __hash__(self) -> int:
        return hash((self._hardcoded or id(self._target), self._sub, self._blocking))

    def __repr__(self) -> str:
        what = self._target.name if isinstance(self._target, StepNode) else self._hardcoded or "output()"
        below = f" / {self._sub!r}" if self._sub else ""
        return f"<StepRef {what}{below}{'' if self._blocking else ' nonblocking'}>"

    def __str__(self) -> str:
        raise self._no_text()

    def __format__(self, spec: str) -> str:
        raise self._no_text()

    def __fspath__(self) -> str:
        raise self._no_text()

    def __copy__(self) -> StepRef:
        return self

    def __deepcopy__(self, memo: object) -> StepRef:
        return self

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError(f"{self!r} can't be sent to a worker: references are replaced by paths in dataclasses, dicts, lists, tuples and sets only")

    @property
    def _hardcoded(self) -> str:
        return self._target if type(self._target) is str else ""

    def _step(self, method: str) -> StepNode:
        _require_sound(self)
        if not isinstance(self._target, StepNode):
            raise ValueError(f"{self!r} has no step behind it, so it has no .{method}()")  # noqa: TRY004  promised as a ValueError
        return self._target

    def _no_text(self) -> PlanError:
        _require_sound(self)
        mistake = Mistake(
            f"{self!r} was used as text, but a step's path is known only when it runs",
            step=self._target.name if isinstance(self._target, StepNode) else None,
            where=show_place(_caller()),
            hint='put the reference itself, or ref / "sub", into a config field',
        )
        return PlanError([mistake])


def _make(target: object, sub: str, *, blocking: bool) -> StepRef:
    ref = object.__new__(StepRef)
    ref._target = target
    ref._sub = sub
    ref._blocking = blocking
    return ref


def _require_sound(ref: StepRef) -> None:
    """Raise what an outermost call put off. Inside a body nothing is raised: tracing goes on, to find all mistakes."""
    if isinstance(ref._target, StepNode) and ref._target.mistakes and current_frame() is None:
        raise PlanError(ref._target.mistakes)


def _caller() -> Place:
    """Return the nearest line outside this file."""
    frame = sys._getframe(1)
    while frame.f_code.co_filename == __file__ and frame.f_back is not None:
        frame = frame.f_back
    return frame.f_code.co_filename, frame.f_lineno


class Versioned:
    """A config value that counts for the identity. In a template it reads as the value itself."""

    __slots__ = ("value",)

    value: Any

    def __init__(self, value: Any) -> None:
        self.value = value

    def __eq__(self, other: object) -> bool:
        return type(other) is Versioned and bool(self.value == other.value)

    def __hash__(self) -> int:
        return hash((Versioned, self.value))

    def __repr__(self) -> str:
        return f"versioned({self.value!r})"

    def __str__(self) -> str:
        return str(self.value)

    def __format__(self, spec: str) -> str:
        return format(self.value, spec)


def versioned(value: T) -> T:
    """Mark a config value as part of the step's identity: another value makes another output.

    Args:
        value: anything that JSON can hold.

    Raises:
        ValueError: the value is or holds a versioned value or a `StepRef` (references count for the identity as they are).
    """
    _refuse_placeholders(value)
    return cast("T", Versioned(value))


def _refuse_placeholders(value: object) -> None:
    seen: set[int] = set()
    stack = [value]
    while stack:
        item = stack.pop()
        if type(item) is Versioned:
            raise ValueError(f"versioned() is given {item!r}, which is versioned already: mark a value once")
        if type(item) is StepRef:
            raise ValueError(f"versioned() is given {item!r}: a reference is part of the identity by itself")
        if isinstance(item, (dict, list, tuple, set, frozenset)) or (dataclasses.is_dataclass(item) and not isinstance(item, type)):
            if id(item) in seen:
                continue
            seen.add(id(item))
            if isinstance(item, dict):
                stack.extend(item.values())
            elif dataclasses.is_dataclass(item):
                stack.extend(getattr(item, field.name, None) for field in dataclasses.fields(item))
            else:
                stack.extend(item)
