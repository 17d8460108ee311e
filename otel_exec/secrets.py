"""Which values are secrets, and what is written in their place.

What comes in: field names and values. What goes out: the same tree with secrets replaced by `MASK`. Pure, but for `hide_known`, which reads the environment; never touches
files or the user's objects.

A field is a secret by the words of its name, split at `_`, other punctuation and capitals: `password`, `passwd`, `secret`, `credential`, `authorization`,
`<api|access|private|secret> key`, and `token` as the last word of a text field, unless the word before it says that it belongs to a vocabulary (`eos_token`).
"""

from __future__ import annotations

import base64
import binascii
import functools
import itertools
import os
import re
from collections.abc import Iterable, Mapping
from typing import Any, Final
from urllib.parse import unquote

__all__ = ["MASK", "hide_known", "is_secret_field", "mask", "redact"]

MASK: Final = "***"

# What is shorter is taken for a secret only where it stands as a word: a tenant called `a` is not in every sentence.
_ANYWHERE: Final = 6
# Shorter values of the environment are not looked for: `PASSWORD=none` would take a word out of every sentence.
_KNOWN_CHARS: Final = 8
# The last word of a variable that says where a secret lies: `PASSWORD_FILE`.
_PLACES: Final = frozenset({"dir", "file", "path"})
_ATOMS = frozenset({str, int, float, bool, bytes, type(None)})
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+")
_SECRET_WORDS: Final = frozenset(
    {"password", "passwords", "passwd", "passwds", "secret", "secrets", "credential", "credentials", "authorization", "apikey", "apikeys"},
)
_KEY_OWNERS: Final = frozenset({"api", "access", "private", "secret"})
# What stands before `token` in the special tokens of tokenizers: they are vocabulary, and hiding them would hide what an experiment did.
_VOCABULARY_WORDS: Final = frozenset(
    {
        "audio", "begin", "blank", "bos", "class", "cls", "delimiter", "end", "eod", "eom", "eos", "eot", "fim", "first", "image", "last", "mask",
        "middle", "newline", "next", "pad", "padding", "prefix", "sentinel", "sep", "separator", "sos", "special", "start", "stop", "suffix", "text",
        "unk", "unknown", "video", "vocab",
    },
)  # fmt: skip


@functools.lru_cache(maxsize=4096)
def _judge(name: str) -> tuple[bool, bool]:
    """Return whether a field of this name is a secret whatever it holds, and whether it is one if it holds text."""
    words = [word.lower() for word in _WORD.findall(name)]
    if not _SECRET_WORDS.isdisjoint(words):
        return True, True
    if any(word in ("key", "keys") and before in _KEY_OWNERS for before, word in itertools.pairwise(words)):
        return True, True
    text_only = bool(words) and words[-1] == "token" and (len(words) == 1 or words[-2] not in _VOCABULARY_WORDS)
    return False, text_only


def is_secret_field(name: str, value: object) -> bool:
    """Return whether a field's value must not be written. `None` hides nothing and is never a secret.

    Args:
        name: the field's own name, not a dotted path.
        value: what it holds; `token` fields are secrets only where this is text.
    """
    if value is None:
        return False
    always, text_only = _judge(name)
    return always or (text_only and isinstance(value, (str, bytes, bytearray)))


def mask(tree: Any) -> Any:
    """Return a tree of mappings, lists and scalars with secrets replaced by `MASK`; subtrees without secrets are the same objects.

    The keys of mappings are the field names; what lies below a secret field goes with it. Elements of a list under a `token` field are not text fields.
    """
    if isinstance(tree, Mapping):
        masked: dict[Any, Any] = {}
        changed = False
        for key, value in tree.items():
            new = MASK if isinstance(key, str) and is_secret_field(key, value) else value if type(value) in _ATOMS else mask(value)
            changed = changed or new is not value
            masked[key] = new
        return masked if changed else tree
    if isinstance(tree, (list, tuple)):
        items = [value if type(value) in _ATOMS else mask(value) for value in tree]
        if all(new is old for new, old in zip(items, tree, strict=True)):
            return tree
        return items if isinstance(tree, list) else tuple(items)
    return tree


def hide_known(text: str) -> str:
    """Return what the user's code said in an error without the secrets that we know by value: those of environment variables whose names say that they hold one.

    Values under eight characters stay: they may be ordinary words; so do the names of files that hold secrets. The headers of OTLP count as secrets, each by itself,
    as it stands and percent-decoded.
    """
    for word in _known.words():
        if word in text:
            text = text.replace(word, MASK)
    return text


class _Known:
    """The secrets of the environment, longest first; gathered again when it has changed."""

    def __init__(self) -> None:
        self._gathered: tuple[dict[Any, Any], tuple[str, ...]] = {}, ()

    def words(self) -> tuple[str, ...]:
        # What `os.environ` decodes anew at each look; compared and copied in one step each, whatever other threads set meanwhile.
        environ = getattr(os.environ, "_data", os.environ)
        before, words = self._gathered
        if environ != before:
            now = environ.copy()
            words = _words_of({os.fsdecode(name): os.fsdecode(value) for name, value in now.items()})
            self._gathered = now, words
        return words


_known = _Known()


def _words_of(environ: Mapping[str, str]) -> tuple[str, ...]:
    """Return what is not to be shown of an environment, longest first."""
    found: set[str] = set()
    for name, value in environ.items():
        if is_secret_field(name, value) and _WORD.findall(name)[-1].lower() not in _PLACES:
            found.add(value.strip())
        elif name.startswith("OTEL_EXPORTER_OTLP") and name.endswith("_HEADERS"):
            for pair in value.split(","):
                header = pair.partition("=")[2].strip()
                found.update(_parts(header), _parts(unquote(header)))
    return tuple(sorted((word for word in found if len(word) >= _KNOWN_CHARS), key=lambda word: (-len(word), word)))


def redact(text: str, values: Iterable[str]) -> str:
    """Return somebody else's text without the values of headers that we sent: receivers like to repeat them.

    Args:
        text: what is to be shown.
        values: the headers' values; the part after a scheme's word (`Bearer x`) and what `Basic` stands for are hidden, too.
    """
    for word in sorted({word for value in values for word in _parts(value)}, key=len, reverse=True):
        if word in text:
            around = ("", "") if len(word) >= _ANYWHERE else (r"(?<!\w)", r"(?!\w)")
            text = re.sub(around[0] + re.escape(word) + around[1], MASK, text)
    return text


def _parts(value: str) -> list[str]:
    """Return what of a header's value is not to be shown."""
    scheme, _, rest = value.strip().partition(" ")
    found = [value.strip(), rest.strip()]
    if scheme.lower() == "basic":
        try:
            pair = base64.b64decode(rest.strip(), validate=True).decode()
        except (binascii.Error, UnicodeDecodeError):
            pair = ""
        found += [pair, pair.partition(":")[2]]
    return [each for each in found if each]
