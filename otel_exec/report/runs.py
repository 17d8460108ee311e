"""The list of runs under a prefix: when, experiment, outcome, wall time, exec id.

What comes in: what is known of each run. What goes out: one section.
"""

from __future__ import annotations

from collections.abc import Sequence

from otel_exec.report.summary_record import RunLine
from otel_exec.report.table import Column, Fact, Section, Table

__all__ = ["runs"]


def runs(lines: Sequence[RunLine], prefix: str, unreadable: Sequence[str] = ()) -> list[Section]:
    """Return the list.

    Args:
        lines: the runs, in the order to be shown.
        prefix: where they lie.
        unreadable: folders whose record can't be read, each with the reason.
    """
    columns = (
        Column("start_time", "", "json"),
        Column("", "When (UTC)"),
        Column("experiment", "Experiment", "name", min_width=10),
        Column("outcome", "Outcome", "outcome"),
        Column("duration", "Wall", "duration"),
        Column("exec_id", "Exec id"),
        Column("run_folder", "", "json"),
    )
    newest = max((line.start_time[:4] for line in lines), default="")
    rows = [
        (line.start_time, _when(line.start_time, newest), line.experiment.name, line.outcome, line.duration_ns, line.exec_id, line.run_folder) for line in lines
    ]
    count = f"{len(rows):,} run{'' if len(rows) == 1 else 's'}"
    intro = () if rows or unreadable else ("There are no runs here yet.",)
    notes = tuple(f"can't be read: {text}" for text in unreadable)
    facts = (Fact("prefix", prefix), Fact("unreadable", list(unreadable), "json"))
    return [Section("", f"otel-exec runs: {count} under {prefix}", intro=intro, facts=facts, table=Table("runs", columns, rows), notes=notes, top=True)]


def _when(start_time: str, newest_year: str) -> str:
    """Return when a run began as `ls -l` would say it: date and time within the newest run's year, else date and year."""
    return start_time[5:16].replace("T", " ") if start_time[:4] == newest_year else start_time[:10]
