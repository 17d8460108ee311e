"""OTLP over HTTP, protobuf or JSON.

What comes in: lines. What goes out: one POST, and what its answer means. Follows no redirects, keeps one connection.

Source: OTLP specification 1.5, "OTLP/HTTP"; RFC 9110, "Retry-After".
"""

from __future__ import annotations

import email.utils
import gzip
import time
from typing import TYPE_CHECKING, Any

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
        self._pool = urllib3.ProxyManager(proxy, **options) if proxy else urllib3.PoolManager(**options)

    def send(self, lines: Sequence[ExportLine]) -> Answer:
        """See `Transport`."""
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


def _retry_after_s(text: str) -> float | None:
    """Return the seconds that a `Retry-After` asks for: a number, or a date; `None` when it says nothing."""
    if text.strip().isdecimal():
        return float(text)
    try:
        at = email.utils.parsedate_to_datetime(text)
    except (TypeError, ValueError):
        return None
    return max(at.timestamp() - time.time(), 0.0)


def _detail(kind: str, content: bytes) -> str:
    """Return what an error's body says."""
    text = ""
    if kind == "application/json":
        try:
            text = str(msgspec.json.decode(content).get("message", ""))
        except (msgspec.DecodeError, AttributeError):
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
    if "BadStatusLine" in text or "HTTP/0.9" in text or "IncompleteRead" in text:
        return "what answers there does not speak HTTP/1.1: is it the gRPC port (usually 4317)?"
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]
