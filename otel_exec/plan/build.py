"""From references to a `Plan`: merged, ordered, with levels and paths.

What comes in: the references of the steps that are wanted, and the prefix. What goes out: a frozen `Plan`, or one `PlanError` with every mistake of every target.
Pure; nothing here recurses, whatever the depth of the graph.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

from otel_exec.errors import Mistake, PlanError
from otel_exec.plan.graph import Plan, PlanWarning, Step
from otel_exec.plan.node import StepNode, show_place
from otel_exec.plan.paths import comparable, path_fault, under_prefix
from otel_exec.plan.recorded import differing_keys, to_json
from otel_exec.plan.refs import StepRef, join
from otel_exec.plan.walk import resolve
from otel_exec.secrets import mask

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

__all__ = ["build_plan"]


def build_plan(targets: Sequence[StepRef], *, prefix: str) -> Plan:
    """Return the plan of the steps that are wanted and of all they depend on.

    Args:
        targets: what step calls returned.
        prefix: where relative outputs lie: a folder or a URL.

    Raises:
        PlanError: all mistakes, of tracing and of the plan as a whole, in the order found.
    """
    mistakes: list[Mistake] = []
    wanted = [node for target in targets if (node := _target_node(target, mistakes)) is not None]
    nodes = _reachable(wanted)
    mistakes += _carried(wanted, nodes)
    if mistakes:
        raise PlanError(mistakes)
    build = _Build(nodes, prefix)
    build.merge()
    build.place()
    if build.mistakes:
        raise PlanError(build.mistakes)
    return build.plan(wanted)


def _target_node(target: object, mistakes: list[Mistake]) -> StepNode | None:
    if type(target) is StepRef and isinstance(target._target, StepNode):
        return target._target
    if type(target) is StepRef:
        mistakes.append(Mistake(f"{target!r} can't be run: no step makes it", hint="pass what a step call returned"))
    elif callable(target):
        name = getattr(target, "__name__", repr(target))
        mistakes.append(Mistake(f"{name!r} is a function and not a step's reference; did you forget the brackets?", hint=f"call it: {name}()"))
    else:
        mistakes.append(Mistake(f"{target!r} is no step's reference", hint="pass what step calls returned, as in steps=[run_all()]"))
    return None


def _reachable(wanted: Iterable[StepNode]) -> list[StepNode]:
    """Return the nodes that the wanted ones depend on, and themselves, upstreams first."""
    found = dict.fromkeys(wanted)
    stack = list(found)
    while stack:
        node = stack.pop()
        for below in (*node.blocking, *node.pseudo):
            if below not in found:
                found[below] = None
                stack.append(below)
    return sorted(found, key=lambda node: node.seq)


def _carried(wanted: list[StepNode], nodes: list[StepNode]) -> list[Mistake]:
    """Return the mistakes that tracing found, each once."""
    found: dict[tuple[str, str | None, str | None], Mistake] = {}
    for node in (*wanted, *nodes):
        for mistake in node.mistakes:
            found.setdefault((mistake.message, mistake.step, mistake.where), mistake)
    return list(found.values())


class _Build:
    """The stages of one build, in order: `merge`, `place`, `plan`.

    `steps` holds the node that stands for each identity, upstreams first; `calls` all nodes of it, the first one first; `index` is by md5.
    """

    def __init__(self, nodes: list[StepNode], prefix: str) -> None:
        self.nodes = nodes
        self.prefix = _without_slash(prefix)
        self.steps: list[StepNode] = []
        self.calls: list[list[StepNode]] = []
        self.index: dict[str, int] = {}
        self.paths: list[str | None] = []
        self.overrides: list[str | None] = []
        self.mistakes: list[Mistake] = []
        self.warnings: list[PlanWarning] = []

    def merge(self) -> None:
        """Make one step of the calls with equal identity. The order of `nodes` stays right: a step's dependencies come before its first call."""
        for node in self.nodes:
            known = self.index.get(node.version.md5)
            if known is None:
                self.index[node.version.md5] = len(self.steps)
                self.steps.append(node)
                self.calls.append([node])
                continue
            first = self.steps[known]
            self.calls[known].append(node)
            what = _conflict(first, node)
            if what:
                self._both(
                    first,
                    node,
                    f"is called twice with the same identity but {what}",
                    "make a versioned value or the name differ, or the two calls alike",
                )

    def place(self) -> None:
        """Find each step's output path and refuse collisions."""
        ids: dict[str, StepNode] = {}
        at: dict[str, StepNode] = {}
        for node, calls in zip(self.steps, self.calls, strict=True):
            node_id = _node_id(node)
            other = ids.setdefault(node_id, node)
            if other is not node:
                self._both(other, node, f"has another version with the same hash, {node_id!r}", "change a versioned value or the name of one of them")
            override = self._override(node, calls)
            self.overrides.append(override)
            if node.group:
                self.paths.append(None)
                continue
            path = under_prefix(self.prefix, override if override is not None else node_id)
            self.paths.append(path)
            other = at.setdefault(comparable(path), node)
            if other is not node and _node_id(other) != node_id:
                self._both(other, node, f"has the output path {path!r}, which is also that of step {other.name!r}", "give one of them another output path")

    def plan(self, wanted: list[StepNode]) -> Plan:
        """Return the plan, once nothing is wrong with it."""
        steps: list[Step] = []
        levels: list[int] = []
        trees: dict[str, dict[str, object]] = {}
        for index, node in enumerate(self.steps):
            blocking = self._indices(node.blocking)
            waited = set(blocking)
            pseudo = tuple(below for below in self._indices(node.pseudo) if below not in waited)
            before = max((levels[below] for below in blocking), default=0)
            levels.append(before if node.group else before + 1)
            config = None if node.group else resolve(node.recipe, functools.partial(self._path_of, node))
            recorded = None if node.group else to_json(config)
            if len(self.calls[index]) > 1:
                self._compare(index, recorded)
            steps.append(
                Step(
                    index=index,
                    node_id=_node_id(node),
                    name=node.name,
                    template=node.template,
                    fn=node.fn,
                    fn_name=node.fn_name,
                    config=config,
                    call_style=node.call_style,
                    recorded_config=mask(recorded),
                    recorded_version=node.version.recorded(trees),
                    output_path=self.paths[index],
                    depends_on=blocking,
                    pseudo_depends_on=pseudo,
                    level=None if node.group else levels[index],
                    description=node.description,
                    override_output_path=self.overrides[index],
                    resources=node.resources,
                    retries=node.retries,
                    timeout_s=node.timeout_s,
                    verify=node.verify,
                    where=show_place(node.defined),
                    members=blocking if node.group else (),
                    identity=node.version,
                ),
            )
        targets = tuple(dict.fromkeys(self.index[node.version.md5] for node in wanted))
        return Plan(tuple(steps), targets, self.prefix, max(levels, default=0), tuple(self.warnings))

    def _indices(self, nodes: tuple[StepNode, ...]) -> tuple[int, ...]:
        return tuple(dict.fromkeys(self.index[node.version.md5] for node in nodes))

    def _override(self, node: StepNode, calls: list[StepNode]) -> str | None:
        """Return where the step's output was moved to. `with_output_path` goes before the decorator's own."""
        moved = [move for call in calls for move in call.moved]
        given = moved or [(call.override, call.place) for call in calls if call.override is not None]
        if not given:
            return None
        path, place = given[0]
        where = show_place(place)
        for other, other_place in given[1:]:
            if other != path:
                self.mistakes.append(
                    Mistake(
                        f"its output is moved to {path!r} and to {other!r} ({show_place(other_place)})",
                        step=node.name,
                        where=where,
                        hint="keep one of the two paths",
                    ),
                )
        fault = path_fault(path) if moved else None
        if fault:
            self.mistakes.append(
                Mistake(f"the output path {path!r} {fault}", step=node.name, where=where, hint="give a path below the prefix, an absolute one or a URL"),
            )
        if node.group:
            self.mistakes.append(
                Mistake("a group step has no output to move", step=node.name, where=where, hint="move the output of a step that it groups"),
            )
        return path

    def _path_of(self, node: StepNode, ref: StepRef) -> str:
        """Return the path of a reference in the config of `node`."""
        sub = ref._sub
        target = ref._target
        if type(target) is str:
            return join(under_prefix(self.prefix, target), sub)
        if not isinstance(target, StepNode):
            target = node
        while target.alias is not None:
            sub = join(target.alias._sub, sub)
            target = target.alias._target
            assert isinstance(target, StepNode)
        path = self.paths[self.index[target.version.md5]]
        assert path is not None
        return join(path, sub)

    def _compare(self, index: int, recorded: Any) -> None:
        """Warn where calls that became one step differ in what is no part of the identity."""
        first, *others = self.calls[index]
        for other in others:
            fields = [] if first.group else differing_keys(recorded, to_json(resolve(other.recipe, functools.partial(self._path_of, other))))
            for option in ("description", "retries", "timeout_s", "verify"):
                if getattr(first, option) != getattr(other, option):
                    fields.append(option.removesuffix("_s"))
            if fields:
                self.warnings.append(
                    PlanWarning(
                        "unversioned_config_differs",
                        f"step {first.name!r} is called at {show_place(first.place)} and at {show_place(other.place)} with the same identity and different values of "
                        f"{', '.join(fields)}; the first call's are used",
                    ),
                )

    def _both(self, first: StepNode, second: StepNode, message: str, hint: str) -> None:
        """Take down a mistake of two calls, naming both places."""
        places = f"{message} (calls at {show_place(first.place)} and {show_place(second.place)})"
        self.mistakes.append(Mistake(places, step=second.name, where=show_place(second.place), hint=hint))


def _node_id(node: StepNode) -> str:
    return f"{node.name}-{node.version.hash}"


def _without_slash(prefix: str) -> str:
    stripped = prefix.rstrip("/")
    return prefix if stripped.endswith(":") or not stripped else stripped


def _conflict(first: StepNode, second: StepNode) -> str | None:
    """Return what keeps two calls of equal identity from being one step."""
    if not _same_function(first.fn, second.fn):
        return f"with another function, {first.fn_name or 'none (a group)'} and {second.fn_name or 'none (a group)'}"
    if first.group and _path_owner(first) != _path_owner(second):
        return "as another name for another step"
    return None if first.resources == second.resources else "with other resources"


def _path_owner(node: StepNode) -> tuple[str, str]:
    sub = ""
    while node.alias is not None:
        sub = join(node.alias._sub, sub)
        assert isinstance(node.alias._target, StepNode)
        node = node.alias._target
        if node.alias is None:
            return node.version.md5, sub
    return "", ""


def _same_function(first: Callable[..., object] | None, second: Callable[..., object] | None) -> bool:
    """Return whether two functions do the same: a function defined in a step body is another object at each call of it."""
    if first is second:
        return True
    if isinstance(first, functools.partial) and isinstance(second, functools.partial):
        return _same_function(first.func, second.func) and _equal((first.args, first.keywords), (second.args, second.keywords))
    code, other = getattr(first, "__code__", None), getattr(second, "__code__", None)
    if code is None or other is None:
        return _equal(first, second)
    return code == other and all(
        _equal(getattr(first, name, None), getattr(second, name, None)) for name in ("__closure__", "__defaults__", "__kwdefaults__", "__self__", "__module__")
    )


def _equal(first: object, second: object) -> bool:
    try:
        return bool(first == second)
    except Exception:  # arrays and the like have no single answer
        return False
