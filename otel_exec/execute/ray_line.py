"""The driver's end of the line to the run's home actor.

What comes in: commands for workers. What goes out: what workers have told, as it comes. One call is always pending there; when the actor's process has died, Ray starts it again,
and it is told who has which number. Judges nothing of what is told.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import sys
from typing import TYPE_CHECKING, Any

import ray

from otel_exec.errors import OtelExecError
from otel_exec.execute.ray_home import Home
from otel_exec.execute.ray_wire import NAMESPACE, Setup, home_name
from otel_exec.record.process_id import boot_id

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from concurrent.futures import Future

    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    from otel_exec.clock import Clock
    from otel_exec.execute.base import RunSettings

__all__ = ["HomeLine", "Taken"]

# So often in a row the home actor may fail to answer.
_MAX_RESTARTS = 20

# Facts, tellings, and the last ticket: see `Home.take`.
Taken = tuple[Any, Any, int]


class HomeLine:
    """The line of one run, which is connected to a cluster. Used by the runner's thread, but for `later`, which Ray's threads call.

    Args:
        settings: the run's.
        clock: the driver's.
        here: the driver's node, where the actor is to live.
        blobs: functions and classes that travel by value; grows.
        later: has something done by the runner's thread.
        told: takes in what was told.
        numbers: which worker process has which number.
    """

    def __init__(
        self,
        settings: RunSettings,
        clock: Clock,
        here: NodeAffinitySchedulingStrategy,
        blobs: Mapping[str, bytes],
        *,
        later: Callable[[Callable[[], None]], None],
        told: Callable[[Taken], None],
        numbers: Callable[[], dict[str, int]],
    ) -> None:
        self._blobs = blobs
        self._later = later
        self._told = told
        self._numbers = numbers
        self._restarts = self._asked = self._answered = 0
        self._leaving = self._closed = False
        setup = Setup(pickle.dumps(settings), boot_id(), clock.now_ns(), os.getcwd(), sys.path[:], sys.argv[:])
        maker = ray.remote(Home)
        actor = maker.options(
            name=home_name(settings.exec_id), namespace=NAMESPACE, num_cpus=0, max_restarts=-1, max_concurrency=10_000, scheduling_strategy=here
        )
        self._actor: Any = actor.remote(setup, settings.clock_offset_ns)
        self._actor.resume.remote({}, blobs)
        self._take()

    def end(self, span_id: str, how: str) -> None:
        """Have an attempt interrupted (`interrupt`) or ended (`kill`) by its own process."""
        self._actor.end.remote(span_id, how)

    def ask(self) -> int:
        """Have all that was told up to now fetched; returns the ticket that comes with it."""
        self._asked += 1
        self._actor.poke.remote(self._asked)
        return self._asked

    def answered(self, ticket: int) -> bool:
        """Whether what was asked for by that ticket has come."""
        return self._answered >= ticket

    def leave(self) -> None:
        """The run is about to end: an actor that dies now is not missed."""
        self._leaving = True

    def close(self) -> None:
        """Take in what was told last, and end the actor."""
        self._closed = True
        with contextlib.suppress(Exception):
            self._told(ray.get(self._actor.take.remote(wait=False), timeout=2))
        with contextlib.suppress(Exception):
            ray.kill(self._actor)

    def _take(self) -> None:
        """Ask for what is told next."""
        self._actor.take.remote(wait=True).future().add_done_callback(lambda future: self._later(lambda: self._came(future)))

    def _came(self, future: Future[Taken]) -> None:
        """The actor has answered, or its process has died: after a restart it must be told who has which number."""
        error = future.exception()
        if error is None:
            self._restarts = 0
            taken = future.result()
            self._told(taken)
            self._answered = max(self._answered, taken[2])
        if self._closed or (error is not None and self._leaving):
            return
        if error is not None:
            self._restarts += 1
            if self._restarts > _MAX_RESTARTS:
                raise OtelExecError(f"the run's home actor can't be kept alive on the Ray cluster: {str(error).splitlines()[0]}")
            self._actor.resume.remote(self._numbers(), self._blobs)
        self._take()
