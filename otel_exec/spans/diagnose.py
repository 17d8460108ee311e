"""What is wrong between here and a visible trace: each link of the chain is tried, in the order in which spans pass it.

What comes in: an endpoint, and where traces can be asked for. What goes out: `Finding`s, one after the other, so that they can be read while the next link is tried.
One span is sent, of a service of its own; requests before it carry none.
"""

from __future__ import annotations

import os
import re
import time
from dataclasses import replace
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from otel_exec.config_values import join_url, mask_url
from otel_exec.spans.find_again import clock_of, find_trace, query_base
from otel_exec.spans.ids import IdGenerator
from otel_exec.spans.line_codec import LineEncoder
from otel_exec.spans.otlp_json import parse_line
from otel_exec.spans.proxies import grpc_proxy, http_proxy
from otel_exec.spans.reach import Finding, find_port, find_tls, resolve_name, speaks_tls
from otel_exec.spans.signal import Signal
from otel_exec.spans.span_record import SpanRecord
from otel_exec.spans.transport import Answer, open_transport
from otel_exec.spans.within import within

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from otel_exec.config import Endpoint
    from otel_exec.spans.find_again import Clock
    from otel_exec.spans.otlp_json import ExportLine

__all__ = ["SERVICE", "diagnose", "takes_metrics"]

SERVICE = "otel-exec-doctor"
# Past this clocks are worth a word: Jaeger and Grafana search by time, and Tempo's generator passes over what seems old.
_CLOCKS_DIFFER_S = 5.0
# A request without a span, and one without a metric.
_NOTHING = (parse_line(b'{"resourceSpans":[]}'),)
_NO_METRICS = (parse_line(b'{"resourceMetrics":[]}', Signal.METRICS),)
_LATER_S = 0.5
# A status, not a word: "what answers there does not speak gRPC" asks for nothing.
_ASKS_FOR_LATER = re.compile(r" answers (?:429|503|RESOURCE_EXHAUSTED)\b")
_QUERY_TO_DO = "give --query the address that the user interface has, such as http://localhost:16686"
_USUAL_PORT = {"grpc": "4317", "http/protobuf": "4318", "http/json": "4318"}


def diagnose(endpoint: Endpoint, query: str | None, *, timeout_s: float = 5.0, wait_s: float = 20.0) -> Iterator[Finding]:
    """Yield what each check came to; after one that is `wrong` those that need it are left out.

    Args:
        endpoint: where spans go.
        query: the address of Jaeger's or Tempo's API, or the template of a trace's page there; `None` where none is known.
        timeout_s: what a connection and an answer may take.
        wait_s: how long the span that was sent is looked for.
    """
    endpoint = replace(endpoint, timeout_s=min(endpoint.timeout_s or timeout_s, timeout_s))
    parts = urlsplit(endpoint.url)
    by_grpc = endpoint.protocol == "grpc"
    proxy = (grpc_proxy if by_grpc else http_proxy)(endpoint.url)
    address = None
    if proxy:
        yield Finding(
            "proxy",
            "note",
            f"requests go through the proxy {mask_url(proxy)}, so name, port and TLS of the receiver are not tried",
            f"for a receiver nearby set {'no_grpc_proxy' if by_grpc else 'NO_PROXY'}={parts.hostname}",
        )
    else:
        host, port = parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
        finding, addresses = resolve_name(host, port)
        yield finding
        if not addresses:
            return
        finding, address = find_port(host, addresses, timeout_s)
        yield finding
        if address is None:
            return
        if parts.scheme == "https":
            finding = find_tls(endpoint, host, port, address, timeout_s)
            yield finding
            if finding.verdict == "wrong":
                return
    finding = _protocol(endpoint, None if address is None else (address, port), timeout_s)
    yield finding
    if finding.verdict == "wrong":
        return
    trace_id, span_id, sent = _send_span(endpoint)
    yield sent
    if sent.verdict == "wrong":
        return
    clock = None
    if query is None:
        yield Finding("found again", "skipped", "no query address is known", "give --query http://localhost:16686, or set OTEL_EXEC_TRACE_URL")
    else:
        finding, clock = _find_again(query, trace_id, span_id, wait_s, timeout_s)
        yield finding
    yield _clocks(clock or (None if endpoint.protocol == "grpc" else clock_of(endpoint.url, certificate=endpoint.certificate, timeout_s=timeout_s)))


def takes_metrics(endpoint: Endpoint, timeout_s: float = 5.0) -> Finding:
    """Return whether the endpoint takes metrics; one that does not, as Jaeger, is no fault: spans go on without them."""
    answer = _ask(replace(endpoint, timeout_s=min(endpoint.timeout_s or timeout_s, timeout_s)), _NO_METRICS)
    if answer.verdict in ("accepted", "content"):
        return Finding("metrics", "ok", f"metrics are taken at {endpoint.shown}")
    return Finding(
        "metrics", "note", f"metrics are not taken: {answer.reason}", "send to a Collector, which has a place for them, or set OTEL_METRICS_EXPORTER=none"
    )


def _ask(endpoint: Endpoint, lines: Sequence[ExportLine] = _NOTHING) -> Answer:
    """Send one request; unless lines are given it carries no span, and receivers take it all the same."""
    transport = open_transport(endpoint)

    def send() -> Answer:
        try:
            return transport.send(lines)
        finally:
            transport.close()

    # The transport knows better what went wrong, so it may speak first.
    return within(endpoint.timeout_s + _LATER_S, send) or Answer("again", f"{endpoint.shown}: no whole answer within {endpoint.timeout_s:g} s")


def _protocol(endpoint: Endpoint, address: tuple[str, int] | None, timeout_s: float) -> Finding:
    """Return whether what listens takes OTLP in the protocol that is set, and if not, what it does take."""
    spoken = _words(endpoint.protocol)
    answer = _ask(endpoint)
    # "content": an empty request is not to its taste, but it read it.
    if answer.verdict in ("accepted", "content"):
        return Finding("protocol", "ok", f"{spoken} is taken there")
    if _is_refusal_of_credentials(answer):
        names = ", ".join(endpoint.header_names)
        return Finding(
            "authentication",
            "wrong",
            answer.reason,
            "set OTEL_EXPORTER_OTLP_HEADERS, as the backend's own pages tell it" + (f" (sent now: {names})" if names else " (none is sent now)"),
        )
    if address is not None and endpoint.url.startswith("http://") and speaks_tls(*address, timeout_s):
        return Finding(
            "TLS",
            "wrong",
            "the receiver speaks TLS, and the address begins with http://",
            f"set the endpoint to https://{endpoint.shown[7:].removesuffix('/v1/traces')}",
        )
    for other in _others(endpoint):
        if (theirs := _ask(other)).verdict in ("accepted", "content") or _is_refusal_of_credentials(theirs):
            return _mismatch(endpoint, other)
    if endpoint.protocol == "grpc":
        page = _ask(replace(endpoint, url=endpoint.url + "/v1/traces", protocol="http/protobuf"))
        if page.verdict == "refused":
            return Finding("protocol", "wrong", f"what listens there is a web server and no receiver of OTLP ({page.reason})", _right_port(endpoint))
    if (finding := _not_the_address(answer, endpoint.protocol)) is not None:
        return finding
    if answer.verdict == "refused":
        return Finding("protocol", "wrong", f"what listens there is no receiver of OTLP ({answer.reason})", _right_port(endpoint))
    return Finding("protocol", "wrong", f"{spoken} gets no proper answer ({answer.reason})", _right_port(endpoint))


def _not_the_address(answer: Answer, protocol: str) -> Finding | None:
    """Return what is wrong where another address would not help: TLS, or the receiver itself; `None` where it may be the address."""
    reason = answer.reason
    if "CERTIFICATE_REQUIRED" in reason.upper().replace(" ", "_"):
        return Finding(
            "TLS",
            "wrong",
            f"the receiver wants a certificate of its client ({reason})",
            "set OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE and OTEL_EXPORTER_OTLP_CLIENT_KEY",
        )
    if "TLS failed" in reason and protocol == "grpc":  # the handshake that was tried before trusts what the system trusts
        return Finding(
            "TLS",
            "wrong",
            reason,
            "gRPC trusts authorities of its own list, not the system's: set OTEL_EXPORTER_OTLP_CERTIFICATE to the file of the receiver's authority",
        )
    if "TLS failed" in reason:  # after a handshake that went well
        return Finding(
            "TLS",
            "wrong",
            reason,
            "look at the receiver's own log; where it wants a certificate of its client, set OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE and OTEL_EXPORTER_OTLP_CLIENT_KEY",
        )
    if answer.verdict == "again" and _ASKS_FOR_LATER.search(reason):
        return Finding(
            "protocol", "wrong", f"the receiver asks to be left alone for now ({reason})", "try again later; if it stays so, look at the receiver's own log"
        )
    if " answers 50" in reason:
        return Finding("protocol", "wrong", f"the receiver has a fault of its own ({reason})", "look at the receiver's own log")
    return None


def _others(endpoint: Endpoint) -> Iterator[Endpoint]:
    """Yield what else the same port might take."""
    parts = urlsplit(endpoint.url)
    root = join_url(parts.scheme, parts.netloc, "", "")
    if endpoint.protocol == "grpc":
        yield replace(endpoint, url=root + "/v1/traces", protocol="http/protobuf")
        return
    if parts.path != "/v1/traces":
        yield replace(endpoint, url=root + "/v1/traces")
    yield replace(endpoint, protocol="http/json" if endpoint.protocol == "http/protobuf" else "http/protobuf")
    yield replace(endpoint, url=root, protocol="grpc")


def _mismatch(endpoint: Endpoint, other: Endpoint) -> Finding:
    """Return the finding for a receiver that takes `other` and not `endpoint`."""
    if other.protocol == endpoint.protocol:
        path = urlsplit(endpoint.url).path or "/"
        return Finding("protocol", "wrong", f"OTLP is taken at the path /v1/traces, not at {path}", f"set OTEL_EXPORTER_OTLP_TRACES_ENDPOINT to {other.shown}")
    port = _USUAL_PORT[endpoint.protocol]
    return Finding(
        "protocol",
        "wrong",
        f"the port takes {_words(other.protocol)}, and {_words(endpoint.protocol)} is spoken to it",
        f"set OTEL_EXPORTER_OTLP_PROTOCOL={other.protocol}, or give the port for {_words(endpoint.protocol)}, usually {port}",
    )


def _right_port(endpoint: Endpoint) -> str:
    return f"give the address of a receiver of {_words(endpoint.protocol)}; its port is usually {_USUAL_PORT[endpoint.protocol]}"


def _words(protocol: str) -> str:
    return "OTLP over gRPC" if protocol == "grpc" else f"OTLP over HTTP ({'JSON' if protocol.endswith('json') else 'protobuf'})"


def _is_refusal_of_credentials(answer: Answer) -> bool:
    # The transports say it in words: an HTTP status, or gRPC's name of it.
    return answer.verdict == "refused" and any(word in answer.reason for word in ("answers 401", "answers 403", "UNAUTHENTICATED", "PERMISSION_DENIED"))


def _send_span(endpoint: Endpoint) -> tuple[str, str, Finding]:
    """Send the test span; returns its ids and what came of it."""
    ids = IdGenerator()
    trace_id, span_id = ids.trace_id(), ids.span_id()
    now_ns = time.time_ns()
    span = SpanRecord(trace_id, span_id, "", "otel-exec doctor", "", now_ns - 1_000_000, now_ns, {})
    line = LineEncoder({"service.name": SERVICE, "process.pid": os.getpid()}).encode([span])
    answer = _ask(endpoint, [parse_line(line)])
    if answer.verdict == "accepted" and not answer.rejected:
        return trace_id, span_id, Finding("test span", "ok", f"a span of the service {SERVICE} was acknowledged, trace {trace_id}")
    return trace_id, span_id, Finding("test span", "wrong", f"the receiver would not have a span: {answer.reason or 'it gave no reason'}")


def _find_again(query: str, trace_id: str, span_id: str, wait_s: float, timeout_s: float) -> tuple[Finding, Clock | None]:
    base = query_base(query)
    shown = mask_url(query, all_queries=False)
    if base is None:
        return Finding(
            "found again",
            "skipped",
            f"{shown} is the address of a page, from which that of an API can't be told",
            "give --query, the address of Jaeger or Tempo",
        ), None
    found = find_trace(base, trace_id, span_id, wait_s, timeout_s=timeout_s)
    if found.spans == 1:
        return Finding("found again", "ok", f"{found.backend} has the span, at {mask_url(base)}"), found.clock
    if found.spans:
        return Finding(
            "found again",
            "note",
            f"{found.backend} has the span {found.spans} times, though it was sent once",
            "does the collector send to it by two pipelines?",
        ), found.clock
    if not found.backend:
        login = any(f"answers with {status}" in found.reason for status in (301, 302, 303, 307, 401, 403))
        to_do = "give what it wants for a login in the address, --query http://user:password@host:port" if login else _QUERY_TO_DO
        return Finding("found again", "wrong", found.reason, to_do), found.clock
    return Finding(
        "found again",
        "wrong",
        f"the span was acknowledged and did not come to {mask_url(base)} within {wait_s:g} s ({found.reason})",
        "look at the collector's log: it may sample, drop, or fail to reach the backend; and is this the backend that it sends to?",
    ), found.clock


def _long(seconds: float) -> str:
    """Return a difference of clocks as people say it."""
    return f"{seconds:.0f} s" if seconds < 2 * 3600 else f"{seconds / 3600:,.1f} h" if seconds < 48 * 3600 else f"{seconds / 86400:,.0f} days"


def _clocks(clock: Clock | None) -> Finding:
    if clock is None:
        return Finding("clock", "skipped", "the receiver does not tell its time")
    if abs(clock.ahead_s) - clock.give_or_take_s > _CLOCKS_DIFFER_S:
        ahead = "ahead of" if clock.ahead_s > 0 else "behind"
        return Finding(
            "clock",
            "note",
            f"its clock is {_long(abs(clock.ahead_s))} {ahead} ours",
            "set the clocks (NTP): traces are searched by time, and are not found where they are not looked for",
        )
    return Finding("clock", "ok", f"its clock is ours to within {abs(clock.ahead_s) + clock.give_or_take_s:.1f} s")
