"""Attempts that wait because no node of the cluster has what they ask for: said once a step, while they wait.

What comes in: the attempts that nobody has begun. What goes out: `Warned` notices. A node that has it may still come (autoscaling): the attempt goes on waiting.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from otel_exec.execute.base import Warned

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from otel_exec.execute.base import Notice
    from otel_exec.execute.envelope import TaskEnvelope

    # What of the resources no node has enough of, and what the nodes have.
    Look = Callable[[Mapping[str, float]], tuple[list[str], list[str]]]

__all__ = ["Unplaced"]

# Ray needs a moment to hear of a new node.
_PATIENCE_S = 2.0
# How often the nodes are looked at for those who wait: a node may leave.
_LOOK_S = 5.0


class Unplaced:
    """What has been said, and since when each attempt waits.

    Args:
        look: as `ray_cluster.node_lines`.
    """

    def __init__(self, look: Look) -> None:
        self._look = look
        self._since: dict[tuple[str, int], float] = {}
        self._found: dict[tuple[tuple[str, float], ...], tuple[float, str]] = {}  # what is wanted -> when it was looked for, and why it can't be had
        self._said: set[str] = set()

    def look(self, waiting: Sequence[tuple[TaskEnvelope, Mapping[str, float]]], now_s: float) -> list[Notice]:
        """Return what is to be said of the attempts that wait now."""
        since = {(envelope.node_id, envelope.attempt): now_s for envelope, _ in waiting}
        self._since = since = {key: self._since.get(key, now) for key, now in since.items()}
        self._said &= {envelope.node_id for envelope, _ in waiting}
        notices: list[Notice] = []
        for envelope, wanted in waiting:
            if now_s - since[envelope.node_id, envelope.attempt] < _PATIENCE_S or envelope.node_id in self._said:
                continue
            asked = tuple(wanted.items())
            looked_s, why = self._found.get(asked, (-_LOOK_S, ""))
            if now_s - looked_s >= _LOOK_S:
                why = self._why(wanted)
                self._found[asked] = now_s, why
            if why:
                self._said.add(envelope.node_id)
                timeout = f"; its timeout of {envelope.timeout_s:g} s begins when it does" if envelope.timeout_s is not None else ""
                notices.append(Warned("not_schedulable", f"{why}{timeout}", envelope.node_id))
        return notices

    def _why(self, wanted: Mapping[str, float]) -> str:
        """Return why what is wanted can't be had; empty where it can."""
        short, has = self._look(wanted)
        if not short:
            return ""
        nodes = "; ".join(f"node {index}: {line}" for index, line in enumerate(has, 1)) or "there are none"
        return f"no node of the Ray cluster has {' and '.join(short)}; it waits until one joins ({nodes})"
