"""The real programs of the stack, on free loopback ports and with the committed files: Collector, Jaeger, Tempo, Prometheus.

What comes in: a folder, and where a program is to be found. What goes out: a running program that answers. One that is not installed skips the test with the reason;
where `OTEL_EXEC_REQUIRE` names it (`collector,jaeger,tempo,prometheus`), the test fails instead.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any, Self

import pytest
from support.rotel_agent import free_port

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / "collector-config"
# What they may be called on PATH.
_NAMES = {"collector": ("otelcol-contrib", "otelcol"), "jaeger": ("jaeger",), "tempo": ("tempo",), "prometheus": ("prometheus",), "promtool": ("promtool",)}
_READY_S = 90.0


def program(name: str) -> str:
    """Return the path of a program: `OTEL_EXEC_<NAME>`, else on PATH, else what `make collector` has built; skips or fails where there is none."""
    variable = f"OTEL_EXEC_{name.upper()}"
    given = os.environ.get(variable, "")
    if given:
        assert os.access(given, os.X_OK), f"{variable}={given} can't be executed"
        return given
    candidates = [found for each in _NAMES[name] if (found := shutil.which(each))]
    if name == "collector":
        built = subprocess.run([str(CONFIG / "build.sh"), "--where"], capture_output=True, text=True, check=True).stdout.strip()
        # What was built from builder.yaml goes before another collector on PATH, which may be of another version.
        candidates = [built, *candidates] if os.access(built, os.X_OK) else candidates
    if candidates:
        return candidates[0]
    reason = f"{name} is not installed: set {variable} to its path{', or run make collector' if name == 'collector' else ''}"
    if name in os.environ.get("OTEL_EXEC_REQUIRE", "").split(","):
        pytest.fail(f"{reason} (OTEL_EXEC_REQUIRE names it)")
    pytest.skip(reason)


class Server:
    """A program that runs until `close`; `kill` is SIGKILL, after which `start` starts it anew with the same files and ports."""

    def __init__(self, folder: Path, argv: list[str], ready: str, **variables: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.log = folder / "log.txt"
        self._argv = argv
        self._ready = ready
        self._environ = {name: value for name, value in os.environ.items() if not name.startswith(("OTEL_", "OTELCOL_", "JAEGER_", "TEMPO_"))} | variables
        self.start()

    def start(self) -> None:
        """Start it, and wait until it is ready."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self._argv, cwd=self.folder, env=self._environ, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
            )
        try:
            wait_until(self._is_ready, _READY_S, self.tail, patience=self.process)
        except BaseException:
            self.close()
            raise

    def _is_ready(self) -> bool:
        if self.process.poll() is not None:
            raise AssertionError(f"{self._argv[0]} ended with {self.process.returncode}: {self.tail()}")
        try:
            return get(self._ready)[0] == 200
        except OSError:
            return False

    def tail(self) -> str:
        """Return the end of what it had to say."""
        return self.log.read_text(encoding="utf-8", errors="replace")[-3000:]

    def kill(self) -> None:
        """End it without a word: SIGKILL."""
        self.process.kill()
        self.process.wait(10)

    def close(self) -> None:
        """End it, by its own process id."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.kill()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def wait_until(holds: Any, timeout_s: float, why: Any, *, patience: subprocess.Popen[bytes] | None = None) -> Any:
    """Ask a program that can't tell by itself until what it says holds; returns that."""
    deadline = time.monotonic() + timeout_s
    while True:
        found = holds()
        if found:
            return found
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout_s:g} s: {why()}")
        if patience is None:
            time.sleep(0.1)  # another program's answer is waited for, and it sends no event
        else:
            try:
                patience.wait(0.05)
            except subprocess.TimeoutExpired:
                continue


def get(url: str, *, accept: str = "application/json", **query: str) -> tuple[int, bytes]:
    """Return status and body of an answer, errors too."""
    whole = f"{url}?{urllib.parse.urlencode(query)}" if query else url
    try:
        with urllib.request.urlopen(urllib.request.Request(whole, headers={"accept": accept}), timeout=300) as response:
            return response.status, response.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def get_json(url: str, **query: str) -> Any:
    """Return the JSON of an answer that must be a good one."""
    status, body = get(url, **query)
    assert status == 200, f"{url} {query}: {status} {body[:500]!r}"
    return json.loads(body)


class Collector(Server):
    """The Collector with otelcol.yaml; `jaeger` and `tempo` are `host:port` of what it sends to by OTLP over gRPC; `flush`: how often metrics are made of spans."""

    def __init__(self, folder: Path, jaeger: str, tempo: str, *, flush: str = "1s") -> None:
        ports = [free_port() for _ in range(5)]
        grpc, http, health, self.prometheus, own = ports
        self.grpc_endpoint, self.http_endpoint = f"http://127.0.0.1:{grpc}", f"http://127.0.0.1:{http}"
        super().__init__(
            folder,
            [program("collector"), "--config", str(CONFIG / "otelcol.yaml")],
            f"http://127.0.0.1:{health}/",
            OTELCOL_OTLP_GRPC=f"127.0.0.1:{grpc}",
            OTELCOL_OTLP_HTTP=f"127.0.0.1:{http}",
            OTELCOL_HEALTH=f"127.0.0.1:{health}",
            OTELCOL_PROMETHEUS=f"127.0.0.1:{self.prometheus}",
            OTELCOL_OWN_HOST="127.0.0.1",
            OTELCOL_OWN_PORT=str(own),
            OTELCOL_STORAGE=str(folder / "storage"),
            OTELCOL_METRICS_FLUSH=flush,
            OTELCOL_JAEGER=jaeger,
            OTELCOL_TEMPO=tempo,
        )

    def exposed(self, *, openmetrics: bool = False) -> str:
        """Return what Prometheus would read; exemplars come with OpenMetrics alone."""
        return get(f"http://127.0.0.1:{self.prometheus}/metrics", accept="application/openmetrics-text; version=1.0.0" if openmetrics else "text/plain")[
            1
        ].decode()


class Jaeger(Server):
    """Jaeger with jaeger.yaml."""

    def __init__(self, folder: Path) -> None:
        query, query_grpc, grpc, http, health, own = (free_port() for _ in range(6))
        self.otlp = f"127.0.0.1:{grpc}"
        self.query = f"http://127.0.0.1:{query}"
        super().__init__(
            folder,
            [program("jaeger"), "--config", str(CONFIG / "jaeger.yaml")],
            f"http://127.0.0.1:{health}/status",
            JAEGER_QUERY=f"127.0.0.1:{query}",
            JAEGER_QUERY_GRPC=f"127.0.0.1:{query_grpc}",
            JAEGER_OTLP_GRPC=self.otlp,
            JAEGER_OTLP_HTTP=f"127.0.0.1:{http}",
            JAEGER_HEALTH=f"127.0.0.1:{health}",
            JAEGER_OWN_HOST="127.0.0.1",
            JAEGER_OWN_PORT=str(own),
            JAEGER_STORAGE=str(folder / "storage"),
        )


class Tempo(Server):
    """Tempo with tempo.yaml."""

    def __init__(self, folder: Path) -> None:
        http, grpc, otlp_grpc, otlp_http = (free_port() for _ in range(4))
        self.otlp = f"127.0.0.1:{otlp_grpc}"
        self.query = f"http://127.0.0.1:{http}"
        super().__init__(
            folder,
            [program("tempo"), f"-config.file={CONFIG / 'tempo.yaml'}", "-config.expand-env=true"],
            f"{self.query}/ready",
            TEMPO_HOST="127.0.0.1",
            TEMPO_HTTP_PORT=str(http),
            TEMPO_GRPC_PORT=str(grpc),
            TEMPO_OTLP_GRPC=self.otlp,
            TEMPO_OTLP_HTTP=f"127.0.0.1:{otlp_http}",
            TEMPO_STORAGE=str(folder / "storage"),
        )


class Prometheus(Server):
    """Prometheus with prometheus.yaml, in which the addresses of compose are replaced by that of the collector here."""

    def __init__(self, folder: Path, collector: Collector) -> None:
        port = free_port()
        self.query = f"http://127.0.0.1:{port}"
        text = (CONFIG / "prometheus.yaml").read_text(encoding="utf-8")
        text = text.replace("otelcol:8889", f"127.0.0.1:{collector.prometheus}").replace(
            "/etc/prometheus/alerts.yaml", str(ROOT / "dashboards" / "alerts.yaml")
        )
        text = text.replace("scrape_interval: 5s", "scrape_interval: 1s").replace("evaluation_interval: 15s", "evaluation_interval: 1s")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "prometheus.yaml").write_text(text, encoding="utf-8")
        super().__init__(
            folder,
            [
                program("prometheus"),
                f"--config.file={folder / 'prometheus.yaml'}",
                f"--storage.tsdb.path={folder / 'data'}",
                f"--web.listen-address=127.0.0.1:{port}",
                "--enable-feature=exemplar-storage",
            ],
            f"{self.query}/-/ready",
        )

    def ask(self, expression: str) -> list[dict[str, Any]]:
        """Return the series of an instant query."""
        answer = get_json(f"{self.query}/api/v1/query", query=expression)
        return answer["data"]["result"]
