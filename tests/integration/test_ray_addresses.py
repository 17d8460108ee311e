"""A Ray cluster that is not there, not ours or not the one that the program is connected to, and Ray that is not there: one sentence each, and the exit code of a usage error."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
from support import ray_steps
from support.otlp_receiver import OtlpReceiver
from support.ray_cluster import needs_ray

from otel_exec.config import resolve
from otel_exec.driver.executors import make_executor
from otel_exec.errors import UsageError
from otel_exec.testing import run_in

HELLO = str(Path(__file__).parents[2] / "examples" / "hello.py")


def _free_port():
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return listening.getsockname()[1]


@contextmanager
def _head(folder, **environ):
    """The head of a cluster without nodes: Ray's own, and nothing else of Ray; yields its address."""
    ray, port = needs_ray(), _free_port()
    program = Path(ray.__file__).parent / "core/src/ray/gcs/gcs_server"
    words = [
        f"--log_dir={folder}",
        "--config_list=e30=",
        f"--gcs_server_port={port}",
        "--node-ip-address=127.0.0.1",
        "--session-name=s",
        f"--session-dir={folder}",
    ]
    with open(folder / "head.log", "wb") as log:
        head = subprocess.Popen([program, *words], env={**os.environ, **environ}, stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + 60
        while socket.socket().connect_ex(("127.0.0.1", port)):
            assert head.poll() is None, (folder / "head.log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        yield f"127.0.0.1:{port}"
    finally:
        head.kill()
        head.wait()


@contextmanager
def _place(kind, folder):
    if kind == "token":
        with _head(folder, RAY_AUTH_MODE="token", RAY_AUTH_TOKEN="a" * 64) as address:
            yield address
    elif kind == "other":
        with OtlpReceiver() as server:
            yield server.http_endpoint.removeprefix("http://").rstrip("/")
    else:
        yield kind.format(port=_free_port())


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("127.0.0.1:{port}", "Connection refused"),
        ("other", "what listens there is not the head of a Ray cluster"),
        ("token", "it lets in who shows its token; set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN or"),
    ],
)
def test_a_cluster_that_is_not_there_is_one_sentence(tmp_path, kind, reason):
    """Which address, why, and what to do; at once, and nothing of Ray's own. So are a port of something else, and a cluster that does not know us."""
    needs_ray()
    with _place(kind, tmp_path) as address:
        command = [sys.executable, HELLO, "--executor", "ray", "--ray-address", address, "--prefix", str(tmp_path / "out")]
        environ = {
            name: value for name, value in os.environ.items() if not name.startswith("RAY_AUTH")
        }  # an address that is given: Ray shows no token by itself
        done = subprocess.run(command, cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"otel-exec: no Ray cluster can be reached at {address}: ")
    assert reason in line
    if kind != "token":
        assert line.endswith("; give the address of its head node (--ray-address HOST:PORT), or leave it out to start one here")


@pytest.mark.ray
def test_a_program_that_is_connected_to_another_cluster_is_told(tmp_path, shared_ray):
    """A process is in one cluster: neither is the address passed over in silence, nor is the program's own connection. That of its own cluster is fine, as whatever it is written."""
    here = shared_ray.get_runtime_context().gcs_address
    with _head(tmp_path) as address, pytest.raises(UsageError) as caught:
        run_in(tmp_path, ray_steps.failing("z"), executor="ray", ray_address=address)
    start = f"this program is connected to the Ray cluster at {here}, so its run can't go to the one at {address}"
    assert str(caught.value) == f"{start}; leave the address out (--ray-address, RAY_ADDRESS), or don't call ray.init before"
    with pytest.raises(UsageError) as caught:
        run_in(tmp_path, ray_steps.failing("z"), executor="ray", ray_address=address)
    assert str(caught.value).startswith(f"{start} ([Errno 111] Connection refused)")
    assert run_in(tmp_path, ray_steps.ending(), executor="ray", ray_address=f"localhost:{here.rpartition(':')[2]}").outcome == "success"


def test_a_runtime_env_that_can_not_be_made_is_named():
    """What it came to, not Ray's first line, nor the traceback of its agent."""
    from otel_exec.execute.ray_failure import lost_to

    ray = needs_ray()
    said = "Failed to set up runtime environment.\n[Node 1] Traceback (most recent call last):\n  File\nFileNotFoundError: [Errno 2] No such file or directory: '/no/such.zip'\n"
    loss = lost_to(ray.exceptions.RuntimeEnvSetupError(said))
    assert (loss.error_type, loss.blameless) == ("worker_setup", False)
    assert loss.reason == "its runtime_env can't be made on a node: FileNotFoundError: [Errno 2] No such file or directory: '/no/such.zip'"


def test_without_ray_the_install_line_is_named(monkeypatch):
    """Ray is an extra: who asks for its executor without it is told how to get it."""
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.delitem(sys.modules, "otel_exec.execute.on_ray", raising=False)
    with pytest.raises(UsageError, match=r"^the ray executor needs Ray: pip install 'otel-exec\[ray\]'$"):
        make_executor(resolve({"executor": "ray"}, {}))
