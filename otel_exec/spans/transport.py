"""What a transport is, and what a receiver's answer means for the lines that were sent.

What comes in: an endpoint. What goes out: a `Transport` for its protocol, imported only now (gRPC costs a quarter of a second).

Source: OTLP specification 1.5, "OTLP/gRPC Response", "OTLP/HTTP Response", "Partial Success".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    from otel_exec.config import Endpoint
    from otel_exec.spans.otlp_json import ExportLine

__all__ = ["USER_AGENT", "Answer", "Transport", "open_transport"]

USER_AGENT = "otel-exec-OTLP-Exporter-Python/0.1.0"


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of a request.

    `accepted`: it is the receiver's now; `rejected` of its items (spans, data points) were refused for good (partial success). `again`: the same may be sent later, not before
    `retry_after_s` seconds. `content`: something in it can't be taken; a part of it may be. `refused`: nothing of the kind will be taken from us
    (credentials, no such path, no receiver at all); `absent`: for the one reason that the receiver has no service for this signal.
    `reason` is one sentence, "" when there is nothing to say.
    """

    verdict: Literal["accepted", "again", "content", "refused"]
    reason: str = ""
    rejected: int = 0
    retry_after_s: float | None = None
    absent: bool = False


class Transport(Protocol):
    """Sends requests to one endpoint. Called from one thread at a time; blocks at most for the endpoint's timeout where the network lets it."""

    def send(self, lines: Sequence[ExportLine]) -> Answer:
        """Send all items of the lines (one or more, of one signal) in one request; never raises for what the network or the receiver does.

        Raises:
            ValueError: a line can't be put into the protocol's form.
        """
        ...

    def close(self) -> None:
        """Close connections."""
        ...


def open_transport(endpoint: Endpoint) -> Transport:
    """Return the transport for an endpoint's protocol; connects later."""
    if endpoint.protocol == "grpc":
        from otel_exec.spans.transport_grpc import GrpcTransport

        return GrpcTransport(endpoint)
    from otel_exec.spans.transport_http import HttpTransport

    return HttpTransport(endpoint)
