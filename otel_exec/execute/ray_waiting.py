"""Attempts that wait because no node of the cluster has what they ask for: said once a step, while they wait.

What comes in: the attempts that nobody has begun. What goes out: `Warned` notices. A node that has it may still come (autoscaling): the attempt goes on waiting.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from otel_exec.execute import ray_cluster
from otel_exec.execute.base import Warned

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from otel_exec.execute.base import Notice
    from otel_exec.execute.envelope import TaskEnvelope

__all__ = ["Unplaced"]

# Ray needs a moment to hear of a new node.
_PATIENCE_S = 2.0


class Unplaced:
    """What has been said, and since when each attempt waits."""

    def __init__(self) -> None:
        self._since: dict[tuple[str, int], float] = {}
        self._said: set[str] = set()

    def look(self, waiting: Sequence[tuple[TaskEnvelope, Mapping[str, float]]], now_s: float) -> list[Notice]:
        """Return what is to be said of the attempts that wait now."""
        keys = {(envelope.node_id, envelope.attempt) for envelope, _ in waiting}
        self._since = {key: since for key, since in self._since.items() if key in keys}
        notices: list[Notice] = []
        for envelope, wanted in waiting:
            since = self._since.setdefault((envelope.node_id, envelope.attempt), now_s)
            if now_s - since < _PATIENCE_S or envelope.node_id in self._said:
                continue
            self._said.add(envelope.node_id)  # placed or not: it is looked at once
            short, has = ray_cluster.node_lines(wanted)
            if short:
                nodes = "; ".join(f"node {index}: {line}" for index, line in enumerate(has, 1)) or "there are none"
                message = f"no node of the Ray cluster has {' and '.join(short)}; it waits until one joins ({nodes})"
                notices.append(Warned("not_schedulable", message, envelope.node_id))
        return notices
