"""One local Ray cluster for all tests of a session, ended with it."""

from __future__ import annotations

import os

import pytest

CPUS = 3


def needs_ray():
    """Skip where Ray is not installed, unless it is required."""
    try:
        import ray
    except ImportError:
        if "ray" in os.environ.get("OTEL_EXEC_REQUIRE", "").split(","):
            pytest.fail("Ray is required (OTEL_EXEC_REQUIRE) and not installed")
        pytest.skip("Ray is not installed: pip install 'otel-exec[ray]'")
    return ray


def start(**options):
    """Start a quiet local cluster and connect to it."""
    import logging

    ray = needs_ray()
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ["RAY_agent_register_timeout_ms"] = "100000"  # noqa: SIM112  Ray's own name
    logging.getLogger("ray").setLevel(logging.ERROR)
    values = {"num_cpus": CPUS, "include_dashboard": False, "log_to_driver": False, "logging_level": logging.ERROR, **options}
    if os.environ.get("RAY_ADDRESS"):  # a developer's own, that stays up between sessions
        values = {key: value for key, value in values.items() if key in {"log_to_driver", "logging_level"}}
        ray.init(**values)
        return ray
    patiently(lambda: ray.init(address="local", **values), ray.shutdown)
    return ray


def patiently(make, undo):
    """Start something of Ray's; again where Ray's own patience, 30 s, was too short: machines that run other tests as well may be slower."""
    for last in (False, False, True):
        try:
            return make()
        except Exception as error:
            if last or "timed out during startup" not in str(error):
                raise
            undo()
    return None
