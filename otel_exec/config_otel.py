"""OpenTelemetry's own variables, read as its specification says; the exceptions stand in `docs/configuration.md`.

What comes in: the environment. What goes out: one frozen `OtelSettings`. Imports no OpenTelemetry. An empty variable is an unset one.

Source: OpenTelemetry specification, "Environment Variable Specification" and "OpenTelemetry Protocol Exporter" (1.50); W3C Trace Context, level 2.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from otel_exec.config_values import address, join_url, mask_url, number, one_of, pairs, whole
from otel_exec.errors import ConfigError
from otel_exec.secrets import MASK, redact
from otel_exec.traceparent import parse_traceparent

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["EXEMPLAR_FILTERS", "HEADER_NAME", "PROTOCOLS", "SAMPLERS", "TEMPORALITIES", "Endpoint", "OtelSettings", "read_otel"]

PROTOCOLS = ("grpc", "http/protobuf", "http/json")
SAMPLERS = ("always_on", "always_off", "traceidratio", "parentbased_always_on", "parentbased_always_off", "parentbased_traceidratio")
TEMPORALITIES = ("cumulative", "delta", "lowmemory")
EXEMPLAR_FILTERS = ("trace_based", "always_on", "always_off")
_EXPORTERS = ("otlp", "console", "none")
_PROPAGATORS = ("tracecontext", "baggage")
HEADER_NAME = re.compile(r"^[!#$%&'*+.^_`|~0-9A-Za-z-]+\Z")
# gRPC takes fewer; names that end in -bin would want bytes.
_GRPC_NAME = re.compile(r"^(?!.*-bin\Z)[0-9a-z_.-]+\Z")
_INT31 = 2**31 - 1


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where spans (or metrics) go. `url` is whole (with `/v1/traces` for HTTP; `scheme://host:port` for gRPC); `protocol` is one of `PROTOCOLS`.

    `headers` may hold secrets: they are never written, printed or recorded, not even by `repr`.
    Units: `timeout_s` seconds a request, 0 means no limit.
    """

    url: str
    protocol: str
    headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    compression: str | None = None
    timeout_s: float = 10.0
    certificate: str | None = None
    client_certificate: str | None = None
    client_key: str | None = field(default=None, repr=False)

    @property
    def shown(self) -> str:
        """The address without secrets: what is printed, recorded, and names the endpoint in `export.json`."""
        return mask_url(self.url)

    @property
    def header_names(self) -> tuple[str, ...]:
        """The names of the headers; one without a value may be the rest of a secret that held a comma."""
        return tuple(name if value.strip("= ") else MASK for name, value in self.headers)

    def redact(self, text: str) -> str:
        """Return what a receiver said without the values of the headers that it was sent."""
        return redact(text, (value for _, value in self.headers))

    def __repr__(self) -> str:
        return f"Endpoint({self.shown!r}, {self.protocol!r})"


@dataclass(frozen=True, slots=True)
class OtelSettings:
    """What the standard variables say: the part of `Config` that OpenTelemetry has named.

    `traces`: exporters of spans; () when nothing is exported. `console`: also print spans on stdout (`OTEL_TRACES_EXPORTER=console`).
    `parent`: (trace id, span id, sampled) of an inbound `TRACEPARENT`, or `None`. `sampler` and `sampler_arg` are asked through `config.should_sample`.
    `metric_interval_s`: seconds between two collections. `metric_temporality`: one of `TEMPORALITIES`; `exemplar_filter`: one of `EXEMPLAR_FILTERS`.
    `attribute_value_length_limit` and `link_count_limit`: `None` means no limit. `warnings`: sentences about settings that stop nothing.
    """

    traces: tuple[Endpoint, ...] = ()
    metrics: tuple[Endpoint, ...] = ()
    console: bool = False
    console_metrics: bool = False
    metric_interval_s: float = 10.0
    metric_temporality: str = "cumulative"
    exemplar_filter: str = "trace_based"
    service_name: str | None = None
    resource_attributes: tuple[tuple[str, str], ...] = ()
    sampler: str = "parentbased_always_on"
    sampler_arg: float | None = None
    sdk_disabled: bool = False
    attribute_value_length_limit: int | None = None
    attribute_count_limit: int = 128
    event_count_limit: int = 128
    link_count_limit: int | None = None
    parent: tuple[str, str, bool] | None = None
    trace_state: str = ""
    warnings: tuple[str, ...] = ()


def read_otel(environ: Mapping[str, str]) -> OtelSettings:
    """Return what the standard variables say.

    Raises:
        ConfigError: a value can't be read.
    """
    reader = _Reader(environ)
    disabled = reader.true("OTEL_SDK_DISABLED")
    traces, console = ((), False) if disabled else reader.exporters("TRACES")
    metrics, console_metrics = ((), False) if disabled else reader.exporters("METRICS")
    sampler, sampler_arg = reader.sampler()
    interval_s, temporality, exemplar_filter = reader.metric_options()
    service_name, resource = reader.resource()
    parent, state = reader.parent() if "tracecontext" in reader.propagators() else (None, "")
    return OtelSettings(
        traces=traces,
        metrics=metrics,
        console=console,
        console_metrics=console_metrics,
        metric_interval_s=interval_s,
        metric_temporality=temporality,
        exemplar_filter=exemplar_filter,
        service_name=service_name,
        resource_attributes=resource,
        sampler=sampler,
        sampler_arg=sampler_arg,
        sdk_disabled=disabled,
        attribute_value_length_limit=reader.limit("OTEL_SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT", "OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT"),
        attribute_count_limit=_or_128(reader.limit("OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT", "OTEL_ATTRIBUTE_COUNT_LIMIT")),
        event_count_limit=_or_128(reader.limit("OTEL_SPAN_EVENT_COUNT_LIMIT")),
        link_count_limit=reader.limit("OTEL_SPAN_LINK_COUNT_LIMIT"),
        parent=parent,
        trace_state=state,
        warnings=tuple(reader.warnings),
    )


def _or_128(limit: int | None) -> int:
    """Return the limit, or the specification's default."""
    return 128 if limit is None else limit


class _Reader:
    """One pass over the environment; `warnings` collects what is worth saying but stops nothing."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self.environ = environ
        self.warnings: list[str] = []

    def text(self, *names: str) -> tuple[str, str]:
        """Return the first of the variables that is set, and its value; ("", "") when none is."""
        for name in names:
            value = self.environ.get(name, "").strip()
            if value:
                return name, value
        return "", ""

    def true(self, *names: str) -> bool:
        """Return a boolean as the specification wants it: nothing but `true` is true, what is neither gets a warning."""
        name, value = self.text(*names)
        if value and value.lower() not in ("true", "false"):
            self.warnings.append(f"{name}={value} counts as false: only true is true (OpenTelemetry specification)")
        return value.lower() == "true"

    def limit(self, *names: str) -> int | None:
        """Return the first of the variables that is set, a whole number; `None` when none is."""
        name, value = self.text(*names)
        return whole(name, value, least=0, most=_INT31) if value else None

    def exporters(self, signal: str) -> tuple[tuple[Endpoint, ...], bool]:
        """Return where a signal goes (`TRACES` or `METRICS`), and whether it is printed too.

        With neither an endpoint nor an exporter named nothing is exported: the one exception to the specification.
        """
        name, value = self.text(f"OTEL_{signal}_EXPORTER")
        wanted = [one_of(name, word, _EXPORTERS) for word in value.split(",") if word.strip()]
        if "none" in wanted and len(set(wanted)) > 1:
            raise ConfigError(name, value, "none by itself, or a list of otlp and console")
        if wanted and "otlp" not in wanted:
            return (), "console" in wanted
        endpoint = self.endpoint(signal, named=bool(wanted))
        return (endpoint,) if endpoint else (), "console" in wanted

    def otlp(self, signal: str, option: str) -> tuple[str, str]:
        """Return an exporter's option: the signal's own variable, else the general one."""
        return self.text(f"OTEL_EXPORTER_OTLP_{signal}_{option}", f"OTEL_EXPORTER_OTLP_{option}")

    def endpoint(self, signal: str, *, named: bool) -> Endpoint | None:
        """Return a signal's endpoint; `named`: an exporter was asked for, so that the specification's localhost stands in for a missing one."""
        path = f"/v1/{signal.lower()}"
        setting, text = self.otlp(signal, "ENDPOINT")
        protocol_name, protocol_text = self.otlp(signal, "PROTOCOL")
        protocol = one_of(protocol_name, protocol_text, PROTOCOLS) if protocol_text else ""
        if not text:
            if not named:
                return None
            protocol = protocol or "http/protobuf"
            setting, text = "the default endpoint", "http://localhost:4317" if protocol == "grpc" else "http://localhost:4318"
        parts = address(setting, text)
        protocol = protocol or ("http/protobuf" if parts.port == 4318 or parts.path.strip("/") else "grpc")
        headers = self.headers(signal, _GRPC_NAME if protocol == "grpc" else HEADER_NAME)
        if parts.authorization:
            headers.setdefault("authorization", parts.authorization)
        if protocol == "grpc":
            # A scheme decides; without one INSECURE does, and TLS is the specification's default.
            plain = parts.scheme == "http" if parts.scheme else self.true(f"OTEL_EXPORTER_OTLP_{signal}_INSECURE", "OTEL_EXPORTER_OTLP_INSECURE")
            if not parts.scheme and not plain:
                self.warnings.append(f"{setting}={mask_url(text)} has no scheme, so TLS is used; for plain text write http://{parts.netloc}")
            url = join_url("http" if plain else "https", parts.netloc, "", "")
        else:
            own = setting.startswith(f"OTEL_EXPORTER_OTLP_{signal}_")
            if not own and parts.path.rstrip("/").endswith(path):
                own_name = f"OTEL_EXPORTER_OTLP_{signal}_ENDPOINT"
                self.warnings.append(f"{setting} ends with {path}, which is appended once more; give the whole address in {own_name} instead")
            url = join_url(parts.scheme or "http", parts.netloc, (parts.path or "/") if own else parts.path.rstrip("/") + path, parts.query)
        return Endpoint(
            url=url,
            protocol=protocol,
            headers=tuple(sorted(headers.items())),
            compression=self.compression(signal),
            timeout_s=self.export_timeout_s(signal),
            certificate=self.file(signal, "CERTIFICATE"),
            client_certificate=self.file(signal, "CLIENT_CERTIFICATE"),
            client_key=self.file(signal, "CLIENT_KEY"),
        )

    def headers(self, signal: str, name_form: re.Pattern[str]) -> dict[str, str]:
        """Return the request headers, names in lower case as gRPC wants them; `name_form` is what the protocol takes for a name."""
        setting, text = self.otlp(signal, "HEADERS")
        found = {name.lower(): value for name, value in pairs(setting, text, secret=True).items()}
        for name, value in found.items():
            if not name_form.match(name) or not value.isascii() or not (value.isprintable()):
                raise ConfigError(
                    setting,
                    MASK,
                    "headers as key=value pairs with commas between them: names of letters, digits and dashes (over gRPC none that ends in -bin), printable ASCII values",
                )
        return found

    def compression(self, signal: str) -> str | None:
        """Return `gzip` or `None`."""
        setting, text = self.otlp(signal, "COMPRESSION")
        word = one_of(setting, text, ("gzip", "none")) if text else "none"
        return None if word == "none" else word

    def timeout_s(self, signal: str) -> float:
        """Return the seconds that a request may take; the variable is in milliseconds (specification: Timeout), 0 means no limit."""
        setting, text = self.otlp(signal, "TIMEOUT")
        if not text:
            return 10.0
        if not text.isdecimal():
            raise ConfigError(setting, text, "a whole number of milliseconds")
        milliseconds = number(setting, text, unit="milliseconds")
        if 0 < milliseconds < 100:
            self.warnings.append(f"{setting}={text} means {text} milliseconds (OpenTelemetry specification; OpenTelemetry's own Python SDK reads seconds)")
        return milliseconds / 1000

    def export_timeout_s(self, signal: str) -> float:
        """Return the seconds that one export may take: `timeout_s`, for metrics `OTEL_METRIC_EXPORT_TIMEOUT` where that is less (each: 0 means no limit)."""
        timeout_s = self.timeout_s(signal)
        most_s = self.metric_timeout_s() if signal == "METRICS" else 0.0
        return min(timeout_s or most_s, most_s or timeout_s)

    def metric_timeout_s(self) -> float:
        """Return the seconds that one export of metrics may take, 0 where nothing is said."""
        setting, text = self.text("OTEL_METRIC_EXPORT_TIMEOUT")
        return whole(setting, text, least=0, most=_INT31) / 1000 if text else 0.0

    def file(self, signal: str, option: str) -> str | None:
        """Return the path of a PEM file that can be read."""
        setting, path = self.otlp(signal, option)
        if not path:
            return None
        if not os.path.isfile(path) or not os.access(path, os.R_OK):
            pasted = "\n" in path or "-----" in path  # the file's content in place of its path: it may be a key
            raise ConfigError(setting, MASK if pasted else path, "the path of a PEM file that can be read")
        return os.path.abspath(path)

    def metric_options(self) -> tuple[float, str, str]:
        """Return the seconds between two collections of metrics, their temporality and the exemplar filter.

        Unset, the interval is 10 s and not the specification's 60 s: runs are short.
        """
        self.metric_timeout_s()  # nonsense is refused where nothing goes out, too
        setting, text = self.text("OTEL_METRIC_EXPORT_INTERVAL")
        milliseconds = whole(setting, text, least=100, most=_INT31) if text else 10_000
        setting, text = self.text("OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE")
        temporality = one_of(setting, text.lower(), TEMPORALITIES) if text else "cumulative"
        setting, text = self.text("OTEL_METRICS_EXEMPLAR_FILTER")
        exemplars = one_of(setting, text.lower(), EXEMPLAR_FILTERS) if text else "trace_based"
        setting, text = self.text("OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION")
        if text and text.lower() != "explicit_bucket_histogram":
            self.warnings.append(f"{setting}={text} is not known here; histograms have explicit buckets")
        return milliseconds / 1000, temporality, exemplars

    def sampler(self) -> tuple[str, float | None]:
        """Return the sampler's name and its argument (the ratio of the ratio samplers, `None` for the others)."""
        setting, text = self.text("OTEL_TRACES_SAMPLER")
        name = one_of(setting, text, SAMPLERS) if text else "parentbased_always_on"
        if not name.endswith("traceidratio"):
            return name, None
        setting, text = self.text("OTEL_TRACES_SAMPLER_ARG")
        try:
            ratio = float(text or "1")
        except ValueError:
            ratio = -1.0
        if not 0 <= ratio <= 1:
            self.warnings.append(f"{setting}={text} is not a ratio between 0 and 1; 1 is used (OpenTelemetry specification)")
            ratio = 1.0
        return name, ratio

    def resource(self) -> tuple[str | None, tuple[tuple[str, str], ...]]:
        """Return the service's name and the other resource attributes."""
        setting, text = self.text("OTEL_RESOURCE_ATTRIBUTES")
        attributes = pairs(setting, text)
        named = attributes.pop("service.name", None)
        return self.text("OTEL_SERVICE_NAME")[1] or named or None, tuple(attributes.items())

    def propagators(self) -> tuple[str, ...]:
        """Return the propagators that are known here; others get a warning."""
        setting, text = self.text("OTEL_PROPAGATORS")
        if not text:
            return _PROPAGATORS
        words = list(dict.fromkeys(word.strip().lower() for word in text.split(",") if word.strip()))
        unknown = [word for word in words if word not in (*_PROPAGATORS, "none")]
        if unknown:
            self.warnings.append(f"{setting}: {', '.join(unknown)} not known here; known are {', '.join(_PROPAGATORS)} and none")
        return tuple(word for word in words if word in _PROPAGATORS)

    def parent(self) -> tuple[tuple[str, str, bool] | None, str]:
        """Return the inbound parent (trace id, span id, sampled) and its trace state. What can't be read is passed over, as W3C wants it, with a warning."""
        setting, text = self.text("TRACEPARENT")
        if not text:
            return None, ""
        parent = parse_traceparent(text)
        if parent is None:
            self.warnings.append(f"{setting}={text} is not a W3C traceparent; the run starts a trace of its own")
            return None, ""
        members = [member.strip() for member in self.text("TRACESTATE")[1].split(",") if member.strip()]
        if len(members) > 32 or not all("=" in member and member.isascii() and member.isprintable() for member in members):
            self.warnings.append("TRACESTATE is not a W3C tracestate; it is passed over")
            members = []
        return parent, ",".join(members)
