"""OTLP over HTTP, protobuf or JSON.

What comes in: lines. What goes out: one POST, and what its answer means. Follows no redirects, keeps one connection.

Source: OTLP specification 1.5, "OTLP/HTTP"; RFC 9110, "Retry-After".
"""

from __future__ import annotations

import email.utils
import gzip
import http.client
import time
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import msgspec
import urllib3

from otel_exec.config_values import mask_url
from otel_exec.spans.otlp_json import merge
from otel_exec.spans.proxies import http_proxy
from otel_exec.spans.signal import Signal
from otel_exec.spans.transport import USER_AGENT, Answer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from otel_exec.config import Endpoint
    from otel_exec.spans.otlp_json import ExportLine

__all__ = ["HttpTransport", "sentence"]

_AGAIN = (429, 502, 503, 504)
_CONTENT = (400, 413)  # too large is said of the whole: a half may fit
_MEANING = {
    401: "the credentials are missing or wrong",
    403: "the credentials are not allowed to send here",
    404: "nothing takes OTLP at this path",
    405: "this path takes no POST: is it the OTLP port?",
    415: "this protocol is not taken",
}
_ABSENT = 404
_REJECTED = {Signal.TRACES: "rejectedSpans", Signal.METRICS: "rejectedDataPoints"}
_MAX_ANSWER_BYTES = 64 << 10
# Nobody who sends for as long as a run lasts waits longer than a day.
_LONGEST_PAUSE_S = 86_400.0
_GZIP_LEVEL = 1  # measured: bench/export_throughput.py


class HttpTransport:
    """One endpoint over HTTP."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._json = endpoint.protocol == "http/json"
        self._gzip = endpoint.compression == "gzip"
        self._url = endpoint.url
        self._shown = endpoint.shown
        self._redact = endpoint.redact
        self._timeout_s = endpoint.timeout_s
        self._headers = {
            **dict(endpoint.headers),
            "content-type": "application/json" if self._json else "application/x-protobuf",
            "user-agent": USER_AGENT,
        }
        if self._gzip:
            self._headers["content-encoding"] = "gzip"
        options: dict[str, Any] = {
            "num_pools": 1,
            "maxsize": 1,
            "retries": False,
            "timeout": urllib3.Timeout(connect=endpoint.timeout_s or None, read=endpoint.timeout_s or None),
        }
        if endpoint.url.startswith("https:"):
            options |= {"ca_certs": endpoint.certificate, "cert_file": endpoint.client_certificate, "key_file": endpoint.client_key}
        proxy = http_proxy(endpoint.url)
        self._refusal: Answer | None = None
        try:
            self._pool = _proxied(proxy, options) if proxy else urllib3.PoolManager(**options)
        except (urllib3.exceptions.HTTPError, ValueError):
            self._refusal = Answer("refused", f"{self._shown}: the proxy {mask_url(proxy or '')} of the environment is no http:// or https:// address")
            self._pool = urllib3.PoolManager(**options)

    def send(self, lines: Sequence[ExportLine]) -> Answer:
        """See `Transport`."""
        if self._refusal is not None:
            return self._refusal
        body = self._body(lines)
        if self._gzip:
            body = gzip.compress(body, _GZIP_LEVEL)
        try:
            response = self._pool.request("POST", self._url, body=body, headers=self._headers, redirect=False, preload_content=False)
            try:
                content = response.read(_MAX_ANSWER_BYTES, decode_content=True)
                if response.read(1):
                    response.close()
            finally:
                response.release_conn()
        except (urllib3.exceptions.HTTPError, OSError) as error:
            return Answer("again", f"{self._shown}: {self._redact(sentence(error, self._timeout_s))}")
        return self._answer(lines[0].signal, response.status, {name.lower(): value for name, value in response.headers.items()}, content)

    def close(self) -> None:
        """See `Transport`."""
        self._pool.clear()

    def _body(self, lines: Sequence[ExportLine]) -> bytes:
        if self._json:
            return merge(lines)
        from otel_exec.spans.otlp_proto import to_request

        serialised: bytes = to_request(lines).SerializeToString()
        return serialised

    def _answer(self, signal: Signal, status: int, headers: dict[str, str], content: bytes) -> Answer:
        kind = headers.get("content-type", "").partition(";")[0].strip().lower()
        if 200 <= status < 300:
            if kind == "text/html" or content.lstrip()[:1] == b"<":
                return Answer("refused", f"{self._shown} is not an OTLP receiver: it answers with a web page")
            return self._partial_success(signal, kind, content)
        detail = _one_line(self._redact(_detail(kind, content)))
        said = f"{self._shown} answers {status}{f' ({detail})' if detail else ''}"
        if status in _AGAIN:
            return Answer("again", said, retry_after_s=_retry_after_s(headers.get("retry-after", "")))
        if status in _CONTENT:
            return Answer("content", said)
        if 300 <= status < 400:
            return Answer(
                "refused",
                f"{said}: it redirects to {self._redact(mask_url(headers.get('location', 'another address')))!r}, and redirects are not followed; set that address as the endpoint",
            )
        meaning = _MEANING.get(status)
        return Answer("refused", f"{said}: {meaning}" if meaning else said, absent=status == _ABSENT)

    def _partial_success(self, signal: Signal, kind: str, content: bytes) -> Answer:
        rejected, message = 0, ""
        try:
            if kind == "application/json":
                partial = (msgspec.json.decode(content) if content else {}).get("partialSuccess") or {}
                rejected, message = int(partial.get(_REJECTED[signal], 0)), str(partial.get("errorMessage", ""))
            elif content and kind == "application/x-protobuf":
                from otel_exec.spans.otlp_proto import partial_success_of

                rejected, message = partial_success_of(signal, content)
        except Exception:  # an answer that can't be read takes nothing back: 200 means taken
            return Answer("accepted")
        return Answer("accepted", f"{self._shown}: {self._redact(message)}" if message else "", max(rejected, 0))


def _proxied(proxy: str, options: dict[str, Any]) -> urllib3.ProxyManager:
    """Return a pool that goes through a proxy, with the user and password that its address holds; an address without a scheme is one of http, as curl has it."""
    address = proxy if "://" in proxy else f"http://{proxy}"
    credentials = urllib3.util.parse_url(address).auth
    headers = urllib3.make_headers(proxy_basic_auth=unquote(credentials)) if credentials else None
    return urllib3.ProxyManager(address, proxy_headers=headers, **options)


def _retry_after_s(text: str) -> float | None:
    """Return the seconds that a `Retry-After` asks for: a number, or a date; `None` when it says nothing."""
    if text.strip().isdecimal():
        return min(float(text), _LONGEST_PAUSE_S)
    try:
        at_s = email.utils.parsedate_to_datetime(text).timestamp()
    except (TypeError, ValueError, OverflowError):
        return None
    return min(max(at_s - time.time(), 0.0), _LONGEST_PAUSE_S)


def _detail(kind: str, content: bytes) -> str:
    """Return what an error's body says."""
    text = ""
    if kind == "application/json":
        try:
            text = str(msgspec.json.decode(content).get("message", ""))
        except (msgspec.DecodeError, ValueError, RecursionError, AttributeError):  # ValueError: it is no UTF-8
            text = content.decode(errors="replace")
    elif kind == "application/x-protobuf":
        from otel_exec.spans.otlp_proto import status_message

        text = status_message(content)
    elif kind == "text/plain":
        text = content.decode(errors="replace")
    return text


def _one_line(text: str) -> str:
    """Return a text in one line of at most 200 characters."""
    line = " ".join(text.split())
    return "".join(each if each.isprintable() else "?" for each in line[:200])


def sentence(error: BaseException, timeout_s: float) -> str:
    """Return what went wrong on the way, in one sentence."""
    causes = [error]
    while (cause := causes[-1].__cause__ or causes[-1].__context__) is not None and cause not in causes:
        causes.append(cause)
    text = " ".join(str(each) for each in causes)
    if any(isinstance(each, ConnectionRefusedError) for each in causes):
        return "connection refused: nothing listens there"
    if isinstance(error, urllib3.exceptions.NameResolutionError):
        return "the host's name can't be resolved"
    if isinstance(error, urllib3.exceptions.TimeoutError):
        return f"no answer within {timeout_s:g} s"
    if isinstance(error, urllib3.exceptions.SSLError):
        if "WRONG_VERSION_NUMBER" in text:
            return "TLS is not spoken there; for plain text write http:// in the address"
        return f"TLS failed ({' '.join(str(error).split())[:200]})"
    if isinstance(error, urllib3.exceptions.DecodeError):
        return "its answer is compressed and can't be read"
    if any(isinstance(each, (ConnectionResetError, http.client.RemoteDisconnected)) for each in causes):
        return "the connection was closed without an answer"
    if "IncompleteRead" in text or "InvalidChunkLength" in text:
        return "its answer broke off"
    if "BadStatusLine" in text or "HTTP/0.9" in text:
        return "what answers there does not speak HTTP/1.1: is it the gRPC port (usually 4317)?"
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]
