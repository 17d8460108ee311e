"""What can be decorated, what is refused, and that a timed function behaves as the one that it was."""

from __future__ import annotations

import asyncio
import functools
import sys
import types

import pytest

from otel_exec.aggregate.task_fold import TaskFold
from otel_exec.clock import AnchoredClock
from otel_exec.errors import UsageError
from otel_exec.spans.phases import TaskScope, enter_scope, phase, timed
from otel_exec.spans.recorder import Recorder
from otel_exec.spans.scope import current_span_id


class Run:
    """What was recorded in a scope."""

    def __init__(self):
        self.spans = []

    def named(self, name):
        (found,) = [span for span in self.spans if span.name == name]
        return found


@pytest.fixture
def run():
    run, clock = Run(), AnchoredClock()
    recorder = Recorder(exec_id="exec_1", trace_id="ab" * 16, clock=clock, sink=run.spans.extend)
    scope = TaskScope(recorder, span_id="f" * 16, node_id="n", sink=TaskFold("f" * 16, clock.now_ns()), attributes={"node.id": "n"})
    with enter_scope(scope):
        yield run


def test_a_coroutine_made_of_a_generator_can_still_be_awaited(run):
    """A function of `types.coroutine` stays one when it is timed."""

    @timed("old")
    @types.coroutine
    def old():
        yield
        return 5

    async def main():
        return await old()

    assert asyncio.run(main()) == 5
    assert {span.name for span in run.spans} == {"old"}


def test_a_timed_async_generator_that_is_left_half_read_ends_with_the_loop(run):
    """The loop closes what is left open once, at its end, and complains of nothing; the generator's own clean-up runs."""
    kept, cleaned, said = [], [], []

    @timed("produce")
    async def produce():
        try:
            while True:
                yield 1
        finally:
            await asyncio.sleep(0)
            cleaned.append(True)

    async def main():
        asyncio.get_running_loop().set_exception_handler(lambda _loop, context: said.append(context))
        kept.append(produce())
        await anext(kept[0])

    asyncio.run(main())
    assert (cleaned, said) == ([True], [])
    assert run.spans


class Ordinary:
    """A class."""


@pytest.mark.parametrize("given", [Ordinary, "no function", None, functools.partialmethod(print), property(None)])
@pytest.mark.parametrize("decorate", [timed("x"), phase("x")])
def test_what_is_no_function_is_refused_when_it_is_decorated(decorate, given):
    """A class would become a function, and what can't be called would fail at the first call: one sentence says so at once."""
    with pytest.raises(UsageError, match=r"a phase can't time (the class Ordinary|an object of type \w+), which .*: decorate"):
        decorate(given)


def test_properties_stay_properties(run):
    """Properties, cached ones too, are timed when they are read."""

    class Holder:
        @timed("plain")
        @property
        def plain(self):
            """Told."""
            return 1

        @phase
        @functools.cached_property
        def cached(self):
            return object()

    holder = Holder()
    assert (holder.plain, Holder.plain.__doc__) == (1, "Told.")
    assert holder.cached is holder.cached
    assert [span.name for span in run.spans] == ["plain", "cached"]


def test_a_cache_under_a_phase_can_still_be_asked():
    """What `functools.lru_cache` adds to a function is on the timed one."""
    looked = timed("look")(functools.lru_cache(lambda number: number))
    looked(1)
    looked(1)
    assert looked.cache_info().hits == 1
    looked.cache_clear()
    assert looked.cache_info().hits == 0


def test_an_object_that_is_called_as_a_coroutine_is_timed_until_it_ends(run):
    """An object with `async def __call__` is awaited inside its phase."""

    class Call:
        async def __call__(self):
            return current_span_id()

    inside = asyncio.run(timed("call")(Call())())
    assert run.named("call").span_id == inside


def test_attributes_may_have_any_name(run):
    """`self` and `name` are names like others for attributes of a phase and of its events."""
    with phase("p") as p:
        p.set(self=1)
        p.event("happened", name=2, self=3)
    (span,) = run.spans
    assert span.attributes["self"] == 1
    assert span.events[0][1:] == ("happened", {"name": 2, "self": 3})


def test_a_parameter_is_named_by_a_string():
    """Anything else for `node_id_param` or `exec_id_param` is refused when it decorates, not at a call."""
    with pytest.raises(UsageError, match=r"a string, where it was given \['a'\]"):
        timed("x", node_id_param=["a"])


def test_near_the_limit_of_recursion_the_function_alone_runs(run):
    """Timing needs a few frames; where there are none left a timed function runs as it would without, and no `RecursionError` is ours."""

    def leaf():
        return "leaf"

    def deep(left, function):
        return deep(left - 1, function) if left else function()

    most = sys.getrecursionlimit()
    while True:
        try:
            deep(most, leaf)
            break
        except RecursionError:
            most -= 1
    function = timed("timed")(leaf)
    for left in range(most - 60, most):  # the wrapper itself is a frame
        assert deep(left, function) == "leaf", most - left
    assert len(run.spans) > 1
