"""The boards against Grafana's own schema, as its foundation SDK has it."""

from __future__ import annotations

import json

import pytest
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard
from support.stack_programs import ROOT


def _missing(ours, theirs, path=""):
    """What of ours is not in theirs: keys and values that the schema does not have."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        return [each for key, value in ours.items() for each in (_missing(value, theirs[key], f"{path}.{key}") if key in theirs else [f"{path}.{key}"])]
    if isinstance(ours, list) and isinstance(theirs, list) and len(ours) == len(theirs):
        return [each for number, (one, other) in enumerate(zip(ours, theirs, strict=True)) for each in _missing(one, other, f"{path}[{number}]")]
    return [] if ours == theirs else [f"{path}: {ours!r} became {theirs!r}"]


@pytest.mark.parametrize("name", ["run", "steps", "workers", "phases"])
def test_boards_are_of_grafanas_schema(name):
    """Read into Grafana's own types and written again, each board is still all there: every key is one that the schema knows, with a value that it takes."""
    register_default_plugins()
    board = json.loads((ROOT / "dashboards" / f"{name}.json").read_text(encoding="utf-8"))
    again = json.loads(JSONEncoder(sort_keys=True).encode(Dashboard.from_json(board)))
    assert _missing(board, again) == []
