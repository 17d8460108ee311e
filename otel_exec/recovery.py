"""Recovery of runs whose driver died: what it left open is closed, what it held is given back.

What comes in: a run's folder. What goes out: `spans/recovered.jsonl`, a spool file like any other, and a word on what was found. Never touches a run that lives,
and never an output: what it writes lies in the run's folder; of what lies beside outputs it takes away only locks and half-written files of that run.

A run lives as long as its driver does, or any process that writes spans of it (each holds its spool file with `flock`). Of a driver on another host nothing can be
proved; there a run is dead once its status is as old as makes a lock stale. Recovery is done by one at a time and once; done again it gives the same spans.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import time
from typing import TYPE_CHECKING

import msgspec

from otel_exec.aggregate.journal_index import Settled
from otel_exec.aggregate.open_ends import OpenEnds
from otel_exec.clock import from_iso
from otel_exec.errors import RecordError
from otel_exec.record import locks, reserve, storage
from otel_exec.record.find import RUNNING
from otel_exec.record.journal import read_journal
from otel_exec.record.model import RunRecord
from otel_exec.record.record_file import read_record
from otel_exec.record.status_file import read_status
from otel_exec.record.step_files import error_said, read_events, standing
from otel_exec.regular_file import open_regular
from otel_exec.semconv import OUTCOME_OF_STATUS, Outcome
from otel_exec.spans.line_codec import LineEncoder
from otel_exec.spans.open_spans import OPEN_SUFFIX, read_open
from otel_exec.spans.spool import SPOOL_SUFFIX, mend_folder, read_spool_file

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from otel_exec.record.journal import JournalLine
    from otel_exec.record.status_model import StatusRecord
    from otel_exec.spans.open_spans import OpenEntry
    from otel_exec.spans.span_record import AttributeValue, SpanRecord

__all__ = ["LeftBehind", "alone", "close_open_ends", "forget", "last_sign_ns", "left_open", "lives", "look", "over", "recover", "recovered"]

_RECOVERED = "recovered" + SPOOL_SUFFIX
_LOCK_FILE = "recovery.lock"
_NS = 1_000_000_000
# A driver's name is some hundred bytes; what is longer is none.
_MARK_BYTES = 4096
# How long the workers of a dead driver may take to end: they notice within milliseconds.
_PATIENCE_S = 2.0


class LeftBehind(msgspec.Struct, frozen=True):
    """What a dead run left: `open_steps` are names with how long each had been in hand, in nanoseconds; `spool_bytes` the size of its spool."""

    folder: str
    exec_id: str
    trace_id: str
    root_span_id: str
    experiment: str
    node_ids: frozenset[str]
    open_steps: tuple[tuple[str, int], ...]
    last_ns: int
    spool_bytes: int


def lives(folder: str, now_ns: int | None = None) -> bool:
    """Return whether a run may still go on; one without a sign of life is dead. `now_ns` is the present instant where it is not the wall clock's."""
    status = read_status(folder)
    if status is not None and status.state == "running" and status.driver and not locks.holder_dead(status.driver):
        if locks.of_this_host(status.driver):
            return True
        seen_ns = from_iso(status.updated_at)
        if seen_ns is not None and (time.time_ns() if now_ns is None else now_ns) - seen_ns <= locks.STALE_S * _NS:
            return True
    return _writes(f"{folder}/spans/driver{SPOOL_SUFFIX}")


def last_sign_ns(journal: Sequence[JournalLine], status: StatusRecord | None, start_ns: int) -> int:
    """Return the last sign of life that journal and status know of (spans may know of a later one)."""
    last_ns = max((line.at for line in journal), default=start_ns)
    # A step that runs on writes neither spans nor transitions: then the status knows best.
    said_ns = from_iso(status.updated_at) if status is not None else None
    return max(start_ns, last_ns, said_ns or 0)


def close_open_ends(folder: str, record: RunRecord, journal: Sequence[JournalLine], spans: Iterable[SpanRecord]) -> list[SpanRecord]:
    """Return the spans that a dead run left open, closed at its last sign of life. Reads; writes nothing.

    Args:
        folder: the run's folder.
        record: of its start.
        journal: its transitions.
        spans: its finished ones.
    """
    opened = list(_opened(folder))
    ends = OpenEnds(record, journal, opened)
    last_ns = last_sign_ns(journal, read_status(folder), int(record.start_time_unix_nano))
    last_ns = max([last_ns, *(entry.start_ns for _, entry in opened)])
    for span in spans:
        ends.finished(span)
        last_ns = max(last_ns, span.end_ns)
    return ends.close(last_ns, _settled_by_files(record, ends.unsettled()))


def look(folder: str) -> LeftBehind | None:
    """Return what a dead run left, by its journal alone; `None` where the run lives, ended in order, or its record can't be read."""
    try:
        record = read_record(folder + "/run.json")
        if record.outcome != "running" or lives(folder):
            return None
        journal = read_journal(folder)
    except RecordError:
        return None
    ends = OpenEnds(record, journal, ())
    last_ns = last_sign_ns(journal, read_status(folder), int(record.start_time_unix_nano))
    unsettled = ends.unsettled()
    settled = _settled_by_files(record, unsettled)
    names = {step.node_id: step.name for step in record.steps}
    return LeftBehind(
        folder=folder,
        exec_id=record.exec_id,
        trace_id=record.trace_id,
        root_span_id=record.root_span_id,
        experiment=record.experiment.name,
        node_ids=frozenset(names),
        open_steps=tuple((names[node_id], max(0, last_ns - ends.since_ns(node_id))) for node_id in unsettled if node_id not in settled),
        last_ns=last_ns,
        spool_bytes=sum(_size(path) for path in _spool_files(folder)),
    )


def over(folder: str) -> bool:
    """Return whether a run on the list of those that run is none any more, and left nothing to be recovered.

    It ended in order and was killed before it took itself off the list, or it was killed before it had a record. Of a driver on another host nothing can be proved:
    there a run is over once its mark is as old as makes a lock stale, and it gives no sign of life.
    """
    try:
        return read_record(folder + "/run.json").outcome != "running"
    except RecordError:
        pass
    mark = _mark(folder)
    try:
        driver = storage.read_head(mark, _MARK_BYTES).decode("utf-8", "replace")
        if locks.of_this_host(driver):
            return locks.holder_dead(driver)
        # It is put there with its driver's name in it: one without was torn by a kill.
        return time.time() - os.stat(mark).st_mtime > locks.STALE_S and not lives(folder)
    except OSError:
        return False


def recover(folder: str, *, going_on: frozenset[str] = frozenset()) -> int | None:
    """Close what a dead run left open, in a spool file of its own; take away its locks and its half-written files.

    Args:
        folder: the run's folder.
        going_on: node ids of steps that a run is about to take over: it finds their locks as they are, and says so in its record.

    Returns:
        How many spans were closed; 0 where that was done before, or there were none; `None` where there is nothing to recover: the run lives, or ended in order.

    Raises:
        RecordError: the run's record can't be read, or the file can't be written.
    """
    path = f"{folder}/spans/{_RECOVERED}"
    if recovered(folder):
        _clean_again(folder, going_on)
        return 0
    record = read_record(folder + "/run.json")
    if record.outcome != "running" or lives(folder):
        return None
    with alone(folder) as ours:
        if not ours or not _quiet(folder):
            return None
        if recovered(folder):
            return 0
        mend_folder(f"{folder}/spans")
        journal = read_journal(folder)
        closed = close_open_ends(folder, record, journal, _finished(folder))
        try:
            storage.replace(path, LineEncoder(_resource(record, journal)).encode(closed) if closed else b"")
        except OSError as error:
            raise storage.refused(path, "written", error) from error
        _clean_up(folder, record, journal, going_on)
        return len(closed)


def recovered(folder: str) -> bool:
    """Return whether what a dead run left open is closed."""
    return os.path.lexists(f"{folder}/spans/{_RECOVERED}")


def left_open(folder: str) -> int:
    """Return how many spans `recover` would close. Reads; writes nothing.

    Args:
        folder: the run's folder.

    Raises:
        RecordError: the run's record or its journal can't be read.
    """
    if recovered(folder):
        return 0
    record = read_record(folder + "/run.json")
    if record.outcome != "running" or lives(folder):
        return 0
    return len(close_open_ends(folder, record, read_journal(folder), _finished(folder)))


def forget(folder: str) -> None:
    """Take a run that is recovered, or over, off the list of those that run, and what room it kept with it. Never raises."""
    reserve.let_go(folder)
    with contextlib.suppress(OSError):
        os.unlink(_mark(folder))


def _mark(folder: str) -> str:
    """Return the path of the file that says that a run goes on."""
    runs, name = os.path.split(os.path.abspath(folder))
    return os.path.join(os.path.dirname(runs), RUNNING[-1], name)


def _opened(folder: str) -> Iterator[tuple[str, OpenEntry]]:
    """Yield what the run's processes had listed as open, with the writer's name."""
    spans = folder + "/spans"
    for name in _names(spans):
        if name.endswith(OPEN_SUFFIX):
            for entry in read_open(f"{spans}/{name}"):
                yield name.removesuffix(OPEN_SUFFIX), entry


def _names(folder: str) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except OSError:
        return []


def _spool_files(folder: str) -> list[str]:
    return [f"{folder}/spans/{name}" for name in _names(folder + "/spans") if name.endswith(SPOOL_SUFFIX)]


def _size(path: str) -> int:
    try:
        return os.stat(path, follow_symlinks=False).st_size
    except OSError:
        return 0


def _finished(folder: str) -> Iterator[SpanRecord]:
    for path in _spool_files(folder):
        yield from read_spool_file(path)


def _writes(path: str) -> bool:
    """Return whether a process that writes this spool file lives: it holds the file's `flock`."""
    try:
        descriptor = open_regular(path, follow=False)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # a file system without: nothing is known
        return False
    finally:
        os.close(descriptor)
    return False


def _quiet(folder: str) -> bool:
    """Wait until no process writes spans of this run any more; returns whether that came about."""
    deadline = time.monotonic() + _PATIENCE_S
    while any(_writes(path) for path in _spool_files(folder)):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


@contextlib.contextmanager
def alone(folder: str) -> Iterator[bool]:
    """Hold the run's recovery lock for the block; yields whether we have it. Raises `RecordError`, also where the folder is gone."""
    try:
        descriptor = os.open(f"{folder}/{_LOCK_FILE}", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, 0o644)
    except OSError as error:
        raise storage.refused(f"{folder}/{_LOCK_FILE}", "written", error) from error
    try:
        deadline = time.monotonic() + _PATIENCE_S
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    yield False
                    return
                time.sleep(0.01)
            except OSError as error:
                if error.errno in {errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS}:
                    break  # whoever does it at the same time writes the same
                raise storage.refused(f"{folder}/{_LOCK_FILE}", "locked", error) from error
        yield True
    finally:
        os.close(descriptor)


def _settled_by_files(record: RunRecord, unsettled: Sequence[str]) -> dict[str, Settled]:
    """Return how steps ended whose worker could still write it down, though the driver could not."""
    steps = {step.node_id: step for step in record.steps}
    found = {}
    for node_id in unsettled:
        path = steps[node_id].output_path
        if path is None or storage.is_remote(path):
            continue
        try:
            last = standing(read_events(path))
        except RecordError:
            continue
        outcome = OUTCOME_OF_STATUS.get(last.status) if last is not None and last.exec_id == record.exec_id else None
        at_ns = from_iso(last.date) if last is not None else None
        if outcome is not None and last is not None and at_ns is not None:
            failed = outcome != Outcome.SUCCESS
            error_type, message = error_said(last.message) if failed else ("", "")
            found[node_id] = Settled(outcome, at_ns, (error_type or str(outcome)) if failed else None, message)
    return found


def _resource(record: RunRecord, journal: Sequence[JournalLine]) -> dict[str, AttributeValue]:
    """Return the resource of the run's spans."""
    for line in journal:
        said = (line.data or {}).get("resource") if line.what == "began" else None
        if isinstance(said, dict):
            return {str(key): value for key, value in said.items() if isinstance(value, (str, int, float, bool))}
    return {"service.name": record.experiment.name, "service.instance.id": record.exec_id}


def _clean_again(folder: str, going_on: frozenset[str]) -> None:
    """Take away what a recovery that was killed itself may have left; in order, there is nothing any more. Never raises."""
    with contextlib.suppress(RecordError):
        record = read_record(folder + "/run.json")
        with alone(folder) as ours:
            if ours:
                _clean_up(folder, record, read_journal(folder), going_on)


def _clean_up(folder: str, record: RunRecord, journal: Sequence[JournalLine], going_on: frozenset[str]) -> None:
    """Take away what the dead run held: its locks under its prefix, half-written files. The lists of open spans stay: `status` tells from them what was open. Never raises."""
    reserve.let_go(folder)
    for name in _names(folder):
        if name.endswith(".tmp"):
            with contextlib.suppress(OSError):
                os.unlink(f"{folder}/{name}")
    status = read_status(folder)
    if status is None or not status.driver or not locks.holder_dead(status.driver):
        return
    created = {line.node for line in journal if line.what == "created"} - {line.node for line in journal if line.what == "settled"}
    prefix = os.path.realpath(os.path.join(folder, *(os.pardir,) * 3))
    for step in record.steps:
        path = step.output_path
        if step.node_id not in created - going_on or path is None or storage.is_remote(path):
            continue
        if os.path.commonpath([prefix, os.path.realpath(path)]) == prefix:  # a record may say anything
            with contextlib.suppress(RecordError):
                locks.release(path, status.driver)
