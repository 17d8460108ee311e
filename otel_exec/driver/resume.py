"""Going on where a run was killed: what the run before left open is found, closed and said.

What comes in: a prefix, a plan and what was decided of its steps. What goes out: whom this run goes on from, a link to it, warnings. Reads the prefix; what it
writes is recovery's. Of a run under a remote prefix the live files are on the machine that it ran on, and are put there then. Never stops a run: a dead one that can't be read is passed over.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING

from otel_exec.complete import read_run
from otel_exec.errors import RecordError
from otel_exec.plan.graph import PlanWarning
from otel_exec.record import storage
from otel_exec.record.find import RUN_JSON, RUNS, list_running
from otel_exec.record.live_folders import dead_folders
from otel_exec.record.model import EarlierRun
from otel_exec.record.record_file import write_record
from otel_exec.recovery import alone, forget, look, over, recover, recovered
from otel_exec.report.durations import duration_text
from otel_exec.spans.span_record import SpanLink

if TYPE_CHECKING:
    from otel_exec.driver.wiring import Order
    from otel_exec.recovery import LeftBehind

__all__ = ["Resumed", "look_back"]

# A dead run's spool is read before the first step starts; a larger one (some 0.4 s, measured: bench/recovery.py, 80 to 110 MB/s) is left to `otel-exec replay`.
_AT_ONCE_BYTES = 32 << 20
_NAMED = 5


@dataclass(frozen=True, slots=True)
class Resumed:
    """What was found. `links`: to the run spans of the killed runs that had steps of this plan."""

    earlier: EarlierRun | None = None
    links: tuple[SpanLink, ...] = ()
    warnings: tuple[PlanWarning, ...] = ()


def look_back(order: Order, exec_id: str) -> Resumed:
    """Find the runs under the prefix that were killed, and close what they left open.

    Args:
        order: what is to be run.
        exec_id: of this run, which is under way itself.
    """
    prefix = order.config.prefix
    remote = storage.is_remote(prefix)
    left_behind = dead_folders(prefix) if remote else [folder for folder in list_running(prefix) if not folder.endswith(exec_id)]
    found: list[LeftBehind] = []
    ended: list[str] = []
    for folder in left_behind:
        left = look(folder)
        if left is not None:
            found.append(left)
        elif remote:
            ended.append(folder)
        elif over(folder):
            forget(folder)
    found.sort(key=lambda left: left.last_ns)
    ours = frozenset(step.node_id for step in order.plan.steps)
    before = [left for left in found if left.node_ids & ours]
    warnings = [PlanWarning("interrupted_run", _told(left)) for left in before]
    for left in found:
        warnings += _recovered(left, ours, prefix if remote else None)
    for folder in ended:  # killed between its last record and its end, or before it had one
        warnings += _brought_home(folder, prefix)
    earlier = EarlierRun(before[-1].exec_id, before[-1].trace_id) if before else None
    return Resumed(earlier, tuple(SpanLink(left.trace_id, left.root_span_id, "resumed") for left in before), tuple(warnings))


def _told(left: LeftBehind) -> str:
    """Return the sentence on a run that was killed."""
    said = f"{left.exec_id} was killed before it could end; what it had finished is taken as it is"
    if not left.open_steps:
        return f"{said}; no step was open"
    longest = sorted(left.open_steps, key=lambda step: -step[1])
    named = ", ".join(f"{name} ({duration_text(open_ns)})" for name, open_ns in longest[:_NAMED])
    more = f" and {len(longest) - _NAMED:,} more" if len(longest) > _NAMED else ""
    return f"{said}; open were {named}{more}"


def _recovered(left: LeftBehind, going_on: frozenset[str], remote: str | None) -> list[PlanWarning]:
    """Close what a dead run left open, unless reading it would hold this run up; under a remote prefix its live files are put there then."""
    if left.spool_bytes > _AT_ONCE_BYTES and not recovered(left.folder):
        return [
            PlanWarning(
                "not_recovered", f"{left.exec_id} left {left.spool_bytes >> 20:,} MB of spans: otel-exec replay {left.folder} closes what is open in them"
            )
        ]
    try:
        if recover(left.folder, going_on=going_on) is None:
            return []
        if remote is None:
            forget(left.folder)
    except RecordError as error:
        if remote is not None and not os.path.isdir(left.folder):  # another driver has brought it home meanwhile
            return []
        return [PlanWarning("not_recovered", str(error))]
    return _brought_home(left.folder, remote) if remote is not None else []


def _brought_home(folder: str, prefix: str) -> list[PlanWarning]:
    """Put the live files of a dead run under its remote prefix, with a whole record, and take them away here. One driver does it; others find it done, or pass it over."""
    to = storage.join(prefix, *RUNS, os.path.basename(folder))
    try:
        with alone(folder) as ours:
            if not ours:
                return []
            if os.path.exists(folder + RUN_JSON):
                storage.replace(folder + RUN_JSON, write_record(read_run(folder)))
                storage.upload(folder, to)
                os.unlink(folder + RUN_JSON)  # first of all: what is left of a folder without is never taken for a run and put over the whole one
            shutil.rmtree(folder, ignore_errors=True)
    except OSError as error:
        return [PlanWarning("not_recovered", f"{storage.refused(to, 'written', error)}; the run's files are kept in {folder}")]
    except RecordError as error:
        return [PlanWarning("not_recovered", str(error))] if os.path.isdir(folder) else []
    return []
