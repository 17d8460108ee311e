"""Mistakes: each names step, place and way out; all are found at once."""

from __future__ import annotations

import functools
import os
import pickle
import warnings

import pytest

from otel_exec.errors import PlanError
from otel_exec.plan import identity
from otel_exec.plan.build import build_plan
from otel_exec.plan.refs import StepRef, versioned
from otel_exec.plan.step import deferred, output, step


def work(config): ...


run = deferred(work)


@step("{name}")
def leaf(name, config=None):
    return run(config)


def mistakes_of(*refs):
    with pytest.raises(PlanError) as caught:
        build_plan(list(refs), prefix="/p")
    for mistake in caught.value.mistakes:
        assert mistake.hint
    return caught.value.mistakes


def only(*refs):
    (mistake,) = mistakes_of(*refs)
    assert mistake.where.startswith(f"{__file__}:")
    return mistake


def body_of(function, **options):
    return step(options.pop("name", "k"), **options)(function)


@pytest.mark.parametrize("value", [3, "text", [], {}, versioned(1), object()])
def test_a_body_that_returns_something_else(value):
    """A body returns a deferred call, a step's reference or None."""
    mistake = only(body_of(lambda: value)())
    assert mistake.step == "k"
    assert "neither a deferred call nor a step's reference nor None" in mistake.message


@pytest.mark.parametrize("make", [output, lambda: StepRef.hardcoded("x")])
def test_a_body_that_returns_a_reference_without_a_step(make):
    """output() and hardcoded references have no step to be another name for."""

    def body():
        return make()

    assert "neither a deferred call" in only(body_of(body)()).message


def test_an_async_body():
    """A body that is a coroutine is told to be plain, and leaves no warning of Python's about it."""

    async def body():
        return run(None)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert "plain function" in only(body_of(body)()).hint


def test_a_deferred_call_that_is_not_returned():
    """It would never run; the place is that of the call."""

    def body():
        run(1)
        run(2)
        return run(3)

    first, second = mistakes_of(body_of(body)())
    line = body.__code__.co_firstlineno
    assert (first.where, second.where) == (f"{__file__}:{line + 1}", f"{__file__}:{line + 2}")
    assert "work(...) and does not return it" in first.message


def test_a_deferred_call_in_a_group_or_a_config():
    """A call beside None, or one nested in another's config, is not returned either."""
    assert "does not return it" in only(body_of(lambda: run(1) and None)()).message
    assert "does not return it" in only(body_of(lambda: run({"x": run(1)}))()).message


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("a/{nmae}", "unknown placeholder 'nmae'; did you mean 'name'? (known: config, name)"),
        ("a/{}", "placeholders have names"),
        ("a/{name", "can't be formatted"),
        ("a/{name:03d}", "can't be formatted"),
        ("a/{name.nope}", "no attribute 'nope'"),
        ("a/{config[key]}", "there is no 'key' in an argument"),
    ],
)
@pytest.mark.parametrize("option", ["name", "description", "override_output_path"])
def test_templates(template, said, option):
    """A template that can't be filled says what it knows, whichever template it is."""

    def body(name, config):
        return run(None)

    options = {"name": "k", option: template}
    mistake = only(step(**options)(body)("n", {}))
    assert said in mistake.message
    assert f"its {option}" in mistake.message


@pytest.mark.parametrize("template", ["a/{ref}", "a/{refs}", "a/{refs[0]}", "a/{refs[0]!r}", "a/{width:{ref}}"])
def test_a_reference_in_a_template(template):
    """A reference has no text yet, not even by repr or inside a list."""

    def body(ref, refs, width=3):
        return run(None)

    mistake = only(step(template)(body)(leaf("a"), [leaf("b")]))
    assert "reference" in mistake.message or "as text" in mistake.message


@pytest.mark.parametrize("use", [str, lambda ref: f"{ref}/x", os.fspath, lambda ref: os.path.join(ref, "x")])
def test_a_reference_as_text(use):
    """A reference that a body turns into text is a mistake of that line; the rest of the plan is looked at too."""

    def body():
        use(leaf("a"))

    def group():
        body_of(body)()
        body_of(lambda: 3, name="other")()

    first, second = mistakes_of(body_of(group, name="g")())
    assert "used as text" in first.message
    assert first.where.split(":")[-1].isdigit()
    assert second.step == "other"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("", "is empty"),
        ("/abs", "is an absolute path"),
        ("a//b", "empty component"),
        ("a/", "empty component"),
        ("a/../b", "'..'"),
        ("./a", "'.'"),
        ("a\0b", "NUL"),
        ("a\nb", "control character"),
        ("a\ud800", "surrogate"),
        ("x" * 249, "file systems hold 248"),
        ("ä" * 130 + "/b", "file systems hold 255"),
        (".otel_exec/x", "records of runs"),
        ("s3://b", "empty component"),
    ],
)
def test_names_that_a_path_cannot_hold(name, said):
    """Such a name is refused at the place of the call."""
    mistake = only(leaf(name))
    assert said in mistake.message


@pytest.mark.parametrize("name", ["x" * 248, "ä/ö", "a b", "x" * 255 + "/y"])
def test_names_that_a_path_can_hold(name):
    """Everything else is fine, up to the last byte."""
    assert len(build_plan([leaf(name)], prefix="/p").steps) == 1


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"resources": {"num_cpu": 1}}, "did you mean 'num_cpus'"),
        ({"resources": {"num_cpus": -1}}, "num_cpus=-1 is no amount"),
        ({"resources": {"num_gpus": True}}, "is no amount"),
        ({"resources": {"tpu": "many"}}, "is no amount"),
        ({"resources": {"memory": "lots"}}, "memory='lots'"),
        ({"resources": {"memory": -5}}, "memory=-5"),
        ({"resources": {"num_cpus": float("nan")}}, "is no amount"),
        ({"resources": [1]}, "no mapping"),
        ({"retries": -1}, "retries=-1"),
        ({"retries": 1.5}, "retries=1.5"),
        ({"timeout": 0}, "timeout=0"),
        ({"timeout": "1m"}, "timeout='1m'"),
        ({"verify": []}, "verify=[]"),
        ({"verify": "test {path}"}, "unknown placeholder 'path' (known: output_path)"),
        ({"verify": ["a", 3]}, "is no check"),
        ({"verify": "sh check.sh; echo done"}, "verify is not run by a shell, so 'check.sh;' would be passed to the command as a word"),
        ({"verify": "test 'a"}, "no closing quotation"),
        ({"verify": ["test", "{output_path:d}"]}, "can't be formatted"),
        ({"override_output_path": "../up"}, "'..'"),
        ({"override_output_path": "."}, "is the prefix itself"),
    ],
)
def test_options(options, said):
    """A wrong option is a mistake of the step, not an error at import."""
    assert said in only(body_of(lambda: run(None), **options)()).message


@pytest.mark.parametrize(("text", "size"), [("2GB", 2 * 10**9), ("1.5 GiB", 3 * 2**29), ("512M", 512 * 10**6), ("10b", 10), (7, 7), ("3Ti", 3 * 2**40)])
def test_memory_texts(text, size):
    """Memory is bytes or text with decimal or binary units."""
    assert build_plan([body_of(lambda: run(None), resources={"memory": text})()], prefix="/p").steps[0].resources.memory_bytes == size


def test_the_path_of_a_group():
    """A group has no output to refer to or to move; depending on it is fine."""
    group = body_of(lambda: None, name="g")
    assert "refers to the path of 'g', a group step" in only(leaf("k", group() / "x")).message
    assert "no output to move" in only(group().with_output_path("x")).message


def test_two_output_paths_for_a_step():
    """Two different ones are a mistake, also by two calls that are one step."""
    assert "'x' and to 'y'" in only(leaf("a").with_output_path("x").with_output_path("y")).message
    assert "'x' and to 'y'" in only(leaf("a").with_output_path("x"), leaf("a").with_output_path("y")).message


def test_output_paths_that_collide():
    """Two steps at one place name both places, however the place is spelt."""
    mistake = only(leaf("a").with_output_path("x"), leaf("b").with_output_path("/p/./x/"))
    assert "also that of step 'a'" in mistake.message
    assert mistake.message.count(__file__) == 2


def test_two_versions_with_one_hash(monkeypatch):
    """Versions that share the short hash are never reused silently."""
    monkeypatch.setattr(identity, "HASH_LENGTH", 0)
    mistake = only(leaf("a", versioned(1)), leaf("a", versioned(2)))
    assert "another version with the same hash" in mistake.message


def test_equal_identity_with_another_function_or_resources():
    """Both calls are named."""

    def other(config): ...

    first = leaf("a")
    function = only(first, body_of(lambda: deferred(other)(None), name="a")())
    assert "with another function, work and other" in function.message
    assert function.message.count(__file__) == 2
    assert "with other resources" in only(first, body_of(lambda: run(None), name="a", resources={"num_cpus": 1})()).message
    assert "with another function" in only(first, body_of(lambda: None, name="a")()).message


def test_one_name_for_two_steps():
    """Two names with equal identity that stand for different steps, or paths, are a mistake; equal ones merge."""
    a, b = leaf("a"), leaf("b")

    @step("best")
    def best(models, which):
        return models[which] / "x"

    assert "another name for another step" in only(best([a, b], 0), best([a, b], 1)).message
    assert len(build_plan([best([a, b], 0), best([a, b], 0)], prefix="/p").steps) == 3


def test_partial_functions_are_compared_by_what_they_do():
    """Partials of one function with equal arguments are the same function, others are not."""

    def call(n):
        part = deferred(functools.partial(work, n))
        return body_of(lambda: part(), name="k")()  # noqa: PLW0108  the body is to make the call

    assert len(build_plan([call(1), call(1)], prefix="/p").steps) == 1
    assert "with another function" in only(call(1), call(2)).message


def test_a_cycle_has_its_path():
    """output() of a step whose body still runs, given to a step that it calls, is a cycle."""

    def outer():
        body_of(lambda: leaf("inner", {"x": mine}), name="middle")()

    def start():
        global mine
        mine = output("x")
        outer()

    mistake = only(body_of(start, name="outer")())
    assert mistake.step == "inner"
    assert "a cycle: outer -> middle -> inner -> outer" in mistake.message


def test_output_of_a_step_that_has_ended():
    """output() kept past its body belongs to no one: the reference of the call is meant."""
    kept = []

    def body():
        kept.append(output())
        return run(None)

    body_of(body, name="first")()
    assert "output() of 'first', whose body has ended" in only(leaf("k", kept[0])).message


def test_configs_that_cannot_be_walked():
    """A config that holds itself, keys that are no text, keys that meet, and endless depth are mistakes."""
    cyclic: dict[str, object] = {}
    cyclic["self"] = [cyclic]
    deep: list[object] = []
    for _ in range(20_000):
        deep = [deep]
    assert "contains itself at 'self.[0]'" in only(leaf("k", cyclic)).message
    assert "has the key 1 at 'a'" in only(leaf("k", {"a": {1: versioned(2)}})).message
    assert "identity key 'a.b'" in only(leaf("k", {"a.b": versioned(1), "a": {"b": versioned(2)}})).message
    assert "nests deeper" in only(leaf("k", deep)).message


def test_several_arguments_without_names():
    """Arguments that a worker could not pass by name are a mistake."""

    def variadic(*args): ...

    assert "several arguments that have no names" in only(body_of(lambda: deferred(variadic)(1, 2))()).message


def test_an_outermost_call_raises_nothing_and_any_use_of_its_reference_does():
    """The reference carries all mistakes below it; building, joining, formatting, copying to a step and moving raise them together."""

    def group():
        body_of(lambda: 1, name="one")()
        body_of(lambda: 2, name="two")()

    ref = body_of(group, name="g")()
    uses = [
        lambda: ref / "x",
        lambda: str(ref),
        lambda: f"{ref}",
        ref.nonblocking,
        lambda: ref.with_output_path("x"),
        lambda: leaf("k", {"deep": [ref]}),
        lambda: build_plan([ref], prefix="/p"),
    ]
    for use in uses:
        with pytest.raises(PlanError) as caught:
            use()
        assert [mistake.step for mistake in caught.value.mistakes] == ["one", "two"]
    assert "g" in repr(ref)


def test_mistakes_of_all_targets_come_together():
    """One PlanError has them all, each once, and survives pickling."""
    bad = body_of(lambda: 1, name="bad")()
    with pytest.raises(PlanError) as caught:
        build_plan([bad, leaf("ok"), body_of(lambda: 2, name="worse")(), bad], prefix="/p")
    again = pickle.loads(pickle.dumps(caught.value))
    assert [mistake.step for mistake in again.mistakes] == ["bad", "worse"]


@pytest.mark.parametrize(("target", "hint"), [(leaf, "leaf()"), (None, "run_all()"), (StepRef.hardcoded("x"), "step call")])
def test_targets_that_are_no_steps(target, hint):
    """A function without its brackets is the likely one."""
    (mistake,) = mistakes_of(target)
    assert hint in mistake.hint


def test_step_without_brackets():
    """@step without a name guesses what was forgotten."""
    with pytest.raises(TypeError, match="did you forget the brackets"):
        step(work)
