"""Fixtures that several folders of tests share."""

from __future__ import annotations

import pytest
from support import ray_cluster
from support.otlp_receiver import OtlpReceiver
from support.rotel_agent import RotelAgent


@pytest.fixture
def receiver():
    """An OTLP receiver of the project's own, empty."""
    with OtlpReceiver() as server:
        yield server


@pytest.fixture(scope="session")
def _rotel_pair(tmp_path_factory):
    with OtlpReceiver() as server:
        agent = RotelAgent(tmp_path_factory.mktemp("rotel"), server.http_endpoint)
        yield agent, server
        agent.close()


@pytest.fixture
def rotel(_rotel_pair):
    """A real collector and the receiver that it sends to, emptied for this test."""
    agent, server = _rotel_pair
    server.clear()
    return agent, server


@pytest.fixture
def run_folder(tmp_path):
    """An empty run's folder."""
    folder = tmp_path / "run"
    (folder / "spans").mkdir(parents=True)
    return folder


@pytest.fixture(scope="session")
def shared_ray():
    """A local Ray cluster for all tests of the session, that this process is connected to."""
    ray = ray_cluster.start()
    yield ray
    ray.shutdown()


@pytest.fixture(autouse=True)
def _ray_where_it_is_needed(request):
    """What is marked `ray` runs on the session's cluster."""
    if request.node.get_closest_marker("ray") is not None:
        request.getfixturevalue("shared_ray")
