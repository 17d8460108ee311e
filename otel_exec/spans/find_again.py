"""A trace, asked for at the query address of Jaeger or Tempo.

What comes in: the address and the ids of what was sent. What goes out: how many of its spans were found, or why that can't be known.

Source: Jaeger 2.20, `GET /api/traces/{id}` (`data[].spans[].spanID`); Tempo 3.0, `GET /api/traces/{id}` (OTLP/JSON under `batches`, ids in base64).
"""

from __future__ import annotations

import base64
import binascii
import email.utils
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import msgspec
import urllib3

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["Clock", "Found", "clock_of", "find_trace", "query_base"]

_PLACEHOLDER = "{trace_id}"
_PAUSE_S = 0.25


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


def find_trace(base: str, trace_id: str, span_id: str, wait_s: float, *, pause: Callable[[float], None] = time.sleep) -> Found:
    """Ask until the span is there, or for `wait_s` seconds: receivers batch, so it may take a moment. Never raises."""
    deadline = time.monotonic() + wait_s
    with urllib3.PoolManager(num_pools=1, retries=False, timeout=urllib3.Timeout(total=5.0)) as pool:
        while True:
            found = _ask(pool, f"{base}/api/traces/{trace_id}", span_id)
            if found.spans or (found.reason and not found.backend) or time.monotonic() >= deadline:
                return found
            pause(_PAUSE_S)


def _ask(pool: urllib3.PoolManager, url: str, span_id: str) -> Found:
    begun = time.time()
    try:
        response = pool.request("GET", url, headers={"accept": "application/json"}, redirect=False)
    except (urllib3.exceptions.HTTPError, ValueError) as error:
        refused = "Connection refused" in str(error)
        return Found(0, reason=f"{urlsplit(url).netloc} {'takes no connections: nothing listens there' if refused else f'does not answer ({error})'}"[:300])
    clock = _clock(response.headers.get("date", ""), begun, time.time())
    try:
        content = msgspec.json.decode(response.data)
    except msgspec.DecodeError:
        content = None
    if response.status == 404:  # Jaeger says so in JSON, Tempo in plain text; a web server with a page
        page = response.headers.get("content-type", "").startswith("text/html")
        return Found(0, "" if page else "the query address", f"{url} is not there (404)", clock)
    if response.status != 200 or not isinstance(content, dict):
        what = "a web page" if response.status == 200 else f"{response.status}"
        return Found(0, reason=f"{url} answers with {what}: is it the address of Jaeger's or Tempo's API?", clock=clock)
    ids = list(_span_ids(content))
    backend = "Jaeger" if "data" in content else "Tempo"
    return Found(ids.count(span_id), backend, "" if span_id in ids else "the answer does not hold it", clock)


def _span_ids(content: dict[str, Any]) -> Iterator[str]:
    """Yield the ids of the spans in an answer, hex."""
    try:
        for trace in content.get("data") or ():
            yield from (str(span["spanID"]) for span in trace["spans"])
        for batch in content.get("batches") or content.get("resourceSpans") or ():
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


def clock_of(url: str, *, certificate: str | None = None) -> Clock | None:
    """Return how far the clock of an HTTP server is from ours, `None` where it does not tell. Never raises."""
    options: dict[str, Any] = {"ca_certs": certificate} if url.startswith("https:") else {}
    with urllib3.PoolManager(num_pools=1, retries=False, timeout=urllib3.Timeout(total=5.0), **options) as pool:
        begun = time.time()
        try:
            response = pool.request("GET", url, redirect=False)
        except (urllib3.exceptions.HTTPError, ValueError):
            return None
        return _clock(response.headers.get("date", ""), begun, time.time())


def _clock(date: str, begun: float, ended: float) -> Clock | None:
    """Return the difference from an answer's `Date`, which was cut to the second some time between `begun` and `ended`."""
    try:
        at = email.utils.parsedate_to_datetime(date).timestamp()
    except (TypeError, ValueError):
        return None
    return Clock(at + 0.5 - (begun + ended) / 2, 0.5 + (ended - begun) / 2)
