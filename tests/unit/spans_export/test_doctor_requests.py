"""What `otel-exec doctor` asks with before it sends a span."""

from __future__ import annotations

import json

from otel_exec.spans.diagnose import _NO_METRICS, _NOTHING
from otel_exec.spans.otlp_json import merge
from otel_exec.spans.otlp_proto import to_request


def test_the_first_requests_carry_nothing():
    """They are requests of their signal without a span or a metric, in each protocol's form."""
    for lines, key in ((_NOTHING, "resourceSpans"), (_NO_METRICS, "resourceMetrics")):
        assert to_request(lines).SerializeToString() == b""
        assert json.loads(merge(lines)) == {key: []}
