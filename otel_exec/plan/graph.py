"""The plan: what a traced experiment came to, frozen.

What comes in: nothing but values. What goes out: `Plan`, read by every room below. Never touches files, clocks or the user's data.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from otel_exec.plan.identity import Version

__all__ = ["Plan", "PlanWarning", "Resources", "Step"]


@dataclass(frozen=True, slots=True)
class Resources:
    """What a step asks for while it runs.

    Units: `num_cpus` and `num_gpus` in processors, `memory_bytes` in bytes, `custom` in whatever the name counts.
    `None` means the step did not say. `options` are those that only a cluster understands (`runtime_env`, ...), kept as given.
    """

    num_cpus: float | None = None
    num_gpus: float | None = None
    memory_bytes: int | None = None
    custom: Mapping[str, float] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)

    def over(self, other: Resources) -> Resources:
        """Return these, and of another's what these do not say."""
        return Resources(
            other.num_cpus if self.num_cpus is None else self.num_cpus,
            other.num_gpus if self.num_gpus is None else self.num_gpus,
            other.memory_bytes if self.memory_bytes is None else self.memory_bytes,
            {**other.custom, **self.custom},
            {**other.options, **self.options},
        )

    @property
    def plain(self) -> bool:
        """Whether the step asked for nothing: it takes one worker and is bounded by nothing else."""
        return self.num_cpus is None and self.num_gpus is None and self.memory_bytes is None and not self.custom


@dataclass(frozen=True, slots=True, eq=False)
class Step:
    """A node of the plan.

    `index` is its place in `Plan.steps` (upstreams first). `node_id` is `<name>-<hash>`. A group has `fn` `None`, no config, no output path and level `None`.
    `config` is what the function receives: references already replaced by plain path strings, `versioned` values by themselves.
    `call_style` says how: `"config"` passes `config` as the one argument; `"kwargs"` passes it as `fn(**config)`.
    `recorded_config` is the same for the record: JSON values, secrets masked, what JSON can't hold by `repr`.
    `version` is the identity; its JSON's md5 begins with the hash in `node_id`. Secrets in it are hashed in, but masked in `recorded_version`.
    `identity` makes the version's texts. Its md5 tells identities apart.
    `depends_on` and `pseudo_depends_on` are indices of `Plan.steps`, in the order of the version's lists; a step in both is never listed.
    """

    index: int
    node_id: str
    name: str
    template: str
    fn: Callable[..., object] | None
    fn_name: str
    config: object
    call_style: str
    recorded_config: object
    recorded_version: Mapping[str, object]
    output_path: str | None
    depends_on: tuple[int, ...]
    pseudo_depends_on: tuple[int, ...]
    level: int | None
    description: str | None = None
    override_output_path: str | None = None
    resources: Resources = field(default_factory=Resources)
    retries: int = 0
    timeout_s: float | None = None
    verify: Sequence[str] | str | Callable[[object, str], object] | None = None
    where: str = ""
    members: tuple[int, ...] = ()
    identity: Version | None = None

    @property
    def version_json(self) -> bytes:
        """The recorded version as JSON, made when asked for: `recorded_version` nests too deep for encoders that recurse."""
        return self.identity.recorded_text() if self.identity is not None else json.dumps(self.recorded_version, sort_keys=True).encode()

    @property
    def group(self) -> bool:
        """Whether this is a group step: it runs nothing and has no output."""
        return self.fn is None


@dataclass(frozen=True, slots=True)
class PlanWarning:
    """Something the user should know and that stops nothing. `code` is a stable word, e.g. `unversioned_config_differs`."""

    code: str
    message: str


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """The steps of an experiment, upstreams before downstreams; `targets` are the indices of the steps that were asked for.

    `levels` counts the topological generations (1 is first); `prefix` is where relative outputs lie, absolute when local.
    """

    steps: tuple[Step, ...]
    targets: tuple[int, ...]
    prefix: str
    levels: int
    warnings: tuple[PlanWarning, ...] = ()

    def downstream(self) -> list[list[int]]:
        """Return for each step the indices of the steps with a blocking edge from it, ascending."""
        below: list[list[int]] = [[] for _ in self.steps]
        for step in self.steps:
            for upstream in step.depends_on:
                below[upstream].append(step.index)
        return below

    def upstream(self) -> list[tuple[int, ...]]:
        """Return for each step the steps that it waits for, groups replaced by their members, ascending: the edges that levels, links and the critical path see."""
        through: list[tuple[int, ...]] = []
        for step in self.steps:
            found: set[int] = set()
            for index in step.depends_on:
                if self.steps[index].group:
                    found.update(through[index])
                else:
                    found.add(index)
            through.append(tuple(sorted(found)))
        return through
