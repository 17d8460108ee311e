"""The stack's files against each other and against the registry; what needs the real programs is in tests/integration/test_stack_*.py."""

from __future__ import annotations

import json
import os
import re
import subprocess

import pytest
import yaml

from otel_exec.semconv import ATTRIBUTES


@pytest.fixture(scope="module")
def compose(root):
    return yaml.safe_load((root / "docker-compose.yml").read_text(encoding="utf-8"))


def test_every_service_is_bounded_and_asked_for_its_health(compose):
    """Each service belongs to a profile, has a limit for memory and CPUs and gives up its capabilities; all but the collector, whose image holds nothing that could ask, have a health check."""
    for name, service in compose["services"].items():
        assert service["profiles"], name
        assert set(service["deploy"]["resources"]["limits"]) == {"cpus", "memory"}, name
        assert service["cap_drop"] == ["ALL"], name
        assert ("healthcheck" in service) is (name != "otelcol"), name


def test_compose_starts_everything_unless_told_otherwise(root, compose):
    """The default profile is the whole stack; the other one is Jaeger alone."""
    assert "COMPOSE_PROFILES=full\n" in (root / ".env").read_text(encoding="utf-8")
    profiles = {profile: sorted(name for name, service in compose["services"].items() if profile in service["profiles"]) for profile in ("full", "jaeger")}
    assert profiles == {"full": ["grafana", "jaeger", "otelcol", "prometheus", "tempo"], "jaeger": ["jaeger-alone"]}


def test_what_compose_mounts_is_there(root, compose):
    """Each file and folder of the repository that a service is given exists, and is given to be read only; each volume is declared."""
    for service in compose["services"].values():
        for mount in service["volumes"]:
            source, _, rest = mount.partition(":")
            if source.startswith("./"):
                assert (root / source).exists(), source
                assert rest.endswith(":ro"), mount
            else:
                assert source in compose["volumes"]


def test_nobody_is_administrator_of_grafana(compose):
    """There is no administrator's account with a password to be guessed, and whoever comes without a name is none either."""
    environment = compose["services"]["grafana"]["environment"]
    assert environment["GF_AUTH_ANONYMOUS_ORG_ROLE"] != "Admin"
    assert environment["GF_SECURITY_DISABLE_INITIAL_ADMIN_CREATION"] == "true"
    assert not [name for name in environment if "PASSWORD" in name]


def test_the_collector_that_is_built_is_the_one_of_compose(root, compose):
    """builder.yaml and the image are of one version."""
    builder = yaml.safe_load((root / "collector-config" / "builder.yaml").read_text(encoding="utf-8"))
    _, _, version = compose["services"]["otelcol"]["image"].partition(":")
    assert builder["dist"]["version"] == version
    modules = [each["gomod"] for part in ("extensions", "receivers", "processors", "connectors", "exporters") for each in builder[part]]
    assert {module.split(" v")[1] for module in modules} == {version}


def test_dimensions_of_the_collector_are_attributes_of_the_registry(root):
    """What span_metrics makes labels of is registered, and none of it names a run, a worker or a single step."""
    config = yaml.safe_load((root / "collector-config" / "otelcol.yaml").read_text(encoding="utf-8"))
    dimensions = {each["name"] for each in config["connectors"]["span_metrics"]["dimensions"]}
    assert dimensions <= {each.key for each in ATTRIBUTES if each.on == "span"}
    assert not dimensions & {"exec.id", "node.id", "node.name", "exec.task.id", "exec.worker.id"}


def _hours(text):
    return {"h": 1, "d": 24}[text[-1]] * int(text[:-1])


def test_counters_are_remembered_longer_than_they_are_seen(root):
    """What Prometheus can still read of a run's counters is not begun anew by the next run."""
    config = yaml.safe_load((root / "collector-config" / "otelcol.yaml").read_text(encoding="utf-8"))
    assert _hours(config["processors"]["delta_to_cumulative"]["max_stale"]) > _hours(config["exporters"]["prometheus"]["metric_expiration"])


def test_boards_look_back_no_further_than_tempo(root):
    """Tempo answers over each board's time, and as far back as it keeps blocks."""
    config = yaml.safe_load((root / "collector-config" / "tempo.yaml").read_text(encoding="utf-8"))
    frontend = config["query_frontend"]
    most = min(_hours(frontend[part]["max_duration"]) for part in ("metrics", "search"))
    assert most >= _hours(config["backend_worker"]["compaction"]["block_retention"])
    for path in (root / "dashboards").glob("*.json"):
        assert _hours(json.loads(path.read_text(encoding="utf-8"))["time"]["from"].removeprefix("now-")) < most


def test_what_a_recipe_sees_is_required(root, tmp_path):
    """`make test` adds Ray to what OTEL_EXEC_REQUIRE holds already, and the tests see both."""
    (tmp_path / "python").write_text('#!/bin/sh\necho "seen: $OTEL_EXEC_REQUIRE"\n', encoding="utf-8")
    (tmp_path / "python").chmod(0o755)
    for before, seen in (("collector,jaeger", "ray,collector,jaeger"), ("", "ray")):
        environ = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")} | {"OTEL_EXEC_REQUIRE": before}
        done = subprocess.run(
            ["make", "-s", "-o", "check", f"BIN={tmp_path}", "test"], cwd=root, env=environ, capture_output=True, text=True, check=False, timeout=60
        )
        assert (done.returncode, done.stdout) == (0, f"seen: {seen}\n"), done.stderr


def test_where_the_collector_is_built_without_a_home(root):
    """build.sh says where the Collector is, or would be, without HOME too."""
    environ = {name: value for name, value in os.environ.items() if name not in ("HOME", "XDG_CACHE_HOME")}
    done = subprocess.run([root / "collector-config" / "build.sh", "--where"], env=environ, capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.startswith("/tmp/.cache/otel_exec/otelcol-")


def test_the_readme_has_each_port(root, compose):
    """collector-config/README.md names each port that compose publishes."""
    text = (root / "collector-config" / "README.md").read_text(encoding="utf-8")
    ports = {port.split(":")[1] for service in compose["services"].values() for port in service["ports"]}
    assert [port for port in sorted(ports) if not re.search(rf"\b{port}\b", text)] == []
