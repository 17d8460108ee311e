"""What crosses between the driver, the home actor and Ray workers: messages, encoded as msgpack.

What comes in: envelopes, reports, spans that are lines already. What goes out: bytes, and the same read back. Imports no Ray.

A worker that attempts something longer than a moment tells the run's home actor what finished, what is open and what it runs, about each second; what comes to its end
brings the rest along with its result. Each telling is numbered by its worker, so what comes twice counts once, and a result says how many tellings go before it.
"""

from __future__ import annotations

import msgspec

from otel_exec.execute.envelope import TaskEnvelope, TaskReport
from otel_exec.execute.items import ItemEnvelope, ItemReport
from otel_exec.spans.open_spans import OpenEntry

__all__ = [
    "NAMESPACE",
    "Begun",
    "Facts",
    "ItemDone",
    "ItemSent",
    "Known",
    "Lost",
    "Running",
    "Setup",
    "StepDone",
    "StepSent",
    "Taken",
    "Telling",
    "decode",
    "encode",
    "home_name",
]

# Where the home actors of runs are found by name.
NAMESPACE = "otel_exec"

encode = msgspec.msgpack.Encoder().encode
decode = msgspec.msgpack.decode


def home_name(exec_id: str) -> str:
    """Return the name of a run's home actor."""
    return f"home_{exec_id}"


class Setup(msgspec.Struct, frozen=True, array_like=True):
    """What a worker process is told of a run, once. `settings`: the `RunSettings`, pickled. `boot_id` is the driver's kernel's: under it the monotonic clock is the driver's, too.

    `started_ns`: when the run's executor was started.
    """

    settings: bytes
    boot_id: str
    started_ns: int
    cwd: str
    sys_path: list[str]
    argv: list[str]


class Facts(msgspec.Struct, frozen=True, array_like=True):
    """Who a worker process is. `number`: its `worker_id` in the run. `skew_ns`: by how much its host's wall clock is ahead of the driver's, as far as `error_ns` tells.

    `sees_folder`: whether it sees the run's folder, as it must to write the files of steps.
    """

    number: int
    uid: str
    pid: int
    host: str
    node: str
    started_ns: int
    ready_ns: int
    skew_ns: int = 0
    error_ns: int = 0
    sees_folder: bool = True


class Begun(msgspec.Struct, frozen=True, array_like=True):
    """An attempt that runs: at a step, or (`item`) at an item of a fan-out. `span_id` is its task span."""

    span_id: str
    node_id: str
    attempt: int
    at_ns: int
    item: bool = False


class Telling(msgspec.Struct, frozen=True, array_like=True):
    """What a worker tells while it runs something. `lines`: finished spans, as OTLP/JSON. `tail`: the last lines that the attempt printed."""

    uid: str
    number: int
    sequence: int
    at_ns: int
    lines: bytes = b""
    begun: Begun | None = None
    open_spans: list[OpenEntry] = []
    tail: str = ""
    output: list[tuple[str, str]] = []


class Lost(msgspec.Struct, frozen=True, array_like=True):
    """A worker's process has gone while it ran an item, as the item's owner says. `reason`: why it died; "": it was ended, since the item's time was up."""

    number: int
    at_ns: int
    error_type: str
    reason: str


class Taken(msgspec.Struct, frozen=True, array_like=True):
    """What the home actor hands on to the driver. `ticket`: the last that was asked for. `asking`: worker processes (`uid`) that want a number. `blobs`: functions and classes, by digest.

    `anew`: it has begun, at first or again, and must be told what the driver knows.
    """

    facts: list[Facts] = []
    told: list[bytes] = []
    ticket: int = 0
    asking: list[str] = []
    blobs: dict[str, bytes] = {}
    anew: bool = False
    lost: list[Lost] = []


class Known(msgspec.Struct, frozen=True, array_like=True):
    """What the driver tells a home actor that begins, at first or again: numbers of worker processes by `uid`, their (pid, node), and commands for attempts, by their spans."""

    numbers: dict[str, int] = {}
    places: dict[str, tuple[int, str]] = {}
    commands: dict[str, str] = {}


class Running(msgspec.Struct, frozen=True, array_like=True):
    """Who runs an attempt, as far as was told: the worker's number (-1: not known), and its pid and node ("": not known)."""

    number: int
    begun: Begun
    pid: int = 0
    node: str = ""


class StepSent(msgspec.Struct, frozen=True, array_like=True):
    """An attempt at a step, for a Ray worker."""

    exec_id: str
    envelope: TaskEnvelope
    call: bytes


class StepDone(msgspec.Struct, frozen=True, array_like=True):
    """What came of it. `tellings`: how many tellings of each worker that had a part in it go before it, by their numbers; `rest`: what was not told yet."""

    tellings: dict[int, int]
    rest: Telling
    report: TaskReport


class ItemSent(msgspec.Struct, frozen=True, array_like=True):
    """An attempt at an item of a fan-out, from the Ray worker that owns it to another."""

    exec_id: str
    envelope: ItemEnvelope


class ItemDone(msgspec.Struct, frozen=True, array_like=True):
    """What came of it, with its finished spans as lines: they go home with the owner's. `tellings`: as of `StepDone`."""

    report: ItemReport
    lines: bytes
    tellings: dict[int, int]
