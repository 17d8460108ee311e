"""The home actor of a run on Ray, without Ray: what it says to whom, and what is left when it dies."""

from __future__ import annotations

import asyncio

import pytest

from otel_exec.clock import AnchoredClock
from otel_exec.execute.base import RunSettings
from otel_exec.execute.ray_crew import Crew
from otel_exec.execute.ray_home import Home
from otel_exec.execute.ray_wire import Begun, Facts, Known, Running, Setup

BEGUN = Begun("s" * 16, "step", 1, 5)


@pytest.fixture
def crew(tmp_path):
    return Crew(RunSettings("exec_" + "a" * 32, "a" * 32, "b" * 16, str(tmp_path), "holder", 0), AnchoredClock())


def a_home():
    return Home(Setup(b"", "", 0, "", [], []), 0)


async def settle(*tasks):
    """Let what was called go on until it waits."""
    for _ in range(10):
        await asyncio.sleep(0)
    return [task.done() for task in tasks]


async def introduced(home, crew, uid):
    """Have a worker introduce itself, and the driver answer; returns its number."""
    asking = asyncio.ensure_future(home.introduce(uid))
    assert await settle(asking) == [False]
    await home.number(crew.take_in(await home.take(), []))
    return (await asking)[0]


def test_a_number_is_given_once_whatever_dies(crew):
    """Workers that had a number before the actor died, and had not said so to the driver in any other way, keep it; a new one gets another."""

    async def story():
        home = a_home()
        await home.resume(Known(), {})
        assert [await introduced(home, crew, uid) for uid in "ab"] == [0, 1]
        again = a_home()
        await again.resume(crew.known({}), {})
        assert (await again.introduce("b"))[0] == 1
        assert await introduced(again, crew, "c") == 2

    asyncio.run(story())


def test_all_workers_of_a_kernel_have_one_clock():
    """What the first of them found counts for those that looked at the same time, and for those that come later."""

    async def story():
        home = a_home()
        assert await home.offset("kernel", None) is None
        assert await home.offset("kernel", (5, 1)) == (5, 1)
        assert await home.offset("kernel", (7, 2)) == (5, 1)
        assert await home.offset("kernel", None) == (5, 1)
        assert await home.offset("another", None) is None

    asyncio.run(story())


def test_nobody_is_answered_before_the_driver_has_spoken():
    """An actor that begins again says so to the driver, and has workers wait until it knows what went before."""

    async def story():
        home = a_home()
        asking, blob = asyncio.ensure_future(home.introduce("a")), asyncio.ensure_future(home.blob("d"))
        assert await settle(asking, blob) == [False, False]
        assert (await home.take()).anew
        await home.resume(Known(numbers={"a": 7}, places={"a": (12, "n")}, commands={BEGUN.span_id: "interrupt"}), {"d": b"data"})
        assert ((await asking)[0], await blob) == (7, b"data")
        telling = asyncio.ensure_future(home.tell("a", 0, b"t", BEGUN))
        assert await home.listen("a") == (BEGUN.span_id, "interrupt")
        assert await home.who_runs([BEGUN.span_id, "x"]) == [Running(7, BEGUN, 12, "n"), None]
        telling.cancel()

    asyncio.run(story())


def test_what_is_told_is_acknowledged_when_the_driver_has_it():
    """A worker keeps what it told until the driver asks for more: then what it was given before has arrived. An actor that dies has acknowledged nothing that is lost."""

    async def story():
        home = a_home()
        await home.resume(Known(), {})
        facts = Facts(0, "a", 12, "h", "n", 1, 2)
        told = [asyncio.ensure_future(each) for each in (home.ready(facts), home.tell("a", 0, b"t", None), home.put_blob("d", b"data"))]
        taken = await home.take()
        assert (taken.facts, taken.told, taken.blobs) == ([facts], [b"t"], {"d": b"data"})
        later = asyncio.ensure_future(home.tell("a", 1, b"u", None))
        assert await settle(*told, later) == [False] * 4
        taken = await home.take()
        assert taken.told == [b"u"]
        assert await settle(*told, later) == [True, True, True, False]
        later.cancel()

    asyncio.run(story())


def test_who_waits_for_a_telling_to_come_waits_for_no_driver():
    """What returns to nobody who waits for the driver is held until its telling has come to the actor, and no longer."""

    async def story():
        home = a_home()
        await home.resume(Known(), {})
        waiting = asyncio.ensure_future(home.has("a", 1))
        told = [asyncio.ensure_future(home.tell("a", sequence, b"t", None)) for sequence in (0,)]
        assert await settle(waiting) == [False]
        told.append(asyncio.ensure_future(home.tell("a", 1, b"t", None)))
        assert await settle(waiting, *told) == [True, False, False]
        for each in told:
            each.cancel()

    asyncio.run(story())
