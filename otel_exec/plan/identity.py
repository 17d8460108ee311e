"""A step's identity: the version, its JSON, its md5.

What comes in: a step's name, the identity keys of its config as JSON texts, and the versions of its dependencies. What goes out: `Version`. Pure.

The JSON of a version is byte for byte `json.dumps(version, sort_keys=True)` of the nested definition, put together from the dependencies' texts, so that a plan costs
no more than hashing its texts, and no depth of graph needs recursion. Past `NESTED_LIMIT_BYTES` the dependencies stand as `{"md5": ...}`.

Source: the version of the system that users come from; golden values in the tests.
"""

from __future__ import annotations

import hashlib
import json
import weakref
from collections import deque
from json.encoder import encode_basestring_ascii
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["HASH_LENGTH", "NESTED_LIMIT_BYTES", "ConfigEntry", "Version", "encode_value"]

HASH_LENGTH: Final = 6
NESTED_LIMIT_BYTES: Final = 64 * 1024
# Texts are kept while they may be nested into the next steps' texts, up to this much of them; an older one is put together again when it is needed.
_KEPT_BYTES: Final = 32 * 1024 * 1024
# What noting a text takes by itself.
_ENTRY_BYTES: Final = 256

_encode = json.JSONEncoder(sort_keys=True).encode


def encode_value(value: object) -> str:
    """Return `json.dumps(value, sort_keys=True)`.

    Raises:
        TypeError, ValueError, RecursionError: JSON can't hold it.
    """
    if type(value) is str:
        return encode_basestring_ascii(value)
    return _encode(value)


class ConfigEntry:
    """One key's value in an identity: its exact JSON, and the value as it is recorded (masked, JSON-safe). `exact`: the two say the same."""

    __slots__ = ("exact", "recorded", "text")

    def __init__(self, text: str, recorded: object, *, exact: bool | None = None) -> None:
        self.text = text
        self.recorded = recorded
        self.exact = _encode(recorded) == text if exact is None else exact


class Version:
    """What a step's identity is made of. Equal versions have equal `md5`.

    Args:
        name: the step's formatted name.
        config: dotted key to entry.
        dependencies, pseudo_dependencies: versions in the order of their indices, repetitions included.

    Units: `size` is the length of the JSON in bytes.
    """

    size: int
    exact: bool

    __slots__ = (
        "__weakref__",
        "_config",
        "_mid",
        "_recorded_config",
        "_recorded_text",
        "_tail",
        "_text",
        "compact",
        "dependencies",
        "exact",
        "md5",
        "name",
        "pseudo_dependencies",
        "size",
    )

    def __init__(self, name: str, config: Mapping[str, ConfigEntry], dependencies: Sequence[Version] = (), pseudo_dependencies: Sequence[Version] = ()) -> None:
        self.name = name
        self.dependencies = tuple(dependencies)
        self.pseudo_dependencies = tuple(pseudo_dependencies)
        self._recorded_config: dict[str, object] = {key: entry.recorded for key, entry in config.items()}
        self._config = _object({key: entry.text for key, entry in config.items()})
        self._mid = f'], "name": {encode_basestring_ascii(name)}'.encode("ascii")
        self._tail = b', "pseudo_dependencies": [' if pseudo_dependencies else b"}"
        self._text: bytes | None = None
        self._recorded_text: bytes | None = None
        below = (*self.dependencies, *self.pseudo_dependencies)
        commas = max(len(self.dependencies) - 1, 0) + max(len(self.pseudo_dependencies) - 1, 0)
        fixed = len(_HEAD) + len(self._config) + len(_DEPENDENCIES) + len(self._mid) + len(self._tail) + 2 * commas + (2 if pseudo_dependencies else 0)
        self.size = fixed + sum(version.size for version in below)
        self.compact = bool(below) and self.size > NESTED_LIMIT_BYTES
        if self.compact:
            self.size = fixed + _DIGEST_SIZE * len(below)
        # Whether what is recorded is the hashed text itself: no secret, nothing that strict JSON can't hold.
        self.exact = all(entry.exact for entry in config.values()) and (self.compact or all(version.exact for version in below))
        self.md5 = hashlib.md5(self.text(), usedforsecurity=False).hexdigest()

    @property
    def hash(self) -> str:
        """The part of the md5 that names outputs."""
        return self.md5[:HASH_LENGTH]

    def text(self) -> bytes:
        """Return the JSON that was hashed. It may hold secrets: for files use `recorded_text`."""
        if self._text is None:
            self._text = self._joined(recorded=False)
            _keep(self, "_text", self._text)
        return self._text

    def recorded_text(self) -> bytes:
        """Return the JSON for records: secrets masked, NaN and the like as text."""
        if self.exact:
            return self.text()
        if self._recorded_text is None:
            self._recorded_text = self._joined(recorded=True)
            _keep(self, "_recorded_text", self._recorded_text)
        return self._recorded_text

    def recorded(self, known: dict[str, dict[str, object]]) -> dict[str, object]:
        """Return the version for records as an object that shares its dependencies' objects.

        Args:
            known: md5 to the object made before; the dependencies' must be there, this one's is put there. A caller that goes upstreams first needs no recursion.
        """

        def below(version: Version) -> dict[str, object]:
            return {"md5": version.md5} if self.compact else known[version.md5]

        tree: dict[str, object] = {"name": self.name, "config": self._recorded_config, "dependencies": [below(version) for version in self.dependencies]}
        if self.pseudo_dependencies:
            tree["pseudo_dependencies"] = [below(version) for version in self.pseudo_dependencies]
        known[self.md5] = tree
        return tree

    def _joined(self, *, recorded: bool) -> bytes:
        """Put a text together from the texts below that are kept, or else from their pieces, however deep."""
        out: list[bytes] = []
        stack: list[bytes | Version] = list(reversed(self._pieces(recorded=recorded)))
        while stack:
            piece = stack.pop()
            if not isinstance(piece, Version):
                out.append(piece)
                continue
            kept = piece._recorded_text if recorded and not piece.exact else piece._text
            if kept is not None:
                out.append(kept)
            else:
                stack.extend(reversed(piece._pieces(recorded=recorded)))
        return b"".join(out)

    def _pieces(self, *, recorded: bool) -> list[bytes | Version]:
        config = _encode(self._recorded_config).encode("ascii") if recorded else self._config
        pieces: list[bytes | Version] = [_HEAD, config, _DEPENDENCIES]
        self._list(pieces, self.dependencies)
        pieces += (self._mid, self._tail)
        if self.pseudo_dependencies:
            self._list(pieces, self.pseudo_dependencies)
            pieces.append(b"]}")
        return pieces

    def _list(self, pieces: list[bytes | Version], versions: tuple[Version, ...]) -> None:
        for place, version in enumerate(versions):
            if place:
                pieces.append(b", ")
            pieces.append(b'{"md5": "%b"}' % version.md5.encode("ascii") if self.compact else version)


# The order of the keys is that of `sort_keys`.
_HEAD: Final = b'{"config": '
_DEPENDENCIES: Final = b', "dependencies": ['
_DIGEST_SIZE: Final = len(b'{"md5": ""}') + 32

# Weakly: what is kept of a plan that nobody has any more is gone with it.
_kept: deque[tuple[weakref.ref[Version], str, int]] = deque()
_kept_bytes = 0


def _keep(version: Version, slot: str, text: bytes) -> None:
    """Note that a text is kept, and let the oldest go. Losing one to a race of threads costs time and nothing else."""
    global _kept_bytes
    size = len(text) + _ENTRY_BYTES
    _kept.append((weakref.ref(version), slot, size))
    _kept_bytes += size
    while len(_kept) > 1 and (_kept_bytes > _KEPT_BYTES or _kept[0][0]() is None):
        oldest, its_slot, size = _kept.popleft()
        _kept_bytes -= size
        if (there := oldest()) is not None:
            setattr(there, its_slot, None)


def _object(texts: Mapping[str, str]) -> bytes:
    return ("{" + ", ".join(f"{encode_basestring_ascii(key)}: {texts[key]}" for key in sorted(texts)) + "}").encode("ascii")
