"""Fan-outs on Ray: each item is a Ray task on any node, submitted by the worker whose code called `map_tasks`.

What comes in: a fan-out, from its owner's thread. What goes out: its results. A bounded number is in flight; the owner waits inside Ray, which gives its CPU to others
meanwhile, so that a full cluster can't deadlock. Finished spans of items come back with their results and go home with the owner's.
"""

from __future__ import annotations

import contextlib
import threading
import time
from typing import TYPE_CHECKING, Any

import msgspec
import ray

from otel_exec import semconv
from otel_exec.execute.fan_out import BLAMELESS_TRIES
from otel_exec.execute.process_fan_out import unpacked
from otel_exec.execute.ray_failure import lost_to
from otel_exec.execute.ray_sweep import Sweeper
from otel_exec.execute.ray_wire import ItemDone, ItemSent, Lost, encode

if TYPE_CHECKING:
    from otel_exec.execute.fan_out import FanOut
    from otel_exec.execute.items import ItemEnvelope, ItemReport
    from otel_exec.execute.ray_wire import Running
    from otel_exec.execute.ray_worker import RayWorker

__all__ = ["RayHands"]

# In flight, a CPU of the cluster: when one ends the next is there already.
PER_CPU = 4
AT_LEAST = 16
# How often the owner looks whether an item's time has run out.
_LOOK_S = 0.1
# How long an item's process may take to end itself before it is ended by force.
_OBEY_S = 1.0

# Ways of an item to be lost by which its worker's process is gone as well: a lost node may be a result that could not be fetched.
_WITH_ITS_PROCESS = frozenset({semconv.ERROR_WORKER_DIED, semconv.ERROR_OOM_KILLED, semconv.ERROR_TIMEOUT})

_done_decoder = msgspec.msgpack.Decoder(ItemDone)


class RayHands:
    """The hands of one fan-out."""

    owner_helps = False

    def __init__(self, worker: RayWorker) -> None:
        self._worker = worker
        self._fn = b""
        self._task = _item_task()
        self._flying: dict[Any, ItemEnvelope] = {}
        self._begun: dict[str, Running] = {}
        self._overdue: dict[str, float] = {}  # span id -> when its worker is ended by force
        self._sweeper = Sweeper()

    def opened(self, fan_out: FanOut) -> None:
        """Submit the first items."""
        try:
            self._fn = self._worker.packer.passing(fan_out.fn)
        except Exception as error:
            name = getattr(fan_out.fn, "__qualname__", type(fan_out.fn).__qualname__)
            raise TypeError(f"map_tasks: {name} can't be sent to other workers: {error}; make what it refers to inside it") from error
        cpus = int(ray.cluster_resources().get("CPU", 1))
        fan_out.hands_limit = min(fan_out.hands_limit, max(AT_LEAST, PER_CPU * cpus))
        self.more(fan_out)

    def more(self, fan_out: FanOut) -> None:
        """Submit as many as may be in flight; end what ran out of time."""
        if fan_out.timeout_s is not None and self._flying:
            self._end_overdue(fan_out)
        while (envelope := fan_out.take(owner=False)) is not None:
            self._submit(fan_out, envelope)

    def _submit(self, fan_out: FanOut, envelope: ItemEnvelope) -> None:
        try:
            item = self._worker.packer.value(fan_out.items[envelope.index])
        except Exception as error:
            self._fail(fan_out, envelope, "not_sendable", f"it can't be sent to another worker: {error}", final=True)
            return
        body = encode(ItemSent(self._worker.exec_id, msgspec.structs.replace(envelope, fn=self._fn, item=item)))
        try:
            ref = self._task.remote(body)
        except ray.exceptions.RayError as error:
            loss = lost_to(error)
            self._fail(fan_out, envelope, loss.error_type, loss.reason, final=True)
            return
        self._flying[ref] = envelope

    def _fail(self, fan_out: FanOut, envelope: ItemEnvelope, error_type: str, message: str, *, final: bool, blameless: bool = False) -> None:
        now_ns = fan_out.door.context.clock.now_ns()
        running = self._begun.pop(envelope.span_id, None)
        worker_id = fan_out.door.context.worker_id if running is None else str(running.number)
        if running is not None and error_type in _WITH_ITS_PROCESS:
            died = Lost(running.number, now_ns, error_type, message if blameless else "")
            self._worker.presence.home.lost.remote(died)
        fan_out.lose(
            envelope.index,
            worker_id,
            error_type,
            message,
            now_ns if running is None else running.begun.at_ns,
            now_ns,
            final=final,
            spare=BLAMELESS_TRIES if blameless else 0,
        )

    def reclaim(self, fan_out: FanOut) -> None:
        """Nothing to do: the owner runs none."""

    def cancel(self, fan_out: FanOut, *, interrupt: bool) -> None:
        """Take back what no worker has begun; `interrupt`: have the others interrupted."""
        for ref, envelope in self._flying.items():
            with contextlib.suppress(ray.exceptions.RayError):
                ray.cancel(ref)  # ends what waits; what runs goes on (see `ray_worker`: it is asked in another way)
            if interrupt:
                self._worker.presence.home.end.remote(envelope.span_id, "interrupt")
        del fan_out

    def closed(self, fan_out: FanOut) -> None:
        """End what still runs: the owner does not wait for it."""
        del fan_out
        flying, self._flying = self._flying, {}
        for envelope in flying.values():
            self._worker.presence.home.end.remote(envelope.span_id, "kill")
        if flying:
            threading.Thread(target=self._end_by_force, args=(flying,), name="otel-exec-items", daemon=True).start()

    def _end_by_force(self, flying: dict[Any, ItemEnvelope]) -> None:
        """In a thread of its own: end items that do not end by themselves."""
        with contextlib.suppress(Exception):
            for ref in flying:
                ray.cancel(ref)  # ends what nobody has begun
            _, rest = ray.wait(list(flying), num_returns=len(flying), timeout=_OBEY_S)
            self._look_up([flying[ref] for ref in rest])
            for ref in rest:
                self._sweep(flying[ref], alive=True)

    def wait_s(self, fan_out: FanOut) -> float | None:
        """Look at timeouts ten times a second, if there are any."""
        return _LOOK_S if fan_out.timeout_s is not None else None

    def wait(self, fan_out: FanOut, timeout_s: float | None) -> None:
        """Wait inside Ray, which lends the step's CPU to others meanwhile; then take in what has come back."""
        if not self._flying:
            fan_out.changed.wait(timeout_s)
            return
        fan_out.changed.release()
        try:
            flying = list(self._flying)
            ready, rest = ray.wait(flying, num_returns=1, timeout=timeout_s)
            if ready and rest:
                also, _ = ray.wait(rest, num_returns=len(rest), timeout=0)
                ready += also
            for ref in ready:
                self._take_in(fan_out, ref)
        finally:
            fan_out.changed.acquire()

    def _take_in(self, fan_out: FanOut, ref: Any) -> None:
        envelope = self._flying.pop(ref)
        try:
            done = _done_decoder.decode(ray.get(ref))
        except ray.exceptions.RayError as error:
            if self._overdue.pop(envelope.span_id, None) is not None:
                self._sweep(envelope)
                self._fail(fan_out, envelope, semconv.ERROR_TIMEOUT, f"its timeout of {envelope.timeout_s:g} s passed", final=False)
                return
            if isinstance(error, ray.exceptions.TaskCancelledError):
                fan_out.give_back([envelope.index])
                return
            loss = lost_to(error)
            self._look_up([envelope])
            self._sweep(envelope)
            self._fail(fan_out, envelope, loss.error_type, loss.reason, final=not loss.blameless, blameless=loss.blameless)
            return
        self._begun.pop(envelope.span_id, None)
        self._worker.presence.outbox.add(done.lines)
        self._worker.presence.goes_before(done.tellings)
        report = done.report

        def arrival() -> tuple[ItemReport, Any, BaseException | None]:
            return unpacked(report)

        fan_out.arrived(report.index, report.attempt, arrival)

    # --- items that take too long, or whose worker is gone -----------------------------------------------------------------------------------------

    def _look_up(self, envelopes: list[ItemEnvelope]) -> None:
        """Ask the home actor who runs what."""
        unknown = [envelope.span_id for envelope in envelopes if envelope.span_id not in self._begun]
        if not unknown:
            return
        with contextlib.suppress(ray.exceptions.RayError):
            for found in ray.get(self._worker.presence.home.who_runs.remote(unknown), timeout=5):
                if found is not None:
                    self._begun[found.begun.span_id] = found

    def _end_overdue(self, fan_out: FanOut) -> None:
        self._look_up(list(self._flying.values()))
        now_ns, now_s = fan_out.door.context.clock.now_ns(), time.monotonic()
        for ref, envelope in self._flying.items():
            running = self._begun.get(envelope.span_id)
            if running is None or envelope.timeout_s is None or now_ns - running.begun.at_ns <= envelope.timeout_s * 1e9:
                continue
            force_s = self._overdue.get(envelope.span_id)
            if force_s is None or now_s >= force_s:
                self._overdue[envelope.span_id] = now_s + _OBEY_S
                self._worker.presence.home.end.remote(envelope.span_id, "kill")
            if force_s is not None and now_s >= force_s:
                with contextlib.suppress(ray.exceptions.RayError):
                    ray.cancel(ref, force=True)
                self._sweep(envelope, alive=True)

    def _sweep(self, envelope: ItemEnvelope, *, alive: bool = False) -> None:
        """End what an item's worker that is gone had started, or (`alive`) one that does not obey."""
        running = self._begun.get(envelope.span_id)
        if running is not None and running.node:
            self._sweeper.sweep(running.pid, running.node, alive=alive)


def _item_task() -> Any:
    global _task
    if _task is None:
        from otel_exec.execute.ray_worker import run_item_task

        _task = ray.remote(run_item_task).options(max_retries=0, name="otel_exec item")
    return _task


_task: Any = None
