"""The fault programs of Ray, in short: each in a process and a cluster of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.ray_cluster import needs_ray

pytestmark = pytest.mark.slow
HERE = Path(__file__).parent


def _run(*words):
    needs_ray()
    environ = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True, timeout=400, env=environ, check=False)
    assert done.returncode == 0, done.stdout + done.stderr[-4000:]
    return done.stdout


@pytest.mark.skipif("OTEL_EXEC_FAULTS" not in os.environ, reason="kills at random moments: make faults, or OTEL_EXEC_FAULTS=1")
def test_random_kills_of_workers():
    """Three workers killed at random moments: every run succeeds, nothing that had finished is redone, and the record says who died."""
    assert "every run succeeded" in _run(str(HERE / "ray_kills.py"), "--kills", "3", "--seed", "7")


def test_a_node_that_leaves_in_mid_run(tmp_path):
    """One trace with spans of three nodes; the attempt on the node that left is tried again elsewhere."""
    assert "node_died" in _run(str(HERE / "ray_nodes.py"), str(tmp_path))
