"""Phases as users write them. Never run: `test_phase_typing.py` has mypy and basedpyright check it, and each `assert_type` and expected error counts."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from typing import assert_type

from otel_exec import TimingCollector, atime_phase, atimed, phase, time_phase, timed, timing_collector


@phase
def bare(x: int, *, y: str = "") -> float:
    return float(x)


@phase("named", model="m1")
async def coroutine(x: int) -> str:
    return str(x)


@timed
def timed_bare(x: int) -> int:
    return x


@timed("plain")
def plain(execution_id: str, node_id: str) -> bytes:
    return (execution_id + node_id).encode()


@atimed("selection", node_id_param="node")
async def selection(node: str, execution_id: str | None = None) -> list[int]:
    return [len(node)]


@timed()
def generator(count: int) -> Iterator[int]:
    yield from range(count)


@atimed()
async def async_generator(count: int) -> AsyncIterator[int]:
    for number in range(count):
        yield number


class Agent:
    @timed("method")
    def method(self, x: int) -> str:
        return str(x)

    @phase("static")
    @staticmethod
    def static(x: int) -> str:
        return str(x)

    @atimed("of class")
    @classmethod
    async def of_class(cls, x: int) -> str:
        return str(x)


assert_type(bare(1, y="a"), float)
assert_type(timed_bare(1), int)
assert_type(plain("e", node_id="n"), bytes)
assert_type(generator(3), Iterator[int])
assert_type(async_generator(3), AsyncIterator[int])
assert_type(Agent().method(1), str)
assert_type(Agent.static(1), str)

takes_the_signature: Callable[[str, str], bytes] = plain

bare("no")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
plain("e")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
Agent().method("no")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


async def blocks() -> None:
    assert_type(await coroutine(1), str)
    assert_type(await selection("n"), list[int])
    assert_type(await Agent.of_class(1), str)
    with phase("sync", tokens=3) as p:
        p.set(answer="yes", count=2)
        p.event("token", n=1)
    async with phase("async") as q:
        q.set(a=1)
    with time_phase("e", "n", "given", model="m1"):
        pass
    async with atime_phase(7, None, "any ids"):
        pass


assert_type(timing_collector, TimingCollector)
assert_type(timing_collector.get("e"), dict[str, dict[str, float]])
