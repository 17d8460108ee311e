"""The experiment that the fault programs run and kill: phases, nested ones, retries, fan-outs and a verification, on any executor.

Each phase and each function writes a line of evidence, with one system call, right after it ended: what stands there must be found again.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass

from kill_points import arm

from otel_exec import StepRef, deferred, executor_main, map_tasks, output, phase, step, versioned


@dataclass(frozen=True)
class Config:
    """What a step gets."""

    number: int
    upstream: object
    out: str


def evidence(text: str) -> None:
    """Say, outside of the tool, that something has ended."""
    descriptor = os.open(os.environ["EVIDENCE"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(descriptor, f"{text}\n".encode())
    finally:
        os.close(descriptor)


def item(key: str) -> str:
    """An item of a fan-out, with a phase of its own."""
    with phase("item", key=key):
        time.sleep(0.004)
    evidence(f"phase {key}")
    return key


def _work(config: Config) -> None:
    if "KILL_WORKER_AT" in os.environ:
        arm(os.environ["KILL_WORKER_AT"])
    tries = os.path.join(config.out, "tries")
    count = os.path.getsize(tries) if os.path.exists(tries) else 0
    with open(tries, "ab") as file:
        file.write(b".")
    for turn in range(3):
        key = f"{config.number}/{count}/{turn}"
        with phase("outer", key=key):
            with phase("inner", key=f"{key}/inner"):
                time.sleep(0.004)
            evidence(f"phase {key}/inner")
        evidence(f"phase {key}")
    if config.number % 3 == 0 and count == 0:
        raise RuntimeError("the first try fails")
    if config.number % 3 == 1:
        map_tasks(item, [f"{config.number}/{count}/item/{each}" for each in range(4)], retries=1)


work = deferred(_work)


def verified(config: Config, _path: str) -> None:
    """Verify, slowly enough to be killed in."""
    time.sleep(0.004)
    evidence(f"verified {config.number}")


@step(name="work/{number}", retries=int(os.environ.get("RETRIES", "20")), verify=verified)
def one(number: int, upstream: tuple[StepRef, ...] = ()) -> object:
    """A step."""
    return work(Config(versioned(number), upstream, output()))


@step(name="all")
def everything() -> None:
    """Three levels."""
    width = int(os.environ.get("WIDTH", "3"))
    first = [one(number) for number in range(width)]
    second = [one(100 + number, (first[number],)) for number in range(width)]
    one(1000, tuple(second))


if __name__ == "__main__":
    if "KILL_DRIVER_AT" in os.environ:
        arm(os.environ["KILL_DRIVER_AT"])
    executor_main(steps=[everything()], description="to be killed")
