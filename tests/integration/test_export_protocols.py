"""Spans of a spool arrive whole and once, by each protocol, at a receiver of ours and through a real collector."""

from __future__ import annotations

import dataclasses
import subprocess
import sys

import pytest
from support.spool_lines import TRACE_ID, line, span, span_ids, write_spool

from otel_exec.config import Endpoint
from otel_exec.spans.exporter import ExporterHandle, export_once

PROTOCOLS = ("grpc", "http/protobuf", "http/json")


def endpoint_of(server, protocol, **more):
    if protocol == "grpc":
        return Endpoint(server.grpc_endpoint, "grpc", **more)
    return Endpoint(f"{server.http_endpoint}/v1/traces", protocol, **more)


@pytest.mark.parametrize("compression", [None, "gzip"])
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_every_span_once(receiver, run_folder, protocol, compression):
    """What two writers spooled before and during the run arrives, each span once, and the summary says so."""
    write_spool(run_folder, "driver", range(100))
    handle = ExporterHandle.start(str(run_folder), [endpoint_of(receiver, protocol, compression=compression)], exit_timeout_s=20)
    receiver.wait_for(100)
    write_spool(run_folder, "driver", range(100, 150))
    write_spool(run_folder, "worker-0", range(150, 3000), service="other")
    summary = handle.finish()
    assert receiver.counts() == dict.fromkeys(span_ids(range(3000)), 1)
    assert {each.resource["service.name"] for each in receiver.spans} == {"demo", "other"}
    (entry,) = summary.endpoints
    assert (entry.total, entry.acknowledged, entry.rejected, entry.error) == (3000, 3000, 0, "")
    assert [each.waiting for each in summary.endpoints] == [0]
    assert max(request.size for request in receiver.requests) < 4_000_000


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_through_a_real_collector(rotel, run_folder, protocol):
    """A real collector takes what we send and passes every span on, once."""
    agent, server = rotel
    write_spool(run_folder, "driver", range(1000))
    summary = export_once(str(run_folder), [endpoint_of(agent, protocol)])
    assert summary.endpoints[0].acknowledged == 1000
    server.wait_for(1000)
    assert server.counts() == dict.fromkeys(span_ids(range(1000)), 1)


def full_span():
    return span(
        0,
        traceState="vendor=1",
        flags=0x101,
        kind=2,
        attributes=[
            {"key": "text", "value": {"stringValue": 'quotes " and ünïcode \u2028 \U0001f600'}},
            {"key": "empty", "value": {"stringValue": ""}},
            {"key": "yes", "value": {"boolValue": True}},
            {"key": "no", "value": {"boolValue": False}},
            {"key": "least", "value": {"intValue": str(-(2**63))}},
            {"key": "most", "value": {"intValue": str(2**63 - 1)}},
            {"key": "ratio", "value": {"doubleValue": 0.1}},
            {"key": "whole", "value": {"doubleValue": 2}},
            {"key": "list", "value": {"arrayValue": {"values": [{"stringValue": "a"}, {"stringValue": "b"}]}}},
            {"key": "nothing", "value": {"arrayValue": {}}},
            {"key": "map", "value": {"kvlistValue": {"values": [{"key": "k", "value": {"intValue": "1"}}]}}},
            {"key": "bytes", "value": {"bytesValue": "AAEC"}},
        ],
        events=[{"timeUnixNano": "1700000000000000500", "name": "exception", "attributes": [{"key": "n", "value": {"intValue": 3}}]}],
        links=[{"traceId": TRACE_ID, "spanId": "00000000000000aa", "attributes": [{"key": "exec.edge", "value": {"stringValue": "data"}}]}],
        status={"code": 2, "message": "it broke"},
    )


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_span_arrives_whole(receiver, run_folder, protocol):
    """Every kind of value, event, link, status and flag arrives as it stood in the spool, by each protocol."""
    (run_folder / "spans" / "driver.jsonl").write_text(line(full_span()), encoding="utf-8")
    export_once(str(run_folder), [endpoint_of(receiver, protocol)])
    (got,) = receiver.spans
    assert dataclasses.asdict(got) == {
        "trace_id": TRACE_ID,
        "span_id": "0000000000000001",
        "parent_span_id": "b7ad6b7169203331",
        "name": "task t0",
        "kind": 2,
        "start_ns": 1_700_000_000_000_000_000,
        "end_ns": 1_700_000_000_000_001_000,
        "attributes": {
            "text": 'quotes " and ünïcode \u2028 \U0001f600',
            "empty": "",
            "yes": True,
            "no": False,
            "least": -(2**63),
            "most": 2**63 - 1,
            "ratio": 0.1,
            "whole": 2.0,
            "list": ["a", "b"],
            "nothing": [],
            "map": {"k": 1},
            "bytes": b"\x00\x01\x02",
        },
        "links": [(TRACE_ID, "00000000000000aa", {"exec.edge": "data"})],
        "events": [(1_700_000_000_000_000_500, "exception", {"n": 3})],
        "status": 2,
        "status_message": "it broke",
        "flags": 0x101,
        "trace_state": "vendor=1",
        "resource": {"service.name": "demo"},
        "scope": "otel_exec",
    }


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_headers_go_out_and_stay_hidden(receiver, run_folder, protocol):
    """Request headers reach the receiver; they stand in no file of the run and in no argument list."""
    secret = "top-secret-4711"
    handle = ExporterHandle.start(str(run_folder), [endpoint_of(receiver, protocol, headers=(("x-api-key", secret),))])
    with open(f"/proc/{handle.pid}/cmdline", "rb") as file:
        command = file.read()
    with open(f"/proc/{handle.pid}/environ", "rb") as file:
        environment = file.read()
    write_spool(run_folder, "driver", range(3))
    handle.finish()
    assert receiver.requests[0].headers["x-api-key"] == secret
    assert "OTLP-Exporter-Python" in receiver.requests[0].headers["user-agent"]
    written = b"".join(path.read_bytes() for path in run_folder.rglob("*") if path.is_file())
    assert secret.encode() not in written + command + environment


def test_two_endpoints(receiver, run_folder):
    """Each endpoint has a cursor of its own: the second gets everything although the first has it already."""
    write_spool(run_folder, "driver", range(10))
    export_once(str(run_folder), [endpoint_of(receiver, "grpc")])
    summary = export_once(str(run_folder), [endpoint_of(receiver, "grpc"), endpoint_of(receiver, "http/json")])
    assert [each.acknowledged for each in summary.endpoints] == [10, 10]
    assert set(receiver.counts().values()) == {2}


def test_the_driver_stays_light(run_folder):
    """Starting and finishing an export imports neither gRPC nor an HTTP client nor protobuf into the driver."""
    code = (
        "import sys\n"
        "from otel_exec.config import Endpoint\n"
        "from otel_exec.spans.exporter import ExporterHandle\n"
        "ExporterHandle.start(sys.argv[1], [Endpoint('http://127.0.0.1:9', 'grpc')]).finish()\n"
        "print([name for name in ('grpc', 'urllib3', 'google.protobuf', 'opentelemetry', 'http.client') if name in sys.modules])\n"
    )
    out = subprocess.run([sys.executable, "-c", code, str(run_folder)], capture_output=True, text=True, check=True, timeout=60)
    assert out.stdout.strip() == "[]"
