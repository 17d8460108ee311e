"""Identities: golden values, keys, indices, the 64 KiB rule."""

from __future__ import annotations

import hashlib
import json
import weakref
from dataclasses import dataclass
from typing import NamedTuple

import pytest

from otel_exec.plan.build import build_plan
from otel_exec.plan.identity import NESTED_LIMIT_BYTES, ConfigEntry, Version, encode_value
from otel_exec.plan.refs import StepRef, versioned
from otel_exec.plan.step import deferred, output, step


def work(config: object) -> None: ...


run = deferred(work)


@step("{name}")
def leaf(name, config=None):
    return run(config)


def step_of(ref):
    plan = build_plan([ref], prefix="/p")
    return plan.steps[plan.targets[0]]


def version_of(ref):
    return step_of(ref).recorded_version


@dataclass
class Inputs:
    input_path: object
    n: object = 3


def test_golden_value_of_a_bare_step():
    """A step without config and dependencies has the hash that existing outputs carry."""
    assert step_of(leaf("a")).node_id == "a-d85366"


def test_golden_value_of_a_step_with_a_dependency():
    """A sub-path of a reference and a versioned value give the hash that existing outputs carry."""
    assert step_of(leaf("b", Inputs(leaf("a") / "sub", versioned(3)))).node_id == "b-c5c1bd"


def test_golden_value_of_a_pseudo_dependency():
    """A non-blocking reference counts for the hash as a pseudo dependency."""
    parent = leaf("parent", {"x": versioned(1)})
    assert step_of(leaf("child", {"input_path": parent.nonblocking() / "dummy"})).node_id == "child-578478"


def test_version_is_what_is_hashed():
    """The md5 of the recorded version's JSON begins with the hash, and output paths end with it."""
    found = step_of(leaf("b", Inputs(leaf("a"), versioned([1, {"k": None}]))))
    digest = hashlib.md5(json.dumps(found.recorded_version, sort_keys=True).encode()).hexdigest()
    assert found.node_id == f"b-{digest[:6]}"
    assert found.output_path == f"/p/b-{digest[:6]}"
    assert found.version_json == json.dumps(found.recorded_version, sort_keys=True).encode()


def test_keys_are_dotted_paths():
    """Fields, dict keys, list, tuple and set elements make the keys; plain values, output() and untouched parts are absent."""

    class Pair(NamedTuple):
        left: object
        right: object

    config = {
        "d": {"x": versioned(1), "plain": 2},
        "l": [0, versioned(2), {"y": [versioned("s")]}],
        "t": (versioned(None),),
        "p": Pair(versioned(4), 5),
        "s": {versioned(9), versioned(10)},
        "h": StepRef.hardcoded("data/raw") / "x",
    }
    assert version_of(leaf("k", config))["config"] == {
        "d.x": 1,
        "l.[1]": 2,
        "l.[2].y.[0]": "s",
        "t.[0]": None,
        "p.[0]": 4,
        "s.[0]": 9,
        "s.[1]": 10,
        "h": "data/raw/x",
    }


def test_a_list_as_the_whole_config_has_keys_without_a_dot():
    """Keys at the root begin with the bracket."""
    assert version_of(leaf("k", [versioned(1)]))["config"] == {"[0]": 1}


def test_a_bare_reference_has_the_empty_key():
    """A reference that is the whole config stands under ""."""
    assert version_of(leaf("k", leaf("a")))["config"] == {"": "DEP[0]"}


def test_output_is_absent():
    """output() says nothing about what a step is."""

    @step("k")
    def own():
        return run({"a": output(), "b": output("sub")})

    assert version_of(own())["config"] == {}


def test_one_running_index_over_both_kinds_of_reference():
    """Indices run over blocking and non-blocking references in the order found, and count a step each time."""
    a, b = leaf("a"), leaf("b")
    version = version_of(leaf("k", [a, b.nonblocking(), a / "x", b.nonblocking() / "y"]))
    assert version["config"] == {"[0]": "DEP[0]", "[1]": "DEP[1]", "[2]": "DEP[2]/x", "[3]": "DEP[3]/y"}
    assert [v["name"] for v in version["dependencies"]] == ["a", "a"]
    assert [v["name"] for v in version["pseudo_dependencies"]] == ["b", "b"]


def test_arguments_come_after_the_config_and_calls_after_arguments():
    """Steps found in bound arguments alone follow those of the config, steps only called follow them, none repeating one listed."""

    @step("k")
    def many(first, second):
        leaf("called")
        leaf("b")
        return run({"x": second["deep"][0]})

    names = [v["name"] for v in version_of(many([leaf("b"), leaf("c")], {"deep": (leaf("a"),)}))["dependencies"]]
    assert names == ["a", "b", "c", "called"]


def test_nonblocking_reference_replaces_the_call_of_its_own_body():
    """A step called in the body and referred to without blocking is a pseudo dependency alone."""

    @step("k")
    def body():
        return run({"x": leaf("a").nonblocking()})

    found = step_of(body())
    assert found.recorded_version["dependencies"] == []
    assert found.depends_on == ()
    assert found.pseudo_depends_on == (0,)


def test_nonblocking_in_config_replaces_a_blocking_argument():
    """What the config says of a step goes before the edge of an argument."""

    @step("k")
    def body(model):
        return run({"x": model.nonblocking()})

    assert step_of(body(leaf("a"))).pseudo_depends_on == (0,)


def test_a_step_in_both_lists_is_waited_for():
    """Two references to a step, one of them blocking, are a blocking edge; both stand in the version."""
    a = leaf("a")
    found = step_of(leaf("k", [a.nonblocking(), a]))
    assert (found.depends_on, found.pseudo_depends_on) == ((0,), ())
    assert len(found.recorded_version["dependencies"]) == len(found.recorded_version["pseudo_dependencies"]) == 1


def test_a_group_keeps_the_edge_to_what_it_called():
    """In m = train(); evaluate(m.nonblocking()) both are members of the group."""

    @step("g")
    def group():
        m = leaf("train")
        leaf("evaluate", {"m": m.nonblocking()})

    plan = build_plan([group()], prefix="/p")
    assert [plan.steps[i].name for i in plan.steps[plan.targets[0]].members] == ["train", "evaluate"]
    assert plan.steps[1].depends_on == ()


def test_function_resources_prefix_and_plain_values_do_not_count():
    """Other functions, resources, prefixes and unversioned values leave the identity as it is."""

    def other(config): ...

    @step("a", resources={"num_cpus": 2}, retries=3)
    def richer():
        return deferred(other)({"plain": 1})

    assert step_of(richer()).node_id == step_of(leaf("a")).node_id
    assert build_plan([leaf("a")], prefix="s3://bucket").steps[0].output_path == "s3://bucket/a-d85366"


def test_with_output_path_does_not_count():
    """Moving an output leaves its own identity and those of its consumers."""
    before = step_of(leaf("k", leaf("a"))).node_id
    assert step_of(leaf("k", leaf("a").with_output_path("elsewhere"))).node_id == before


def test_several_arguments_are_keyed_by_parameter():
    """Several arguments make a config keyed by parameter name in the order of the parameters, however they were passed."""

    def fn(a, b, *, c=0): ...

    @step("k")
    def body():
        return deferred(fn)(c=versioned(3), b=leaf("b"), a=leaf("a"))

    version = version_of(body())
    assert version["config"] == {"a": "DEP[0]", "b": "DEP[1]", "c": 3}


def test_past_64_kib_dependencies_are_given_by_their_md5():
    """Where the JSON would pass 64 KiB each dependency is {"md5": ...}, and one byte less keeps it nested."""
    text = '{"config": {"x": "%s"}, "dependencies": [{"config": {}, "dependencies": [], "name": "a"}], "name": "k"}'
    room = NESTED_LIMIT_BYTES - len(text % "")

    @step("k")
    def sized(size, dependency):
        return run({"x": versioned("y" * size)})

    exact = step_of(sized(room, leaf("a")))
    assert len(exact.version_json) == NESTED_LIMIT_BYTES
    assert exact.recorded_version["dependencies"] == [{"config": {}, "dependencies": [], "name": "a"}]
    beyond = step_of(sized(room + 1, leaf("a")))
    md5 = hashlib.md5(b'{"config": {}, "dependencies": [], "name": "a"}').hexdigest()
    assert beyond.recorded_version["dependencies"] == [{"md5": md5}]
    assert beyond.node_id == f"k-{hashlib.md5(json.dumps(beyond.recorded_version, sort_keys=True).encode()).hexdigest()[:6]}"


def test_values_that_json_only_nearly_holds_are_hashed_exactly_and_recorded_strictly():
    """NaN counts as json.dumps writes it and is recorded as text, so that records stay JSON."""
    found = step_of(leaf("k", {"x": versioned(float("nan"))}))
    hashed = json.dumps({"name": "k", "config": {"x": float("nan")}, "dependencies": []}, sort_keys=True)
    assert found.node_id.endswith(hashlib.md5(hashed.encode()).hexdigest()[:6])
    assert json.loads(found.version_json)["config"] == {"x": "nan"}


def test_secrets_count_and_are_masked():
    """A versioned secret changes the hash, and neither it nor what holds it is in anything that is recorded."""
    first = step_of(leaf("k", {"api_key": versioned("hunter2"), "db": {"password": "pw", "user": "u"}, "credentials": {"a": versioned("tiger")}}))
    other = step_of(leaf("k", {"api_key": versioned("hunter3"), "db": {"password": "pw", "user": "u"}, "credentials": {"a": versioned("tiger")}}))
    assert first.node_id != other.node_id
    assert first.config["api_key"] == "hunter2"
    assert first.recorded_config == {"api_key": "***", "db": {"password": "***", "user": "u"}, "credentials": "***"}
    assert first.recorded_version["config"] == {"api_key": "***", "credentials.a": "***"}
    above = step_of(leaf("above", leaf("k", {"api_key": versioned("hunter2")})))
    for text in (first.version_json.decode(), above.version_json.decode(), json.dumps(above.recorded_version)):
        assert "hunter" not in text
        assert "tiger" not in text
    assert json.loads(above.version_json) == above.recorded_version


def test_texts_are_put_together_again_after_they_were_let_go(monkeypatch):
    """Letting go of kept texts changes no version's JSON, masked or not."""
    monkeypatch.setattr("otel_exec.plan.identity._KEPT_BYTES", 0)
    chain = [Version("n0", {"token": ConfigEntry(encode_value("s"), "***")})]
    for depth in range(1, 300):
        chain.append(Version(f"n{depth}", {}, [chain[-1]], [chain[0]] if depth % 7 == 0 else []))
    known: dict[str, dict[str, object]] = {}
    for version in chain:
        version.recorded(known)
    for version in chain[::-17]:
        assert hashlib.md5(version.text()).hexdigest() == version.md5
        assert json.loads(version.recorded_text()) == known[version.md5]
        assert len(version.text()) == version.size


def test_a_chain_of_5000_by_references():
    """A chain built in a loop works without recursion and each version stays near 64 KiB."""
    ref = leaf("n")
    for index in range(4999):
        ref = leaf(f"n{index}", {"x": ref / "y"})
    plan = build_plan([ref], prefix="/p")
    assert (len(plan.steps), plan.levels) == (5000, 5000)
    assert max(len(found.version_json) for found in plan.steps) <= NESTED_LIMIT_BYTES


@pytest.mark.parametrize("value", [{1}, b"x", object(), {(1, 2): 3}, {"a": 1, 2: 3}])
def test_a_versioned_value_that_json_cannot_hold_is_a_mistake(value):
    """The mistake names the key, the step and the place."""
    from otel_exec.errors import PlanError

    with pytest.raises(PlanError) as caught:
        build_plan([leaf("k", {"deep": [versioned(value)]})], prefix="/p")
    (mistake,) = caught.value.mistakes
    assert mistake.step == "k"
    assert "'deep.[0]'" in mistake.message
    assert mistake.where.startswith(__file__)


def test_what_is_kept_of_a_plan_goes_with_it():
    """Texts are kept for the steps that come next; a plan that nobody has any more is not held by them."""
    version = Version("a", {"x": ConfigEntry("1", 1)})
    assert version.text()
    gone = weakref.ref(version)
    del version
    assert gone() is None
