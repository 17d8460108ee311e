"""What crosses from the driver to a worker and back: one task out, one report home.

What comes in: the plan's values. What goes out: frozen messages, encoded as msgpack, with the user's objects inside as pickled bytes.
They hold no open files, no clocks, no OpenTelemetry objects.
"""

from __future__ import annotations

import msgspec

from otel_exec.aggregate.folds import ItemsFold, TaskSums
from otel_exec.spans.span_record import SpanRecord

__all__ = ["ErrorInfo", "TaskEnvelope", "TaskReport"]


class TaskEnvelope(msgspec.Struct, frozen=True, array_like=True):
    """One attempt at a step, for a worker; the call itself (function, config, call style, verify hook) travels beside it, packed by `execute/packing.py` or as it is.

    `info` is the static half of `.executor_info`, a JSON object as bytes. `locked`: the step's lock is held by this driver already (a later attempt).
    `last_attempt`: a failure of this one is final, so the worker writes it to the status file. `parent_span_id` is the step span, `span_id` the task span to be made.
    `force`: run it although its status file says SUCCESS. `after_loss`: an attempt before this one was lost with its worker, and nobody knows how far it came.
    """

    node_id: str
    name: str
    template: str
    fn_name: str
    level: int | None
    attempt: int
    last_attempt: bool
    locked: bool
    parent_span_id: str
    span_id: str
    created_ns: int
    first_created_ns: int
    output_path: str
    info: bytes
    timeout_s: float | None = None
    previous_span_id: str = ""
    code_file: str = ""
    code_line: int = 0
    force: bool = False
    after_loss: bool = False


class ErrorInfo(msgspec.Struct, frozen=True):
    """An error as data. `type` is `error.type`; `where` is `file:line` of the user's innermost frame; `traceback` the user's own frames.

    `message` is "" where an attempt was interrupted from outside: the runner knows why.
    `pickled` is the exception itself where it can be pickled (and read back), else `None`.
    """

    type: str
    message: str
    where: str | None = None
    traceback: str = ""
    pickled: bytes | None = None


class TaskReport(msgspec.Struct, frozen=True, array_like=True):
    """What an attempt came to.

    `spans` are the attempt's `load`, `task`, `verify` and `store` spans, those that were made, in order of start: the numbers of the record come from them.
    `outcome` is a word of `semconv.Outcome`; `found`: "" normally; `"cached"`: the step had succeeded meanwhile in another run, nothing was run;
    `"locked"`: another run holds the lock (`holder` says who), nothing was run.
    `telemetry` is what went wrong with the process's spans since its last report: (code, one sentence, how many).
    `sums` are of its task and its items together; `items` is its fan-outs', folded.
    `foreign_ids`: what phases with an execution id of the user's own come to: id, node, name, nanoseconds.
    `log_tail` holds the last lines of what a failed attempt printed.
    Units: `*_ns` instants since the Unix epoch.
    """

    node_id: str
    attempt: int
    worker_id: str
    outcome: str
    claimed_ns: int
    settled_ns: int
    spans: list[SpanRecord]
    sums: TaskSums
    items: ItemsFold | None = None
    error: ErrorInfo | None = None
    found: str = ""
    holder: str = ""
    log_tail: str = ""
    log_path: str | None = None
    unspanned: int = 0
    warnings: list[tuple[str, str]] = []
    telemetry: list[tuple[str, str, int]] = []
    foreign_ids: dict[str, dict[str, dict[str, int]]] = {}
    dropped: int = 0
