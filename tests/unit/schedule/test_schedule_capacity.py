from __future__ import annotations

import pytest
from scheduling import MS, Scenario, names_of, plan_of

from otel_exec.plan.graph import Resources
from otel_exec.schedule.capacity import Capacity, impossible, oversized
from otel_exec.schedule.instructions import Submit
from otel_exec.schedule.ready import QUICK_NS
from otel_exec.schedule.select import Decision

CPU = {count: Resources(num_cpus=count) for count in (0, 0.1, 1, 2, 3, 4, 8)}


def started(run: Scenario, finished: str) -> list[str]:
    """Return the steps that start because another one finished."""
    run.claim(finished)
    return names_of(run, run.end(finished), Submit)


def quick(run: Scenario, name: str) -> None:
    """Run a step in no time."""
    run.claim(name, 5 * MS)
    run.end(name, at_ns=5 * MS)


def test_capacity_workers() -> None:
    """As many attempts are in hand as there are workers, the next one when one ended."""
    run = Scenario(plan_of({"a": "", "b": "", "c": ""}), capacity=Capacity(workers=2))
    run.begin()
    assert run.submitted == ["a", "b"]
    assert started(run, "b") == ["c"]


def test_capacity_prefetch_quick() -> None:
    """Plain steps of a template that proved quick are handed over ahead, up to the prefetch."""
    run = Scenario(plan_of(dict.fromkeys("abcdefg", ""), template="same"), capacity=Capacity(workers=2, prefetch=2))
    run.begin()
    assert run.submitted == ["a", "b"]
    quick(run, "a")
    assert run.submitted == ["a", "b", "c", "d", "e"]


def test_capacity_no_prefetch_of_long_or_unknown() -> None:
    """Steps that take long, and those of a template that nobody knows yet, wait for a free worker: the best one is chosen then."""
    run = Scenario(plan_of(dict.fromkeys("abcdef", "")), capacity=Capacity(workers=2, prefetch=2))
    run.begin()
    quick(run, "a")
    assert run.submitted == ["a", "b", "c"]
    same = Scenario(plan_of(dict.fromkeys("abcdef", ""), template="same"), capacity=Capacity(workers=2, prefetch=2))
    same.begin()
    quick(same, "a")
    same.claim("b", 10 * MS)
    same.end("b", at_ns=10 * MS + QUICK_NS + 1)
    assert same.submitted == ["a", "b", "c", "d", "e"]
    quick(same, "c")
    assert same.submitted == ["a", "b", "c", "d", "e", "f"]


def test_capacity_max_concurrent() -> None:
    """`max_concurrent` bounds all that is in hand, prefetched or not."""
    run = Scenario(plan_of(dict.fromkeys("abcdef", ""), template="same"), capacity=Capacity(workers=2, prefetch=2, max_concurrent=3))
    run.begin()
    quick(run, "a")
    assert run.submitted == ["a", "b", "c", "d"]
    one = Scenario(plan_of(dict.fromkeys("abc", "")), capacity=Capacity(workers=2, prefetch=2, max_concurrent=1))
    one.begin()
    assert one.submitted == ["a"]


def test_capacity_no_prefetch_beside_resources() -> None:
    """Nothing is handed over ahead while a step that asked for something is in hand, and no such step is handed over ahead."""
    plan = plan_of({"gpu": "", "a": "", "b": "", "gpu_too": ""}, resources={"gpu": Resources(num_gpus=1), "gpu_too": Resources(num_gpus=1)})
    run = Scenario(plan, capacity=Capacity(workers=2, prefetch=2, gpus=2))
    run.begin()
    assert run.submitted == ["gpu", "a"]
    assert started(run, "gpu") == ["b"]
    assert started(run, "a") == ["gpu_too"]


def test_capacity_resources_not_starved_by_prefetch() -> None:
    """A step that asks for something and comes first is not starved by plain ones that could be handed over ahead."""
    edges = {"a": "", "b": "", "c": "", "gpu": "b", "tail": "gpu", "e": "", "f": "", "g": "", "h": ""}
    run = Scenario(plan_of(edges, resources={"gpu": Resources(num_gpus=1)}, template="same"), capacity=Capacity(workers=2, prefetch=1, gpus=1))
    run.begin()
    quick(run, "a")
    assert run.submitted == ["b", "a", "c", "e"]
    assert started(run, "b") == []
    assert started(run, "c") == ["gpu"]


def test_capacity_cpus() -> None:
    """Steps that say how many CPUs they want run at once as far as these last; plain ones count for one beside them."""
    plan = plan_of({"two": "", "plain": "", "more": "", "two_too": ""}, resources={"two": CPU[2], "two_too": CPU[2]})
    run = Scenario(plan, capacity=Capacity(workers=8, cpus=3))
    run.begin()
    assert run.submitted == ["two", "plain"]
    assert started(run, "plain") == ["more"]
    assert started(run, "two") == ["two_too"]


def test_capacity_plain_alone_unbounded_by_cpus() -> None:
    """Plain steps among themselves are bounded by workers alone."""
    run = Scenario(plan_of(dict.fromkeys("abcd", "")), capacity=Capacity(workers=4, cpus=2))
    run.begin()
    assert len(run.submitted) == 4


def test_capacity_oversized_runs_alone() -> None:
    """A step that wants more CPUs than there are runs with nothing beside it, not even one that wants none; it neither waits for ever nor lets others past it."""
    plan = plan_of({"a": "", "big": "a", "none": "", "b": "", "tail": "big"}, resources={"big": CPU[8], "none": CPU[0]})
    run = Scenario(plan, capacity=Capacity(workers=4, cpus=4))
    run.begin()
    assert run.submitted == ["a", "none", "b"]
    assert started(run, "a") == []
    assert started(run, "none") == []
    assert started(run, "b") == ["big"]
    assert started(run, "big") == ["tail"]


def test_capacity_tenths_add_up() -> None:
    """Ten steps of a tenth of a CPU run at once on one CPU, with nothing left behind when they ended."""
    names = [f"s{index}" for index in range(20)]
    run = Scenario(plan_of(dict.fromkeys(names, ""), resources=dict.fromkeys(names, CPU[0.1])), capacity=Capacity(workers=50, cpus=1))
    run.begin()
    assert len(run.submitted) == 10
    run.run(*names)
    assert run.state.ready.pool.cpus == 0


@pytest.mark.parametrize(
    ("resources", "capacity"),
    [
        (Resources(num_gpus=1), Capacity(workers=9, gpus=2)),
        (Resources(memory_bytes=40), Capacity(workers=9, memory_bytes=100)),
        (Resources(custom={"licence": 1}), Capacity(workers=9, custom={"licence": 2})),
    ],
)
def test_capacity_sums(resources: Resources, capacity: Capacity) -> None:
    """GPUs, memory and custom resources bound what runs at once by their sum."""
    run = Scenario(plan_of(dict.fromkeys("abc", ""), resources=dict.fromkeys("abc", resources)), capacity=capacity)
    run.begin()
    assert run.submitted == ["a", "b"]
    assert started(run, "a") == ["c"]


def test_capacity_unbounded() -> None:
    """Where a cluster decides, nothing but workers bounds what is handed over, and nothing is impossible."""
    capacity = Capacity(workers=9, cpus=None, gpus=None, memory_bytes=None, custom=None)
    wants = Resources(num_cpus=1000, num_gpus=1000, memory_bytes=1 << 60, custom={"tpu": 1000})
    plan = plan_of(dict.fromkeys("abc", ""), resources=dict.fromkeys("abc", wants))
    assert impossible(plan, [Decision("run", "")] * 3, capacity) == []
    assert oversized(plan, [Decision("run", "")] * 3, capacity) == []
    run = Scenario(plan, capacity=capacity)
    run.begin()
    assert run.submitted == ["a", "b", "c"]


def test_capacity_backfill() -> None:
    """A step short of one resource keeps that one from later steps; those that need none of it go on."""
    gpu = {count: Resources(num_gpus=count) for count in (1, 2)}
    plan = plan_of(
        {"one": "", "two": "", "late_one": "", "memory": "", "plain": "", "tail": "two", "tail_tail": "tail"},
        resources={"one": gpu[1], "two": gpu[2], "late_one": gpu[1], "memory": Resources(memory_bytes=1)},
    )
    run = Scenario(plan, capacity=Capacity(workers=9, gpus=2, memory_bytes=10), decisions={})
    run.begin()
    assert run.submitted == ["two", "memory", "plain"]
    assert started(run, "two") == ["tail", "one", "late_one"]


def test_capacity_no_starvation() -> None:
    """A large step ahead of many small ones starts as soon as what is in hand has ended: none of the small ones overtakes it."""
    small = [f"small{index}" for index in range(6)]
    plan = plan_of({"first": "", "large": "first", "tail": "large"} | dict.fromkeys(small, ""), resources=dict.fromkeys(small, CPU[1]) | {"large": CPU[4]})
    run = Scenario(plan, capacity=Capacity(workers=9, cpus=4))
    run.begin()
    assert run.submitted == ["first", "small0", "small1", "small2"]
    assert started(run, "first") == []
    assert started(run, "small0") == []
    assert started(run, "small1") == []
    assert started(run, "small2") == ["large"]


@pytest.mark.parametrize("wrong", [{"workers": 0}, {"workers": 1, "max_concurrent": 0}, {"workers": 1, "prefetch": -1}])
def test_capacity_refuses_nothing(wrong: dict[str, int]) -> None:
    """A capacity in which nothing could run is refused."""
    with pytest.raises(ValueError, match="at least one worker"):
        Capacity(**wrong)


def test_capacity_impossible() -> None:
    """Each step to be run that asks for more than there is in all is a mistake with its place and the way out; others are none."""
    resources = {
        "gpu": Resources(num_gpus=2),
        "memory": Resources(memory_bytes=101),
        "custom": Resources(custom={"licence": 1, "seat": 3}),
        "cached": Resources(num_gpus=9),
        "cpus": Resources(num_cpus=99),
    }
    plan = plan_of(dict.fromkeys(resources, ""), resources=resources)
    decisions = [Decision("cached" if name == "cached" else "run", "") for name in resources]
    mistakes = impossible(plan, decisions, Capacity(workers=1, cpus=2, gpus=1, memory_bytes=100, custom={"seat": 2}))
    assert [(mistake.step, mistake.where) for mistake in mistakes] == [
        ("gpu", "exp.py:1"),
        ("memory", "exp.py:2"),
        ("custom", "exp.py:3"),
        ("custom", "exp.py:3"),
    ]
    assert "2 GPUs, but this run has 1" in str(mistakes[0])
    assert "give --resource licence=1" in str(mistakes[2])


def test_capacity_oversized_warns() -> None:
    """A step to be run that wants more CPUs than there are is a warning that names it."""
    plan = plan_of({"a": "", "b": "", "c": ""}, resources={"a": CPU[8], "b": CPU[4], "c": CPU[8]})
    warnings = oversized(plan, [Decision("run", ""), Decision("run", ""), Decision("cached", "")], Capacity(workers=4, cpus=4))
    assert [(warning.code, "'a'" in warning.message) for warning in warnings] == [("more_cpus_than_there_are", True)]
