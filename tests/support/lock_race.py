"""Many processes at one lock, each its own holder; run by `test_record_locks_race.py`.

`python lock_race.py takeover FOLDER PROCESSES`: every process asks once for each lock under FOLDER, all at the same moment; prints who took which.
`python lock_race.py turns FOLDER PROCESSES TURNS`: every process takes the one lock of FOLDER TURNS times and looks whether anyone else is inside; prints how often someone was.

The processes are forked from this one, which has no threads, and start when a pipe is closed. An alarm ends each after a minute, whatever happens.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time

from otel_exec.record import locks


def takeover(folder: str) -> list[tuple[str, str]]:
    """Ask for every lock once; return (folder, taken over from) of those that were taken."""
    me = locks.driver_id()
    states = [(name, locks.acquire(f"{folder}/{name}", me)) for name in sorted(os.listdir(folder))]
    return [(name, state.taken_over_from) for name, state in states if state.taken]


def turns(folder: str, count: int) -> list[int]:
    """Take the lock `count` times; return how often another was inside, and how often our lease was lost."""
    me, inside = locks.driver_id(), f"{folder}/inside"
    met = lost = 0
    while count:
        if not locks.acquire(folder, me).taken:
            time.sleep(0.0002)
            continue
        try:
            os.close(os.open(inside, os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            met += 1
        else:
            lost += not locks.heartbeat(folder, me)
            os.unlink(inside)
        locks.release(folder, me)
        count -= 1
    return [met, lost]


def main(what: str, folder: str, processes: int, count: int = 0) -> None:
    """Fork, start all at once, print what each found as one JSON list."""
    gate_out, gate_in = os.pipe()
    over_out, over_in = os.pipe()
    pipes, children = [], []
    for _ in range(processes):
        answer_out, answer_in = os.pipe()
        pid = os.fork()
        if pid == 0:
            signal.alarm(60)
            os.close(gate_in)
            os.close(over_in)
            os.read(gate_out, 1)
            found = takeover(folder) if what == "takeover" else turns(folder, count)
            os.write(answer_in, json.dumps(found).encode() + b"\n")
            os.read(over_out, 1)  # alive until all have answered: nobody may be called dead meanwhile
            os._exit(0)
        os.close(answer_in)
        pipes.append(answer_out)
        children.append(pid)
    os.close(gate_in)
    answers = []
    for pipe in pipes:
        with os.fdopen(pipe) as file:
            answers.append(json.loads(file.readline()))
    os.close(over_in)
    for pid in children:
        os.waitpid(pid, 0)
    print(json.dumps(answers))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], *map(int, sys.argv[3:]))
