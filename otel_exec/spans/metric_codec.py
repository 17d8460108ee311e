"""Metrics as one line of OTLP/JSON.

What comes in: `MetricRecord`s and a resource's attributes. What goes out: lines, each a whole `ExportMetricsServiceRequest`, newline-terminated.
Nanoseconds become seconds here and nowhere before. Touches no file and imports no OpenTelemetry.

Source: OTLP 1.5, "JSON Protobuf Encoding"; OpenTelemetry specification 1.49, metrics data model (sums, histograms, exemplars).
"""

from __future__ import annotations

from json.encoder import encode_basestring as _quoted
from typing import TYPE_CHECKING

from otel_exec.semconv import SCOPE_NAME
from otel_exec.spans import sanitise
from otel_exec.spans.line_codec import encode_attributes, to_bytes
from otel_exec.spans.metric_record import BOUNDS_S, CountPoint

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from otel_exec.spans.metric_record import DurationPoint, Exemplar, MetricRecord
    from otel_exec.spans.span_record import AttributeValue

__all__ = ["MetricEncoder"]

_DELTA, _CUMULATIVE = 1, 2
_MOST_POINTS = 200
_LINE_LENGTH = 512 << 10
_BOUNDS = ",".join(map(repr, BOUNDS_S))


class MetricEncoder:
    """Encodes the metrics of one run.

    Args:
        resource: of what writes, on every line.
        trace_id: the run's, on exemplars.
    """

    def __init__(self, resource: Mapping[str, AttributeValue], trace_id: str) -> None:
        attributes = encode_attributes(sanitise.attributes(resource, count_limit=1024))
        self._head = f'{{"resourceMetrics":[{{"resource":{{"attributes":[{attributes}]}},"scopeMetrics":[{{"scope":{{"name":"{SCOPE_NAME}"}},"metrics":['
        self._trace_id = trace_id

    def encode(self, records: Iterable[MetricRecord]) -> list[bytes]:
        """Return the records as lines, one unless they are very many: a receiver takes no request over 4 MiB. Metrics without points are left out."""
        lines: list[list[str]] = [[]]
        size = 0
        for record in records:
            for first in range(0, len(record.points), _MOST_POINTS):
                text = self._metric(record, record.points[first : first + _MOST_POINTS])
                if lines[-1] and size + len(text) > _LINE_LENGTH:
                    lines.append([])
                    size = 0
                lines[-1].append(text)
                size += len(text)
        return [to_bytes(f"{self._head}{','.join(texts)}]}}]}}]}}\n") for texts in lines if texts]

    def _metric(self, record: MetricRecord, part: Sequence[CountPoint | DurationPoint]) -> str:
        metric = record.metric
        span = f'"startTimeUnixNano":"{record.start_ns}","timeUnixNano":"{record.at_ns}"'
        points = ",".join(_count(point, span) if isinstance(point, CountPoint) else self._duration(point, span) for point in part)
        monotonic = f',"isMonotonic":{"true" if metric.instrument == "counter" else "false"}' if metric.instrument != "histogram" else ""
        return (
            f'{{"name":{_quoted(metric.name)},"description":{_quoted(metric.brief)},"unit":{_quoted(metric.unit)},'
            f'"{"histogram" if metric.instrument == "histogram" else "sum"}":{{"dataPoints":[{points}],'
            f'"aggregationTemporality":{_DELTA if record.delta else _CUMULATIVE}{monotonic}}}}}'
        )

    def _duration(self, point: DurationPoint, span: str) -> str:
        edges = f'"min":{point.min_ns / 1e9!r},"max":{point.max_ns / 1e9!r},' if point.min_ns is not None and point.max_ns is not None else ""
        buckets = ",".join(f'"{count}"' for count in point.buckets)
        exemplars = ",".join(self._exemplar(point.exemplars[index]) for index in sorted(point.exemplars))
        exemplars = f',"exemplars":[{exemplars}]' if exemplars else ""
        return (
            f'{{"attributes":[{encode_attributes(point.attributes)}],{span},"count":"{point.count}","sum":{point.sum_ns / 1e9!r},{edges}'
            f'"bucketCounts":[{buckets}],"explicitBounds":[{_BOUNDS}]{exemplars}}}'
        )

    def _exemplar(self, exemplar: Exemplar) -> str:
        return f'{{"timeUnixNano":"{exemplar.at_ns}","asDouble":{exemplar.value_ns / 1e9!r},"spanId":"{exemplar.span_id}","traceId":"{self._trace_id}"}}'


def _count(point: CountPoint, span: str) -> str:
    return f'{{"attributes":[{encode_attributes(point.attributes)}],{span},"asInt":"{point.value}"}}'
