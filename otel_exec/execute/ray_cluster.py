"""The Ray cluster that a run uses: attached to, or started here; and left as it was found.

What comes in: an address, or none. What goes out: a connection, counted: of several runs in this process the last one ends what was started, and nobody ends what the user began.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import socket
import threading
from typing import TYPE_CHECKING, Any

import ray

from otel_exec.errors import UsageError
from otel_exec.execute.ray_knock import NobodyThere, NotLetIn, cluster_id

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = ["HeadWatch", "attach", "awaits", "cluster_cpus", "detach", "node_lines"]

_LOOK_S = 0.2
# So often running the head's port is found closed before the head counts as gone: a supervisor may start it again.
_REFUSALS = 5

_lock = threading.Lock()
_users = 0
_ours = False


def attach(address: str | None, workers: int | None, resources: Mapping[str, float]) -> None:
    """Connect this process to a cluster, unless it is connected to it.

    Args:
        address: of a running cluster, `auto`, or `None`: start a local one.
        workers: CPUs of a local one; `None`: those of the machine.
        resources: custom resources of a local one.

    Raises:
        UsageError: there is no cluster at that address, or none can be started, or the process is connected to another one.
    """
    global _users, _ours
    with _lock:
        if ray.is_initialized():
            _check_same(address)
            _users += 1
            return
        with _quiet():
            try:
                if address is not None:
                    cluster_id(address)
                    ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
                else:
                    _start_here(workers, resources)
                _hush()
            except Exception as error:  # Ray raises plain ones, too
                ray.shutdown()
                what = f"no Ray cluster can be reached at {address}" if address is not None else "no local Ray cluster can be started"
                hint = (
                    "; give the address of its head node (--ray-address HOST:PORT), or leave it out to start one here"
                    if address is not None and not isinstance(error, NotLetIn)
                    else ""
                )
                raise UsageError(f"{what}: {_first_line(error)}{hint}") from error
        _users += 1
        _ours = True


def awaits(address: str | None) -> str:
    """Return what `attach` will wait for, in words; "" where the process is connected already."""
    if ray.is_initialized():
        return ""
    return "a local Ray cluster to start" if address is None else f"the Ray cluster at {address} to answer"


def _check_same(address: str | None) -> None:
    """A process is in one cluster; raises `UsageError` where the run wants to go to another than that which the program has connected to."""
    if address is None or address == "auto":
        return
    here, why = ray.get_runtime_context().gcs_address, ""
    try:
        wanted = cluster_id(address)
        if wanted is None or wanted == cluster_id(here):
            return
    except NobodyThere as error:
        why = f" ({error})"
    raise UsageError(
        f"this program is connected to the Ray cluster at {here}, so its run can't go to the one at {address}{why}; "
        "leave the address out (--ray-address, RAY_ADDRESS), or don't call ray.init before"
    )


def _start_here(workers: int | None, resources: Mapping[str, float]) -> None:
    """Start a local cluster; a second time where the machine was too busy for Ray's own patience of 30 s."""
    for last in (False, True):
        try:
            ray.init(
                address="local",
                num_cpus=workers,
                resources=dict(resources) or None,
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.ERROR,
            )
        except Exception as error:
            if last or "timed out during startup" not in str(error):
                raise
            ray.shutdown()
        else:
            return


def detach() -> None:
    """The run is over: disconnect, and end what was started here, unless another run of this process still uses it, or the user connected by himself."""
    global _users, _ours
    with _lock:
        _users -= 1
        if _users > 0 or not _ours:
            return
        _ours = False
        with _quiet(), contextlib.suppress(Exception):
            ray.shutdown()


def cluster_cpus() -> float:
    """Return the CPUs of all nodes, 1 at least."""
    return max(1.0, float(ray.cluster_resources().get("CPU", 1)))


class HeadWatch:
    """Whether the cluster's head is there: asked about once a second. Ray's client would wait a minute for it, and then end this process without a word of the run's."""

    def __init__(self) -> None:
        host, _, port = ray.get_runtime_context().gcs_address.rpartition(":")
        self.address = f"{host}:{port}"
        self._place = (host.strip("[]"), int(port))
        self._refused = 0

    def answers(self) -> bool:
        """Whether its host does not refuse connections now. Where it does, nothing may be asked of it: Ray would wait."""
        try:
            socket.create_connection(self._place, timeout=_LOOK_S).close()
        except ConnectionRefusedError:
            return False
        except OSError:  # slow, or out of reach: waited for as Ray does
            pass
        return True

    def gone(self) -> bool:
        """Whether its host has refused connections several times running."""
        self._refused = 0 if self.answers() else self._refused + 1
        return self._refused >= _REFUSALS

    def node_alive(self, node_id: str) -> bool:
        """Whether a node is in the cluster, as far as the head says."""
        with contextlib.suppress(Exception):
            if self.answers():
                return any(node["NodeID"] == node_id and node["Alive"] for node in ray.nodes())
        return True

    @property
    def in_doubt(self) -> bool:
        """Whether it refused the last one."""
        return self._refused > 0


def node_lines(wanted: Mapping[str, float]) -> tuple[list[str], list[str]]:
    """Return which of the resources no node has enough of, and what the nodes have, both as text."""
    nodes: list[dict[str, Any]] = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    short = []
    for name, amount in wanted.items():
        best = max((float(resources.get(name, 0)) for resources in nodes), default=0.0)
        if best < amount:
            short.append(f"{_amount(name, amount)} of {name} (the most that a node has is {_amount(name, best)})")
    if not short and nodes and not any(all(resources.get(name, 0) >= amount for name, amount in wanted.items()) for resources in nodes):
        short.append(f"{', '.join(f'{_amount(name, amount)} of {name}' for name, amount in wanted.items())} together on one node")
    has = [
        ", ".join(f"{name} {_amount(name, amount)}" for name, amount in sorted(resources.items()) if ":" not in name and name not in _BORING)
        for resources in nodes
    ]
    return short, has


def _amount(name: str, amount: float) -> str:
    """Return an amount as text; memory, which Ray counts in bytes, in GB."""
    return f"{amount / 1e9:.4g} GB" if name == "memory" else f"{amount:g}"


_BORING = frozenset({"object_store_memory"})


def _hush() -> None:
    """Of each worker process that dies Ray tells its driver a paragraph on stdout, whatever it was told; the run says by itself what that means. Where the user connected, that is his."""
    from ray._private import ray_logging

    talker = getattr(ray_logging, "stdout_deduplicator", None)
    if talker is not None and getattr(talker, "skip_re", talker) is None:  # of another Ray, or told by the user what to skip
        talker.skip_re = re.compile("A worker died or was killed while executing a task")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep Ray from talking on the terminal and to its makers, for the block."""
    logger = logging.getLogger("ray")
    level = logger.level
    variable = "RAY_USAGE_STATS_ENABLED"
    given = os.environ.get(variable)
    os.environ.setdefault(variable, "0")
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
        if given is None:
            os.environ.pop(variable, None)


def _first_line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
