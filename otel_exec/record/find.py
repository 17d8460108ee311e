"""How a run is found again: by file, folder, id, prefix, experiment, or as the latest.

What comes in: the word that a person typed as RUN, and the prefix to look under. What goes out: the path of its run.json, or of its folder where a killed run left none.
What lies under a prefix may have been put there by anyone: names that are no names of runs are passed over, `latest` never leads out of the prefix, and nothing is written.
"""

from __future__ import annotations

import os
import re

import msgspec

from otel_exec.errors import RecordError
from otel_exec.record import storage
from otel_exec.record.journal import JOURNAL

__all__ = [
    "DEFAULT_PREFIX",
    "LATEST",
    "RUNNING",
    "RUNS",
    "RUN_JSON",
    "STATUS_JSON",
    "experiment_of",
    "find_run",
    "latest_run",
    "list_running",
    "list_runs",
    "started_ns",
]

DEFAULT_PREFIX = "./outputs"
RUNS = (".otel_exec", "runs")
LATEST = (".otel_exec", "latest")
RUNNING = (".otel_exec", "running")
RUN_JSON = "/run.json"
STATUS_JSON = "/status.json"

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}\Z")
_ID_START = re.compile(r"(exec_[0-9a-f]{1,32}|[0-9a-f]{4,32})\Z")
_FIRST_AT = re.compile(rb'\{"at":(\d{1,19})[,}]')
_START = re.compile(rb'"start_time_unix_nano":"(\d{1,19})"')
_HEAD_BYTES = 8192
# How many names an error lists.
_LISTED = 10


class _StatusName(msgspec.Struct):
    experiment: str | None = None
    alias: str | None = None


class _Experiment(msgspec.Struct):
    name: str


class _RunName(msgspec.Struct):
    experiment: _Experiment
    alias: str | None = None


def list_runs(prefix: str) -> list[str]:
    """Return the run folders under a prefix, newest last; [] where there are none."""
    runs = storage.join(prefix, *RUNS)
    try:
        names = storage.list_folders(runs)
    except OSError as error:
        raise storage.refused(runs, "read", error) from error
    folders = [storage.join(runs, name) for name in names if _NAME.match(name)]
    return sorted(folders, key=lambda folder: (started_ns(folder), folder))


def list_running(prefix: str) -> list[str]:
    """Return the folders of the runs under a local prefix that began and did not say that they ended: they go on, or were killed. In no order."""
    try:
        names = os.listdir(storage.join(prefix, *RUNNING))
    except OSError:
        return []
    return [storage.join(prefix, *RUNS, name) for name in names if _NAME.match(name)]


def latest_run(prefix: str) -> str | None:
    """Return the folder of the newest run under a prefix: the one that `latest` names, else the one that began last."""
    try:
        name = storage.read_head(storage.join(prefix, *LATEST), 256).strip().decode("ascii", "replace")
    except OSError:
        name = ""
    if _NAME.match(name):
        folder = storage.join(prefix, *RUNS, name)
        if _holds_a_run(folder):
            return folder
    folders = list_runs(prefix)
    return folders[-1] if folders else None


def started_ns(folder: str) -> int:
    """Return when a run began, in nanoseconds since the Unix epoch; without either file the folder's own time; 0 when nothing tells."""
    for name, pattern in ((JOURNAL, _FIRST_AT), (RUN_JSON, _START)):
        try:
            found = pattern.search(storage.read_head(folder + name, _HEAD_BYTES))
        except OSError:
            continue
        if found:
            return int(found[1])
    try:
        return int((storage.modified_s(folder) or 0) * 1e9)
    except OSError:
        return 0


def experiment_of(folder: str) -> str | None:
    """Return the name of the experiment whose run this folder is, from the small status.json where it has one."""
    return _names_of(folder)[0]


def _names_of(folder: str) -> tuple[str | None, str | None]:
    """Return what a run's experiment is called, and what its program calls the execution; `None` where there is no such name, or nothing can be read."""
    try:
        known = msgspec.json.decode(storage.read_bytes(folder + STATUS_JSON), type=_StatusName)
        if known.experiment is not None:
            return known.experiment, known.alias
    except (OSError, msgspec.DecodeError, UnicodeError, RecursionError):
        pass
    try:
        record = msgspec.json.decode(storage.read_bytes(folder + RUN_JSON), type=_RunName)
    except (OSError, msgspec.DecodeError, UnicodeError, RecursionError):
        return None, None
    return record.experiment.name, record.alias


def find_run(run: str | None, *, prefix: str | None = None) -> str:
    """Return the path of the run.json (or, for a dead run without one, the run's folder) that RUN names: a run.json, a run's folder, an exec id, a prefix, an experiment's name, or nothing.

    Args:
        run: what the person typed; `None` or "" for the latest run.
        prefix: where runs are looked for by id and by name; `./outputs` when not given.

    An execution is found by the id that its program gave it, too. An exec id may be cut short as long as one run alone begins so. Of several runs of an experiment it is the latest.

    Raises:
        RecordError: nothing of that name; it lists the closest.
    """
    prefix = prefix or DEFAULT_PREFIX
    if not run:
        return _newest(prefix)
    at_path = _at_path(run)
    if at_path:
        return at_path
    folders = list_runs(prefix)
    ids = {folder.rsplit("/", 1)[-1]: folder for folder in folders}
    if run in ids:
        return _record_in(ids[run])
    experiments: dict[str, str] = {}
    if not run.startswith("exec_"):
        for folder in reversed(folders):
            name, alias = _names_of(folder)
            if run in {name, alias}:
                return _record_in(folder)
            if name is not None:
                experiments.setdefault(name, folder)
    if _ID_START.match(run):
        begun_so = [name for name in ids if name.startswith((run, f"exec_{run}"))]
        if len(begun_so) == 1:
            return _record_in(ids[begun_so[0]])
        if begun_so:
            listed = ", ".join(begun_so[-_LISTED:])
            raise RecordError(run, f"{len(begun_so)} runs under {prefix} begin so: {listed}; give more of the id")
    raise RecordError(run, _unknown(run, prefix, list(ids), list(experiments)))


def _newest(prefix: str) -> str:
    folder = latest_run(prefix)
    if folder:
        return _record_in(folder)
    if os.path.isfile("run.json"):
        return "run.json"
    raise RecordError(
        prefix,
        "there is no run yet, and no run.json in this folder; run an experiment first, or name a run.json, a run's folder, an exec id, a prefix or an experiment",
    )


def _at_path(run: str) -> str | None:
    """Return what a path leads to; `None` when it leads nowhere: it may be a name."""
    remote = storage.is_remote(run)
    path = run.rstrip("/") or "/"
    if not remote and os.path.isfile(path):
        return path
    if remote and path.endswith(".json"):
        return path
    # A prefix first: `--prefix .` leaves a run.json beside the runs, of the same run.
    if storage.exists(storage.join(path, *RUNS)):
        folder = latest_run(path)
        if folder:
            return _record_in(folder)
    if _holds_a_run(path):
        return _record_in(path)
    if storage.exists(storage.join(path, *RUNS)):
        raise RecordError(run, "there are no runs under it yet; run an experiment with it as --prefix first, or name another")
    if remote or "/" in run or run.endswith(".json") or run in (".", ".."):
        there = storage.exists(path)
        reason = (
            "there is no run in it (a run's folder has a run.json or a journal.jsonl, a prefix has .otel_exec/runs)"
            if there
            else "there is no such file or folder"
        )
        raise RecordError(run, reason)
    return None


def _holds_a_run(folder: str) -> bool:
    return any(storage.exists(folder + name) for name in (RUN_JSON, JOURNAL, STATUS_JSON, "/spans"))


def _record_in(folder: str) -> str:
    path = folder + RUN_JSON
    return path if storage.exists(path) else folder


def _unknown(run: str, prefix: str, ids: list[str], experiments: list[str]) -> str:
    """Return the sentence for a word that names nothing."""
    if not ids:
        return f"there is no run of that name: there are no runs under {prefix} at all; give a run.json or a prefix"
    import difflib

    close = difflib.get_close_matches(run, [*experiments, *ids], n=3)
    guess = f"; did you mean {' or '.join(map(repr, close))}?" if close else ""
    names = ", ".join(map(repr, experiments[:_LISTED])) + (", ..." if len(experiments) > _LISTED else "")
    return f"there is no run of that name under {prefix}{guess} (experiments: {names or 'none'}; newest run: {ids[-1]})"
