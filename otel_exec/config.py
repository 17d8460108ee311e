"""Settings, resolved once: arguments, then environment, then defaults (`docs/configuration.md`).

What comes in: the arguments that were given and the environment. What goes out: one frozen `Config`. No setting is read from the environment after that;
what is no setting of a run is read where it is needed: the terminal's own variables (`NO_COLOR`, `COLUMNS`, ...) by `report/`, `CUDA_VISIBLE_DEVICES`
by `driver/machine.py`, proxies by the exporter. Imports no OpenTelemetry.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from otel_exec.config_otel import Endpoint, OtelSettings, read_otel
from otel_exec.config_values import flag, mask_url, number, one_of, ray_address, whole
from otel_exec.cpus import usable_cpus
from otel_exec.errors import ConfigError, UsageError, unknown_name
from otel_exec.secrets import mask

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["EXECUTORS", "Config", "Endpoint", "recordable", "resolve", "should_sample"]

EXECUTORS = ("processes", "threads", "inline", "ray")
# A pool has that many slots (`execute/outstanding.py`).
_MAX_WORKERS = 1024


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Config(OtelSettings):
    """Everything that a run or a command needs to know beside the plan. See `docs/configuration.md` for each field's flag and variable."""

    prefix: str
    executor: str = "processes"
    workers: int = 1
    ray_address: str | None = None
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
    max_task_spans: int = 10_000

    def __repr__(self) -> str:
        return f"Config({', '.join(f'{name}={value!r}' for name, value in recordable(self).items())})"


# Fields that have no flag are given to `run()` under their own name.
_FLAGS = {
    "timeout_s": "--timeout",
    "grace_s": "--grace",
    "rerun_failed": "--force-run-failed",
    "resources": "--resource",
    "trace_url": "OTEL_EXEC_TRACE_URL",
    "exit_timeout_s": "OTEL_EXEC_EXIT_TIMEOUT",
    "max_task_spans": "OTEL_EXEC_MAX_TASK_SPANS",
}
_DEFAULTS = {each.name: each.default for each in fields(Config)}
_SWITCHES = ("barrier", "fail_fast", "debug", "dry_run", "rerun_failed", "show_output")


def resolve(arguments: Mapping[str, object], environ: Mapping[str, str], *, defaults: Mapping[str, object] | None = None) -> Config:
    """Return the settings of a run.

    Args:
        arguments: field name of `Config` to the value that was given; `None` means not given.
        environ: the environment.
        defaults: like `arguments`, for settings that neither they nor the environment name.

    Raises:
        ConfigError: a value can't be read; it names the flag or variable, the value and what is accepted.
        UsageError: an argument that is no field of `Config`.
    """
    known = [each.name for each in fields(Config)]
    fallback = defaults or {}
    for name in (*arguments, *fallback):
        if name not in known:
            raise UsageError(unknown_name("setting", name, known))
    otel = read_otel(environ)
    values: dict[str, Any] = {each.name: getattr(otel, each.name) for each in fields(otel)}
    # Fields of the standard variables that were given as arguments are taken as they are.
    values.update({name: value for name, value in fallback.items() if value is not None and values.get(name) == _DEFAULTS[name]})
    values.update({name: value for name, value in arguments.items() if value is not None})

    def given(field_name: str, variable: str | None = None) -> tuple[str, Any]:
        """Return a setting's name, as its user knows it, and its value; `None` when it was not given."""
        flag_name = _FLAGS.get(field_name, f"--{field_name.replace('_', '-')}")
        if arguments.get(field_name) is not None:
            return flag_name, arguments[field_name]
        if variable and environ.get(variable, "").strip():
            return variable, environ[variable].strip()
        return flag_name, fallback.get(field_name)

    setting, value = given("prefix", "OTEL_EXEC_PREFIX")
    values["prefix"] = _path(setting, "./outputs" if value is None else value)
    setting, value = given("run_json")
    values["run_json"] = None if value is None else _path(setting, value)
    setting, value = given("executor", "OTEL_EXEC_EXECUTOR")
    values["executor"] = "processes" if value is None else one_of(setting, value, EXECUTORS)
    setting, value = given("workers", "OTEL_EXEC_WORKERS")
    default = 0 if values["executor"] == "ray" else min(usable_cpus(), _MAX_WORKERS)  # 0: as many as the cluster has CPUs
    values["workers"] = default if value is None else whole(setting, value, least=1, most=_MAX_WORKERS)
    setting, value = given("ray_address", "RAY_ADDRESS")
    value = None if value is None else str(value).strip() or None
    # Other programs of Ray's read RAY_ADDRESS as well, some as the address of a dashboard: it is looked at where it is used.
    values["ray_address"] = ray_address(setting, value) if value is not None and values["executor"] == "ray" else value
    setting, value = given("max_concurrent")
    values["max_concurrent"] = None if value is None else whole(setting, value, least=1)
    setting, value = given("timeout_s")
    values["timeout_s"] = None if value is None else number(setting, value, unit="seconds", above_zero=True)
    setting, value = given("grace_s")
    values["grace_s"] = 10.0 if value is None else number(setting, value, unit="seconds")
    setting, value = given("exit_timeout_s", "OTEL_EXEC_EXIT_TIMEOUT")
    values["exit_timeout_s"] = 2.0 if value is None else number(setting, value, unit="seconds")
    setting, value = given("max_task_spans", "OTEL_EXEC_MAX_TASK_SPANS")
    values["max_task_spans"] = 10_000 if value is None else whole(setting, value, least=0)
    setting, value = given("timing", "OTEL_EXEC_TIMING")
    values["timing"] = value is not None and flag(setting, value)
    setting, value = given("trace_url", "OTEL_EXEC_TRACE_URL")
    values["trace_url"] = None if value is None else _trace_url(setting, str(value))
    setting, value = given("resources")
    values["resources"] = () if value is None else _resources(setting, value)
    for name in ("run_only", "force"):
        setting, value = given(name)
        values[name] = () if value is None else _patterns(setting, value)
    for name in _SWITCHES:
        setting, value = given(name)
        values[name] = _DEFAULTS[name] if value is None else flag(setting, value)
    return Config(**values)


def recordable(config: Config) -> dict[str, object]:
    """Return the settings as `run.json` records them: JSON values, secrets masked, request headers and keys left out."""
    record: dict[str, object] = {each.name: getattr(config, each.name) for each in fields(config)}
    for name in ("traces", "metrics"):
        endpoints: tuple[Endpoint, ...] = record[name]  # type: ignore[assignment]  # the field's own type
        record[name] = [{"url": each.shown, "protocol": each.protocol, "compression": each.compression, "timeout_s": each.timeout_s} for each in endpoints]
    record["prefix"] = mask_url(config.prefix, all_queries=False)
    record["run_json"] = config.run_json and mask_url(config.run_json, all_queries=False)
    record["trace_url"] = config.trace_url and mask_url(config.trace_url, all_queries=False)
    record["resource_attributes"] = mask(dict(config.resource_attributes))
    record["resources"] = dict(config.resources)
    return {name: list(value) if isinstance(value, tuple) else value for name, value in record.items()}


def should_sample(config: Config, trace_id: str) -> bool:
    """Whether a run's trace is exported: the sampler's answer for its root span.

    Args:
        config: `sampler`, `sampler_arg` and `parent` are asked.
        trace_id: 32 hex digits.

    Source: OpenTelemetry specification, "Tracing SDK", Sampling. Its ratio algorithm is left open there; this is the one of its Python and Go SDKs,
    on the trace id's last 64 bits, so that all services of a trace decide alike.
    """
    name = config.sampler
    if name.startswith("parentbased_"):
        if config.parent is not None:
            return config.parent[2]
        name = name.removeprefix("parentbased_")
    if name == "traceidratio":
        ratio = 1.0 if config.sampler_arg is None else config.sampler_arg
        return int(trace_id[-16:], 16) < round(ratio * 2**64)
    return name == "always_on"


def _path(setting: str, value: object) -> str:
    """Return a local path made absolute; addresses such as `s3://bucket/x` stay as they are."""
    text = os.fspath(value) if isinstance(value, os.PathLike) else str(value)
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ConfigError(setting, ascii(text), "a path that can be written as UTF-8: it stands in records and spans") from None
    if not text.strip() or "\0" in text:
        raise ConfigError(setting, text, "a path or an address such as s3://bucket/folder")
    if text.startswith("file://"):
        text = text.removeprefix("file://")
    if "://" in text:
        return text.rstrip("/") if not text.endswith("://") else text
    return os.path.abspath(os.path.expanduser(text))


def _patterns(setting: str, value: object) -> tuple[str, ...]:
    """Return regular expressions that compile."""
    patterns = (value,) if isinstance(value, str) else tuple(str(each) for each in value)  # type: ignore[attr-defined]  # a sequence, by contract
    for pattern in patterns:
        try:
            re.compile(pattern)
        except re.error as error:
            raise ConfigError(setting, pattern, f"regular expressions ({error})") from None
    return patterns


def _resources(setting: str, value: object) -> tuple[tuple[str, float], ...]:
    """Return custom resources, from a mapping, pairs, or texts `NAME=N`."""
    if hasattr(value, "items"):
        entries = list(value.items())
    else:
        entries = [tuple(each.split("=", 1)) if isinstance(each, str) else tuple(each) for each in ([value] if isinstance(value, str) else value)]  # type: ignore[attr-defined]  # a sequence, by contract
    found: dict[str, float] = {}
    for entry in entries:
        if len(entry) != 2 or not str(entry[0]).strip():
            raise ConfigError(setting, "=".join(map(str, entry)), "NAME=N, such as licence=2")
        name = str(entry[0]).strip()
        found[name] = number(f"{setting} {name}", entry[1], unit="units")
    return tuple(found.items())


def _trace_url(setting: str, template: str) -> str:
    """Return the address template of a trace; it has the one placeholder `{trace_id}`."""
    accepted = "an address with the placeholder {trace_id}, such as http://localhost:16686/trace/{trace_id}"
    try:
        whole_ = template.format(trace_id="0" * 32)
    except (LookupError, ValueError):
        raise ConfigError(setting, mask_url(template, all_queries=False), accepted) from None
    if whole_ == template or "://" not in template:
        raise ConfigError(setting, mask_url(template, all_queries=False), accepted)
    return template
