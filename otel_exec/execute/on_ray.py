"""The Ray executor: each attempt at a step is a Ray task, on any node of a cluster.

What comes in: envelopes. What goes out: notices. Results come back through Ray, everything else through the run's home actor (`ray_home.py`); the driver writes the finished
spans of workers to their files. Ray retries nothing: what died is the runner's to try again. Who died with a worker is told by Ray, what was open in it by its last telling.
"""

from __future__ import annotations

import contextlib
import queue
import sys
import time
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import msgspec
import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from otel_exec.cpus import usable_cpus
from otel_exec.errors import OtelExecError
from otel_exec.execute import ray_cluster
from otel_exec.execute.base import AttemptLost, Claimed, Reported, WorkerStopped
from otel_exec.execute.packing import Packer
from otel_exec.execute.ray_blobs import DriverBlobs
from otel_exec.execute.ray_crew import Crew
from otel_exec.execute.ray_failure import lost_to
from otel_exec.execute.ray_line import HomeLine
from otel_exec.execute.ray_options import options_of, wanted_of
from otel_exec.execute.ray_sweep import Sweeper
from otel_exec.execute.ray_waiting import Unplaced
from otel_exec.execute.ray_wire import StepDone, StepSent, encode
from otel_exec.execute.ray_worker import run_step_task
from otel_exec.semconv import ERROR_NODE_DIED, ERROR_WORKER_DIED

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from concurrent.futures import Future

    from otel_exec.clock import Clock
    from otel_exec.execute.base import Notice, OpenSpan, RunSettings
    from otel_exec.execute.envelope import TaskEnvelope
    from otel_exec.execute.ray_crew import Member
    from otel_exec.plan.graph import Step

__all__ = ["RayExecutor"]

# Attempts handed over ahead, a worker.
_AHEAD = 8
# How long a recalled attempt may take to come back, and a killed one to end before Ray is asked to end it by force.
_RECALL_S = 2.0
_RECALL_QUIET_S = 0.25
_OBEY_S = 1.0
# How long a result waits for the tellings that went before it.
_PATIENCE_S = 5.0
# How long a run's end waits for what was started by workers that had to be ended to be gone.
_SWEEP_S = 2.0
# How long the home actor may take to hand on what it was told last.
_HEAR_S = 2.0

_done_decoder = msgspec.msgpack.Decoder(StepDone)


@dataclass(eq=False, slots=True)
class _Sent:
    """An attempt that is out."""

    envelope: TaskEnvelope
    ref: Any
    wanted: Mapping[str, float]
    sent_s: float
    silent: bool = False  # the runner has settled it
    command: str = ""  # what it was told last
    force_s: float = 0.0

    @property
    def key(self) -> tuple[str, int]:
        return self.envelope.node_id, self.envelope.attempt


@dataclass(slots=True)
class _Held:
    """A result that waits for what its worker told before, or a death for what was known of it."""

    sent: _Sent
    end: StepDone | BaseException
    until_s: float
    ticket: int = 0


class RayExecutor:
    """Runs attempts as Ray tasks; see `execute.base.Executor` for the contract.

    Args:
        workers: how many attempts run at once; `None`: as many as the cluster has CPUs.
        address: of a running cluster; `None`: that of the environment, else one is started here.
        resources: custom resources of a local cluster.
    """

    kind = "ray"
    can_kill = True
    by_value = True

    def __init__(self, workers: int | None = None, *, address: str | None = None, resources: Mapping[str, float] | None = None) -> None:
        self.workers = workers if workers is not None else usable_cpus()
        self.prefetch = _AHEAD * self.workers
        self._given_workers = workers
        self._address = address
        self._resources = resources or {}
        self._blobs = DriverBlobs()
        self._packer = Packer(self._blobs)
        self._inbox: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._notices: list[Notice] = []
        self._at_most = sys.maxsize  # given to Ray at once: fewer workers than the cluster has CPUs are kept to here
        self._queue: deque[tuple[TaskEnvelope, object]] = deque()
        self._out: dict[tuple[str, int], _Sent] = {}
        self._held: list[_Held] = []
        self._sweeper = Sweeper()
        self._tasks: dict[str, Any] = {}
        self._started = False
        self._stopped = False
        self._lost = False
        self._look_s = 0.0
        self._recalled: list[tuple[str, int]] | None = None

    # --- the runner's side ------------------------------------------------------------------------------------------------------------------------

    def pack(self, step: Step) -> object:
        """Return the step's call as bytes, with Ray's options; raises a `Mistake` when it can't be sent."""
        return self._packer.call(step), options_of(step), wanted_of(step)

    @property
    def awaits(self) -> str:
        """What `start` will wait for."""
        return ray_cluster.awaits(self._address)

    def start(self, settings: RunSettings, clock: Clock) -> None:
        """Connect to the cluster and start the home actor."""
        self._settings = settings
        self._clock = clock
        ray_cluster.attach(self._address, self._given_workers, self._resources)
        self._started = True
        self._head = ray_cluster.HeadWatch()
        cpus = max(1, int(ray_cluster.cluster_cpus()))
        if self._given_workers is None:
            self.workers = cpus
        elif self._given_workers < cpus:
            self._at_most = self._given_workers
        self.prefetch = _AHEAD * self.workers
        self._crew = Crew(settings, clock)
        self._unplaced = Unplaced(ray_cluster.node_lines)
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        self._home = HomeLine(
            settings,
            clock,
            here,
            self._blobs.gathered,
            later=self._inbox.put,
            told=lambda taken: self._crew.take_in(taken, self._notices),
            known=lambda: self._crew.known({sent.envelope.span_id: sent.command for sent in self._out.values() if sent.command}),
        )

    def submit(self, envelope: TaskEnvelope, packed: object) -> None:
        """Hand the attempt to Ray, unless as many run as may."""
        if len(self._out) >= self._at_most:
            self._queue.append((envelope, packed))
        else:
            self._send(envelope, packed)

    def _send(self, envelope: TaskEnvelope, packed: object) -> None:
        call, options, wanted = cast("tuple[bytes, Mapping[str, Any], Mapping[str, float]]", packed)  # what pack returned
        body = encode(StepSent(self._settings.exec_id, envelope, call))
        key = (envelope.node_id, envelope.attempt)
        try:
            ref = self._task(options).remote(body)
        except Exception as error:  # an option that Ray refuses, an object store that is full
            loss = lost_to(error)
            self._notices.append(AttemptLost(*key, self._clock.now_ns(), loss.error_type, loss.reason))
            return
        sent = self._out[key] = _Sent(envelope, ref, wanted, time.monotonic())
        ref.future().add_done_callback(lambda future: self._inbox.put(lambda: self._came_back(sent, future)))

    def poll(self, timeout_s: float | None) -> Sequence[Notice]:
        """Return what happened; wait for it when nothing did."""
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        woken = False
        while True:
            woken = self._turn(0.0 if self._notices or woken else self._wait_s(deadline)) or woken
            if self._notices or woken or (deadline is not None and time.monotonic() >= deadline):
                notices, self._notices = self._notices, []
                return notices

    def wake(self) -> None:
        """End a waiting poll."""
        self._inbox.put(None)

    def recall(self) -> Sequence[tuple[str, int]]:
        """Take back all attempts that no worker has begun."""
        taken = self._recalled = [(envelope.node_id, envelope.attempt) for envelope, _ in self._queue]
        self._queue.clear()
        waiting = [key for key in self._out if self._crew.who(key) is None]
        for key in waiting:
            self._take_back(self._out[key])
        # What waits comes back at once; what has begun meanwhile does not, and goes on.
        deadline = time.monotonic() + _RECALL_S
        quiet_s = time.monotonic() + _RECALL_QUIET_S
        while waiting and time.monotonic() < min(deadline, quiet_s):
            self._turn(0.05)
            left = [key for key in waiting if key in self._out and self._crew.who(key) is None]
            if len(left) < len(waiting):
                quiet_s = time.monotonic() + _RECALL_QUIET_S
            waiting = left
        self._recalled = None
        return taken

    def interrupt(self, node_id: str, attempt: int) -> None:
        """Have KeyboardInterrupt raised in the attempt, by its own process."""
        sent = self._out.get((node_id, attempt))
        if sent is not None:
            self._order(sent, "interrupt")

    def kill(self, node_id: str, attempt: int) -> None:
        """End the worker that runs the attempt, and all that it started."""
        self._queue = deque(pair for pair in self._queue if (pair[0].node_id, pair[0].attempt) != (node_id, attempt))
        sent = self._out.get((node_id, attempt))
        if sent is not None:
            self._crew.close_spans((node_id, attempt), sent.envelope.span_id)
            self._end(sent)
        self._notices = [
            notice for notice in self._notices if not (isinstance(notice, Reported) and (notice.report.node_id, notice.report.attempt) == (node_id, attempt))
        ]

    def _end(self, sent: _Sent) -> None:
        """End an attempt: by its own process, where one is known to run it, which takes along what it has started; else by Ray."""
        sent.silent = True
        sent.force_s = time.monotonic() + _OBEY_S
        self._order(sent, "kill")
        if self._crew.who(sent.key) is None:
            self._end_by_force(sent)

    def _order(self, sent: _Sent, how: str) -> None:
        sent.command = how
        self._home.end(sent.envelope.span_id, how)

    def open_spans(self, node_id: str, attempt: int) -> Sequence[OpenSpan]:
        """Return what was open in the attempt when its worker last told."""
        sent = self._out.get((node_id, attempt))
        return self._crew.open_spans((node_id, attempt), sent.envelope.span_id) if sent is not None else ()

    def log_tail(self, node_id: str, attempt: int) -> str:
        """Return the last lines that the attempt had printed when its worker last told."""
        return self._crew.tail((node_id, attempt)) if (node_id, attempt) in self._out else ""

    def stop(self, grace_s: float) -> Sequence[Notice]:
        """End what still runs, take in what was told last, and leave the cluster."""
        if not self._started or self._stopped:
            return ()
        self._stopped = True
        self._queue.clear()
        try:
            self._home.leave()
            if self._lost:  # nobody is there who could be told
                self._out.clear()
            for sent in self._out.values():
                with contextlib.suppress(Exception):
                    self._end(sent)
            deadline = time.monotonic() + max(grace_s, 0.5)
            while self._out and time.monotonic() < deadline:
                self._turn(0.05)
            for sent in self._out.values():
                self._end_by_force(sent)
            if not self._lost:
                self._sweeper.wait(_SWEEP_S)
                with contextlib.suppress(Exception):
                    self._hear_out()
                self._home.close()
        finally:
            ray_cluster.detach()  # from a cluster that has lost its head as well: Ray would end this process a minute later, and no next run could connect
        self._notices += self._crew.close()
        notices, self._notices = self._notices, []
        return notices

    def _hear_out(self) -> None:
        """Take in what had been told up to now: a call that waits for it is under way already."""
        ticket, deadline = self._home.ask(), time.monotonic() + _HEAR_S
        while not self._home.answered(ticket) and time.monotonic() < deadline:
            self._turn(0.05)

    # --- one turn of the loop ---------------------------------------------------------------------------------------------------------------------

    def _wait_s(self, deadline: float | None) -> float:
        now = time.monotonic()
        moments = [now + 1.0, *([] if deadline is None else [deadline]), *(held.until_s for held in self._held)]
        moments += [sent.force_s for sent in self._out.values() if sent.force_s] if len(self._out) < 1000 else []
        return max(0.0, min(moments) - now)

    def _turn(self, wait_s: float) -> bool:
        """Wait for word once and take in all that is there; returns whether `wake` was called."""
        woken = False
        try:
            word = self._inbox.get(timeout=wait_s) if wait_s > 0 else self._inbox.get_nowait()
            while True:
                if word is None:
                    woken = True
                else:
                    word()
                word = self._inbox.get_nowait()
        except queue.Empty:
            pass
        if self._held:
            self._release()
        while self._queue and len(self._out) < self._at_most:
            self._send(*self._queue.popleft())
        now = time.monotonic()
        if now >= self._look_s:
            self._look_s = now + 1.0
            self._look(now)
        return woken

    def _look(self, now: float) -> None:
        """Each second: end by force what does not obey, say what can't be placed, see whether the cluster is there."""
        for sent in self._out.values():
            if sent.force_s and now >= sent.force_s:
                sent.force_s = now + 5 * _OBEY_S
                self._end_by_force(sent)
        if not self._stopped:
            self._lost = self._head.gone()
            if self._lost:
                raise OtelExecError(
                    f"the head node of the Ray cluster at {self._head.address} has gone, and the run's tasks with it; "
                    "what had finished is kept: the next run on a cluster goes on from there"
                )
            if self._head.in_doubt:
                return
            waiting = [(sent.envelope, sent.wanted) for key, sent in self._out.items() if not sent.silent and self._crew.who(key) is None]
            self._notices += self._unplaced.look(waiting, now)

    # --- results ----------------------------------------------------------------------------------------------------------------------------------

    def _came_back(self, sent: _Sent, future: Future[bytes]) -> None:
        """A Ray task has ended, one way or the other."""
        key = sent.key
        error = future.exception()
        if error is None:
            done = _done_decoder.decode(future.result())
            if self._crew.knows(done.tellings):
                self._report(sent, done)
            else:
                self._held.append(_Held(sent, done, time.monotonic() + _PATIENCE_S))
        elif isinstance(error, ray.exceptions.TaskCancelledError):
            self._out.pop(key, None)
            if self._recalled is not None and not sent.silent:
                self._recalled.append(key)
            elif not sent.silent:
                self._notices.append(AttemptLost(*key, self._clock.now_ns(), *lost_to(error)[:2]))
            else:
                self._buried(key)
        else:
            # What its worker told before it died may still be on its way.
            self._held.append(_Held(sent, error, time.monotonic() + _PATIENCE_S, self._home.ask()))

    def _release(self) -> None:
        """See to what was held back, where what it waited for has come, or will not."""
        now = time.monotonic()
        held, self._held = self._held, []
        for each in held:
            end = each.end
            ready = self._crew.knows(end.tellings) if isinstance(end, StepDone) else self._home.answered(each.ticket)
            if not ready and now < each.until_s:
                self._held.append(each)
            elif isinstance(end, StepDone):
                if not ready:
                    self._crew.give_up(end.tellings)
                self._report(each.sent, end)
            else:
                self._died(each.sent, end)

    def _report(self, sent: _Sent, done: StepDone) -> None:
        report = done.report
        key = (report.node_id, report.attempt)
        self._out.pop(key, None)
        claimed = self._crew.who(key) is not None
        self._crew.told(done.rest, self._notices)
        self._crew.ended(key)
        if sent.silent:
            return
        if not claimed and not report.found:
            self._notices.append(Claimed(report.node_id, report.attempt, report.worker_id, report.claimed_ns))
        self._notices.append(Reported(report))

    def _died(self, sent: _Sent, error: BaseException) -> None:
        """An attempt has ended without a word."""
        key = sent.key
        self._out.pop(key, None)
        if sent.silent:
            self._buried(key)
            return
        loss = lost_to(error)
        now_ns = self._clock.now_ns()
        worker = self._crew.who(key)
        error_type, reason = loss.error_type, loss.reason
        if error_type == ERROR_WORKER_DIED and worker is not None and worker.node and not self._head.node_alive(worker.node):
            error_type, reason = ERROR_NODE_DIED, f"the node that it ran on ({worker.host}, {worker.node[:8]}) has left the cluster"
        if worker is None or not loss.blameless:
            self._notices.append(AttemptLost(*key, now_ns, error_type, reason, loss.blameless))
            return
        self._notices.append(self._crew.died(key, sent.envelope.span_id, now_ns, error_type, reason))
        self._sweep(worker)

    def _buried(self, key: tuple[str, int]) -> None:
        """An attempt that was killed has ended: so has its worker."""
        worker = self._crew.buried(key)
        if worker is not None:
            self._notices.append(WorkerStopped(str(worker.number), self._clock.now_ns()))
            self._sweep(worker)

    # --- Ray --------------------------------------------------------------------------------------------------------------------------------------

    @staticmethod
    def _take_back(sent: _Sent) -> None:
        """Take an attempt back where Ray has not given it to a worker; what runs goes on, since SIGINT alone ends nothing there."""
        with contextlib.suppress(Exception):
            ray.cancel(sent.ref, recursive=False)

    def _end_by_force(self, sent: _Sent) -> None:
        """Have an attempt ended that does not do so by itself, be it that nobody knows who has it."""
        with contextlib.suppress(Exception):
            ray.cancel(sent.ref, force=True)
        worker = self._crew.who(sent.key)
        if worker is not None:
            # Ray asks the worker itself, once: one that holds the GIL, or was asked to give the attempt back, is not ended by that (measured: Ray 2.60).
            self._sweep(worker, alive=True)

    def _sweep(self, worker: Member, *, alive: bool = False) -> None:
        """End what a worker that is gone had started, or (`alive`) one that does not obey."""
        if self._head.answers():
            self._sweeper.sweep(worker.pid, worker.node, alive=alive)

    def _task(self, options: Mapping[str, Any]) -> Any:
        key = repr(sorted(options.items(), key=lambda pair: pair[0]))
        task = self._tasks.get(key)
        if task is None:
            task = self._tasks[key] = ray.remote(run_step_task).options(max_retries=0, **options)
        return task
