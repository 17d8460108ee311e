"""The driver's end of the line to the run's home actor.

What comes in: commands for workers. What goes out: what workers have told, as it comes. One call is always pending there; when the actor's process has died, Ray starts it again,
and it is told what only the driver knows. Judges nothing of what is told.
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
from otel_exec.execute.ray_wire import NAMESPACE, Known, Setup, home_name
from otel_exec.record.process_id import boot_id

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Future

    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    from otel_exec.clock import Clock
    from otel_exec.execute.base import RunSettings
    from otel_exec.execute.ray_wire import Taken

__all__ = ["HomeLine"]

# So often in a row the home actor may fail to answer. While Ray starts it again, a call fails after one to two seconds (measured: Ray 2.60).
_MOST_FAILURES = 20


class HomeLine:
    """The line of one run, which is connected to a cluster. Used by the runner's thread, but for `later`, which Ray's threads call.

    Args:
        settings: the run's.
        clock: the driver's.
        here: the driver's node, where the actor is to live.
        blobs: functions and classes that travel by value; grows.
        later: has something done by the runner's thread.
        told: takes in what was told; returns the numbers of those that asked for one.
        known: what the actor must be told when it begins again.
    """

    def __init__(
        self,
        settings: RunSettings,
        clock: Clock,
        here: NodeAffinitySchedulingStrategy,
        blobs: dict[str, bytes],
        *,
        later: Callable[[Callable[[], None]], None],
        told: Callable[[Taken], dict[str, int]],
        known: Callable[[], Known],
    ) -> None:
        self._blobs = blobs
        self._later = later
        self._told = told
        self._known = known
        self._failures = self._asked = self._answered = 0
        self._leaving = self._closed = False
        setup = Setup(pickle.dumps(settings), boot_id(), clock.now_ns(), os.getcwd(), sys.path[:], sys.argv[:])
        maker = ray.remote(Home)
        actor = maker.options(
            name=home_name(settings.exec_id), namespace=NAMESPACE, num_cpus=0, max_restarts=-1, max_concurrency=10_000, scheduling_strategy=here
        )
        self._actor: Any = actor.remote(setup, settings.clock_offset_ns)
        self._resume()

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
        """End the actor; who wants what was told last has asked for it."""
        self._closed = True
        with contextlib.suppress(Exception):
            ray.kill(self._actor)

    def _take(self) -> None:
        """Ask for what is told next; says as well that what was told before has come."""
        self._actor.take.remote().future().add_done_callback(lambda future: self._later(lambda: self._came(future)))

    def _came(self, future: Future[Taken]) -> None:
        """The actor has answered, or its process has died."""
        error = future.exception()
        if error is not None:
            self._failed(error)
            return
        self._failures = 0
        taken = future.result()
        if taken.anew:  # it died, and was started again, while no call was pending there
            self._resume()
            return
        self._blobs.update(taken.blobs)
        numbers = self._told(taken)
        self._answered = max(self._answered, taken.ticket)
        if not self._closed:
            if numbers:
                self._actor.number.remote(numbers)
            self._take()

    def _failed(self, error: BaseException) -> None:
        """Its process has died: Ray starts it again, and it must be told what it can't know before it answers anybody."""
        if self._leaving:
            return
        self._failures += 1
        if self._failures > _MOST_FAILURES:
            raise OtelExecError(f"the run's home actor can't be kept alive on the Ray cluster: {str(error).splitlines()[0]}")
        self._resume()

    def _resume(self) -> None:
        self._actor.resume.remote(self._known(), self._blobs).future().add_done_callback(lambda future: self._later(lambda: self._resumed(future)))

    def _resumed(self, future: Future[None]) -> None:
        error = future.exception()
        if error is not None:
            self._failed(error)
            return
        if self._asked > self._answered:
            self._actor.poke.remote(self._asked)
        self._take()
