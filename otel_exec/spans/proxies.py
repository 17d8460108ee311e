"""The proxy that the environment names for an address: HTTP clients and gRPC read different variables.

What comes in: an address. What goes out: the proxy's address, or `None`. Connects to nothing.

Source: `urllib.request` (either case, `NO_PROXY`); gRPC, "Environment variables" and its HTTP proxy mapper (lower case alone).
"""

from __future__ import annotations

import ipaddress
import os
import urllib.request
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["grpc_proxy", "http_proxy"]

# In the order in which gRPC looks at them; the scheme of the address plays no part.
_GRPC = ("grpc_proxy", "https_proxy", "http_proxy")
_NO_GRPC = ("no_grpc_proxy", "no_proxy")


def http_proxy(url: str) -> str | None:
    """Return the proxy for a URL, as HTTP clients commonly read it."""
    parts = urlsplit(url)
    if urllib.request.proxy_bypass(parts.hostname or ""):
        return None
    return urllib.request.getproxies_environment().get(parts.scheme)


def grpc_proxy(url: str, environ: Mapping[str, str] = os.environ) -> str | None:
    """Return the proxy that gRPC's channel to an address goes through."""
    proxy = next((environ[name] for name in _GRPC if environ.get(name)), None)
    exceptions = next((environ[name] for name in _NO_GRPC if environ.get(name)), "")
    host = (urlsplit(url).hostname or "").lower()
    return None if proxy is None or any(_holds(entry.strip().lower(), host) for entry in exceptions.split(",")) else proxy


def _holds(entry: str, host: str) -> bool:
    """Whether an exception speaks of the host: by the end of its name, or as a network that its address lies in."""
    if not entry:
        return False
    if host.endswith(entry):
        return True
    try:
        return ipaddress.ip_address(host) in ipaddress.ip_network(entry, strict=False)
    except ValueError:
        return False
