"""A trace, asked for at the query address of Jaeger or Tempo.

What comes in: the address and the ids of what was sent. What goes out: how many of its spans were found, or why that can't be known.

Source: Jaeger 2.20, `GET /api/traces/{id}` (`data[].spans[].spanID`, `errors` where there is none) and, which stays when that one goes,
`GET /api/v3/traces/{id}` (OTLP/JSON under `result`, ids in hex; `error.httpCode` where there is none); Tempo 3.0, `GET /api/traces/{id}`
(OTLP/JSON under `batches`, ids in base64; an empty 404 where there is none).
"""

from __future__ import annotations

import base64
import binascii
import email.utils
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import msgspec
import urllib3

from otel_exec.config_values import address, join_url, mask_url
from otel_exec.errors import ConfigError
from otel_exec.secrets import redact
from otel_exec.spans.transport_http import sentence
from otel_exec.spans.within import within

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["Clock", "Found", "clock_of", "find_trace", "query_base"]

_PLACEHOLDER = "{trace_id}"
_PAUSE_S = 0.25
# The trace that is looked for has one span.
_MAX_ANSWER_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Found:
    """`spans`: how often the span is in the answer; `backend`: `Jaeger` or `Tempo`, "" where neither answered; `reason`: why nothing was found."""

    spans: int
    backend: str = ""
    reason: str = ""
    clock: Clock | None = None


@dataclass(frozen=True, slots=True)
class Clock:
    """How far another machine's clock is ahead of ours, seconds, and how exactly that is known: HTTP tells whole seconds."""

    ahead_s: float
    give_or_take_s: float


def query_base(address: str) -> str | None:
    """Return the address below which traces are asked for; `None` where it can't be told from that of a page.

    Args:
        address: the base itself, or the template of a trace's page, such as `http://localhost:16686/trace/{trace_id}`.
    """
    if _PLACEHOLDER not in address:
        return address.rstrip("/")
    base, _, rest = address.partition(f"/trace/{_PLACEHOLDER}")
    return base if not rest.partition("?")[0] and _PLACEHOLDER not in base else None


def find_trace(base: str, trace_id: str, span_id: str, wait_s: float, *, timeout_s: float = 5.0, pause: Callable[[float], None] = time.sleep) -> Found:
    """Ask until the span is there, or for `wait_s` seconds: receivers batch, so it may take a moment. Never raises.

    Args:
        base: the address below which traces are asked for; its user and password go into a header and are never told.
        trace_id: the trace that is asked for, hex.
        span_id: the span that is looked for in it, hex.
        wait_s: how long it is looked for.
        timeout_s: what one answer may take, to its last byte.
        pause: waits between two questions.
    """
    try:
        parts = address("--query", base)
    except ConfigError as error:
        return Found(0, reason=f"{error.value} is no address; accepted: {error.accepted}")
    root = f"{parts.path.rstrip('/')}/api"
    usual, newer = (join_url(parts.scheme or "http", parts.netloc, f"{root}/{path}/{trace_id}", parts.query) for path in ("traces", "v3/traces"))
    headers = {"accept": "application/json"} | ({"authorization": parts.authorization} if parts.authorization else {})
    deadline = time.monotonic() + wait_s
    while True:
        reply = _get(usual, headers, timeout_s)
        found = _judge(mask_url(usual), reply, span_id)
        if not found.backend and isinstance(reply, _Reply):
            of_newer = _judge(mask_url(newer), _get(newer, headers, timeout_s), span_id)
            found = of_newer if of_newer.backend == "Jaeger" else found
        if found.spans or (found.reason and not found.backend) or time.monotonic() >= deadline:
            return replace(found, reason=redact(found.reason, (parts.authorization,)))
        pause(_PAUSE_S)


def _judge(shown: str, reply: _Reply | str, span_id: str) -> Found:
    """Return what an answer says of the span; `shown` is the address without secrets."""
    if isinstance(reply, str):
        return Found(0, reason=f"{shown}: {reply}")
    clock = _clock(reply.date, reply.begun, reply.ended)
    if len(reply.body) > _MAX_ANSWER_BYTES:
        return Found(0, reason=f"{shown} answers with more than {_MAX_ANSWER_BYTES >> 20} MiB for a trace of one span", clock=clock)
    try:
        content = msgspec.json.decode(reply.body)
    except (msgspec.DecodeError, ValueError, RecursionError):  # ValueError: it is no UTF-8
        content = None
    backend = _backend(content)
    if reply.status == 404:  # Jaeger says so in its usual JSON, Tempo without a word; a web server with a page or a sentence
        return Found(0, backend or ("" if reply.body.strip() else "Tempo"), f"{shown} is not there (404)", clock)
    if reply.status != 200 or not backend:
        what = f"{reply.status}" if reply.status != 200 else "a web page" if content is None else "JSON of another kind"
        return Found(0, reason=f"{shown} answers with {what}: is it the address of Jaeger's or Tempo's API?", clock=clock)
    ids = list(_span_ids(content))
    return Found(ids.count(span_id), backend, "" if span_id in ids else "the answer does not hold it", clock)


def _backend(content: Any) -> str:
    """Return whose answer it is by its keys, "" where it is neither's."""
    if not isinstance(content, dict):
        return ""
    if not content.keys().isdisjoint(("data", "errors")) or "resourceSpans" in _part(content, "result") or "httpCode" in _part(content, "error"):
        return "Jaeger"
    return "" if content.keys().isdisjoint(("batches", "resourceSpans", "trace")) else "Tempo"


def _part(content: dict[str, Any], key: str) -> dict[str, Any]:
    """Return the mapping under a key; an empty one where there is none."""
    part = content.get(key)
    return part if isinstance(part, dict) else {}


@dataclass(frozen=True, slots=True)
class _Reply:
    """An answer; `body` is cut a byte after what an answer may hold. Units: `begun` and `ended` seconds since the epoch."""

    status: int
    date: str
    body: bytes
    begun: float
    ended: float


def _get(url: str, headers: dict[str, str], timeout_s: float, *, whole: bool = True, **options: Any) -> _Reply | str:
    """Return the answer to a GET, or in a sentence why there is none within `timeout_s`, whatever is sent until then, and however slowly."""
    return within(timeout_s, lambda: _ask(url, headers, timeout_s, whole=whole, **options)) or f"no whole answer within {timeout_s:g} s"


def _ask(url: str, headers: dict[str, str], timeout_s: float, *, whole: bool, **options: Any) -> _Reply | str:
    with urllib3.PoolManager(num_pools=1, retries=False, timeout=urllib3.Timeout(total=timeout_s), **options) as pool:
        begun = time.time()
        try:
            response = pool.request("GET", url, headers=headers, redirect=False, preload_content=False)
            ended = time.time()
            try:
                body = response.read(_MAX_ANSWER_BYTES + 1, decode_content=True) if whole else b""
            finally:
                response.close()
        except (urllib3.exceptions.HTTPError, OSError, ValueError) as error:
            return sentence(error, timeout_s)
        return _Reply(response.status, response.headers.get("date", ""), body, begun, ended)


def _span_ids(content: dict[str, Any]) -> Iterator[str]:
    """Yield the ids of the spans in an answer, hex."""
    try:
        for trace in content.get("data") or ():
            yield from (str(span["spanID"]) for span in trace["spans"])
        for batch in content.get("batches") or content.get("resourceSpans") or _part(content, "result").get("resourceSpans") or ():
            for scope in batch.get("scopeSpans") or ():
                yield from (_hex(str(span["spanId"])) for span in scope["spans"])
    except (KeyError, TypeError, AttributeError):
        return


def _hex(text: str) -> str:
    if len(text) == 16:
        return text.lower()
    try:
        return base64.b64decode(text).hex()
    except (binascii.Error, ValueError):
        return ""


def clock_of(url: str, *, certificate: str | None = None, timeout_s: float = 5.0) -> Clock | None:
    """Return how far the clock of an HTTP server is from ours, `None` where it does not tell within `timeout_s`. Never raises."""
    options: dict[str, Any] = {"ca_certs": certificate} if url.startswith("https:") else {}
    reply = _get(url, {}, timeout_s, whole=False, **options)
    return None if isinstance(reply, str) else _clock(reply.date, reply.begun, reply.ended)


def _clock(date: str, begun: float, ended: float) -> Clock | None:
    """Return the difference from an answer's `Date`, which was cut to the second some time between `begun` and `ended`."""
    try:
        at = email.utils.parsedate_to_datetime(date).timestamp()
    except (TypeError, ValueError, OverflowError):
        return None
    return Clock(at + 0.5 - (begun + ended) / 2, 0.5 + (ended - begun) / 2)
