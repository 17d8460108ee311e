"""Random graphs of steps: order, levels, identity."""

from __future__ import annotations

import hashlib
import json
import pickle

from hypothesis import given, settings
from hypothesis import strategies as st

from otel_exec.plan import identity
from otel_exec.plan.build import build_plan
from otel_exec.plan.identity import ConfigEntry, Version, encode_value
from otel_exec.plan.refs import versioned
from otel_exec.plan.step import deferred, step


def work(config): ...


run = deferred(work)


@step("n{name}")
def node(name, value, plain, blocking, pseudo, implied):
    return run({"value": versioned(value), "plain": plain, "in": [ref / "x" for ref in blocking], "loose": [ref.nonblocking() for ref in pseudo]})


@step("g{name}")
def group(name, members):
    return None


# For each node: a versioned value, whether it is a group, and what it says of each earlier node.
edges = st.sampled_from(["", "", "", "blocking", "pseudo", "implied"])
graphs = st.integers(1, 12).flatmap(
    lambda size: st.tuples(
        *[st.tuples(st.integers(0, 3), st.integers(0, 5).map(lambda n: n == 0), st.lists(edges, min_size=n, max_size=n)) for n in range(size)]
    ),
)


def build(graph, *, prefix="/p", plain=0, changed=None):
    refs = []
    for place, (value, is_group, said) in enumerate(graph):
        by = {kind: [refs[other] for other, what in enumerate(said) if what == kind] for kind in ("blocking", "pseudo", "implied")}
        if is_group:
            refs.append(group(place, [*by["blocking"], *by["implied"]]))
            continue
        # A group has no path: what would refer to it depends on it by an argument alone.
        with_path = {kind: [ref for ref in by[kind] if not graph[refs.index(ref)][1]] for kind in ("blocking", "pseudo")}
        implied = [*by["implied"], *(ref for ref in by["blocking"] if ref not in with_path["blocking"])]
        refs.append(node(place, value + 10 if place == changed else value, plain, with_path["blocking"], with_path["pseudo"], implied))
    return build_plan(refs, prefix=prefix)


@given(graphs)
@settings(max_examples=150, deadline=None)
def test_a_plan_is_topological_and_levels_are_generations(graph):
    """Upstreams come first, each step is there once, and a step's level is one more than the longest chain of steps before it, groups seen through."""
    plan = build(graph)
    assert len({found.node_id for found in plan.steps}) == len(plan.steps) == len(graph)
    upstream = plan.upstream()
    waiting = {found.index: set(upstream[found.index]) for found in plan.steps if not found.group}
    for found in plan.steps:
        assert all(below < found.index for below in (*found.depends_on, *found.pseudo_depends_on))
        assert not set(found.depends_on) & set(found.pseudo_depends_on)
        assert (found.level is None) == found.group == (found.output_path is None)
    generation = 0
    while waiting:  # Kahn's algorithm, a generation at a time
        generation += 1
        ready = {index for index, upstreams in waiting.items() if not upstreams}
        assert {plan.steps[index].level for index in ready} == {generation}
        waiting = {index: upstreams - ready for index, upstreams in waiting.items() if index not in ready}
    assert plan.levels == generation


@given(graphs)
@settings(max_examples=60, deadline=None)
def test_identity_does_not_depend_on_prefix_and_plain_values(graph):
    """Another prefix and other unversioned values leave every node id."""
    ids = [found.node_id for found in build(graph).steps]
    assert [found.node_id for found in build(graph, prefix="s3://bucket/x", plain="other").steps] == ids


@given(graphs, st.data())
@settings(max_examples=100, deadline=None)
def test_identity_depends_on_versioned_values_and_on_upstreams(graph, data):
    """A changed versioned value changes the identity of that step and of exactly those that depend on it, by any kind of edge."""
    places = [place for place, (_, is_group, _) in enumerate(graph) if not is_group]
    if not places:
        return
    changed = data.draw(st.sampled_from(places))
    before, after = build(graph), build(graph, changed=changed)
    name = f"n{changed}"
    touched = {found.index for found in before.steps if found.name == name}
    for found in before.steps:
        if touched & {*found.depends_on, *found.pseudo_depends_on}:
            touched.add(found.index)
    differ = {old.index for old, new in zip(before.steps, after.steps, strict=True) if old.identity.md5 != new.identity.md5}
    assert differ == touched


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
versions = st.lists(
    st.tuples(
        st.text(max_size=8),
        st.dictionaries(st.text(max_size=6), json_values, max_size=3),
        st.lists(st.integers(0), max_size=3),
        st.lists(st.integers(0), max_size=2),
    ),
    min_size=1,
    max_size=8,
)


@given(versions, st.sampled_from([0, 60, 200, 1000, 64 * 1024]))
@settings(max_examples=150, deadline=None)
def test_identity_is_the_naive_definition(specs, limit):
    """The text put together from pieces is json.dumps(version, sort_keys=True) byte for byte, at any limit of nesting."""
    kept, identity.NESTED_LIMIT_BYTES = identity.NESTED_LIMIT_BYTES, limit
    try:
        made: list[Version] = []
        naive: list[dict[str, object]] = []
        for name, config, said_below, said_loose in specs:
            below = [index % len(made) for index in said_below] if made else []
            loose = [index % len(made) for index in said_loose] if made else []
            entries = {key: ConfigEntry(encode_value(value), value) for key, value in config.items()}
            made.append(Version(name, entries, [made[index] for index in below], [made[index] for index in loose]))
            naive.append(_naive(name, config, [naive[index] for index in below], [naive[index] for index in loose], limit))
            text = json.dumps(naive[-1], sort_keys=True).encode()
            assert made[-1].text() == text
            assert made[-1].md5 == hashlib.md5(text).hexdigest()
            assert made[-1].size == len(text)
    finally:
        identity.NESTED_LIMIT_BYTES = kept


def _naive(name, config, below, loose, limit):
    version = {"name": name, "config": config, "dependencies": below}
    if loose:
        version["pseudo_dependencies"] = loose
    if len(json.dumps(version, sort_keys=True)) > limit:
        for key in {"dependencies", "pseudo_dependencies"} & version.keys():
            version[key] = [{"md5": hashlib.md5(json.dumps(one, sort_keys=True).encode()).hexdigest()} for one in version[key]]
    return version


@given(graphs)
@settings(max_examples=30, deadline=None)
def test_configs_hold_no_placeholder(graph):
    """What the functions receive pickles, which no reference does."""
    for found in build(graph).steps:
        assert pickle.loads(pickle.dumps(found.config)) == found.config
