"""The short form of the summary: what `python exp.py` ends with.

What comes in: a whole record. What goes out: some ten lines: what it came to, where the time went, what took longest, where to read on.
"""

from __future__ import annotations

from collections.abc import Sequence

from otel_exec.report.as_text import as_text
from otel_exec.report.durations import duration_text, share_text
from otel_exec.report.look import Look
from otel_exec.report.steps import count_steps, execution_ns, labels, longest, plural, ran_anything, reached
from otel_exec.report.summary import in_spool, outcome_phrase, trace_address, was_sent
from otel_exec.report.summary_record import AnyRecord
from otel_exec.report.table import Fact, Section
from otel_exec.report.wall_parts import wall_parts

__all__ = ["short_summary"]

_SLOWEST = 3
_PARTS = 4
_LEAST_SHARE = 0.005


def short_summary(record: AnyRecord, look: Look, *, run_json: str | None = None, trace_url: str | None = None, replay: str | None = None) -> str:
    """Return the text, ending in a newline.

    Args:
        record: the run.
        look: width, signs, colour.
        run_json: the path of run.json, as the user would type it; default the one in the run's folder.
        trace_url: the template of a trace's address, with `{trace_id}`.
        replay: the command that sends what is still in the spool; without one it is said where the spool lies.
    """
    facts = [
        Fact("outcome", record.outcome, "outcome", label="outcome", said=outcome_phrase(record)),
        Fact("steps", None, label="steps", said=reached(count_steps(record), over=record.outcome != "running")),
    ]
    time_went = _time_went(record) if ran_anything(record) else ""
    if time_went:
        facts.append(Fact("wall", None, label="time went", said=time_went))
    slowest = _slowest(record)
    if slowest:
        facts.append(Fact("slowest", None, label="slowest", said=slowest))
    path = record.critical_path
    if path is not None and path.duration_ns and record.duration_ns:
        outside = share_text(max(0, record.duration_ns - path.duration_ns) / record.duration_ns)
        facts.append(
            Fact(
                "critical_path",
                None,
                label="critical",
                said=f"path of {duration_text(path.duration_ns)} in {plural(len(path.steps), 'step')}; {outside} of the wall time lies outside it",
            )
        )
    died = [worker for worker in record.workers if worker.died]
    if died:
        said = f"{plural(len(died), 'worker')} died, the first: worker {died[0].worker_id}: {died[0].died}"
        facts.append(Fact("died", None, label="deaths", said=said))
    if record.warnings:
        count = sum(warning.count for warning in record.warnings)
        facts.append(Fact("warnings", None, label="warnings", said=f"{count:,}, the first: {record.warnings[0].message}"))
    facts.append(Fact("run_json", run_json or f"{record.run_folder}/run.json", "path", label="record"))
    export = record.export
    address = trace_address(trace_url, record.trace_id) if was_sent(export) else None
    if address:
        facts.append(Fact("trace", address, "path", label="trace"))
    elif export is not None and export.endpoint:
        facts.append(Fact("trace", record.trace_id, label="trace id"))
    notes = []
    if export is not None and export.endpoint and (left := in_spool(export)):
        notes.append(
            f"{left:,} of {export.spans:,} spans did not get out and stay in the spool"
            + (f"; {replay} sends them" if replay else f": {record.run_folder}/spans")
        )
    return as_text([Section("", record.experiment.name, facts=tuple(facts), notes=tuple(notes), top=True)], look)


def _time_went(record: AnyRecord) -> str:
    """Return the largest parts of the wall time in words."""
    largest = sorted(wall_parts(record), key=lambda part: -part.duration_ns)[:_PARTS]
    return ", ".join(f"{part.title} {duration_text(part.duration_ns)} ({part.percent})" for part in largest if part.share >= _LEAST_SHARE)


def _slowest(record: AnyRecord) -> str:
    names = labels(record)
    ran: Sequence[tuple[int, str]] = sorted(
        ((execution_ns(step) or 0, names[step.node_id]) for step in longest([step for step in record.steps if step.attempts and not step.group], _SLOWEST)),
        reverse=True,
    )
    return ", ".join(f"{name} {duration_text(own_ns)}" for own_ns, name in ran if own_ns)
