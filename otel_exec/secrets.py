"""Which values are secrets, and what is written in their place.

What comes in: field names and values. What goes out: the same tree with secrets replaced by `MASK`. Pure; never touches the user's objects. What is known by value is in
`known_secrets.py`.

A field is a secret by the words of its name, split at `_`, other punctuation and capitals: `password`, `passwd`, `passphrase`, `secret`, `credential`, `authorization`,
`<api|access|encryption|private|secret> key`, and `token` as the last word of a text field, unless the word before it says that it belongs to a vocabulary (`eos_token`).
"""

from __future__ import annotations

import base64
import binascii
import functools
import itertools
import re
from collections.abc import Iterable, Mapping
from typing import Any, Final

__all__ = ["MASK", "header_parts", "is_secret_field", "mask", "redact", "words_of"]

MASK: Final = "***"

# What is shorter is taken for a secret only where it stands as a word: a tenant called `a` is not in every sentence.
_ANYWHERE: Final = 6
_ATOMS = frozenset({str, int, float, bool, bytes, type(None)})
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+")
_SECRET_WORDS: Final = frozenset(
    {"password", "passwords", "passwd", "passwds", "passphrase", "secret", "secrets", "credential", "credentials", "authorization", "apikey", "apikeys"},
)
_KEY_OWNERS: Final = frozenset({"api", "access", "encryption", "private", "secret"})
# What stands before `token` in the special tokens of tokenizers: they are vocabulary, and hiding them would hide what an experiment did.
_VOCABULARY_WORDS: Final = frozenset(
    {
        "audio", "begin", "blank", "bos", "class", "cls", "delimiter", "end", "eod", "eom", "eos", "eot", "fim", "first", "image", "last", "mask",
        "middle", "newline", "next", "pad", "padding", "prefix", "sentinel", "sep", "separator", "sos", "special", "start", "stop", "suffix", "text",
        "unk", "unknown", "video", "vocab",
    },
)  # fmt: skip


def words_of(name: str) -> list[str]:
    """Return the words of a name, in small letters: split at capitals, digits and whatever is neither."""
    return [word.lower() for word in _WORD.findall(name)]


@functools.lru_cache(maxsize=4096)
def _judge(name: str) -> tuple[bool, bool]:
    """Return whether a field of this name is a secret whatever it holds, and whether it is one if it holds text."""
    words = words_of(name)
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


def redact(text: str, values: Iterable[str]) -> str:
    """Return somebody else's text without the values of headers that we sent: receivers like to repeat them.

    Args:
        text: what is to be shown.
        values: the headers' values; the part after a scheme's word (`Bearer x`) and what `Basic` stands for are hidden, too.
    """
    for word in sorted({word for value in values for word in header_parts(value)}, key=len, reverse=True):
        if word in text:
            around = ("", "") if len(word) >= _ANYWHERE else (r"(?<!\w)", r"(?!\w)")
            text = re.sub(around[0] + re.escape(word) + around[1], MASK, text)
    return text


def header_parts(value: str) -> list[str]:
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
