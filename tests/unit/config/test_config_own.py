"""Our own settings: arguments, environment, defaults."""

from __future__ import annotations

import dataclasses
import os
import pickle

import pytest

from otel_exec.config import EXECUTORS, Config, recordable, resolve
from otel_exec.cpus import quota_of, usable_cpus
from otel_exec.errors import ConfigError, UsageError


def refused(arguments, environ=None):
    with pytest.raises(ConfigError) as caught:
        resolve(arguments, environ or {})
    assert str(caught.value).count("\n") == 0
    return caught.value


def test_defaults():
    """With nothing given: local processes, a worker per usable CPU, ./outputs made absolute, nothing exported."""
    config = resolve({}, {})
    assert config == Config(prefix=os.path.abspath("outputs"), workers=usable_cpus())
    assert config.executor == "processes"
    assert config.traces == () == config.metrics
    assert config.warnings == ()


def test_precedence():
    """An argument beats the environment, the environment beats an experiment's default, that beats the built-in one; None is not given."""
    environ = {"OTEL_EXEC_WORKERS": "3", "OTEL_EXEC_EXECUTOR": "threads", "OTEL_EXEC_PREFIX": "/e", "OTEL_EXEC_TIMING": "true", "OTEL_EXEC_EXIT_TIMEOUT": "0.5"}
    assert resolve({"workers": 5}, environ, defaults={"workers": 7}).workers == 5
    assert resolve({"workers": None}, environ, defaults={"workers": 7}).workers == 3
    assert resolve({}, {}, defaults={"workers": 7, "grace_s": 2}).workers == 7
    config = resolve({"timing": False}, environ)
    assert (config.executor, config.prefix, config.timing, config.exit_timeout_s) == ("threads", "/e", False, 0.5)
    assert resolve({}, environ).timing is True
    assert resolve({}, {"OTEL_EXEC_MAX_TASK_SPANS": "7"}).max_task_spans == 7
    assert resolve({"max_task_spans": 0}, {"OTEL_EXEC_MAX_TASK_SPANS": "7"}).max_task_spans == 0
    assert resolve({}, {"OTEL_SERVICE_NAME": "s"}, defaults={"service_name": "d"}).service_name == "s"
    assert resolve({"service_name": "a"}, {"OTEL_SERVICE_NAME": "s"}).service_name == "a"


def test_an_empty_variable_is_unset():
    """An empty or blank variable counts as not set."""
    environ = dict.fromkeys(
        ["OTEL_EXEC_PREFIX", "OTEL_EXEC_WORKERS", "OTEL_EXEC_EXECUTOR", "OTEL_EXEC_TIMING", "OTEL_EXEC_TRACE_URL", "OTEL_EXEC_EXIT_TIMEOUT"], " "
    )
    assert resolve({}, environ) == resolve({}, {})


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("outputs", os.path.abspath("outputs")),
        ("/a/../b/", "/b"),
        ("file:///data/x", "/data/x"),
        ("s3://bucket/x/", "s3://bucket/x"),
        ("memory://x", "memory://x"),
    ],
)
def test_prefix(given, expected):
    """Local prefixes are made absolute; addresses stay."""
    assert resolve({"prefix": given}, {}).prefix == expected


@pytest.mark.parametrize(
    ("arguments", "setting"),
    [
        ({"workers": 0}, "--workers"),
        ({"workers": "two"}, "--workers"),
        ({"workers": True}, "--workers"),
        ({"workers": 1.5}, "--workers"),
        ({"max_concurrent": -1}, "--max-concurrent"),
        ({"timeout_s": 0}, "--timeout"),
        ({"timeout_s": "nan"}, "--timeout"),
        ({"grace_s": -1}, "--grace"),
        ({"grace_s": "inf"}, "--grace"),
        ({"executor": "dsk"}, "--executor"),
        ({"run_only": ["("]}, "--run-only"),
        ({"force": "*"}, "--force"),
        ({"resources": ["licence"]}, "--resource"),
        ({"resources": ["=1"]}, "--resource"),
        ({"resources": {"licence": -1}}, "--resource licence"),
        ({"prefix": ""}, "--prefix"),
        ({"barrier": "perhaps"}, "--barrier"),
    ],
)
def test_bad_arguments_name_their_flag(arguments, setting):
    """A bad argument is an error of usage that names the flag, the value and what is accepted."""
    error = refused(arguments)
    assert error.setting == setting
    assert error.accepted
    assert error.exit_code == 2


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("OTEL_EXEC_WORKERS", "0"),
        ("OTEL_EXEC_WORKERS", "-2"),
        ("OTEL_EXEC_EXECUTOR", "proces"),
        ("OTEL_EXEC_TIMING", "maybe"),
        ("OTEL_EXEC_EXIT_TIMEOUT", "2s"),
        ("OTEL_EXEC_EXIT_TIMEOUT", "-1"),
        ("OTEL_EXEC_TRACE_URL", "http://localhost/trace"),
        ("OTEL_EXEC_TRACE_URL", "http://localhost/trace/{id}"),
        ("OTEL_EXEC_TRACE_URL", "{trace_id}"),
    ],
)
def test_bad_variables_are_named(variable, value):
    """A bad variable is an error that names the variable, the value and what is accepted."""
    error = refused({}, {variable: value})
    assert (error.setting, error.value) == (variable, value)
    assert variable in str(error)
    assert value in str(error)


def test_unknown_executor_lists_the_known_and_the_closest():
    """An unknown executor lists the known ones and the closest."""
    message = str(refused({"executor": "thread"}))
    assert message == "--executor=thread can't be read: it takes one of processes, threads, inline, ray; did you mean 'threads'?"
    assert all(name in message for name in EXECUTORS)


def test_the_ray_cluster_is_named_by_flag_or_variable():
    """--ray-address goes before RAY_ADDRESS; neither means a cluster of the run's own. There 0 workers stand for as many as it has CPUs."""
    assert resolve({"executor": "Ray"}, {}).executor == "ray"
    assert resolve({}, {}).ray_address is None
    assert resolve({}, {"RAY_ADDRESS": " head:6379 "}).ray_address == "head:6379"
    assert resolve({"ray_address": "auto"}, {"RAY_ADDRESS": "head:6379"}).ray_address == "auto"
    assert (resolve({"executor": "ray"}, {}).workers, resolve({"executor": "ray", "workers": 2}, {}).workers) == (0, 2)


@pytest.mark.parametrize("text", ["head:6379", "127.0.0.1:6379", "[::1]:6379", "ray://head:10001", "auto", "local", "anyscale://my-cluster"])
def test_an_address_of_a_ray_cluster(text):
    """Host and port, Ray's client, Ray's own words; what another scheme means is its package's to say."""
    assert resolve({"executor": "ray", "ray_address": text}, {}).ray_address == text


@pytest.mark.parametrize(
    "text",
    ["nonsense", "head:", ":6379", "head:99999", "head:0", "head:port", "http://head:8265", "ray://head", "a b:1", "head:6379/x", "me:secret@head", "://h:1"],
)
def test_what_is_no_address_of_a_ray_cluster(text):
    """It is refused before anything is looked for, of a dry run as well; with another executor nobody asks."""
    message = str(refused({"executor": "ray", "ray_address": text}))
    assert message.startswith("--ray-address=")
    assert message.endswith("can't be read: it takes the address of a Ray cluster's head node, such as head:6379 or ray://head:10001, or auto")
    assert "secret" not in message
    assert str(refused({"executor": "ray"}, {"RAY_ADDRESS": text})).startswith("RAY_ADDRESS=")
    assert resolve({}, {"RAY_ADDRESS": text}).ray_address == text


def test_a_pool_has_so_many_slots():
    """1024 workers are taken, one more is an error that says how many can be."""
    assert resolve({"workers": 1024}, {}).workers == 1024
    assert "between 1 and 1024" in refused({"workers": 1025}).accepted
    assert refused({}, {"OTEL_EXEC_WORKERS": "100000"}).setting == "OTEL_EXEC_WORKERS"


def test_unknown_settings_are_errors():
    """An argument that is no setting lists the settings and the closest."""
    with pytest.raises(UsageError, match="did you mean 'workers'"):
        resolve({"worker": 1}, {})


def test_lists_and_resources():
    """Regular expressions come one or many; resources as NAME=N or as a mapping."""
    config = resolve({"run_only": "a.*", "force": ["b", "c"], "resources": ["licence=2", "slots=0.5"]}, {})
    assert config.run_only == ("a.*",)
    assert config.force == ("b", "c")
    assert config.resources == (("licence", 2.0), ("slots", 0.5))
    assert resolve({"resources": {"licence": 2}}, {}).resources == (("licence", 2.0),)


def test_the_record_has_no_secrets():
    """What run.json records and what repr shows has the settings, without headers, keys, passwords or tokens."""
    config = resolve(
        {"prefix": "s3://key:prefix-secret@bucket/x"},
        {
            "OTEL_EXPORTER_OTLP_ENDPOINT": "https://user:endpoint-secret@collector.example.com:4318/x?token=query-secret",
            "OTEL_EXPORTER_OTLP_HEADERS": "authorization=Bearer%20header-secret",
            "OTEL_RESOURCE_ATTRIBUTES": "team=ml,api_key=resource-secret",
            "OTEL_EXEC_TRACE_URL": "http://user:url-secret@jaeger/trace/{trace_id}?view=x&access_token=url-secret",
        },
    )
    record = recordable(config)
    for text in (repr(record), repr(config), str(config), repr(config.traces)):
        assert "-secret" not in text
    assert record["traces"] == [
        {"url": "https://collector.example.com:4318/x/v1/traces?token=***", "protocol": "http/protobuf", "compression": None, "timeout_s": 10.0}
    ]
    assert record["resource_attributes"] == {"team": "ml", "api_key": "***"}
    assert record["trace_url"] == "http://***@jaeger/trace/{trace_id}?view=x&access_token=***"
    assert set(record) == {field.name for field in dataclasses.fields(Config)}


def test_config_crosses_processes():
    """A configuration survives pickling."""
    config = resolve({}, {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://localhost:4317"})
    assert pickle.loads(pickle.dumps(config)) == config


def cgroup(tmp_path, line, files):
    root = tmp_path / "cgroup"
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    own = tmp_path / "own"
    own.write_text(line)
    return str(root), str(own)


@pytest.mark.parametrize(
    ("line", "files", "quota"),
    [
        ("0::/a/b\n", {"a/b/cpu.max": "max 100000\n", "a/cpu.max": "150000 100000\n"}, 1.5),
        ("0::/\n", {"cpu.max": "50000 100000\n"}, 0.5),
        ("0::/a\n", {"cpu.max": "400000 100000\n", "a/cpu.max": "200000 100000\n"}, 2.0),
        ("4:cpu,cpuacct:/x\n", {"cpu,cpuacct/x/cpu.cfs_quota_us": "300000\n", "cpu,cpuacct/x/cpu.cfs_period_us": "100000\n"}, 3.0),
        ("4:cpu:/x\n", {"cpu/x/cpu.cfs_quota_us": "-1\n", "cpu/x/cpu.cfs_period_us": "100000\n"}, None),
        ("0::/\n", {}, None),
        ("nonsense", {"cpu.max": "x y\n"}, None),
    ],
)
def test_cgroup_quota(tmp_path, line, files, quota):
    """A container's CPU quota is found in both versions of cgroups, on the group itself or above it; the smallest counts."""
    assert quota_of(*cgroup(tmp_path, line, files)) == quota


def test_usable_cpus(tmp_path):
    """The usable CPUs are the smaller of affinity and quota, rounded up, never below one."""
    assert usable_cpus(*cgroup(tmp_path, "0::/\n", {"cpu.max": "30000 100000\n"})) == 1
    assert usable_cpus("/nonexistent", "/nonexistent") == len(os.sched_getaffinity(0))
