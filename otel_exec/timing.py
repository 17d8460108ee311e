"""The doors to phases, wired to the collector: `spans` makes phases and knows no numbers, `aggregate` has the numbers and knows no phases.

What comes in: nothing. What goes out: the public names, from here rather than from their rooms, so that whoever has one of them has them all connected.
"""

from __future__ import annotations

from otel_exec.aggregate.timing_collector import TimingCollector, timing_collector
from otel_exec.spans.outside import send_to
from otel_exec.spans.phases import atime_phase, atimed, phase, time_phase, timed
from otel_exec.spans.scope import running_totals

__all__ = ["TimingCollector", "atime_phase", "atimed", "phase", "time_phase", "timed", "timing_collector"]

send_to(timing_collector.add)
timing_collector.watch(running_totals)
