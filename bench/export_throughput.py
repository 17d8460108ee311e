"""How fast a spool goes out by each protocol, to a receiver that takes everything and decodes nothing.

    python bench/export_throughput.py [--spans 50000] [--repeat 3]

For each protocol: spans a second from the first acknowledgement to the last, milliseconds from starting the exporter to the first acknowledgement,
CPU microseconds a span and start-up CPU of the exporter's process, its peak memory; and how long the run's end waits when everything is out and when the
collector is dead. Medians.
"""

from __future__ import annotations

import argparse
import http.server
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor

from otel_exec.config import Endpoint
from otel_exec.spans.cursor import read_export
from otel_exec.spans.exporter import ExporterHandle
from otel_exec.spans.span_record import SpanRecord
from otel_exec.spans.spool import SpoolWriter

TRACE_ID = "0af7651916cd43dd8448eb211c80319c"
CASES = (("grpc", None), ("grpc", "gzip"), ("http/protobuf", None), ("http/protobuf", "gzip"), ("http/json", None), ("http/json", "gzip"))


def record(number: int) -> SpanRecord:
    return SpanRecord(
        trace_id=TRACE_ID,
        span_id=f"{number + 1:016x}",
        parent_span_id="b7ad6b7169203331",
        name="task _tokenize",
        kind="task",
        start_ns=1_700_000_000_000_000_000 + number,
        end_ns=1_700_000_000_000_100_000 + number,
        attributes={
            "exec.id": f"exec_{TRACE_ID}",
            "exec.attempt": 1,
            "exec.worker.id": "0",
            "exec.outcome": "success",
            "node.id": f"tokenize/{number}-abcdef",
            "node.name": f"tokenize/{number}",
            "code.function.name": "exp._tokenize",
        },
    )


def write_spool(folder: str, count: int) -> None:
    resource = {"service.name": "bench", "service.instance.id": f"exec_{TRACE_ID}", "process.pid": 4711, "host.name": "bench"}
    writer = SpoolWriter(f"{folder}/spans", "driver", resource)
    for begin in range(0, count, 1000):
        writer.write([record(number) for number in range(begin, min(begin + 1000, count))])
    writer.close()


class Sink(http.server.BaseHTTPRequestHandler):
    """Takes every request and says so."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        """Keep quiet."""

    def do_POST(self) -> None:
        """Answer that all was taken."""
        self.rfile.read(int(self.headers["content-length"]))
        self.send_response(200)
        self.send_header("content-type", self.headers["content-type"])
        self.send_header("content-length", "0")
        self.end_headers()


def serve() -> None:
    import grpc

    web = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Sink)
    threading.Thread(target=web.serve_forever, daemon=True).start()
    handler = grpc.method_handlers_generic_handler(
        "opentelemetry.proto.collector.trace.v1.TraceService", {"Export": grpc.unary_unary_rpc_method_handler(lambda _request, _context: b"")}
    )
    server = grpc.server(ThreadPoolExecutor(2), handlers=(handler,))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    print(web.server_address[1], port, flush=True)
    sys.stdin.read()
    os._exit(0)


def acknowledged(folder: str) -> int:
    state = read_export(folder)
    return sum(entry.spans_acknowledged for entry in state.endpoints.values()) if state else 0


def wait_until(folder: str, count: int) -> float:
    while acknowledged(folder) < count:
        time.sleep(0.001)
    return time.perf_counter()


def usage(pid: int | None) -> tuple[float, float]:
    """Return a process's CPU seconds and peak memory in MB (Linux)."""
    with open(f"/proc/{pid}/stat", encoding="ascii") as file:
        words = file.read().rpartition(")")[2].split()
    with open(f"/proc/{pid}/status", encoding="ascii") as file:
        peak = next(line for line in file if line.startswith("VmHWM"))
    return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK"), int(peak.split()[1]) / 1024


def one(endpoint: Endpoint, count: int) -> tuple[float, ...]:
    with tempfile.TemporaryDirectory() as folder:
        write_spool(folder, 1)
        begun = time.perf_counter()
        handle = ExporterHandle.start(folder, [endpoint])
        started = time.perf_counter()
        first = wait_until(folder, 1)
        start_cpu_s, _ = usage(handle.pid)
        write_spool(folder, count)
        wait_until(folder, 2)
        before, at = time.perf_counter(), acknowledged(folder)
        end = wait_until(folder, count + 1)
        cpu_s, peak_mb = usage(handle.pid)
        finishing = time.perf_counter()
        summary = handle.finish()
        finished = time.perf_counter()
        assert not any(each.waiting for each in summary.endpoints)
        return (
            (count + 1 - at) / (end - before),
            (first - begun) * 1e3,
            (started - begun) * 1e3,
            start_cpu_s * 1e3,
            (cpu_s - start_cpu_s) / count * 1e6,
            peak_mb,
            (finished - finishing) * 1e3,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--spans", type=int, default=50_000)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve()
    sink = subprocess.Popen([sys.executable, __file__, "--serve"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert sink.stdout is not None
    web_port, grpc_port = map(int, sink.stdout.readline().split())
    print(f"{'protocol':22}{'spans/s':>10}{'first ack':>11}{'start':>9}{'start CPU':>11}{'CPU/span':>10}{'memory':>9}{'finish':>9}")
    for protocol, compression in CASES:
        url = f"http://127.0.0.1:{grpc_port}" if protocol == "grpc" else f"http://127.0.0.1:{web_port}/v1/traces"
        endpoint = Endpoint(url, protocol, compression=compression)
        runs = [one(endpoint, options.spans) for _ in range(options.repeat)]
        rate, first_ms, start_ms, start_cpu_ms, cpu_us, peak_mb, finish_ms = map(statistics.median, zip(*runs, strict=True))
        name = f"{protocol}{' gzip' if compression else ''}"
        print(f"{name:22}{rate:10,.0f}{first_ms:8.0f} ms{start_ms:6.1f} ms{start_cpu_ms:8.0f} ms{cpu_us:7.1f} us{peak_mb:6.0f} MB{finish_ms:6.1f} ms")
    with tempfile.TemporaryDirectory() as folder:
        write_spool(folder, 100)
        handle = ExporterHandle.start(folder, [Endpoint("http://127.0.0.1:9/v1/traces", "http/json")])
        begun = time.perf_counter()
        handle.finish()
        print(f"dead collector: the run's end waits {time.perf_counter() - begun:.2f} s")
    sink.communicate()


if __name__ == "__main__":
    main()
