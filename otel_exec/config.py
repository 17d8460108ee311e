"""Settings, resolved once: arguments, then environment, then defaults (requirement G).

What comes in: the arguments that were given and the environment. What goes out: one frozen `Config`. Nothing below reads the environment again.
Imports no OpenTelemetry.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["EXECUTORS", "Config", "Endpoint", "resolve"]

EXECUTORS = ("processes", "threads", "inline", "ray")


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where spans (or metrics) go. `url` is whole (with `/v1/traces` for HTTP; `host:port` origin for gRPC); `protocol` is `grpc`, `http/protobuf` or `http/json`.

    `headers` may hold secrets: they are never written, printed or recorded, not even by `repr`.
    Units: `timeout_s` seconds a request.
    """

    url: str
    protocol: str
    headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    compression: str | None = None
    timeout_s: float = 10.0
    certificate: str | None = None
    client_certificate: str | None = None
    client_key: str | None = field(default=None, repr=False)
    insecure: bool = False


@dataclass(frozen=True, slots=True)
class Config:
    """Everything that a run or a command needs to know beside the plan. See `docs/configuration.md` for each field's flag and variable.

    `traces`: exporters of spans; () when nothing is exported. `console`: also print spans on stdout (`OTEL_TRACES_EXPORTER=console`).
    `parent`: (trace id, span id, sampled) of an inbound `TRACEPARENT`, or `None`. `sampled` is the sampler's answer for this run's trace, given as (name, argument).
    """

    prefix: str
    executor: str = "processes"
    workers: int = 1
    max_concurrent: int | None = None
    barrier: bool = False
    fail_fast: bool = False
    timeout_s: float | None = None
    grace_s: float = 10.0
    timing: bool = False
    debug: bool = False
    dry_run: bool = False
    run_only: tuple[str, ...] = ()
    force: tuple[str, ...] = ()
    rerun_failed: bool = True
    run_json: str | None = None
    show_output: bool = False
    resources: tuple[tuple[str, float], ...] = ()
    trace_url: str | None = None
    exit_timeout_s: float = 2.0
    traces: tuple[Endpoint, ...] = ()
    metrics: tuple[Endpoint, ...] = ()
    console: bool = False
    service_name: str | None = None
    resource_attributes: tuple[tuple[str, str], ...] = ()
    sampler: str = "parentbased_always_on"
    sampler_arg: float | None = None
    sdk_disabled: bool = False
    attribute_value_length_limit: int | None = None
    attribute_count_limit: int = 128
    propagators: tuple[str, ...] = ("tracecontext", "baggage")
    parent: tuple[str, str, bool] | None = None
    trace_state: str = ""
    warnings: tuple[str, ...] = ()


def resolve(arguments: Mapping[str, object], environ: Mapping[str, str]) -> Config:
    """Return the settings of a run.

    Args:
        arguments: field name of `Config` to the value that was given; `None` means not given.
        environ: the environment.

    Raises:
        ConfigError: a value can't be read; it names the flag or variable, the value and what is accepted.
    """
    raise NotImplementedError
