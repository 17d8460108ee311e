"""A breakdown as JSON for machines.

What comes in: a `Breakdown`. What goes out: bytes of UTF-8, always valid JSON. Keys are those of `otel-exec metrics --json`, which are promises: `nodes` by node id
and `bottlenecks`, and for readers of the older form `execution_id` and `node_breakdown`. Unknown is `null`.

Units: `*_ms` milliseconds as exact as the record's nanoseconds; `pct`, `inclusive_pct` and `unaccounted_pct` percent of the node's time, of bottlenecks percent of
the run's wall time.

`by_attempt` is of nodes that were tried, or ran in attempts, more than once: of a step its own attempts, of another node those at the step `node`.
"""

from __future__ import annotations

from typing import Any

from otel_exec.report.as_json import mapping_as_json
from otel_exec.report.breakdown import Bottleneck, Breakdown, Node, Row, Try
from otel_exec.semconv import NODES_ROW

__all__ = ["ELSEWHERE", "breakdown_json", "breakdown_mapping"]

# Follows a step's id where phases in other steps named it as their node.
ELSEWHERE = " (elsewhere)"
_MS = 1e6


def breakdown_json(view: Breakdown) -> bytes:
    """Return the breakdown as JSON, ending in a newline."""
    return mapping_as_json(breakdown_mapping(view))


def breakdown_mapping(view: Breakdown) -> dict[str, Any]:
    """Return the breakdown as a mapping."""
    return {
        "exec_id": view.exec_id,
        "execution_id": view.exec_id,
        "alias": view.alias,
        "outcome": view.outcome,
        "total_duration_ms": _ms(view.duration_ns),
        "nodes": _nodes(view),
        "bottlenecks": [_bottleneck(each, view.duration_ns) for each in view.bottlenecks],
        "node_breakdown": [
            {
                "node_id": node.node_id,
                "duration_ms": _ms(node.total_ns),
                "module_timings": {row.name: _ms(row.total_ns) for row in node.rows if row.name != NODES_ROW},
            }
            for node in view.nodes
        ],
    }


def _nodes(view: Breakdown) -> dict[str, Any]:
    """Return the nodes by id. What phases elsewhere gave to a step's id has a key of its own beside the step."""
    steps = {node.node_id for node in view.nodes if node.step}
    return {node.node_id if node.step or node.node_id not in steps else f"{node.node_id}{ELSEWHERE}": _node(node) for node in view.nodes}


def _node(node: Node) -> dict[str, Any]:
    return {
        "name": node.name,
        "total_ms": _ms(node.total_ns),
        "phases": {row.name: _phase(row, node.total_ns) for row in node.rows},
        "unaccounted_ms": _ms(node.unaccounted_ns),
        "unaccounted_pct": _percent(node.unaccounted_ns, node.total_ns),
        "token_usage": node.tokens,
        "is_step": node.step,
        "attempts": node.attempts if node.step else None,
        "failed_attempts": node.failed if node.step else None,
        "execution_ms": _ms(node.wall_ns),
        "cpu_ms": _ms(node.cpu_ns),
        "by_attempt": [_try(each) for each in node.tries],
    }


def _try(each: Try) -> dict[str, Any]:
    return {
        "node": each.node_id,
        "attempt": each.attempt,
        "outcome": each.outcome,
        "total_ms": _ms(each.total_ns),
        "phases": {row.name: _phase(row, each.total_ns) for row in each.rows},
        "unaccounted_ms": _ms(each.unaccounted_ns),
    }


def _phase(row: Row, whole_ns: int | None) -> dict[str, Any]:
    return {
        "count": row.count,
        "total_ms": _ms(row.total_ns),
        "union_ms": _ms(row.union_ns),
        "self_ms": _ms(row.self_ns),
        "share_ms": _ms(row.share_ns),
        "pct": _percent(row.share_ns, whole_ns),
        "inclusive_pct": _percent(row.total_ns, whole_ns),
        "p50_ms": _ms(row.p50_ns),
        "p95_ms": _ms(row.p95_ns),
        "p99_ms": _ms(row.p99_ns),
        "errors": row.errors,
    }


def _bottleneck(each: Bottleneck, wall_ns: int | None) -> dict[str, Any]:
    return {
        "node": each.node_id,
        "phase": each.phase,
        "total_ms": _ms(each.total_ns),
        "pct": _percent(each.saves_ns, wall_ns),
        "saves_at_most_ms": _ms(each.saves_ns),
        "slack_ms": _ms(each.slack_ns),
    }


def _ms(duration_ns: int | None) -> float | None:
    return None if duration_ns is None else duration_ns / _MS


def _percent(part_ns: int | None, whole_ns: int | None) -> float | None:
    return None if part_ns is None or not whole_ns else 100 * part_ns / whole_ns
