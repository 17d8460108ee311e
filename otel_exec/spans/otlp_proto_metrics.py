"""A metric of OTLP/JSON as the official protobuf message; imported where there are metrics.

What comes in: a decoded metric: a sum or an explicit-bucket histogram, which are the kinds that a run writes. What goes out: a `Metric`.
Raises what Python raises on what is not OTLP; `otlp_proto.to_request` makes one error of it.

Source: opentelemetry-proto 1.5, metrics/v1/metrics.proto.
"""

from __future__ import annotations

from typing import Any

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest, ExportMetricsServiceResponse
from opentelemetry.proto.metrics.v1.metrics_pb2 import Exemplar, Histogram, HistogramDataPoint, Metric, NumberDataPoint, Sum

from otel_exec.spans.otlp_proto_values import attributes_of, id_of

__all__ = ["ExportMetricsServiceRequest", "ExportMetricsServiceResponse", "metric"]


def metric(of: dict[str, Any]) -> Any:
    """Return a `Metric`; a kind that is not known here is a `KeyError`."""
    message = Metric(name=of["name"], description=of.get("description", ""), unit=of.get("unit", ""))
    if "sum" in of:
        data = of["sum"]
        message.sum.CopyFrom(
            Sum(
                data_points=[_number(point) for point in data["dataPoints"]],
                aggregation_temporality=data["aggregationTemporality"],
                is_monotonic=data.get("isMonotonic", False),
            )
        )
    else:
        data = of["histogram"]
        message.histogram.CopyFrom(
            Histogram(data_points=[_histogram(point) for point in data["dataPoints"]], aggregation_temporality=data["aggregationTemporality"])
        )
    return message


def _number(point: dict[str, Any]) -> Any:
    message = NumberDataPoint(
        attributes=attributes_of(point),
        start_time_unix_nano=int(point["startTimeUnixNano"]),
        time_unix_nano=int(point["timeUnixNano"]),
        flags=point.get("flags", 0),
    )
    if "asInt" in point:
        message.as_int = int(point["asInt"])
    else:
        message.as_double = float(point["asDouble"])
    return message


def _histogram(point: dict[str, Any]) -> Any:
    message = HistogramDataPoint(
        attributes=attributes_of(point),
        start_time_unix_nano=int(point["startTimeUnixNano"]),
        time_unix_nano=int(point["timeUnixNano"]),
        count=int(point["count"]),
        bucket_counts=[int(count) for count in point["bucketCounts"]],
        explicit_bounds=point["explicitBounds"],
        exemplars=[_exemplar(each) for each in point.get("exemplars", ())],
        flags=point.get("flags", 0),
    )
    for name in ("sum", "min", "max"):
        if name in point:
            setattr(message, name, float(point[name]))
    return message


def _exemplar(of: dict[str, Any]) -> Any:
    return Exemplar(time_unix_nano=int(of["timeUnixNano"]), as_double=float(of["asDouble"]), span_id=id_of(of["spanId"], 8), trace_id=id_of(of["traceId"], 16))
