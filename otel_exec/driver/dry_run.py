"""`--dry-run`: what would be run, and why; writes nothing, runs nothing.

What comes in: the plan and what was decided of each step. What goes out: lines: name, output path, dependencies, the decision and its reason, and counts.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from otel_exec.plan.graph import Plan
    from otel_exec.report.look import Look
    from otel_exec.schedule.select import Decision

__all__ = ["dry_run_lines"]

_WORDS = {"run": "run", "cached": "skip", "skip": "skip", "wait": "wait", "failed": "skip"}


def dry_run_lines(plan: Plan, decisions: Sequence[Decision], look: Look) -> Iterator[str]:
    """Yield the lines of a dry run."""
    counts: Counter[str] = Counter()
    for step, decision in zip(plan.steps, decisions, strict=True):
        names = ", ".join(plan.steps[index].name for index in step.depends_on)
        if step.group:
            yield f"group {look.text(step.name)}: {look.text(names) or 'empty'}"
            continue
        word = _WORDS[decision.action]
        counts[word] += 1
        yield f"{word:<5} {look.text(step.name)} ({look.text(decision.reason)})"
        yield f"      {look.text(step.output_path or '')}"
        if names:
            yield f"      needs {look.text(names)}"
        not_waited = ", ".join(plan.steps[index].name for index in step.pseudo_depends_on)
        if not_waited:
            yield f"      refers to, without waiting: {look.text(not_waited)}"
    total = sum(counts.values())
    yield f"{total} step{'s' * (total != 1)}: {counts['run']} to run, {counts['skip']} to skip, {counts['wait']} to wait for"
