"""What a collector that fails costs a run: the same run with it and without an endpoint, in turns.

    python bench/collector_failures.py [--rounds 5] [--steps 400] [--phases 25]

For each way to fail: the makespan (from the run's beginning to the end of its work) over that of its neighbour without an endpoint, median and quartiles of the paired
ratios; the driver's CPU time over its neighbour's, and the exporter's in seconds (they say more than a makespan where other programs run); how long the process lived
on after its work; the peak memory of the driver and of its exporter, at this many spans and at eight times as many.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

_GROWN = 8


class Failing(BaseHTTPRequestHandler):
    """Reads each request and answers with 503."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        """Keep quiet."""

    def do_POST(self) -> None:
        """Refuse."""
        self.rfile.read(int(self.headers["content-length"]))
        self.send_response(503)
        self.send_header("content-length", "0")
        self.end_headers()


def _slowly(server: socket.socket) -> None:
    """Take connections, and answer each a byte a second."""
    while True:
        taken, _ = server.accept()
        threading.Thread(target=_drip, args=(taken,), daemon=True).start()


def _drip(taken: socket.socket) -> None:
    with contextlib.suppress(OSError):
        for byte in b"HTTP/1.1 200 OK\r\n" * 100:
            taken.send(bytes([byte]))
            time.sleep(1)


def serve() -> None:
    """Be the collectors; prints the address of each."""
    closed = socket.create_server(("127.0.0.1", 0))
    silent = socket.create_server(("127.0.0.1", 0), backlog=64)  # the kernel takes connections, nobody reads from them
    slow = socket.create_server(("127.0.0.1", 0))
    failing = ThreadingHTTPServer(("127.0.0.1", 0), Failing)
    threading.Thread(target=failing.serve_forever, daemon=True).start()
    threading.Thread(target=_slowly, args=(slow,), daemon=True).start()
    ports = {"refused": closed, "black hole": silent, "1 byte a second": slow, "503": failing.socket}
    told = {name: f"http://127.0.0.1:{each.getsockname()[1]}" for name, each in ports.items()}
    closed.close()
    print(json.dumps(told), flush=True)
    sys.stdin.read()
    os._exit(0)


def one(steps: int, phases: int) -> None:
    """Run once and print what it came to."""
    import resource

    from otel_exec import deferred, phase, run, step, versioned

    def _work(number: int) -> None:
        del number
        for _ in range(phases):
            with phase("part"):
                sum(range(5_000))

    work = deferred(_work)

    @step("work/{number}")
    def each(number: int) -> object:
        return work(number=versioned(number))

    with tempfile.TemporaryDirectory() as folder:
        record = run([each(number) for number in range(steps)], prefix=folder, run_json=f"{folder}/run.json", executor="threads", workers=2)
        ended_ns = int(record.start_time_unix_nano) + (record.duration_ns or 0)
        told = {"makespan_s": (record.duration_ns or 0) / 1e9, "after_s": (time.time_ns() - ended_ns) / 1e9}
    for name, who in (("driver", resource.RUSAGE_SELF), ("exporter", resource.RUSAGE_CHILDREN)):
        used = resource.getrusage(who)
        told |= {f"{name}_mb": used.ru_maxrss / 1024, f"{name}_cpu_s": used.ru_utime + used.ru_stime}
    print(json.dumps(told))


def _measured(endpoint: str | None, steps: int, phases: int) -> dict[str, float]:
    environ = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
    if endpoint is not None:
        environ |= {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint, "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf"}
    argv = [sys.executable, __file__, "--one", "--steps", str(steps), "--phases", str(phases)]
    told = subprocess.run(argv, env=environ, capture_output=True, text=True, check=True).stdout
    measured: dict[str, float] = json.loads(told)
    return measured


def _quartiles(ratios: list[float]) -> str:
    low, middle, high = statistics.quantiles(ratios, n=4, method="inclusive")
    return f"x{middle:.3f} ({low:.3f}-{high:.3f})"


def main() -> None:
    """Measure all ways to fail."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--phases", type=int, default=25)
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.serve:
        serve()
    if asked.one:
        one(asked.steps, asked.phases)
        return
    collectors = subprocess.Popen([sys.executable, __file__, "--serve"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert collectors.stdout is not None
    endpoints: dict[str, str] = json.loads(collectors.stdout.readline())
    spans = asked.steps * asked.phases
    print(
        f"{spans:,} phases, and {_GROWN} times as many\n{'':18}{'makespan':>22}{'driver CPU':>22}{'exporter CPU':>14}{'after the work':>16}{'driver':>16}{'exporter':>16}"
    )
    try:
        for name, endpoint in endpoints.items():
            pairs = [(_measured(endpoint, asked.steps, asked.phases), _measured(None, asked.steps, asked.phases)) for _ in range(asked.rounds)]
            ratios = [_quartiles([failing[key] / plain[key] for failing, plain in pairs]) for key in ("makespan_s", "driver_cpu_s")]
            cpu_s = statistics.median(failing["exporter_cpu_s"] for failing, _ in pairs)
            after_s = statistics.median(failing["after_s"] for failing, _ in pairs)
            grown = _measured(endpoint, asked.steps, asked.phases * _GROWN)
            memory = [f"{statistics.median(failing[key] for failing, _ in pairs):.0f} -> {grown[key]:.0f} MB" for key in ("driver_mb", "exporter_mb")]
            print(f"{name:18}{ratios[0]:>22}{ratios[1]:>22}{cpu_s:12.2f} s{after_s:14.2f} s{memory[0]:>16}{memory[1]:>16}", flush=True)
        few, many = (_measured(None, asked.steps, asked.phases * times) for times in (1, _GROWN))
        memory = [f"{few['driver_mb']:.0f} -> {many['driver_mb']:.0f} MB"]
        print(f"{'no endpoint':76}{few['after_s']:14.2f} s{memory[0]:>16}")
    finally:
        collectors.communicate()


if __name__ == "__main__":
    main()
