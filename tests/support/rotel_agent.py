"""The real collector of the tests: the `rotel` agent, started on free loopback ports, passing everything on to a receiver of ours."""

from __future__ import annotations

import importlib.util
import os
import socket
import subprocess
import time
from pathlib import Path


class RotelAgent:
    """A running agent. `grpc_endpoint` and `http_endpoint` take OTLP; what it takes it sends on by OTLP over HTTP.

    Args:
        folder: where its log and pid file go.
        onward: the address of the receiver that it sends to.
    """

    def __init__(self, folder: Path, onward: str) -> None:
        spec = importlib.util.find_spec("rotel")
        assert spec is not None, "the package rotel is not installed"
        assert spec.origin is not None
        grpc_port, http_port = free_port(), free_port()
        self.grpc_endpoint = f"http://127.0.0.1:{grpc_port}"
        self.http_endpoint = f"http://127.0.0.1:{http_port}"
        self.log = folder / "rotel.log"
        environ = {name: value for name, value in os.environ.items() if not name.startswith(("ROTEL_", "OTEL_"))}
        environ |= {"ROTEL_OTLP_EXPORTER_ENDPOINT": onward, "ROTEL_OTLP_EXPORTER_PROTOCOL": "http"}
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                [
                    str(Path(spec.origin).parent / "rotel-agent"),
                    "start",
                    "--otlp-grpc-endpoint",
                    f"127.0.0.1:{grpc_port}",
                    "--otlp-http-endpoint",
                    f"127.0.0.1:{http_port}",
                    "--exporter",
                    "otlp",
                    "--batch-timeout",
                    "50ms",
                    "--pid-file",
                    str(folder / "rotel.pid"),
                    "--log-file",
                    str(folder / "rotel.out"),
                ],
                env=environ,
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        try:
            for port in (grpc_port, http_port):
                self._wait_for_port(port)
        except BaseException:
            self.close()
            raise

    def _wait_for_port(self, port: int, timeout_s: float = 30.0) -> None:
        deadline = time.monotonic() + timeout_s
        while True:
            if self._process.poll() is not None:
                raise AssertionError(f"rotel ended with {self._process.returncode}: {self.log.read_text()[-2000:]}")
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
            except OSError:
                if time.monotonic() > deadline:
                    raise AssertionError(f"rotel does not listen on {port}: {self.log.read_text()[-2000:]}") from None
                self._pause()
            else:
                return

    def _pause(self) -> None:
        """Wait a moment, or for the agent's death."""
        try:
            self._process.wait(0.02)
        except subprocess.TimeoutExpired:
            return

    def close(self) -> None:
        """End the agent, by its own process id."""
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(10)


def free_port() -> int:
    """Return a loopback port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
