"""The registry: every span kind, attribute, metric, outcome and status word that otel_exec emits.

Whatever names a span, an attribute, an outcome or a status takes the name from here, and `tests/repo/test_repo_semconv.py` holds what runs emit against it.
Standard OpenTelemetry names (`error.type`, `code.function.name`, ...) are reused before one of our own is made.

Source: OpenTelemetry semantic conventions 1.37 for the standard names.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

__all__ = [
    "ATTRIBUTES",
    "EDGES",
    "ERRORS",
    "METRICS",
    "OUTCOMES",
    "SCOPE_NAME",
    "SPANS",
    "STATUS_WORDS",
    "Attribute",
    "Kind",
    "Metric",
    "Outcome",
    "SpanName",
    "StatusWord",
    "Word",
]

SCOPE_NAME: Final = "otel_exec"


class Outcome(StrEnum):
    """What a step, attempt, item, phase, gate or run came to."""

    SUCCESS = "success"
    FAILURE = "failure"
    TIMEOUT = "timeout"
    ERROR = "error"
    CANCELLATION = "cancellation"
    SKIP = "skip"


class StatusWord(StrEnum):
    """The words of `.executor_status`."""

    WAITING = "WAITING"
    RUNNING = "RUNNING"
    SUCCESS = "SUCCESS"
    FAILED = "FAILED"
    DEP_FAILED = "DEP_FAILED"
    CANCELLED = "CANCELLED"


STATUS_OF_OUTCOME: Final[dict[Outcome, StatusWord]] = {
    Outcome.SUCCESS: StatusWord.SUCCESS,
    Outcome.FAILURE: StatusWord.FAILED,
    Outcome.TIMEOUT: StatusWord.FAILED,
    Outcome.ERROR: StatusWord.FAILED,
    Outcome.CANCELLATION: StatusWord.CANCELLED,
    Outcome.SKIP: StatusWord.DEP_FAILED,
}

# The words that a worker ends a step's status file with, and what they say of an attempt whose report was lost.
OUTCOME_OF_STATUS: Final[dict[str, Outcome]] = {
    StatusWord.SUCCESS.value: Outcome.SUCCESS,
    StatusWord.FAILED.value: Outcome.FAILURE,
    StatusWord.CANCELLED.value: Outcome.CANCELLATION,
}


class Kind(StrEnum):
    """The kinds of span (`exec.kind`). A span without one is the user's own."""

    RUN = "run"
    LEVEL = "level"
    STEP = "step"
    WAIT = "wait"
    QUEUE = "queue"
    LOAD = "load"
    TASK = "task"
    VERIFY = "verify"
    STORE = "store"
    BACKOFF = "backoff"
    PHASE = "phase"
    FAN_OUT = "fan_out"
    GATE = "gate"
    WORKER = "worker"
    WORKER_INIT = "worker_init"


# A plan with more steps of one template than this names its step spans by the template, so that a backend's list of operations stays short.
MANY_OF_ONE_TEMPLATE: Final = 100

# Attribute keys.
EXEC_ID: Final = "exec.id"
EXEC_KIND: Final = "exec.kind"
EXEC_NAME: Final = "exec.name"
EXEC_TEMPLATE: Final = "exec.template"
EXEC_LEVEL: Final = "exec.level"
EXEC_TASK_ID: Final = "exec.task.id"
EXEC_ATTEMPT: Final = "exec.attempt"
EXEC_WORKER_ID: Final = "exec.worker.id"
EXEC_WORKER_STATE: Final = "exec.worker.state"
EXEC_PHASE: Final = "exec.phase"
EXEC_OUTCOME: Final = "exec.outcome"
EXEC_DEPENDS_ON: Final = "exec.depends_on"
EXEC_EDGE: Final = "exec.edge"
EXEC_CACHED: Final = "exec.cached"
EXEC_CPU_NS: Final = "exec.cpu.time"
EXEC_PEAK_RSS: Final = "exec.memory.peak_rss"
EXEC_LOCK_HOLDER: Final = "exec.lock.holder"
# What the user's code calls its execution, where that is not the run.
FOREIGN_EXEC_ID: Final = "exec_id"
# With the one before, on a span that the user's code starts by OpenTelemetry's API: it is a phase of that node.
FOREIGN_NODE_ID: Final = "node_id"
# Metadata of phases whose numbers are summed per node.
TOKEN_KEYS: Final = ("tokens", "input_tokens", "output_tokens")
# Rows of a node that are no phase of its own: all phases of other nodes in a step or execution; phases (or nodes) past the number that is kept by name;
# what no phase covered.
NODES_ROW: Final = "(nodes)"
OTHERS_ROW: Final = "(others)"
UNACCOUNTED_ROW: Final = "(unaccounted)"
EXEC_ITEMS: Final = "exec.items"
NODE_ID: Final = "node.id"
NODE_NAME: Final = "node.name"
ERROR_TYPE: Final = "error.type"
CODE_FUNCTION: Final = "code.function.name"
CODE_FILE: Final = "code.file.path"
CODE_LINE: Final = "code.line.number"


# Values of `error.type` that are ours; else it is the exception's qualified name.
ERROR_TIMEOUT: Final = "timeout"
ERROR_CANCELLED: Final = "cancelled"
ERROR_WORKER_DIED: Final = "worker_died"
ERROR_NODE_DIED: Final = "node_died"
ERROR_OOM_KILLED: Final = "oom_killed"
ERROR_OBJECT_STORE: Final = "object_store_full"
ERROR_WORKER_SETUP: Final = "worker_setup"
ERROR_LEASE_LOST: Final = "lease_lost"
ERROR_INTERRUPTED: Final = "interrupted"
ERROR_VERIFY: Final = "verify_failed"
ERROR_DISK: Final = "storage"
ERROR_PREVIOUSLY: Final = "failed_previously"
ERROR_WORDS: Final = frozenset(
    {
        ERROR_TIMEOUT,
        ERROR_CANCELLED,
        ERROR_WORKER_DIED,
        ERROR_NODE_DIED,
        ERROR_OOM_KILLED,
        ERROR_OBJECT_STORE,
        ERROR_WORKER_SETUP,
        ERROR_LEASE_LOST,
        ERROR_INTERRUPTED,
        ERROR_VERIFY,
        ERROR_DISK,
        ERROR_PREVIOUSLY,
    }
)


def error_text(error_type: str, message: str) -> str:
    """Return an error in one phrase: an exception's type goes before its message, words of ours don't; without a message the type is all there is to say."""
    if not message or not error_type:
        return message or error_type
    return message if error_type in ERROR_WORDS else f"{error_type}: {message}"


@dataclass(frozen=True, slots=True)
class Attribute:
    """One attribute of the registry.

    `kinds` are the span kinds that may carry it (empty: all of them); `on` is what carries it: `span`, `link`, `resource` or `metric` alone.
    `type` is OpenTelemetry's word: `string`, `int`, `boolean` or `string[]`.
    """

    key: str
    type: str
    brief: str
    example: object
    kinds: tuple[Kind, ...] = ()
    stability: str = "development"
    on: str = "span"


_PARTS = (Kind.WAIT, Kind.QUEUE, Kind.LOAD, Kind.TASK, Kind.VERIFY, Kind.STORE, Kind.BACKOFF, Kind.PHASE, Kind.FAN_OUT)
_STEPLIKE = (Kind.STEP, *_PARTS)
_ON_WORKERS = (Kind.LOAD, Kind.TASK, Kind.VERIFY, Kind.STORE, Kind.PHASE, Kind.FAN_OUT)
# `load` and `store` have an outcome only where their worker died in them.
_WITH_OUTCOME = (Kind.RUN, Kind.LEVEL, Kind.GATE, Kind.STEP, *_ON_WORKERS, Kind.WORKER)
_WITH_ERROR = tuple(kind for kind in _WITH_OUTCOME if kind is not Kind.LEVEL)

ATTRIBUTES: Final[tuple[Attribute, ...]] = (
    Attribute(
        EXEC_ID, "string", "The run: `exec_` and 32 hex digits, the trace id's when the run starts its own trace.", "exec_4bf92f3577b34da6a3ce929d0e0e4736"
    ),
    Attribute(EXEC_KIND, "string", "What the span stands for; absent on spans of the user's own.", "task"),
    Attribute(EXEC_NAME, "string", "The experiment's name.", "demo", (Kind.RUN,)),
    Attribute(EXEC_TEMPLATE, "string", "The step's name template: few values, fit for grouping.", "tokenize/{name}", _STEPLIKE),
    Attribute(EXEC_LEVEL, "int", "The topological generation, 1 is first; groups have none.", 2, (Kind.LEVEL, Kind.GATE, *_STEPLIKE)),
    Attribute(EXEC_TASK_ID, "string", "The node id; of an item `<node id>/<index>`.", "tokenize/wiki-1f6e23/3", (Kind.TASK,)),
    Attribute(EXEC_ATTEMPT, "int", "The attempt, from 1.", 1, _PARTS),
    Attribute(EXEC_WORKER_ID, "string", "The worker, as in the record.", "0", (*_ON_WORKERS, Kind.WORKER, Kind.WORKER_INIT)),
    Attribute(EXEC_PHASE, "string", "The phase's name.", "llm_call", (Kind.PHASE,)),
    Attribute(EXEC_OUTCOME, "string", "success, failure, timeout, error, cancellation or skip; of a run also interrupted.", "success", _WITH_OUTCOME),
    Attribute(EXEC_DEPENDS_ON, "string[]", "Node ids of the blocking dependencies.", ["download/wiki-1f6e23"], (Kind.STEP,)),
    Attribute(
        EXEC_EDGE,
        "string",
        "What a link stands for: `data`, `nonblocking`, `retry`, `cached` or `resumed`.",
        "data",
        (Kind.RUN, Kind.STEP, Kind.TASK),
        on="link",
    ),
    Attribute(EXEC_CACHED, "boolean", "The step was not run: an earlier run's output stands.", True, (Kind.STEP,)),
    Attribute(EXEC_CPU_NS, "int", "CPU time of the task in nanoseconds, children that were waited for included.", 1_200_000, (Kind.TASK,)),
    Attribute(EXEC_PEAK_RSS, "int", "Peak resident memory of the task in bytes, where its process runs one task at a time.", 104_857_600, (Kind.TASK,)),
    Attribute(EXEC_LOCK_HOLDER, "string", "Who held the step's lock.", "host:boot:4711:1700000000", (Kind.WAIT,)),
    Attribute(FOREIGN_EXEC_ID, "string", "The execution id that the user's code gave, where it is not the run's.", "workflow-17", (Kind.PHASE,)),
    Attribute(EXEC_ITEMS, "int", "How many items a call of `map_tasks` was given.", 16, (Kind.FAN_OUT,)),
    Attribute(NODE_ID, "string", "The step's node id, `<name>-<hash>`; of a phase under an id of its own, that.", "tokenize/wiki-1f6e23", _STEPLIKE),
    Attribute(NODE_NAME, "string", "The step's name.", "tokenize/wiki", _STEPLIKE),
    Attribute(ERROR_TYPE, "string", "The exception's qualified name, or one of our words.", "ValueError", _WITH_ERROR, "stable"),
    Attribute(CODE_FUNCTION, "string", "The function's qualified name.", "exp._tokenize", (Kind.TASK, Kind.FAN_OUT), "stable"),
    Attribute(CODE_FILE, "string", "The file that holds the function.", "exp.py", (Kind.TASK,), "stable"),
    Attribute(CODE_LINE, "int", "The function's first line.", 12, (Kind.TASK,), "stable"),
    Attribute("service.name", "string", "`OTEL_SERVICE_NAME`, else the experiment's name.", "demo", stability="stable", on="resource"),
    Attribute("service.instance.id", "string", "The run: its `exec.id`, the same for all its processes.", "exec_4bf9...", on="resource"),
    Attribute("telemetry.sdk.name", "string", "What made the spans: `otel_exec`.", "otel_exec", stability="stable", on="resource"),
    Attribute("telemetry.sdk.language", "string", "`python`.", "python", stability="stable", on="resource"),
    Attribute("telemetry.sdk.version", "string", "The version of otel_exec.", "0.1.0", stability="stable", on="resource"),
    Attribute("host.name", "string", "The machine of the process that wrote the span.", "node-1", on="resource"),
    Attribute("process.pid", "int", "The process that wrote the span.", 4711, on="resource"),
    Attribute(
        "vcs.ref.head.revision", "string", "The commit that was checked out where the script lies; none outside of git.", "9d59409acf479dfa", on="resource"
    ),
    Attribute(EXEC_WORKER_STATE, "string", "What a worker does: `busy` or `idle`.", "busy", on="metric"),
)


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric of the registry, as OTLP carries it.

    `instrument` is OpenTelemetry's word: `histogram`, `counter` or `updowncounter` (cumulative, from the run's start). `unit` is UCUM's.
    `attributes` are the keys that a point may carry, few values each: templates, words and phase names, never a step's name or a run's id.
    """

    name: str
    instrument: str
    unit: str
    brief: str
    attributes: tuple[str, ...] = ()
    stability: str = "development"

    @property
    def prometheus(self) -> str:
        """The name that Prometheus has it under; of a histogram there are `_bucket`, `_sum` and `_count`.

        Source: OpenTelemetry specification 1.50, "Prometheus and OpenMetrics Compatibility", Metric Metadata: units in braces are dropped.
        """
        unit = {"s": "_seconds"}.get(self.unit, "")
        return self.name.replace(".", "_") + unit + ("_total" if self.instrument == "counter" else "")


METRIC_STEP_DURATION: Final = "otel_exec.step.duration"
METRIC_TASK_QUEUE: Final = "otel_exec.task.queue.duration"
METRIC_TASK_DURATION: Final = "otel_exec.task.duration"
METRIC_PHASE_DURATION: Final = "otel_exec.phase.duration"
METRIC_STEPS: Final = "otel_exec.steps"
METRIC_RETRIES: Final = "otel_exec.retries"
METRIC_WORKERS: Final = "otel_exec.workers"
METRIC_WORKER_INIT: Final = "otel_exec.worker.init.duration"
METRIC_WORKER_DEATHS: Final = "otel_exec.worker.deaths"
METRIC_RUN_DURATION: Final = "otel_exec.run.duration"

METRICS: Final[tuple[Metric, ...]] = (
    Metric(METRIC_RUN_DURATION, "histogram", "s", "A run, from its start to its end.", (EXEC_NAME, EXEC_OUTCOME)),
    Metric(METRIC_STEP_DURATION, "histogram", "s", "A step that was run, from created to settled.", (EXEC_NAME, EXEC_TEMPLATE, EXEC_OUTCOME)),
    Metric(METRIC_TASK_QUEUE, "histogram", "s", "What an attempt queued, from created to claimed.", (EXEC_NAME, EXEC_TEMPLATE)),
    Metric(METRIC_TASK_DURATION, "histogram", "s", "An attempt's function, from started to completed.", (EXEC_NAME, EXEC_TEMPLATE, EXEC_OUTCOME)),
    Metric(METRIC_PHASE_DURATION, "histogram", "s", "One occurrence of a phase.", (EXEC_NAME, EXEC_TEMPLATE, EXEC_PHASE)),
    Metric(METRIC_STEPS, "counter", "{step}", "Steps that settled, cached and skipped ones included.", (EXEC_NAME, EXEC_TEMPLATE, EXEC_OUTCOME, EXEC_CACHED)),
    Metric(METRIC_RETRIES, "counter", "{retry}", "Attempts after the first, by what the one before came to.", (EXEC_NAME, EXEC_TEMPLATE, ERROR_TYPE)),
    Metric(METRIC_WORKERS, "updowncounter", "{worker}", "Workers that are up, `busy` or `idle`.", (EXEC_NAME, EXEC_WORKER_STATE)),
    Metric(METRIC_WORKER_INIT, "histogram", "s", "A worker's start, until it was ready.", (EXEC_NAME,)),
    Metric(METRIC_WORKER_DEATHS, "counter", "{worker}", "Workers that ended without being told to.", (EXEC_NAME, ERROR_TYPE)),
)


@dataclass(frozen=True, slots=True)
class SpanName:
    """The spans of one kind.

    `name` is a template: fixed words, and in braces what varies; there are few different names, never an id or a hash in one.
    `parents` are the kinds that such a span may lie under; none for the run, whose parent is whoever started it, if anybody. `measures` says from when to when.
    `otel_kind` is OpenTelemetry's span kind.
    """

    kind: Kind
    name: str
    example: str
    measures: str
    parents: tuple[Kind, ...] = (Kind.STEP,)
    otel_kind: str = "INTERNAL"
    stability: str = "development"


_CALLERS = (Kind.TASK, Kind.PHASE)

SPANS: Final[tuple[SpanName, ...]] = (
    SpanName(Kind.RUN, "run {experiment}", "run lm_pipeline", "The whole run, from its start to its end.", (), "SERVER"),
    SpanName(Kind.LEVEL, "level {n}", "level 2", "From its first step's creation until its last one settled; levels overlap.", (Kind.RUN,)),
    SpanName(
        Kind.STEP,
        "{step}",
        "lm/tokens/512",
        "Created to settled, all attempts; named by its template where a plan has over 100 of one.",
        (Kind.LEVEL, Kind.RUN),
    ),
    SpanName(Kind.WAIT, "wait", "wait", "Another run holds the step's lock."),
    SpanName(Kind.QUEUE, "queue", "queue", "Created to claimed: no worker was free for the attempt."),
    SpanName(Kind.LOAD, "load", "load", "Claimed to started: unpickling and imports on the worker."),
    SpanName(
        Kind.TASK,
        "task {function}",
        "task _tokenize",
        "Started to completed, on the worker; of a fan-out's item its part of the work; of an `execution` the whole block.",
        (Kind.STEP, Kind.RUN, *_CALLERS),
    ),
    SpanName(Kind.VERIFY, "verify", "verify", "The step's own verification of its output."),
    SpanName(Kind.STORE, "store", "store", "Completed, or verified, to settled: the outcome is written."),
    SpanName(Kind.BACKOFF, "backoff", "backoff", "The pause before the next attempt."),
    SpanName(Kind.PHASE, "{phase}", "llm_call", "A named part of a task, an item or a phase.", _CALLERS),
    SpanName(Kind.FAN_OUT, "map_tasks", "map_tasks", "The code that called waits for the items, which lie beside it.", _CALLERS),
    SpanName(Kind.GATE, "gate {gate}", "gate check_licences", "A check between two levels.", (Kind.RUN,)),
    SpanName(Kind.WORKER, "worker", "worker", "A worker, from its start to its end.", (Kind.RUN,)),
    SpanName(Kind.WORKER_INIT, "worker init", "worker init", "A worker's start, until it was ready.", (Kind.WORKER,)),
)


@dataclass(frozen=True, slots=True)
class Word:
    """A value that one of the attributes or files may have: what it means, and an example of when it comes."""

    value: str
    brief: str
    example: str
    stability: str = "development"


OUTCOMES: Final[tuple[Word, ...]] = (
    Word(Outcome.SUCCESS, "Done, verified and stored; of a run or level, all of it.", "The function returned."),
    Word(Outcome.FAILURE, "The function, its verification or a gate raised, or returned failure.", "ValueError in the function."),
    Word(Outcome.TIMEOUT, "Its time was over.", "`timeout=60` and a call that hung."),
    Word(Outcome.ERROR, "Not its own doing.", "Its worker was killed."),
    Word(Outcome.CANCELLATION, "Somebody stopped it.", "Ctrl-C, or `--fail-fast` after another step's failure."),
    Word(Outcome.SKIP, "It was not run.", "A step that it depends on failed."),
)

STATUS_WORDS: Final[tuple[Word, ...]] = (
    Word(StatusWord.WAITING, "Another run holds the step's lock.", "Two runs under one prefix."),
    Word(StatusWord.RUNNING, "A worker has the step and its lock.", "While the function runs."),
    Word(StatusWord.SUCCESS, "Outcome `success`.", "The output may be used."),
    Word(StatusWord.FAILED, "Outcome `failure`, `timeout` or `error`.", "ValueError in the function."),
    Word(StatusWord.DEP_FAILED, "Outcome `skip`.", "A step that it depends on failed."),
    Word(StatusWord.CANCELLED, "Outcome `cancellation`.", "Ctrl-C."),
)

ERRORS: Final[tuple[Word, ...]] = (
    Word(ERROR_TIMEOUT, "The step's, the item's or the run's time was over.", "`timeout=60`."),
    Word(ERROR_CANCELLED, "Stopped before its end.", "Ctrl-C."),
    Word(ERROR_WORKER_DIED, "The worker's process ended under it.", "The system's out-of-memory killer."),
    Word(ERROR_NODE_DIED, "The node of the Ray cluster that it ran on has left.", "A spot instance was taken back."),
    Word(ERROR_OOM_KILLED, "Ray ended its worker because the node was out of memory.", "A step that asks for less `memory` than it takes."),
    Word(ERROR_OBJECT_STORE, "Ray's object store had no room for what it was sent or returned.", "An item's result of many gigabytes."),
    Word(ERROR_WORKER_SETUP, "On Ray it could not begin.", "otel_exec is not installed on the node."),
    Word(ERROR_LEASE_LOST, "Another run took the step's lock.", "A driver that was suspended for minutes."),
    Word(ERROR_INTERRUPTED, "The run died; closed at its last sign of life.", "The driver was killed."),
    Word(ERROR_VERIFY, "The step's verification did not accept the output.", "`verify=` returned False."),
    Word(ERROR_DISK, "The outcome or output could not be stored.", "No space left on the device."),
    Word(ERROR_PREVIOUSLY, "It failed in an earlier run and was not to be run again.", "`rerun_failed=False`."),
)

EDGES: Final[tuple[Word, ...]] = (
    Word("data", "The step waited for the one that is linked.", "Its path is in the config."),
    Word("nonblocking", "It refers to the other one and did not wait for it.", "`ref.nonblocking()`."),
    Word("retry", "The attempt before this one.", "`retries=1`."),
    Word("cached", "The span that made the output, of an earlier run.", "The experiment was run again."),
    Word("resumed", "The run that this one goes on from: it died before its end.", "The driver was killed, and the experiment was run again."),
)
