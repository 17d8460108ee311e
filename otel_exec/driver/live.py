"""What `python exp.py` prints while it runs, and at its end.

What comes in: what the runner's listener hears. What goes out, on stderr: a block that is repainted in place on a terminal, one line an event when piped;
on stdout: the dry run, the short summary. How it looks is `report`'s; this module decides when. Never raises for what a stream can't take.
"""

from __future__ import annotations

import os
import shlex
import sys
from typing import TYPE_CHECKING

from otel_exec.record.process_id import holder_text
from otel_exec.report.eta import Eta, eta
from otel_exec.report.painter import Painter
from otel_exec.report.progress import LevelProgress, ProgressView, RunningStep, StepEvent, event_line, output_lines, progress_lines
from otel_exec.report.short_summary import short_summary
from otel_exec.report.terminal import look_of
from otel_exec.semconv import Kind, Outcome, error_text

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from otel_exec.config import Config
    from otel_exec.execute.envelope import ErrorInfo
    from otel_exec.plan.graph import Plan, Step
    from otel_exec.record.model import RunRecord
    from otel_exec.schedule.attempts import Running
    from otel_exec.schedule.runner import Runner
    from otel_exec.schedule.select import Decision

__all__ = ["LiveListener", "TerminalListener"]

_REPAINT_NS = 100_000_000
_WHAT = {
    Outcome.SUCCESS: "finished",
    Outcome.FAILURE: "failed",
    Outcome.ERROR: "failed",
    Outcome.TIMEOUT: "timeout",
    Outcome.CANCELLATION: "cancelled",
    Outcome.SKIP: "skipped",
}
_NOT_OURS = frozenset({"not_needed", "not_selected"})


def _said(error: ErrorInfo | None) -> str:
    return "" if error is None else error_text(error.type, error.message)


class LiveListener:
    """Shows nothing, but counts, so that an ETA can be told; the base of what shows (`schedule.listener.Listener`).

    Args:
        plan: the steps.
        decisions: what was decided of each.

    `warn`: takes a warning for the record, its code and its sentence. `waits`: what steps wait for, by their names, in words.
    """

    def __init__(self, plan: Plan, decisions: Sequence[Decision]) -> None:
        self._plan = plan
        self._at_once = 1
        counted = [
            step
            for step, decision in zip(plan.steps, decisions, strict=True)
            if not step.group and (decision.action != "skip" or decision.cause not in _NOT_OURS)
        ]
        self.total = len(counted)
        self._counted = {step.index for step in counted}
        self.done = self.failed = self.cached = self.settled_count = 0
        self.levels: dict[int, list[int]] = {}  # level: [done, failed, running, total]
        for step in counted:
            if step.level is not None:
                self.levels.setdefault(step.level, [0, 0, 0, 0])[3] += 1
        self._running: dict[int, Running] = {}
        self._begun: set[int] = set()
        self._pending: dict[str, int] = {}
        for step in counted:
            self._pending[step.template] = self._pending.get(step.template, 0) + 1
        self._sums: dict[str, tuple[int, int]] = {}
        self._now_ns = 0
        self._look_back: Callable[[], Mapping[str, float]] | None = None
        self._no_eta = False
        self.warn: Callable[[str, str], None] = lambda _code, _message: None
        self._earlier: Mapping[str, float] | None = None
        self.waits: dict[str, str] = {}

    def starting(self, awaits: str) -> None:
        """The run waits for that before it can begin."""

    def claimed(self, step: Step, running: Running) -> None:
        """A worker took an attempt."""
        self.waits.pop(step.name, None)
        if step.index not in self._begun:
            self._begun.add(step.index)
            self._pending[step.template] -= 1
        if step.index not in self._running and step.level is not None:
            self.levels[step.level][2] += 1
        self._running[step.index] = running

    def settled(self, step: Step, outcome: str, cause: str, duration_ns: int | None, error: ErrorInfo | None) -> None:  # noqa: ARG002  the protocol's
        """A step has its outcome."""
        self.waits.pop(step.name, None)
        if step.index not in self._counted:
            return
        level = self.levels[step.level] if step.level is not None else [0, 0, 0, 0]
        self._rests(step)
        if step.index not in self._begun:
            self._pending[step.template] -= 1
        self.settled_count += 1
        if outcome == Outcome.SUCCESS:
            self.done += 1
            self.cached += cause == "cached"
            level[0] += 1
            if duration_ns is not None:
                count, total = self._sums.get(step.template, (0, 0))
                self._sums[step.template] = (count + 1, total + duration_ns)
        else:
            failed = outcome in {Outcome.FAILURE, Outcome.ERROR, Outcome.TIMEOUT}
            self.failed += failed
            level[1] += failed
            level[3] -= not failed  # skipped or cancelled: the level waits for it no longer

    def retry(self, step: Step, attempt: int, delay_ns: int, error: ErrorInfo | None) -> None:  # noqa: ARG002  the protocol's
        """An attempt failed; the next one starts after a back-off."""
        self._rests(step)

    def _rests(self, step: Step) -> None:
        """No worker has the step (any more)."""
        if self._running.pop(step.index, None) is not None and step.level is not None:
            self.levels[step.level][2] -= 1

    def waiting(self, step: Step, holder: str) -> None:
        """Another run holds a step's lock."""
        self.waits[step.name] = f"its lock is held by {holder_text(holder)}"

    def warned(self, step_name: str, message: str) -> None:
        """Something is worth knowing while it lasts."""
        if step_name:
            self.waits[step_name] = message

    def output(self, step_name: str, text: str) -> None:
        """A step printed."""

    def tick(self, runner: Runner, now_ns: int) -> None:  # noqa: ARG002  the protocol's
        """Something may have changed, or a while has passed."""
        self._now_ns = now_ns

    def finish(self, record: RunRecord) -> None:
        """The run has ended and its record is written."""

    def eta(self) -> Eta | None:
        """Return how long the run will still take, `None` without a basis; a failure is one warning and never the run's: an ETA is a guess."""
        if self._no_eta:
            return None
        try:
            return self._reckoned()
        except Exception as error:
            self._no_eta = True
            self.warn("eta", f"there is no ETA, since it could not be reckoned: {type(error).__name__}: {error}")
            return None

    def _reckoned(self) -> Eta | None:
        if self._earlier is None:
            self._earlier = self._look_back() if self._look_back is not None else {}
        means = {template: total / count for template, (count, total) in self._sums.items()}
        going = [(each.step.template, max(0, self._now_ns - (each.claimed_ns or self._now_ns))) for each in self._running.values()]
        return eta(self._pending, going, means, at_once=self._at_once, earlier_ns=self._earlier)

    def reckons_with(self, at_once: int, look_back: Callable[[], Mapping[str, float]]) -> None:
        """Tell it what an ETA rests on.

        Args:
            at_once: how many steps run at the same time.
            look_back: returns earlier runs' mean durations by template; asked once, when an ETA is first wanted.
        """
        self._at_once = at_once
        self._look_back = look_back


class TerminalListener(LiveListener):
    """Shows a run on stderr: a block on a terminal, a line an event elsewhere."""

    def __init__(self, plan: Plan, decisions: Sequence[Decision], config: Config, name: str) -> None:
        super().__init__(plan, decisions)
        self._name = name
        self._config = config
        self._stream = sys.stderr
        self._look = look_of(self._stream, os.environ)
        self._terminal = self._stream is not None and self._stream.isatty() and os.environ.get("TERM") != "dumb"
        self._painter = Painter(self._stream)
        self._painted_ns = 0
        self._all_cached = all(decisions[index].action == "cached" for index in self._counted)

    def starting(self, awaits: str) -> None:
        """Say it on a terminal, as the block, until there is more to say."""
        if self._terminal:
            view = ProgressView(name=self._name, done=0, total=self.total, elapsed_ns=0, note=f"waiting for {awaits}")
            self._painter.paint(progress_lines(view, self._look), self._look.width)

    def _event(self, event: StepEvent) -> None:
        self._painter.say(event_line(event, self._look), self._look.width)

    def claimed(self, step: Step, running: Running) -> None:
        """Say it when piped; the block shows it on a terminal."""
        super().claimed(step, running)
        if not self._terminal:
            self._event(StepEvent("started", step.name, self.settled_count, self.total, running.worker_id, attempt=running.attempt))

    def settled(self, step: Step, outcome: str, cause: str, duration_ns: int | None, error: ErrorInfo | None) -> None:
        """Say every event when piped; on a terminal only what went wrong, above the block."""
        super().settled(step, outcome, cause, duration_ns, error)
        if step.group or cause in _NOT_OURS or step.index not in self._counted or self._all_cached:
            return
        what = "cached" if cause == "cached" else _WHAT[Outcome(outcome)]
        if self._terminal and what in {"finished", "cached", "skipped", "cancelled"}:
            return
        detail = _said(error) if error is not None else cause.replace("_", " ") if what == "skipped" else ""
        self._event(StepEvent(what, step.name, self.settled_count, self.total, duration_ns=duration_ns, detail=detail))

    def retry(self, step: Step, attempt: int, delay_ns: int, error: ErrorInfo | None) -> None:
        """An attempt failed; the next one starts after a back-off."""
        super().retry(step, attempt, delay_ns, error)
        detail = _said(error)
        self._event(StepEvent("retrying", step.name, self.settled_count, self.total, duration_ns=delay_ns, attempt=attempt + 1, detail=detail))

    def waiting(self, step: Step, holder: str) -> None:
        """Another run holds a step's lock."""
        super().waiting(step, holder)
        self._event(StepEvent("waiting", step.name, self.settled_count, self.total, detail=self.waits[step.name]))

    def warned(self, step_name: str, message: str) -> None:
        """Say it above the block."""
        super().warned(step_name, message)
        if step_name:
            self._event(StepEvent("waiting", step_name, self.settled_count, self.total, detail=message))
        else:
            self._painter.say(f"warning: {message}", self._look.width)

    def output(self, step_name: str, text: str) -> None:
        """A step printed."""
        self._painter.say("\n".join(output_lines(step_name, text, self._look)), self._look.width)

    def tick(self, runner: Runner, now_ns: int) -> None:
        """Repaint the block, ten times a second at most."""
        super().tick(runner, now_ns)
        if not self._terminal or now_ns - self._painted_ns < _REPAINT_NS:
            return
        self._painted_ns = now_ns
        self._look = look_of(self._stream, os.environ)
        try:
            height = os.get_terminal_size(self._stream.fileno()).lines
        except (OSError, ValueError):
            height = 24
        self._painter.paint(progress_lines(self._view(runner, now_ns), self._look, height=height), self._look.width)

    def _view(self, runner: Runner, now_ns: int) -> ProgressView:
        left = self.eta()
        going = []
        for each in self._running.values():
            phases = [entry.name for entry in runner.beats.get(each.worker_id, ()) if entry.kind == Kind.PHASE and entry.node_id == each.step.node_id]
            elapsed_ns = max(0, now_ns - (each.claimed_ns or now_ns))
            going.append(RunningStep(each.step.name, each.worker_id, elapsed_ns, phases[-1] if phases else None, each.attempt))
        return ProgressView(
            name=self._name,
            done=self.done,
            total=self.total,
            elapsed_ns=now_ns - runner.parts.spans.start_ns,
            failed=self.failed,
            cached=self.cached,
            levels=[LevelProgress(number, done, total, running, failed) for number, (done, failed, running, total) in sorted(self.levels.items())],
            running=going,
            waiting=list(self.waits.items()),
            eta_ns=left.left_ns if left else None,
            eta_basis=left.basis if left else None,
            note="stopping: waiting for running steps to end (Ctrl-C again ends them at once)" if runner.attempts.cancelling else "",
        )

    def finish(self, record: RunRecord) -> None:
        """Take the block away and print the short summary on stdout."""
        self._painter.clear(self._look.width)
        if self.total and self._all_cached:
            self._painter.say(f"nothing to run: {self.total} step{'s' * (self.total != 1)} had succeeded before", self._look.width)
        look = look_of(sys.stdout, os.environ)
        run_json = self._config.run_json or "run.json"
        Painter(sys.stdout).say(
            short_summary(record, look, run_json=run_json, trace_url=self._config.trace_url, replay=f"otel-exec replay {shlex.quote(run_json)}"), look.width
        )
