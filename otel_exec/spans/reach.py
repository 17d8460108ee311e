"""Whether a host can be reached: its name, its port, its TLS; each answer is a sentence with what to do.

What comes in: an endpoint's address. What goes out: `Finding`s. Connects, and says nothing over the connection but TLS.

Source: RFC 8446 (alerts), OpenSSL's verification errors.
"""

from __future__ import annotations

import os
import socket
import ssl
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Sequence

    from otel_exec.config import Endpoint

__all__ = ["Finding", "find_port", "find_tls", "resolve_name", "speaks_tls"]

_OTHER_PORTS = {4317: 4318, 4318: 4317}
_OTHER_MEANS = {4317: "OTLP over gRPC", 4318: "OTLP over HTTP"}


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check came to: `said` is a sentence without its full stop; `to_do` is what helps, "" where nothing has to be done.

    `verdict`: `ok`; `wrong`, a trace will not be seen; `note`, worth knowing; `skipped`, not asked, and `said` tells why.
    """

    check: str
    verdict: Literal["ok", "wrong", "note", "skipped"]
    said: str
    to_do: str = ""


def resolve_name(host: str, port: int) -> tuple[Finding, Sequence[tuple[str, int]]]:
    """Return what the host's name resolves to, addresses in the order in which they are tried."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        return Finding(
            "name",
            "wrong",
            f"the name {host!r} can't be resolved ({reason})",
            "check the spelling; names of containers are known inside their network only, from outside it is localhost and the published port",
        ), ()
    addresses = list(dict.fromkeys((str(sockaddr[0]), port) for _, _, _, _, sockaddr in found))
    shown = ", ".join(address for address, _ in addresses)
    return Finding("name", "ok", f"{host} is an address" if shown == host else f"{host} is {shown}"), addresses


def find_port(host: str, addresses: Sequence[tuple[str, int]], timeout_s: float) -> tuple[Finding, str | None]:
    """Return whether something listens, and the address at which it does."""
    reasons: list[str] = []
    timed_out = False
    port = addresses[0][1]
    for address, _ in addresses:
        begun = time.perf_counter()
        try:
            socket.create_connection((address, port), timeout=timeout_s).close()
        except TimeoutError:
            timed_out = True
            reasons.append(f"{address}: no answer within {timeout_s:g} s")
        except OSError as error:
            reasons.append(f"{address}: {error.strerror or error}")
        else:
            taken_ms = (time.perf_counter() - begun) * 1e3
            return Finding("port", "ok", f"{_at(address, port)} takes connections ({taken_ms:.1f} ms)"), address
    if timed_out:
        return Finding(
            "port", "wrong", f"port {port} of {host} does not answer ({'; '.join(reasons)})", "a firewall drops what is sent there, or the host is down"
        ), None
    return Finding("port", "wrong", f"nothing listens on port {port} of {host} ({'; '.join(reasons)})", _where_else(host, port)), None


def _where_else(host: str, port: int) -> str:
    """Return what to do where nothing listens: the other usual port where that one is open, else how to start a receiver."""
    other = _OTHER_PORTS.get(port)
    if other is not None:
        try:
            socket.create_connection((host, other), timeout=1.0).close()
        except OSError:
            pass
        else:
            return f"port {other} is open there, which is usually {_OTHER_MEANS[other]}: set the endpoint to http://{host}:{other}"
    local = host in ("localhost", "127.0.0.1", "::1")
    start = "start the receiver (docker compose up -d, in a clone of otel_exec), or correct the port" if local else "start the receiver, or correct the port"
    if local and os.path.exists("/.dockerenv"):
        return f"{start}; this is a container, and its localhost is not its host's: there it is the receiver's name, or host.docker.internal"
    return start


def _at(address: str, port: int) -> str:
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def find_tls(endpoint: Endpoint, host: str, port: int, address: str, timeout_s: float) -> Finding:
    """Return whether the receiver's certificate is one that we trust, as far as a handshake shows it."""
    try:
        context = ssl.create_default_context(cafile=endpoint.certificate)
        if endpoint.client_certificate:
            context.load_cert_chain(endpoint.client_certificate, endpoint.client_key)
    except (ssl.SSLError, OSError) as error:
        return Finding("TLS", "wrong", f"the certificate files can't be used ({error})", "OTEL_EXPORTER_OTLP_CERTIFICATE and its kin name PEM files")
    context.set_alpn_protocols(["h2"] if endpoint.protocol == "grpc" else ["http/1.1"])
    try:
        with socket.create_connection((address, port), timeout=timeout_s) as plain, context.wrap_socket(plain, server_hostname=host) as secure:
            return Finding("TLS", "ok", f"{secure.version()}, and the certificate is trusted")
    except ssl.SSLCertVerificationError as error:
        return Finding("TLS", "wrong", f"the receiver's certificate is not trusted: {error.verify_message or error.reason}", _mend(error.verify_message, host))
    except ssl.SSLError as error:
        if error.reason in ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "UNEXPECTED_MESSAGE", "HTTP_REQUEST"):
            return Finding("TLS", "wrong", "TLS is not spoken there, and the address begins with https://", "for plain text write http:// in the address")
        return Finding("TLS", "wrong", f"the TLS handshake failed ({error.reason or error})")
    except OSError as error:
        return Finding(
            "TLS",
            "wrong",
            f"the connection ended in the TLS handshake ({error.strerror or error})",
            "is it plain text that is spoken there? then write http:// in the address",
        )


def _mend(reason: str, host: str) -> str:
    lower = (reason or "").lower()
    if "expired" in lower or "not yet valid" in lower:
        return "renew the certificate, or set this machine's clock"
    if "mismatch" in lower or "not valid for" in lower:
        return f"use a name that the certificate was made out to instead of {host}"
    return "set OTEL_EXPORTER_OTLP_CERTIFICATE to the PEM file of the certificate, or of the authority that signed it"


def speaks_tls(address: str, port: int, timeout_s: float) -> bool:
    """Whether TLS is spoken there, whoever's certificate it is."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # nothing is sent
    try:
        with socket.create_connection((address, port), timeout=timeout_s) as plain, context.wrap_socket(plain):
            return True
    except ssl.SSLError as error:
        return "ALERT" in (error.reason or "")  # an alert is TLS: a client's certificate is wanted, say
    except OSError:
        return False
