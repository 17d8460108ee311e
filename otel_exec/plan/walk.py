"""A walk through a config: what counts for the identity, and how to make the config that the function receives.

What comes in: the user's config with placeholders in it. What goes out: the references in the order found, the identity's entries, and a recipe; once paths are
known `resolve` makes the plain config from the recipe. Never changes the user's objects.

A container with a placeholder below it is made anew; everything else is passed on as the same object. A dataclass is copied and its fields are set: neither
`__init__` nor `__post_init__` runs a second time, since they ran when the user made the object, may have effects, and need not accept what `fields()` gives
(`init=False`, `InitVar`). Annotations are never looked at: a field typed as a path receives plain text.
"""

from __future__ import annotations

import copy
import dataclasses
from typing import TYPE_CHECKING, Any, Final, TypeAlias, cast

from otel_exec.plan.identity import ConfigEntry, encode_value
from otel_exec.plan.node import StepNode
from otel_exec.plan.recorded import to_json
from otel_exec.plan.refs import StepRef, Versioned, join
from otel_exec.secrets import MASK, is_secret_field, mask

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

__all__ = ["ConfigWalk", "references", "resolve"]

_ATOMS: Final = frozenset({str, int, float, bool, type(None), bytes})
_SCALARS: Final = frozenset({str, int, bool, type(None)})
_UNCHANGED: Final = object()


class _Rebuild:
    """A container with placeholders below it: a snapshot of it, and what replaces which of its parts (field names, keys or indices)."""

    __slots__ = ("make", "parts", "snapshot")

    def __init__(self, snapshot: Any, parts: list[tuple[Any, object]], make: Callable[[Any, list[tuple[Any, object]]], object]) -> None:
        self.snapshot = snapshot
        self.parts = parts
        self.make = make


def resolve(recipe: object, path_of: Callable[[StepRef], str]) -> object:
    """Return the plain config of a recipe. Each call makes new containers where there were placeholders."""
    kind = type(recipe)
    if kind is _Rebuild:
        assert isinstance(recipe, _Rebuild)
        return recipe.make(recipe.snapshot, [(key, resolve(part, path_of)) for key, part in recipe.parts])
    if kind is StepRef:
        return path_of(recipe)  # type: ignore[arg-type]  # its type was compared by identity
    if kind is Versioned:
        return recipe.value  # type: ignore[attr-defined]  # its type was compared by identity
    return recipe


class ConfigWalk:
    """The findings in one config.

    Args:
        owner: the frame of the step, which its own `output()` points to.
        mistake: called with a sentence and a hint for each mistake.

    After `visit`: `refs` are the step references in the order found (the index of each is its `DEP[i]`), `entries` the identity's config,
    `outside` references found in attributes that are no fields: dependencies like those of bound arguments.
    """

    def __init__(self, owner: object, mistake: Callable[[str, str], None]) -> None:
        self._owner = owner
        self._mistake = mistake
        self._open: set[int] = set()
        self.refs: list[StepRef] = []
        self.outside: list[StepRef] = []
        self.foreign: list[StepRef] = []
        self.entries: dict[str, ConfigEntry] = {}

    def visit(self, config: object) -> object:
        """Walk the config and return its recipe."""
        try:
            recipe = self._visit(config, "", secret=False)
        except RecursionError:
            self._mistake("its config nests deeper than Python can follow", "pass a flatter config, or a path to a file")
            return config
        return config if recipe is _UNCHANGED else recipe

    def _visit(self, value: Any, key: str, *, secret: bool) -> object:
        kind = type(value)
        if kind in _ATOMS:
            return _UNCHANGED
        if kind is StepRef:
            self._reference(value, key, secret=secret)
            return value
        if kind is Versioned:
            self._versioned(value.value, key, secret=secret)
            return value
        visit = _container(kind)
        if visit is None:
            return _UNCHANGED
        mark = id(value)
        if mark in self._open:
            self._mistake(f"its config contains itself at {key or 'its root'!r}", "a config is a tree: pass the inner values by themselves")
            return _UNCHANGED
        self._open.add(mark)
        try:
            return visit(self, value, key, secret)
        finally:
            self._open.discard(mark)

    def _reference(self, ref: StepRef, key: str, *, secret: bool) -> None:
        target = ref._target
        if type(target) is StepNode:
            text = join(f"DEP[{len(self.refs)}]", ref._sub)
            self.refs.append(ref)
        elif type(target) is str:
            text = join(target, ref._sub)
        else:
            if target is not self._owner:
                self.foreign.append(ref)
            return
        self._enter(key, encode_value(text), text, secret=secret)

    def _versioned(self, value: object, key: str, *, secret: bool) -> None:
        try:
            text = encode_value(value)
        except (TypeError, ValueError, RecursionError) as error:
            self._mistake(
                f"the versioned value at {key!r} can't be encoded as JSON ({error})", "versioned() takes text, numbers, booleans, None, lists and dicts of them"
            )
            return
        self._enter(key, text, value, secret=secret)

    def _enter(self, key: str, text: str, value: object, *, secret: bool) -> None:
        if key in self.entries:
            self._mistake(f"two config values have the identity key {key!r}", "rename the dict key that has a dot or a bracket in it")
        if secret and value is not None:
            self.entries[key] = ConfigEntry(text, MASK, exact=False)
            return
        recorded = mask(to_json(value))
        # Most values are recorded as they are; only others need a second encoding to see whether that says the same.
        exact = True if recorded is value and type(value) in _SCALARS else None
        self.entries[key] = ConfigEntry(text, recorded, exact=exact)

    def _child(self, name: str, value: object, key: str, *, secret: bool) -> object:
        kind = type(value)
        held = value.value if kind is Versioned else "" if kind is StepRef else value  # type: ignore[attr-defined]  # a reference is text
        return self._visit(value, f"{key}.{name}" if key else name, secret=secret or is_secret_field(name, held))

    def _items(self, values: Iterable[object], key: str, *, secret: bool) -> list[tuple[Any, object]]:
        start = f"{key}.[" if key else "["
        parts: list[tuple[Any, object]] = []
        for index, value in enumerate(values):
            if type(value) in _ATOMS:
                continue
            part = self._visit(value, f"{start}{index}]", secret=secret)
            if part is not _UNCHANGED:
                parts.append((index, part))
        return parts

    def _list(self, value: list[object], key: str, secret: bool) -> object:
        parts = self._items(value, key, secret=secret)
        return _Rebuild(copy.copy(value), parts, _make_list) if parts else _UNCHANGED

    def _tuple(self, value: tuple[object, ...], key: str, secret: bool) -> object:
        parts = self._items(value, key, secret=secret)
        return _Rebuild(value, parts, _make_tuple) if parts else _UNCHANGED

    def _set(self, value: set[object] | frozenset[object], key: str, secret: bool) -> object:
        ordered = sorted(value, key=_set_order)
        parts = self._items(ordered, key, secret=secret)
        return _Rebuild((type(value), ordered), parts, _make_set) if parts else _UNCHANGED

    def _dict(self, value: dict[object, object], key: str, secret: bool) -> object:
        parts: list[tuple[Any, object]] = []
        for name, item in value.items():
            if not isinstance(name, str):
                self._mistake(f"a dict in its config has the key {name!r} at {key or 'its root'!r}", "the keys of dicts in configs are text")
                continue
            if type(item) in _ATOMS:
                continue
            part = self._child(str.__str__(name), item, key, secret=secret)
            if part is not _UNCHANGED:
                parts.append((name, part))
        return _Rebuild(copy.copy(value), parts, _make_dict) if parts else _UNCHANGED

    def _dataclass(self, value: Any, key: str, secret: bool) -> object:
        names, known, frozen = _shape(type(value))
        parts: list[tuple[Any, object]] = []
        for name in names:
            try:
                item = getattr(value, name)
            except AttributeError:  # a field with init=False that was never set
                continue
            if type(item) in _ATOMS:
                continue
            part = self._child(name, item, key, secret=secret)
            if part is not _UNCHANGED:
                parts.append((name, part))
        attributes = getattr(value, "__dict__", None)
        if attributes is not None and not attributes.keys() <= known:
            parts += self._attributes({name: item for name, item in attributes.items() if name not in known})
        if not parts:
            return _UNCHANGED
        return _Rebuild(value if frozen else copy.copy(value), parts, _make_dataclass)

    def _attributes(self, attributes: dict[str, object]) -> list[tuple[Any, object]]:
        """Return what to replace in attributes that are no fields: they are no part of the identity, but no reference may be left in them."""
        inner = ConfigWalk(self._owner, self._mistake)
        inner._open = self._open
        parts = [(name, inner._visit(item, name, secret=False)) for name, item in attributes.items()]
        self.outside += (*inner.refs, *inner.outside)
        self.foreign += inner.foreign
        return [(name, part) for name, part in parts if part is not _UNCHANGED]


def references(values: Iterable[object]) -> list[StepRef]:
    """Return the references found anywhere in the values, in order; containers that are met again are passed over."""
    found: list[StepRef] = []
    seen: set[int] = set()
    stack = list(values)
    stack.reverse()
    while stack:
        value = stack.pop()
        kind = type(value)
        if kind in _ATOMS:
            continue
        if kind is StepRef:
            found.append(value)  # type: ignore[arg-type]  # its type was compared by identity
            continue
        if kind is Versioned or _container(kind) is None or id(value) in seen:
            continue
        seen.add(id(value))
        stack.extend(reversed(_inside(value)))
    return found


def _inside(value: Any) -> list[object]:
    if isinstance(value, dict):
        return list(value.values())
    if isinstance(value, (set, frozenset)):
        return sorted(value, key=_set_order)
    if isinstance(value, (list, tuple)):
        return [item for item in value if type(item) not in _ATOMS]
    return [getattr(value, name, None) for name in _shape(type(value))[0]]


def _container(kind: type) -> _Visit | None:
    """Return how to walk objects of this class; `None` for leaves."""
    found = _CONTAINERS.get(kind, _UNCHANGED)
    if found is _UNCHANGED:
        if len(_CONTAINERS) >= _CACHED_CLASSES:
            _CONTAINERS.clear()
        found = _CONTAINERS[kind] = next((visit for fits, visit in _VISITS if fits(kind)), None)
    return cast("_Visit | None", found)


def _shape(kind: Any) -> tuple[tuple[str, ...], frozenset[str], bool]:
    """Return a dataclass' field names in order, as a set, and whether it is frozen."""
    found = _SHAPES.get(kind)
    if found is None:
        if len(_SHAPES) >= _CACHED_CLASSES:
            _SHAPES.clear()
        names = tuple(field.name for field in dataclasses.fields(kind))
        found = _SHAPES[kind] = names, frozenset(names), bool(kind.__dataclass_params__.frozen)
    return found


_Visit: TypeAlias = "Callable[[ConfigWalk, Any, str, bool], object]"
# A dataclass that is also a dict or a list is walked by its fields.
_VISITS: Final[tuple[tuple[Callable[[type], bool], _Visit], ...]] = (
    (dataclasses.is_dataclass, ConfigWalk._dataclass),
    (lambda kind: issubclass(kind, dict), ConfigWalk._dict),
    (lambda kind: issubclass(kind, list), ConfigWalk._list),
    (lambda kind: issubclass(kind, tuple), ConfigWalk._tuple),
    (lambda kind: issubclass(kind, (set, frozenset)), ConfigWalk._set),
)
# Classes made in a loop are let go now and then.
_CACHED_CLASSES: Final = 1024
_CONTAINERS: Final[dict[type, object]] = {}
_SHAPES: Final[dict[type, tuple[tuple[str, ...], frozenset[str], bool]]] = {}


def _set_order(value: object) -> tuple[object, ...]:
    """Sort sets the same way in every process: hashes of text and addresses are not."""
    if type(value) is StepRef:
        target = value._target
        if type(target) is StepNode:
            return (2, target.name, target.version.md5, value._sub, value._blocking)
        return (1, target if type(target) is str else "", value._sub)
    if type(value) is Versioned:
        value = value.value
    if isinstance(value, (int, float)):
        return (0, "", float(value) if abs(value) < 2**53 else value)
    if isinstance(value, str):
        return (0, "text", str.__str__(value))
    if isinstance(value, tuple):
        return (3, tuple(_set_order(item) for item in value))
    return (4, type(value).__qualname__, repr(value))


def _make_list(snapshot: list[object], parts: list[tuple[Any, object]]) -> object:
    made = copy.copy(snapshot)
    for index, part in parts:
        made[index] = part
    return made


def _make_tuple(snapshot: tuple[object, ...], parts: list[tuple[Any, object]]) -> object:
    items = list(snapshot)
    for index, part in parts:
        items[index] = part
    # Also right for namedtuples and other subclasses, whose own constructors take other arguments.
    return tuple.__new__(type(snapshot), items)


def _make_set(snapshot: tuple[type[set[object]], list[object]], parts: list[tuple[Any, object]]) -> object:
    kind, ordered = snapshot
    items = list(ordered)
    for index, part in parts:
        items[index] = part
    return kind(items)


def _make_dict(snapshot: dict[object, object], parts: list[tuple[Any, object]]) -> object:
    made = copy.copy(snapshot)
    for key, part in parts:
        made[key] = part
    return made


def _make_dataclass(snapshot: object, parts: list[tuple[Any, object]]) -> object:
    made = copy.copy(snapshot)
    for name, part in parts:
        object.__setattr__(made, name, part)
    return made
