"""Names that a path can hold, and where outputs lie.

What comes in: formatted names, prefixes and paths as text. What goes out: a reason why not, or the joined path. Pure text work without pathlib, which would break URLs;
never touches a disk.
"""

from __future__ import annotations

import posixpath
from typing import Final

from otel_exec.plan.identity import HASH_LENGTH
from otel_exec.plan.refs import join

__all__ = ["comparable", "name_fault", "path_fault", "under_prefix"]

_LONGEST_COMPONENT_BYTES: Final = 255  # NAME_MAX of the usual file systems
_OUR_FOLDER: Final = ".otel_exec"


def name_fault(name: str) -> str | None:
    """Return why a step can't have this name, `None` where it can."""
    if not name.strip():
        return "is empty"
    if name.startswith("/"):
        return "is an absolute path"
    return _characters_fault(name) or _components_fault(name.split("/"), HASH_LENGTH + 1)


def path_fault(path: str) -> str | None:
    """Return why an output can't lie at this path, `None` where it can."""
    if not path.strip():
        return "is empty"
    fault = _characters_fault(path)
    if fault or is_absolute(path):
        return fault
    components = [part for part in path.split("/") if part not in ("", ".")]
    return "is the prefix itself" if not components else _components_fault(components, 0)


def _characters_fault(text: str) -> str | None:
    if "\0" in text:
        return "holds a NUL character, which no path can"
    if not text.isprintable():
        bad = next((character for character in text if ord(character) < 32 or ord(character) == 127), None)
        if bad is not None:
            return f"holds the control character {bad!r}"
        try:
            text.encode()
        except UnicodeEncodeError:
            return "holds half of a surrogate pair, which no path can"
    return None


def _components_fault(components: list[str], suffix_bytes: int) -> str | None:
    for place, component in enumerate(components):
        if component in (".", ".."):
            return f"has the component {component!r}"
        if not component:
            return "has an empty component"
        room = _LONGEST_COMPONENT_BYTES - (suffix_bytes if place == len(components) - 1 else 0)
        if len(component) * 4 > room and len(component.encode()) > room:
            return f"has a component of {len(component.encode())} bytes, and file systems hold {room}"
    if components[0] == _OUR_FOLDER:
        return f"begins with {_OUR_FOLDER!r}, where the records of runs lie"
    return None


def is_absolute(path: str) -> bool:
    """Return whether a path is taken as it is."""
    return path.startswith("/") or "://" in path


def under_prefix(prefix: str, path: str) -> str:
    """Return where a path lies: a relative one is under the prefix."""
    return path if is_absolute(path) else join(prefix, path)


def comparable(path: str) -> str:
    """Return the path in a form that is equal for two spellings of one place."""
    scheme, mark, rest = path.rpartition("://")
    return f"{scheme}{mark}{posixpath.normpath(rest)}"
