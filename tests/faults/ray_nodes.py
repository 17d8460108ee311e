"""A cluster of three nodes on loopback, one removed in mid run: one trace with spans from all nodes, one lost attempt for what ran there, success.

python tests/faults/ray_nodes.py FOLDER
"""

from __future__ import annotations

import os
import sys
import threading
import time
from pathlib import Path

for folder in ("tests", "tests/support"):
    sys.path.insert(0, str(Path(__file__).parents[2] / folder))

from support.ray_cluster import patiently
from support.run_checks import check_run

from otel_exec import deferred, map_tasks, phase, step
from otel_exec.testing import recorded_spans, run_in


def _item(path):
    with phase("here"):
        time.sleep(0.3)


def _fan(config):
    map_tasks(_item, [config["path"]] * 9)


def _hold(config):
    """Say that it runs; the first one waits for the end of its node."""
    import ray

    if not os.path.exists(config["path"]):
        with open(config["path"] + ".new", "w") as file:
            file.write(ray.get_runtime_context().get_node_id())
        os.rename(config["path"] + ".new", config["path"])
        with phase("waiting"):
            time.sleep(600)


fan, hold = deferred(_fan), deferred(_hold)


@step("fan", resources={"first": 1})
def fanning(path):
    return fan({"path": path})


@step("hold", resources={"spare": 1})
def holding(path):
    return hold({"path": path})


def main(folder):
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    import ray
    from ray.cluster_utils import Cluster

    head = {"num_cpus": 1, "resources": {"first": 1}, "include_dashboard": False}
    cluster = patiently(lambda: Cluster(initialize_head=True, head_node_args=head), lambda: None)
    others = [patiently(lambda: cluster.add_node(num_cpus=1, resources={"spare": 1}), lambda: None) for _ in range(2)]
    ray.init(address=cluster.address, log_to_driver=False, logging_level="error")
    path = os.path.join(folder, "held")

    def remove():
        while not os.path.exists(path):
            time.sleep(0.05)
        time.sleep(1.5)
        held = Path(path).read_text(encoding="ascii")
        (lost,) = [node for node in others if node.node_id == held]
        cluster.remove_node(lost, allow_graceful=False)

    remover = threading.Thread(target=remove)
    remover.start()
    try:
        record = run_in(folder, [fanning(path + ".f"), holding(path)], executor="ray", timeout_s=240.0)
    finally:
        remover.join()
        ray.shutdown()
        cluster.shutdown()
    check_run(record)
    spans = recorded_spans(record)
    assert {span.trace_id for span in spans} == {record.trace_id}
    node_of = {worker.worker_id: worker.node for worker in record.workers}
    nodes = {node_of[span.attributes["exec.worker.id"]] for span in spans if span.kind == "task"}
    (held,) = [each for each in record.steps if each.name == "hold"]
    print("nodes", len(nodes), "attempts", [(attempt.outcome, attempt.error.type if attempt.error else None) for attempt in held.attempts])
    assert len(nodes) >= 3, nodes
    assert [attempt.outcome for attempt in held.attempts] == ["error", "success"]
    assert held.attempts[0].error.type == "node_died"


if __name__ == "__main__":
    main(sys.argv[1])
