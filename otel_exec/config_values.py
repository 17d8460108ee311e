"""How single settings are read: numbers, booleans, names, key-value lists, addresses.

What comes in: a setting's name and what it was given. What goes out: the typed value, or a `ConfigError` that names the setting, the value and
what is accepted. Secrets never stand in an error. Never touches the environment.
"""

from __future__ import annotations

import base64
import difflib
import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, quote, unquote, urlsplit, urlunsplit

from otel_exec.errors import ConfigError
from otel_exec.secrets import MASK, is_secret_field

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["Address", "address", "flag", "join_url", "mask_url", "number", "one_of", "pairs", "ray_address", "whole"]

_HOST_AND_PORT = re.compile(r"^(?:\[[0-9A-Fa-f:.%]+\]|[A-Za-z0-9._-]+):[0-9]+(?:/.*)?$")
_HOST = re.compile(r"^[A-Za-z0-9._-]+$|^[0-9A-Fa-f:.%]+$")
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_BEFORE_QUERY = re.compile(r"[^?#]*")
# What an address without credentials begins with: up to the path, the query or the end no colon but that of a port.
_HOST_MAYBE_PORT = re.compile(r"(?:\[[^\]/?#]*\]|[^:/?#]*)(?::[0-9]*)?(?=[/?#]|$)")
_RAY_WORDS = ("auto", "local")
_TRUE, _FALSE = ("1", "true", "yes", "on"), ("0", "false", "no", "off")


def whole(setting: str, value: object, *, least: int, most: int | None = None) -> int:
    """Return a whole number between `least` and `most`."""
    accepted = f"a whole number of at least {least}" if most is None else f"a whole number between {least} and {most}"
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise ConfigError(setting, value, accepted)
    try:
        number_ = int(value)
    except ValueError:
        raise ConfigError(setting, value, accepted) from None
    if number_ < least or (most is not None and number_ > most):
        raise ConfigError(setting, value, accepted)
    return number_


# Three decades in seconds: what is longer is a slip, and would not fit into nanoseconds.
_MOST = 1e9


def number(setting: str, value: object, *, unit: str, above_zero: bool = False) -> float:
    """Return a finite number that is not negative (with `above_zero` not zero either)."""
    accepted = f"a number of {unit} {'above 0' if above_zero else 'of at least 0'}"
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ConfigError(setting, value, accepted)
    try:
        result = float(value)
    except (ValueError, OverflowError):
        raise ConfigError(setting, value, accepted) from None
    if not math.isfinite(result) or result < 0 or (above_zero and result == 0):
        raise ConfigError(setting, value, accepted)
    if result > _MOST:
        raise ConfigError(setting, value, f"{accepted} and at most {_MOST:.0e}")
    return result


def flag(setting: str, value: object) -> bool:
    """Return a boolean of ours: a bool, or one of the usual words (OpenTelemetry's own variables are stricter)."""
    if isinstance(value, bool):
        return value
    word = str(value).strip().lower()
    if word in _TRUE:
        return True
    if word in _FALSE:
        return False
    raise ConfigError(setting, value, f"{', '.join(_TRUE)} or {', '.join(_FALSE)}")


def one_of(setting: str, value: object, known: Iterable[str]) -> str:
    """Return a known name, in lower case; the error for another one lists them and the closest."""
    names = tuple(known)
    word = str(value).strip().lower()
    if word not in names:
        close = difflib.get_close_matches(word, names, n=1)
        raise ConfigError(setting, value, f"one of {', '.join(names)}" + (f"; did you mean {close[0]!r}?" if close else ""))
    return word


def pairs(setting: str, text: str, *, secret: bool = False) -> dict[str, str]:
    """Return `k1=v1,k2=v2` as a dict, keys and values percent-decoded; of a key given twice the last value.

    The format of W3C Baggage without properties. Source: OpenTelemetry, OTLP exporter ("specifying headers via environment variables")
    and resource SDK ("specifying resource information via an environment variable").
    """
    found: dict[str, str] = {}
    for part in text.split(","):
        if not part.strip():
            continue
        key, equals, value = part.partition("=")
        name = unquote(key.strip())
        if not equals or not name:
            raise ConfigError(setting, MASK if secret else text, "key=value pairs with commas between them, special characters percent-encoded")
        found[name] = unquote(value.strip())
    return found


@dataclass(frozen=True, slots=True)
class Address:
    """An endpoint's parts. `scheme` is "" where none was given; `authorization` is the header that `user:password@` stands for, "" without."""

    scheme: str
    netloc: str
    port: int | None
    path: str
    query: str
    authorization: str


def address(setting: str, text: str) -> Address:
    """Return the parts of an endpoint: a URL with `http` or `https`, or `host:port` with or without a path."""
    accepted = "an address such as http://localhost:4317, https://collector.example.com or localhost:4317"
    value = text.strip()
    wrong = ConfigError(setting, mask_url(value), accepted)
    bare = _HOST_AND_PORT.match(value) is not None
    try:
        parts = urlsplit(f"//{value}" if bare else value)
        host, port = parts.hostname, parts.port
    except ValueError:  # an unclosed bracket, a port past 65535
        raise wrong from None
    if (not bare and parts.scheme not in ("http", "https")) or not host or not _HOST.match(host) or port == 0:
        raise wrong
    authorization = ""
    if parts.username is not None:
        credentials = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        try:
            authorization = "Basic " + base64.b64encode(credentials.encode()).decode()
        except UnicodeEncodeError:  # bytes of the environment that are no UTF-8
            raise wrong from None
    return Address("" if bare else parts.scheme, parts.netloc.rpartition("@")[2], port, parts.path, parts.query, authorization)


def ray_address(setting: str, text: str) -> str:
    """Return the address of a Ray cluster: `HOST:PORT`, with `ray://` or another of Ray's schemes before it or not, or one of the words that Ray knows."""
    accepted = "the address of a Ray cluster's head node, such as head:6379 or ray://head:10001, or auto"
    value = text.strip()
    scheme, found, rest = value.rpartition("://")
    if value in _RAY_WORDS or (found and scheme not in {"", "ray", "http", "https"}):  # what other schemes mean is for their own packages to say
        return value
    try:
        parts = urlsplit(f"//{rest}")
        host, port = parts.hostname, parts.port
    except ValueError:  # a port that is none
        host = port = None
    if scheme in {"http", "https"} or (found and not scheme) or not host or not _HOST.match(host) or not port or parts.netloc != rest:
        raise ConfigError(setting, mask_url(value), accepted)
    return value


def mask_url(url: str, *, all_queries: bool = True) -> str:
    """Return the address without its secrets: user and password, and values in the query (`all_queries=False`: those whose name says so)."""
    scheme = _SCHEME.match(url)
    start = scheme.end() if scheme else 0
    masked = url[:start] + _without_credentials(url[start:])
    if "?" not in masked:
        return masked
    before, _, query = masked.partition("?")
    parameters = parse_qsl(query, keep_blank_values=True)
    if not all_queries and not any(is_secret_field(name, value) for name, value in parameters):
        return masked
    shown = [f"{quote(name)}={MASK if all_queries or is_secret_field(name, value) else quote(value, safe='{}')}" for name, value in parameters]
    return f"{before}?{'&'.join(shown) or MASK}"


def _without_credentials(rest: str) -> str:
    """Return what follows the scheme without user and password, those too that hold a `/`, `@`, `?` or `#` which should have been percent-encoded."""
    at = _BEFORE_QUERY.match(rest)[0].rfind("@")  # type: ignore[index]  # it matches anything, nothing too
    if at < 0 and not _HOST_MAYBE_PORT.match(rest):
        at = rest.rfind("@")
    return f"{MASK}{rest[at:]}" if at >= 0 else rest


def join_url(scheme: str, netloc: str, path: str, query: str) -> str:
    """Return a URL from its parts."""
    return urlunsplit((scheme, netloc, path, query, ""))
