"""Whether the head of a Ray cluster answers at an address: asked before Ray is, which would try for a minute or more, and say so on the terminal.

What comes in: `HOST:PORT`. What goes out: the id of the cluster, or one sentence why there is none. What can't be told from here (TLS, Ray's client, `auto`) is left to Ray.
"""

from __future__ import annotations

import os
import socket

import grpc

__all__ = ["NobodyThere", "NotLetIn", "cluster_id"]

# How long the head of a cluster may take to accept a connection, and to answer.
_CONNECT_S = 3.0
_ANSWER_S = 10.0


class NobodyThere(Exception):
    """There is no head of a cluster that lets us in; says why."""


class NotLetIn(NobodyThere):
    """A head is there, and does not know us."""


def cluster_id(address: str) -> bytes | None:
    """Return the id of the cluster whose head is at `HOST:PORT`; `None` where that can't be told.

    Raises:
        NobodyThere: no head is there, or it does not know us.
    """
    host, colon, port = address.rpartition("://")[2].rpartition(":")
    if not colon or not port.isdigit():
        return None
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_CONNECT_S).close()
    except OSError as error:
        raise NobodyThere(str(error)) from error
    method = _method()
    if "://" in address or method is None or os.environ.get("RAY_USE_TLS", "0").lower() in {"1", "true"}:
        return None
    with grpc.insecure_channel(address, options=[("grpc.enable_http_proxy", 0)]) as channel:
        ask, reply = channel.unary_unary(method[0], response_deserializer=method[1]), None
        try:
            reply = ask(b"", timeout=_ANSWER_S, metadata=_token())
        except grpc.RpcError as error:
            raise _refusal(error) from error
    return bytes(reply.cluster_id)


def _refusal(error: grpc.RpcError) -> NobodyThere:
    code = error.code()
    if code == grpc.StatusCode.UNAUTHENTICATED:
        return NotLetIn(
            "it lets in who shows its token; set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH where the token is not in ~/.ray/auth_token"
        )
    if code == grpc.StatusCode.DEADLINE_EXCEEDED:
        return NobodyThere(f"what listens there has not answered within {_ANSWER_S:g} s")
    return NobodyThere("what listens there is not the head of a Ray cluster")


def _method() -> tuple[str, object] | None:
    """Return the call by which a head says who it is, and what reads its answer; `None` where the Ray that is installed has it under another name."""
    try:
        from ray.core.generated import gcs_service_pb2

        service = gcs_service_pb2.DESCRIPTOR.services_by_name["NodeInfoGcsService"]
        return f"/{service.full_name}/{service.methods_by_name['GetClusterId'].name}", gcs_service_pb2.GetClusterIdReply.FromString
    except (ImportError, AttributeError, KeyError):
        return None


def _token() -> list[tuple[str, str]]:
    """Return the token that Ray would show: at an address that it was given, none unless it was told to."""
    if os.environ.get("RAY_AUTH_MODE", "").lower() != "token":
        return []
    try:
        from ray._raylet import AuthenticationTokenLoader  # type: ignore[attr-defined, unused-ignore]  # not in its stub, where Ray is installed

        loader = AuthenticationTokenLoader.instance()
        if not loader.has_token(ignore_auth_mode=True):
            return []
        return [("authorization", f"Bearer {loader.get_raw_token(ignore_auth_mode=True)}")]
    except Exception:  # a Ray that knows no tokens, or loads them in another way
        return []
