"""What one traced step call came to, before the plan is built.

What comes in: what `tracer.py` found. What goes out: `StepNode`, the thing that references point to. Nodes are made when a body has ended, so a node's
upstreams have smaller `seq` than itself: sorting by `seq` is a topological order, whatever the depth.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from otel_exec.errors import Mistake
    from otel_exec.plan.graph import Resources
    from otel_exec.plan.identity import Version
    from otel_exec.plan.refs import StepRef

__all__ = ["Place", "StepNode", "Verify", "show_place"]

# A file and a line of the user's code; turned into text only when a message needs it.
Place: TypeAlias = "tuple[str, int]"
Verify: TypeAlias = "Sequence[str] | str | Callable[[Any, str], object]"

_sequence = itertools.count()


def show_place(place: Place) -> str:
    """Return `file:line`."""
    return f"{place[0]}:{place[1]}"


class StepNode:
    """One call of a step function.

    `blocking` and `pseudo` are the version's dependencies, as nodes, without repetition (a node may be in both).
    `alias` is what the body returned where that was a step's reference: the node is then a group whose path is that reference's.
    `recipe` makes the config once paths are known (`walk.resolve`). `moved` are the paths given by `with_output_path`, each with its place.
    `broken` says that tracing it failed, so that nothing more should be concluded from its shape. `mistakes` are those found in it;
    of an outermost call, all that were found below it too.
    """

    __slots__ = (
        "alias",
        "blocking",
        "broken",
        "call_style",
        "defined",
        "description",
        "fn",
        "fn_name",
        "mistakes",
        "moved",
        "name",
        "override",
        "place",
        "pseudo",
        "recipe",
        "resources",
        "retries",
        "seq",
        "template",
        "timeout_s",
        "verify",
        "version",
    )

    def __init__(
        self,
        *,
        name: str,
        template: str,
        defined: Place,
        place: Place,
        version: Version,
        blocking: tuple[StepNode, ...],
        pseudo: tuple[StepNode, ...],
        resources: Resources,
        retries: int,
        timeout_s: float | None,
        verify: Verify | None,
        description: str | None,
        override: str | None,
    ) -> None:
        self.seq = next(_sequence)
        self.name = name
        self.template = template
        self.defined = defined
        self.place = place
        self.version = version
        self.blocking = blocking
        self.pseudo = pseudo
        self.resources = resources
        self.retries = retries
        self.timeout_s = timeout_s
        self.verify = verify
        self.description = description
        self.override = override
        self.fn: Callable[..., object] | None = None
        self.fn_name = ""
        self.call_style = "kwargs"
        self.recipe: object = None
        self.alias: StepRef | None = None
        self.moved: list[tuple[str, Place]] = []
        self.broken = False
        self.mistakes: tuple[Mistake, ...] = ()

    @property
    def group(self) -> bool:
        """Whether it runs nothing."""
        return self.fn is None
