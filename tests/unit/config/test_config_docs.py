"""The page on configuration against the code."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest

from otel_exec.config import Config
from otel_exec.config_otel import OtelSettings
from otel_exec.driver.arguments import parse

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
OWN = [each.name for each in dataclasses.fields(Config) if each.name not in {other.name for other in dataclasses.fields(OtelSettings)}]


@pytest.mark.parametrize("file", ["config.py", "config_otel.py"])
def test_every_variable_is_documented(file):
    """Each variable that the code reads stands on the page."""
    names = set(re.findall(r'"(OTEL_[A-Z_]+|TRACEPARENT|TRACESTATE)"', (ROOT / "otel_exec" / file).read_text(encoding="utf-8")))
    names |= {
        f"OTEL_EXPORTER_OTLP_{option}" for option in ("HEADERS", "CERTIFICATE", "CLIENT_KEY", "TIMEOUT", "COMPRESSION", "INSECURE", "PROTOCOL", "ENDPOINT")
    }
    assert names
    assert [name for name in sorted(names) if f"`{name}`" not in PAGE] == []


def test_every_setting_is_documented():
    """Each setting of ours, and each one that the command line takes, stands on the page."""
    assert set(parse([], prog="exp.py", description=None)) <= set(OWN)
    assert [name for name in OWN if f"| `{name}` |" not in PAGE] == []
