"""Who hears what happens to a run, to show it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from otel_exec.execute.envelope import ErrorInfo
    from otel_exec.plan.graph import Step
    from otel_exec.schedule.attempts import Running
    from otel_exec.schedule.runner import Runner

__all__ = ["Listener"]


class Listener(Protocol):
    """Hears what happens to a run, to show it. Called by the runner's thread; must not block for long and must not raise."""

    def claimed(self, step: Step, running: Running) -> None:
        """A worker took an attempt."""
        ...

    def settled(self, step: Step, outcome: str, cause: str, duration_ns: int | None, error: ErrorInfo | None) -> None:
        """A step has its outcome; `duration_ns` is its last attempt's task span."""
        ...

    def retry(self, step: Step, attempt: int, delay_ns: int, error: ErrorInfo | None) -> None:
        """An attempt failed; the next one starts after a back-off."""
        ...

    def waiting(self, step: Step, holder: str) -> None:
        """Another run holds a step's lock (said once a step)."""
        ...

    def warned(self, step_name: str, message: str) -> None:
        """Something is worth knowing while it lasts: why a step waits, or ("") what is wrong with the machines."""
        ...

    def output(self, step_name: str, text: str) -> None:
        """A step printed (only with `--show-output`)."""
        ...

    def tick(self, runner: Runner, now_ns: int) -> None:
        """Something may have changed, or a while has passed."""
        ...
