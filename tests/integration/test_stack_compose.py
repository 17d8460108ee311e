"""docker-compose.yml against the Compose Specification's own schema; where docker's client is installed, tests/repo asks that one too."""

from __future__ import annotations

import json
from importlib import resources

import jsonschema
import pytest
import yaml
from support.stack_programs import ROOT


@pytest.fixture(scope="module")
def schema():
    text = (resources.files("check_jsonschema") / "builtin_schemas" / "vendor" / "compose-spec.json").read_text(encoding="utf-8")
    return jsonschema.Draft202012Validator(json.loads(text))


def test_compose_accepts_the_file(schema):
    """Every key and value of docker-compose.yml is one that the specification has; a misspelt one is not."""
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))
    assert [error.message for error in schema.iter_errors(compose)] == []
    compose["services"]["jaeger"]["healthchek"] = compose["services"]["jaeger"].pop("healthcheck")
    assert not schema.is_valid(compose)
