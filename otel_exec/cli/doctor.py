"""`otel-exec doctor`: says in plain words what is wrong between here and a visible trace.

What comes in: the environment, or an endpoint of the command line. What goes out: a line a check, what to do where one fails, and exit code 1 if any did.
Sends one span, of the service `otel-exec-doctor`; reads and writes no run.
"""

from __future__ import annotations

import argparse
import difflib
import os
import platform
import sys
from collections.abc import Iterator, Mapping
from importlib import metadata
from typing import TYPE_CHECKING

from otel_exec import __version__
from otel_exec import config as configuration
from otel_exec.cli.parser import Parser, positive
from otel_exec.config_otel import HEADER_NAME
from otel_exec.config_values import mask_url, number
from otel_exec.errors import ConfigError
from otel_exec.report.table import Column, Entry, Fact, Section, Table
from otel_exec.report.terminal import COLOUR_CHOICES, look_of
from otel_exec.report.text_safety import wrap
from otel_exec.secrets import MASK

if TYPE_CHECKING:
    from otel_exec.config import Config
    from otel_exec.report.look import Look
    from otel_exec.spans.reach import Finding

__all__ = ["execute", "parser"]

_ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"
_TRACES_ENDPOINT = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"
# What would speak against an address that is given on the command line, or go before it.
_OVERRIDDEN = (_TRACES_ENDPOINT, "OTEL_TRACES_EXPORTER", "OTEL_SDK_DISABLED")
_OPTIONS = ("ENDPOINT", "PROTOCOL", "HEADERS", "COMPRESSION", "TIMEOUT", "INSECURE", "CERTIFICATE", "CLIENT_CERTIFICATE", "CLIENT_KEY")
_OTLP = tuple(f"OTEL_EXPORTER_OTLP_{signal}{option}" for option in _OPTIONS for signal in ("", "TRACES_", "METRICS_", "LOGS_"))
_SPOKEN_OF = (
    *(name for name in _OTLP if "LOGS_" not in name),
    *("OTEL_TRACES_EXPORTER", "OTEL_SDK_DISABLED", "OTEL_TRACES_SAMPLER", "OTEL_TRACES_SAMPLER_ARG", "OTEL_SERVICE_NAME"),
    *("OTEL_EXEC_TRACE_URL", "HTTPS_PROXY", "HTTP_PROXY", "NO_PROXY", "https_proxy", "http_proxy", "no_proxy", "grpc_proxy", "no_grpc_proxy"),
)
_PACKAGES = ("opentelemetry-sdk", "opentelemetry-proto", "grpcio", "urllib3", "ray")
_SIGNS = {"ok": "ok", "wrong": "WRONG", "note": "note", "skipped": "-"}
_STYLES = {"ok": "", "wrong": "red", "note": "yellow", "skipped": "dim"}


def parser() -> Parser:
    """Return the command's parser."""
    parser = Parser(
        "doctor",
        "Say what is wrong between here and a visible trace: variables, name, port, TLS,\nprotocol, credentials, a test span, and the clocks. Exit code 1: something is.",
        "otel-exec doctor\notel-exec doctor --endpoint http://localhost:4317 --query http://localhost:16686",
    )
    parser.add_argument("--endpoint", metavar="URL", help="instead of the environment's endpoint; protocol, headers and certificates are still its")
    parser.add_argument(
        "--query", metavar="URL", help="where traces are asked for: Jaeger or Tempo, e.g. http://localhost:16686 (default: from OTEL_EXEC_TRACE_URL)"
    )
    parser.add_argument("--timeout", metavar="SECONDS", default="5", help="what a connection or an answer may take (default: 5)")
    parser.add_argument("--wait", metavar="SECONDS", default="20", help="how long the test span is looked for (default: 20)")
    parser.add_argument("--json", action="store_true", help="the same for machines")
    parser.add_argument("--width", type=positive, metavar="N", help="columns (default: the terminal's, else 80)")
    parser.add_argument("--color", choices=COLOUR_CHOICES, default="auto", help="default: on a terminal, unless NO_COLOR is set")
    return parser


def execute(arguments: argparse.Namespace) -> int:
    """Try everything, print each finding as it comes; returns 1 where something is wrong."""
    timeout_s = number("--timeout", arguments.timeout, unit="seconds", above_zero=True)
    wait_s = number("--wait", arguments.wait, unit="seconds")
    look = look_of(sys.stdout, os.environ, width=arguments.width, colour=arguments.color)
    findings: list[Finding] = []
    for finding in _examine(arguments.endpoint, arguments.query, os.environ, timeout_s, wait_s):
        if not arguments.json:
            _print(finding, look, first=not findings)
        findings.append(finding)
    wrong = [finding for finding in findings if finding.verdict == "wrong"]
    if arguments.json:
        _print_json(findings)
    else:
        _print_end(wrong[0].said if wrong else None, look)
    return 1 if wrong else 0


def _examine(endpoint: str | None, query: str | None, environ: Mapping[str, str], timeout_s: float, wait_s: float) -> Iterator[Finding]:
    """Yield all findings, those about the settings first."""
    from otel_exec.spans.reach import Finding

    yield Finding("versions", "ok", _versions())
    shown = [f"{name}={_shown(name, environ[name])}" for name in _SPOKEN_OF if environ.get(name, "").strip()]
    yield Finding("variables", "ok", ", ".join(shown) or "none of them is set")
    for name, meant in _mistyped(environ):
        yield Finding("variables", "note", f"{name} means nothing", f"did you mean {meant}?")
    if endpoint is not None:
        environ = {**{name: value for name, value in environ.items() if name not in _OVERRIDDEN}, _ENDPOINT: endpoint}
    try:
        settings = configuration.resolve({}, environ)
    except ConfigError as error:
        setting = "--endpoint" if endpoint is not None and error.setting == _ENDPOINT else error.setting
        yield Finding("settings", "wrong", f"{setting}={error.value!r} can't be read", f"accepted: {error.accepted}")
        return
    for warning in settings.warnings:
        yield Finding("settings", "note", warning)
    yield (finding := _settings(settings))
    if finding.verdict == "wrong":
        return
    from otel_exec.spans.diagnose import diagnose, takes_metrics

    arrives = True
    for target in settings.traces:
        for finding in diagnose(target, query or settings.trace_url, timeout_s=timeout_s, wait_s=wait_s):
            arrives = arrives and (finding.verdict != "wrong" or finding.check in ("found again", "clock"))
            yield finding
    if arrives:
        for target in settings.metrics:
            yield takes_metrics(target, timeout_s)


def _settings(settings: Config) -> Finding:
    """Return what the settings come to: where spans would go, or why they would go nowhere."""
    from otel_exec.spans.reach import Finding

    if settings.sdk_disabled:
        return Finding("settings", "wrong", "OTEL_SDK_DISABLED=true switches exporting off", "unset it")
    if not settings.traces:
        if settings.console:
            return Finding("settings", "wrong", "OTEL_TRACES_EXPORTER=console prints spans and sends them nowhere", "set OTEL_TRACES_EXPORTER=otlp,console")
        return Finding(
            "settings",
            "wrong",
            "no endpoint is set, so nothing is sent",
            f"set {_ENDPOINT}, e.g. to http://localhost:4317, where experiments run, or give --endpoint",
        )
    ratio = settings.sampler_arg if settings.sampler.endswith("traceidratio") else None
    if settings.sampler.endswith("always_off") or ratio == 0:
        return Finding("settings", "wrong", f"the sampler {settings.sampler} lets no trace out", "unset OTEL_TRACES_SAMPLER")
    said = "; ".join(
        f"spans go to {each.shown} by {each.protocol}"
        + (f", {each.compression}" if each.compression else "")
        + (f", with the headers {', '.join(each.header_names)}" if each.headers else ", without headers")
        for each in settings.traces
    )
    if ratio is not None and ratio < 1:
        return Finding("settings", "note", f"{said}; the sampler lets {ratio:.0%} of the traces out")
    return Finding("settings", "ok", said)


def _versions() -> str:
    found = [f"otel_exec {__version__}", f"Python {platform.python_version()}"]
    for name in _PACKAGES:
        try:
            found.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            continue
    return ", ".join(found)


def _shown(name: str, value: str) -> str:
    """Return a variable's value without secrets: of headers there are only names."""
    if name.endswith("_HEADERS"):
        return ",".join(_header(part) for part in value.split(",") if part.strip())
    if name.upper().endswith(("_ENDPOINT", "_URL", "_PROXY")):
        return mask_url(value.strip(), all_queries=not name.endswith("_URL"))
    if name.endswith(("_CERTIFICATE", "_KEY")) and ("\n" in value.strip() or "-----" in value):
        return MASK
    return value.strip()


def _header(part: str) -> str:
    """Return a header's name, where it is one: what else stands between two commas may be the rest of a secret, base64 with its `=` too."""
    name, _, value = part.partition("=")
    return f"{name.strip()}={MASK}" if HEADER_NAME.match(name.strip()) and value.strip("= ") else MASK


def _mistyped(environ: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Yield variables that are none of OpenTelemetry's and look as if they were meant to be, each with the one that is closest."""
    for name in sorted(environ):
        if not name.startswith("OTEL") or name in _OTLP or name in _SPOKEN_OF or not environ[name].strip():
            continue
        close = difflib.get_close_matches(name, _SPOKEN_OF, n=1, cutoff=0.93)
        if close:
            yield name, close[0]


def _print(finding: Finding, look: Look, *, first: bool) -> None:
    """Print one finding at once: the next check may take seconds."""
    from otel_exec.report.as_text import as_text

    entry = Entry(
        f"{_SIGNS[finding.verdict]} {finding.check}: {finding.said}", (f"to do: {finding.to_do}",) if finding.to_do else (), style=_STYLES[finding.verdict]
    )
    text = as_text([Section("", "otel-exec doctor", entries=(entry,), top=True)], look)
    print(text if first else text.split("\n", 2)[2], end="", flush=True)


def _print_end(wrong: str | None, look: Look) -> None:
    text = "A trace would be seen." if wrong is None else f"A trace would not be seen: {wrong.rstrip('.')}."
    print("\n" + "\n".join(wrap(look.text(text), look.width)))


def _print_json(findings: list[Finding]) -> None:
    from otel_exec.report.as_json import as_json

    columns = (Column("check", ""), Column("verdict", ""), Column("said", ""), Column("to_do", ""))
    rows = [(finding.check, finding.verdict, finding.said, finding.to_do) for finding in findings]
    well = all(finding.verdict != "wrong" for finding in findings)
    sys.stdout.flush()
    sys.stdout.buffer.write(as_json([Section("", "", facts=(Fact("well", well, "json"),), table=Table("checks", columns, rows))]))
