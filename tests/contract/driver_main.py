"""A driver that is to be killed: prints its workers' pids once they are busy, then waits. Run by test_executor_processes.py."""

import os
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import executor_steps as steps
from executor_rig import Rig, wait_for
from executor_steps import Config

from otel_exec.execute.base import WorkerStarted


def main(folder, how):
    rig = Rig("processes", folder, workers=2)
    rig.ready()
    gate = os.path.join(folder, "gate")
    rig.submit(steps.block_stubbornly if how == "python" else steps.hold_the_gil, Config(gate))
    wait_for(gate + ".begun")
    print(*(notice.pid for notice in rig.said(WorkerStarted)), flush=True)
    while True:
        rig.poll()


if __name__ == "__main__":
    main(*sys.argv[1:])
