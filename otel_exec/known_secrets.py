"""The secrets that we know by value: what of the environment is not to be shown, in whatever form somebody's text quotes it.

What comes in: text that the user's code, a command or a receiver said. What goes out: the same text with `MASK` in the secrets' places. Reads the environment; never touches
files, and keeps nothing but what it gathered from it.

Known are the values of variables whose names say that they hold a secret, the passwords in variables that hold URLs, and the headers of OTLP; each as it stands, percent-encoded
(what HTTP clients quote), escaped (`repr`, JSON, a shell's quotes) and in Base64, also in the midst of something longer (`Basic` of user and password).
"""

from __future__ import annotations

import base64
import json
import os
import re
from collections.abc import Iterable, Iterator
from typing import Any, Final, NamedTuple
from urllib.parse import quote, quote_plus, unquote

from otel_exec.secrets import MASK, header_parts, is_secret_field, words_of

__all__ = ["any_known", "cut", "doubt", "hide_known", "is_secret_variable", "suspect", "uncut"]

# Shorter values are not looked for: `PASSWORD=none` would take a word out of every sentence.
_KNOWN_CHARS: Final = 8
# Nor are these, the passwords of examples and of services on a developer's machine: "wrong password" is to stay a sentence.
_NO_SECRETS: Final = frozenset({"changeme", "localhost", "password", "postgres", "rabbitmq", "username"})
# The last word of a variable that says where a secret lies: `PASSWORD_FILE`.
_PLACES: Final = frozenset({"dir", "file", "path"})
_PASSWORDS: Final = ("passphrase", "passwd", "password")  # also without a blank before it: `PGPASSWORD`
_PASS_IN_WORDS: Final = frozenset({"askpass", "bypass", "compass", "encompass", "overpass", "surpass", "trespass", "underpass"})
# Keys that open nothing: what data is looked up or sorted by, and fingerprints of what is public.
_OPEN_KEYS: Final = frozenset(
    {
        "cache", "dict", "foreign", "gpg", "group", "hot", "index", "join", "label", "lookup", "map", "menu", "meta", "object", "order", "partition", "pgp",
        "primary", "public", "registry", "routing", "row", "s3", "shard", "sort", "unique",
    },
)  # fmt: skip
_BY_NAME: Final = frozenset({"MYSQL_PWD", "REDISCLI_AUTH"})
_BASIC: Final = "asic "
_SIMPLE: Final = re.compile(r"[A-Za-z0-9_.~+=-]+")
# A URL's password: up to the last `@` before the path; or up to the first one, where it has a slash in it (and is no port).
_URL_PASSWORD: Final = re.compile(r"://([^\s:/?#@]*):(?:([^\s/?#]+)@|(?!\d+[/?#])([^\s@]+)@)")
_URL_PARAMETER: Final = re.compile(r"[?&]([^\s=&#]+)=([^\s&#]+)")
# What percent-encoders leave as it is: nothing, paths, the parts between delimiters (httpx), whatever a URL may hold (requests).
_SAFE: Final = ("", "/", "!$&'()*+,;=", "!#$%&'()*+,/:;=?@[]~")
_ENCODED: Final = re.compile("%[0-9A-F]{2}")


def is_secret_variable(name: str, value: str) -> bool:
    """Return whether a variable of the environment is a secret: as a field of that name would be, or by the names that programs use for theirs.

    Those are `..PASSWORD`, `.._PASS`, `.._PWD`, `.._AUTH`, `.._PAT` and `.._KEY`, but for keys that open nothing (`SORT_KEY`) and for what looks like a path.
    """
    words = words_of(name)
    while words and words[-1].isdecimal():  # `OPENAI_KEY_2`
        words.pop()
    if not words or words[-1] in _PLACES:
        return False
    *before, last = words
    if name in _BY_NAME or last.endswith(_PASSWORDS):
        return True
    if is_secret_field(name, value):
        return not (last.startswith("credential") and _is_place(value))  # `GOOGLE_APPLICATION_CREDENTIALS`
    if _is_place(value):
        return False
    if last.endswith("pass") and last not in _PASS_IN_WORDS:
        return True
    if not before:
        return False
    if last == "pwd":
        return True
    says_more = last == "auth" or (last == "key" and before[-1] not in _OPEN_KEYS) or (last == "pat" and _SIMPLE.fullmatch(value) is not None)
    return says_more and not (value.isalpha() and value.islower())  # a word such as `required`


def _is_place(value: str) -> bool:
    """Whether a value looks like a path. What ends in `=` is Base64."""
    return value.startswith(("~/", "./", "../")) or (value.startswith("/") and value.count("/") > 1 and not value.endswith("="))


def hide_known(text: str, *, look: bool = True) -> str:
    """Return what somebody else said without the secrets that we know by value.

    Values under eight characters stay: they may be ordinary words; so do the names of files that hold secrets.

    Args:
        text: what was said.
        look: whether to look at the environment again; `False` for what comes by the thousand: then what was known before is hidden.
    """
    for word in _memory.look() if look else _memory.known.words:
        if word in text:
            text = text.replace(word, MASK)
    return text


def cut(text: str, limit: int) -> str:
    """Return at most so many characters of a text, without known secrets: none is cut in two, half of which nobody would know."""
    return hide_known(text if len(text) <= limit else text[: uncut(text, limit)])


def uncut(text: str, at: int, *, back: bool = True) -> int:
    """Return where a text can be cut without cutting a known secret: at a position or before it (`back`), or at it or behind it."""
    words = _memory.look()
    moved = True
    while moved:
        moved = False
        for word in words:
            found = text.find(word, max(0, at - len(word) + 1), at + len(word) - 1)
            if found >= 0:
                at = found if back else found + len(word)
                moved = True
    return at


def any_known() -> bool:
    """Whether the environment holds any secret."""
    return bool(_memory.look())


def suspect(text: str) -> bool:
    """Whether a text may hold a secret that was known when a task last began: only then does it have to be looked through. For what comes by the thousand."""
    if _memory.doubted:
        _memory.look()
    for word in _memory.known.telling:  # noqa: SIM110  a generator costs more than the few words
        if word in text:
            return True
    return False


def doubt() -> None:
    """A task begins: the environment may be another by now, and `suspect` looks at it once."""
    _memory.doubted = True


class _Known(NamedTuple):
    """What is known of an environment.

    `words`: its secrets in all their forms, longest first; `telling`: a few words, one of which is in any text that has one of them; of Base64 the word before credentials.
    """

    environ: dict[Any, Any]
    by_variable: dict[Any, frozenset[str]]
    words: tuple[str, ...]
    telling: tuple[str, ...]


class _Memory:
    """The last look at the environment; taken again when it has changed. From any thread: what belongs together is replaced in one step."""

    def __init__(self) -> None:
        self.known = _Known({}, {}, (), ())
        self.doubted = True

    def look(self) -> tuple[str, ...]:
        """Return the secrets as they are now."""
        self.doubted = False
        # What `os.environ` decodes anew at each look; compared and copied in one step each, whatever other threads set meanwhile.
        environ = getattr(os.environ, "_data", os.environ)
        before, secrets, words, telling = self.known
        if environ == before:
            return words
        now = environ.copy()
        # Most changes are no secrets: the context of a trace, which changes with each step.
        by_variable = {name: found for name, found in secrets.items() if now.get(name) == before[name]}
        for name, value in now.items():
            if before.get(name) != value:
                found = frozenset(_secrets_in(os.fsdecode(name), os.fsdecode(value)))
                if found:
                    by_variable[name] = found
        if by_variable != secrets:
            words, telling = _words_of(by_variable.values())
        self.known = _Known(now, by_variable, words, telling)
        return words


_memory = _Memory()


def _words_of(secrets: Iterable[frozenset[str]]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return what is not to be shown, longest first, and the words that tell of it."""
    found = {secret for secret in frozenset().union(*secrets) - _NO_SECRETS if len(secret) >= _KNOWN_CHARS}
    forms = {form for secret in found for form in _forms(secret)}
    words = forms.union(*(_in_base64(os.fsencode(secret)) for secret in found))
    telling: list[str] = [_BASIC] if found else []
    for form in sorted(forms, key=len):
        if not any(shorter in form for shorter in telling):
            telling.append(form)
    return tuple(sorted(words, key=lambda word: (-len(word), word))), tuple(telling)


def _secrets_in(name: str, value: str) -> Iterator[str]:
    if is_secret_variable(name, value):
        yield value.strip()
        if value.lstrip().startswith("-----BEGIN "):  # a key is shown by the line
            yield from (line.strip() for line in value.splitlines() if "-----" not in line)
    elif name.startswith("OTEL_EXPORTER_OTLP") and name.endswith("_HEADERS"):
        for pair in value.split(","):
            header = pair.partition("=")[2].strip()
            yield from header_parts(header)
            yield from header_parts(unquote(header))
    if "://" in value:
        for user, password, other in _URL_PASSWORD.findall(value):
            secret = password or other
            if secret != user:
                yield from (secret, unquote(secret))
        for parameter, secret in _URL_PARAMETER.findall(value):
            if is_secret_field(parameter, secret):
                yield from (secret, unquote(secret))


def _forms(secret: str) -> set[str]:
    """Return a secret as it stands and as others write it in text."""
    forms = {secret, secret.replace("'", "'\"'\"'"), quote_plus(secret, errors="surrogateescape")}
    forms |= {quote(secret, safe, errors="surrogateescape") for safe in _SAFE}
    forms |= {_ENCODED.sub(lambda found: found[0].lower(), form) for form in forms}
    for _ in range(2):  # escaped, and within what is escaped again: JSON in the `repr` of a `KeyError`
        forms |= {escaped for form in forms for escaped in _escaped(form)}
    return forms


def _escaped(text: str) -> Iterator[str]:
    """Give what stands between the quotes of a text's literals."""
    for literal in (repr, ascii):
        either = literal(text + "'\"")[1:-4]  # with both quotes in it: the single one is escaped
        yield from (either, either.replace("\\'", "'"))
    data = repr(os.fsencode(text) + b"'\"")[2:-4]
    yield from (data, data.replace("\\'", "'"))
    yield from (json.dumps(text)[1:-1], json.dumps(text, ensure_ascii=False)[1:-1])


def _in_base64(data: bytes) -> set[str]:
    """Return the characters of Base64 that depend on `data` alone, wherever in something longer it lies; and all of them where it is the whole."""
    found = {base64.b64encode(data).decode()}
    for before in range(3):
        encoded = base64.b64encode(bytes(before) + data).decode()
        found.add(encoded[-(-before * 8 // 6) : (before + len(data)) * 8 // 6])
    return found | {each.translate({ord("+"): "-", ord("/"): "_"}) for each in found}
