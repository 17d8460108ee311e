"""Tracing: what calls of steps and deferred functions come to."""

from __future__ import annotations

import copy
import functools
import pickle
import sys
import threading
from collections import OrderedDict
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import pytest

from otel_exec.plan.build import build_plan
from otel_exec.plan.refs import StepRef, versioned
from otel_exec.plan.step import deferred, output, step


def work(config): ...


run = deferred(work)


@step("{name}")
def leaf(name, config=None):
    return run(config)


def plan_of(*refs, prefix="/p"):
    return build_plan(list(refs), prefix=prefix)


def target(*refs, prefix="/p"):
    plan = plan_of(*refs, prefix=prefix)
    return plan.steps[plan.targets[0]]


def test_deferred_calls_the_function_outside_of_steps():
    """Outside a step body a deferred function is the function."""
    assert deferred(lambda a, *, b: (a, b))(1, b=2) == (1, 2)


def test_deferred_is_a_decorator_that_keeps_name_and_doc():
    """Decorated library code looks the same, and other threads of a body are outside of it."""

    @deferred
    def documented(x):
        """Doc."""
        return x

    seen = []

    @step("k")
    def body():
        thread = threading.Thread(target=lambda: seen.append(documented(7)))
        thread.start()
        thread.join()

    body()
    assert (documented.__name__, documented.__doc__, seen) == ("documented", "Doc.", [7])


@pytest.mark.parametrize(
    ("call", "style", "config"),
    [
        (lambda fn: fn({"a": 1}), "config", {"a": 1}),
        (lambda fn: fn(a=5), "config", 5),
        (lambda fn: fn(1, 2), "kwargs", {"a": 1, "b": 2}),
        (lambda fn: fn(1, c=3), "kwargs", {"a": 1, "c": 3}),
        (lambda fn: fn(b=2, a=1, d=4), "kwargs", {"a": 1, "b": 2, "d": 4}),
    ],
)
def test_how_the_function_gets_its_config(call, style, config):
    """One argument is the config; several make one keyed by parameter name, extra keywords included."""

    def fn(a, b=0, *, c=0, **more): ...

    @step("k")
    def body():
        return call(deferred(fn))

    found = target(body())
    assert (found.call_style, found.config) == (style, config)


def test_no_arguments_and_keyword_only_ones():
    """A call without arguments, or with one that can only be passed by name, is made by keywords."""

    def only(*, config): ...

    @step("none")
    def none():
        return deferred(lambda: None)()

    @step("only")
    def keyword():
        return deferred(only)(config=3)

    assert (target(none()).call_style, target(none()).config) == ("kwargs", {})
    assert (target(keyword()).call_style, target(keyword()).config) == ("kwargs", {"config": 3})


def test_output_outside_of_a_step():
    """output() outside a step says so."""
    with pytest.raises(RuntimeError, match=r"^output\(\) called outside of step context$"):
        output()


@dataclass(frozen=True)
class Frozen:
    path: str
    plain: list[int] = field(default_factory=list)


@dataclass(slots=True, kw_only=True)
class Slotted:
    path: Path
    posts: list[str] = field(default_factory=list)

    def __post_init__(self):
        self.posts.append("made")


@dataclass(frozen=True)
class Inherited(Frozen):
    derived: object = field(init=False, default=None)

    def __post_init__(self):
        object.__setattr__(self, "derived", self.path / "derived")
        object.__setattr__(self, "no_field", [self.path / "extra"])


class Pair(NamedTuple):
    left: object
    right: object


def test_placeholders_become_plain_values_in_objects_of_the_same_type():
    """Every kind of container is made anew around its placeholders, by its own type, with strings and plain values."""
    up = leaf("a")
    config = {
        "frozen": Frozen(up / "x", [1]),
        "slotted": Slotted(path=up),
        "inherited": Inherited(up),
        "pair": Pair(up, 1),
        "ordered": OrderedDict(z=versioned(1), a=2),
        "set": {versioned(3), "s"},
        "frozenset": frozenset({up / "y"}),
        "list": [[versioned([1])], (up,)],
        "hard": StepRef.hardcoded("raw"),
        "abs": StepRef.hardcoded("s3://b/raw") / "c",
    }
    got = target(leaf("k", config)).config
    base = "/p/a-d85366"
    assert got["frozen"] == Frozen(f"{base}/x", [1])
    assert type(got["slotted"].path) is str
    assert got["slotted"].path == base
    assert type(got["inherited"]) is Inherited
    assert (got["inherited"].derived, got["inherited"].no_field) == (f"{base}/derived", [f"{base}/extra"])
    assert got["pair"] == Pair(base, 1)
    assert type(got["pair"]) is Pair
    assert got["ordered"] == OrderedDict(z=1, a=2)
    assert got["set"] == {3, "s"}
    assert got["frozenset"] == frozenset({f"{base}/y"})
    assert got["list"] == [[[1]], (base,)]
    assert (got["hard"], got["abs"]) == ("/p/raw", "s3://b/raw/c")


def test_post_init_runs_once_and_the_users_object_is_untouched():
    """Resolving neither constructs a dataclass again nor changes the one that the user made."""
    mine = Slotted(path=leaf("a"))
    got = target(leaf("k", mine)).config
    assert got.posts == ["made"]
    assert isinstance(mine.path, StepRef)


def test_subtrees_without_placeholders_are_the_same_objects():
    """What has no placeholder below it is passed on as it is, opaque objects too."""
    opaque, plain = object(), {"a": [1]}
    got = target(leaf("k", {"o": opaque, "p": plain, "v": versioned(1)})).config
    assert got["o"] is opaque
    assert got["p"] is plain
    untouched = Frozen("x")
    assert target(leaf("k", untouched)).config is untouched


def test_a_config_is_taken_when_the_step_is_called():
    """A dict of placeholders that is changed between calls gives each step what it held then."""
    config = {"n": versioned(0), "list": [versioned(0)]}
    refs = []
    for n in range(3):
        config["n"] = versioned(n)
        config["list"][0] = versioned(n)
        refs.append(leaf("k", config))
    assert [found.config for found in plan_of(*refs).steps] == [{"n": n, "list": [n]} for n in range(3)]


def test_annotations_are_never_evaluated():
    """Names that exist for the type checker alone do no harm."""
    names = {}
    exec(
        "from __future__ import annotations\nfrom dataclasses import dataclass\n"
        "@dataclass\nclass C:\n    path: Nowhere.At.All\n"
        "def fn(config: Missing, b: 1/0 = 2) -> Gone: ...\n"
        "def body(x: Never[Existed] = 1) -> Nope: return call(C(output()), 3)\n",
        names,
    )
    names.update(call=deferred(names["fn"]), output=output)
    assert target(step("k")(names["body"])()).config["config"].path.startswith("/p/k-")


def test_templates_have_all_bound_arguments():
    """name, description and override_output_path take arguments by position, keyword and default, versioned ones as their values."""

    @step("x/{a}-{b:03d}/{c[0].name}", description="{d}", override_output_path="{a}/out")
    def body(a, b, c, *, d="dee"):
        return run(None)

    found = target(body(versioned("v"), b=7, c=[Path("f.txt")]))
    assert found.name == "x/v-007/f.txt"
    assert (found.description, found.template, found.output_path) == ("dee", "x/{a}-{b:03d}/{c[0].name}", "/p/v/out")


def test_a_group_and_what_depends_on_it():
    """A group has no level, no function and no output; whoever depends on it waits for its members and has a level after theirs."""

    @step("group")
    def group():
        leaf("m1")
        leaf("m2", leaf("m1"))

    @step("after")
    def after(done):
        return run(None)

    plan = plan_of(after(group()))
    by_name = {found.name: found for found in plan.steps}
    assert {name: found.level for name, found in by_name.items()} == {"m1": 1, "m2": 2, "group": None, "after": 3}
    assert (by_name["group"].fn, by_name["group"].output_path, by_name["group"].group) == (None, None, True)
    assert by_name["group"].members == by_name["group"].depends_on == (0, 1)
    assert by_name["after"].depends_on == (2,)
    assert plan.upstream()[by_name["after"].index] == (0, 1)
    assert plan.levels == 3


def test_a_body_that_returns_a_reference_is_another_name():
    """Its path is that step's (or below it), through any number of names, and moving it moves that step."""

    @step("best")
    def best(refs):
        return refs[0] / "weights"

    @step("again")
    def again(ref):
        return ref

    @step("alias")
    def alias():
        return leaf("called")

    used = leaf("k", [again(best([leaf("a")])) / "x", alias().with_output_path("moved")])
    plan = plan_of(used)
    assert plan.steps[plan.targets[0]].config == ["/p/a-d85366/weights/x", "/p/moved"]
    assert {found.name for found in plan.steps if found.group} == {"best", "again", "alias"}


def test_the_same_call_twice_is_one_step():
    """Equal identity merges, also of functions that a body defines anew at each call."""

    @step("k")
    def body(n):
        @deferred
        def inner(config): ...

        return inner({"n": versioned(n)})

    plan = plan_of(body(1), body(1), body(2), leaf("a"), leaf("a"))
    assert [found.name for found in plan.steps] == ["k", "k", "a"]
    assert plan.targets == (0, 1, 2)
    assert plan.warnings == ()


def test_unversioned_config_that_differs_is_a_warning():
    """The first call's config wins; the warning has both places and the fields that differ, options included."""
    line = sys._getframe().f_lineno
    first = leaf("k", {"a": 1, "b": {"c": 2}, "same": versioned(1)})
    second = leaf("k", {"a": 9, "b": {"c": 3}, "same": versioned(1), "new": 0})
    plan = plan_of(first, second)
    (warning,) = plan.warnings
    assert warning.code == "unversioned_config_differs"
    assert f"{__file__}:{line + 1}" in warning.message
    assert f"{__file__}:{line + 2}" in warning.message
    assert "different values of a, b.c, new;" in warning.message
    assert plan.steps[0].config["a"] == 1


def test_nonblocking_edges_do_not_make_levels():
    """A step referred to without blocking is in the plan, before its consumer, and is not waited for."""
    plan = plan_of(leaf("k", leaf("a").nonblocking() / "x"))
    assert [(found.name, found.level, found.depends_on, found.pseudo_depends_on) for found in plan.steps] == [("a", 1, (), ()), ("k", 1, (), (0,))]
    assert plan.steps[1].config == "/p/a-d85366/x"


@pytest.mark.parametrize(
    ("prefix", "moved", "path"),
    [
        ("/p/", None, "/p/a-d85366"),
        ("memory://", None, "memory://a-d85366"),
        ("s3://b/", "x/y", "s3://b/x/y"),
        ("/", None, "/a-d85366"),
        ("/p", "/abs", "/abs"),
        ("/p", "gs://c/d", "gs://c/d"),
    ],
)
def test_output_paths(prefix, moved, path):
    """Relative paths are under the prefix, absolute ones and URLs are taken as they are, and no slash of a URL is lost."""
    ref = leaf("a").with_output_path(moved) if moved else leaf("a")
    found = target(ref, prefix=prefix)
    assert (found.output_path, found.override_output_path) == (path, moved)


def test_moving_twice_to_the_same_place_is_fine_and_goes_before_the_decorator():
    """with_output_path replaces override_output_path."""

    @step("k", override_output_path="from/decorator")
    def body():
        return run(None)

    assert target(body().with_output_path("mine").with_output_path("mine")).output_path == "/p/mine"


@pytest.mark.parametrize("make", [lambda: StepRef.hardcoded("x"), output])
@pytest.mark.parametrize("use", [lambda ref: ref.nonblocking(), lambda ref: ref.with_output_path("x")])
def test_references_without_a_step(make, use):
    """output() and hardcoded references have neither step nor override."""
    caught = []

    @step("k")
    def body():
        with pytest.raises(ValueError) as error:
            use(make())
        caught.append(error)

    body()
    assert len(caught) == 1


@pytest.mark.parametrize(
    "value", [lambda: versioned(1), lambda: leaf("a"), lambda: [{"x": versioned(1)}], lambda: Frozen(leaf("a")), lambda: StepRef.hardcoded("x")]
)
def test_versioned_refuses_placeholders(value):
    """Nesting versioned values or giving one a reference is a ValueError."""
    with pytest.raises(ValueError):
        versioned(value())


def test_references_are_immutable_values():
    """Equal references are equal and hash alike, copies are the same, and nothing pickles them."""
    a = leaf("a")
    assert a / "x" / "y" == a / "x/y"
    assert len({a / "x", a / Path("x"), a / versioned("x"), a.nonblocking() / "x"}) == 2
    assert StepRef.hardcoded("x") == StepRef.hardcoded("x") != StepRef.hardcoded("y")
    assert copy.deepcopy([a])[0] is a
    with pytest.raises(TypeError, match="can't be sent to a worker"):
        pickle.dumps(a)
    for wrong in ("/abs", "s3://x"):
        with pytest.raises(ValueError):
            a / wrong
    with pytest.raises(TypeError):
        a / 3
    with pytest.raises(TypeError):
        StepRef()


def test_an_exception_of_a_body_is_raised_as_itself():
    """It carries a note of the step and both places, once, however deep the call."""

    class Mine(Exception): ...

    error = Mine("mine")

    @step("inner/{n}")
    def inner(n):
        raise error

    @step("outer")
    def outer():
        inner(3)

    with pytest.raises(Mine) as caught:
        outer()
    assert caught.value is error
    (note,) = error.__notes__
    assert "'inner/3'" in note
    assert note.count(__file__) == 2
    assert deferred(lambda: "traced no more")() == "traced no more"


def test_arguments_that_do_not_fit_are_a_type_error():
    """A wrong call of a step is Python's own error, naming the step."""
    for call in (leaf, lambda: leaf("a", 1, 2), lambda: leaf("a", wrong=1), lambda: leaf("a", name="b")):
        with pytest.raises(TypeError, match=r"step '\{name\}': leaf\(\)"):
            call()


def test_arguments_bind_as_python_does():
    """Plain, variadic, keyword-only and positional-only parameters all reach templates and dependencies."""

    @step("{a}-{b}-{rest}-{c}-{more[x]}")
    def body(a, /, b=2, *rest, c=3, **more):
        return run(None)

    found = plan_of(body(1, 5, 6, 7, x=8))
    assert found.steps[0].name == "1-5-(6, 7)-3-8"

    @step("k")
    def variadic(*rest, **more):
        return run(None)

    assert len(plan_of(variadic(leaf("a"), x=leaf("b"))).steps) == 3


def test_resources_and_options_reach_the_plan():
    """Options stand in the step as they were checked."""

    @step("k", resources={"num_cpus": 2, "memory": "2GB", "tpu": 1, "runtime_env": {"pip": []}}, retries=2, timeout=1.5, verify=["test", "-d", "{output_path}"])
    def body():
        return run(None)

    found = target(body())
    assert (found.resources.num_cpus, found.resources.memory_bytes, found.resources.custom) == (2, 2_000_000_000, {"tpu": 1.0})
    assert found.resources.options == {"runtime_env": {"pip": []}}
    assert (found.retries, found.timeout_s, found.verify) == (2, 1.5, ("test", "-d", "{output_path}"))


def test_function_names_and_places():
    """fn_name is the function's own, also behind partial; where is the step function's line."""

    @step("k")
    def body():
        return deferred(functools.partial(work, 1))()

    found = target(body())
    assert found.fn_name == "work"
    assert found.where == f"{__file__}:{body.__wrapped__.__code__.co_firstlineno}"


def test_what_json_cannot_hold_is_recorded_by_repr():
    """Opaque objects, paths, NaN, big numbers and lone surrogates are recorded as text, without addresses."""
    found = target(leaf("k", {"o": object(), "p": Path("x"), "n": float("inf"), "i": 2**64, "s": "\ud800", "f": Frozen("y"), "set": {2, 1}}))
    assert found.recorded_config == {
        "o": "<object object>",
        "p": repr(Path("x")),
        "n": "inf",
        "i": str(2**64),
        "s": "\\ud800",
        "f": {"path": "y", "plain": []},
        "set": [1, 2],
    }
