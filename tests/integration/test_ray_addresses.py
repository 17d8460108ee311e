"""A Ray cluster that is not there, and Ray that is not there: one sentence each, and the exit code of a usage error."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import pytest
from support.ray_cluster import needs_ray

from otel_exec.config import resolve
from otel_exec.driver.executors import make_executor
from otel_exec.errors import UsageError

HELLO = str(Path(__file__).parents[2] / "examples" / "hello.py")


def _free_port():
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return listening.getsockname()[1]


@pytest.mark.parametrize(("address", "reason"), [("127.0.0.1:{port}", "Connection refused"), ("nonsense", "Invalid address format")])
def test_a_cluster_that_is_not_there_is_one_sentence(tmp_path, address, reason):
    """Which address, why, and what to do; at once, and nothing of Ray's own."""
    needs_ray()
    address = address.format(port=_free_port())
    command = [sys.executable, HELLO, "--executor", "ray", "--ray-address", address, "--prefix", str(tmp_path / "out")]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"otel-exec: no Ray cluster can be reached at {address}: ")
    assert reason in line
    assert line.endswith("; give the address of its head node (--ray-address HOST:PORT), or leave it out to start one here")


def test_without_ray_the_install_line_is_named(monkeypatch):
    """Ray is an extra: who asks for its executor without it is told how to get it."""
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.delitem(sys.modules, "otel_exec.execute.on_ray", raising=False)
    with pytest.raises(UsageError, match=r"^the ray executor needs Ray: pip install 'otel-exec\[ray\]'$"):
        make_executor(resolve({"executor": "ray"}, {}))
