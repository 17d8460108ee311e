"""A run's own folder, `<prefix>/.otel_exec/runs/<exec_id>/`, as its run writes it.

What comes in: records and transitions. What goes out: run.json, status.json, journal.jsonl and `latest`, each appended a line at a time or replaced whole and atomically, each by one writer.
While it runs its exec id also stands in `running/` beside `runs/`, in a file that names its driver, so that whoever comes after it finds those that were killed
without looking at all.
For a remote prefix the live files lie in a local folder (`live_folders.py`) and are uploaded at intervals and at the end; run.json alone is written to the store each time.
How records are read and runs found again stands in `record_file.py`, `journal.py` and `find.py`; their names are given here too.
"""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING

from otel_exec.errors import RecordError
from otel_exec.record import live_folders, reserve, storage
from otel_exec.record.encoding import encode
from otel_exec.record.find import LATEST, RUN_JSON, RUNNING, RUNS, STATUS_JSON, find_run, list_runs
from otel_exec.record.journal import Journal, JournalLine, read_journal
from otel_exec.record.process_id import driver_id
from otel_exec.record.record_file import read_record, write_record
from otel_exec.record.uploader import Uploader

if TYPE_CHECKING:
    from collections.abc import Sequence

    from otel_exec.record.status_model import StatusRecord

__all__ = ["JournalLine", "RunStore", "find_run", "list_runs", "read_journal", "read_record", "write_record"]


class RunStore:
    """Writes one run's folder. `folder` is where the live files are (local); `run_folder` is where they are found later (under the prefix).

    `spans_folder` is the spool's, in `folder`. Any thread may write, one at a time.
    """

    folder: str
    run_folder: str
    _running: str | None = None
    _uploader: Uploader | None = None

    def __init__(self, prefix: str, exec_id: str) -> None:
        """Make the folder; raises `RecordError` when it can't be made."""
        self._prefix = prefix
        self._exec_id = exec_id
        self._remote = storage.is_remote(prefix)
        self.run_folder = storage.join(prefix, *RUNS, exec_id)
        try:
            if self._remote:
                storage.make_folder(self.run_folder)
                self.folder = live_folders.make_folder(prefix, exec_id)
                self._uploader = Uploader(self.folder, self.run_folder)
            else:
                self.folder = self.run_folder
            self.spans_folder = self.folder + "/spans"
            storage.make_folder(self.spans_folder)
            self._journal = Journal(self.folder)
            if not self._remote:
                self._running = storage.join(prefix, *RUNNING, exec_id)
                storage.make_folder(storage.join(prefix, *RUNNING))
                storage.replace(self._running, driver_id(exec_id).encode())
                reserve.keep_room(self.folder)
        except OSError as error:
            said = storage.refused(prefix, "written", error).reason
            raise RecordError(prefix, f"the prefix {said}; set another with --prefix or OTEL_EXEC_PREFIX") from error

    def journal(self, lines: Sequence[JournalLine]) -> None:
        """Append transitions with one write, on a full disk with room from the reserve: they are outcomes."""
        try:
            self._journal.append(list(lines))
        except OSError as error:
            raise storage.refused(self._journal.path, "written", error) from error

    def write_status(self, status: StatusRecord) -> None:
        """Replace status.json. Under a remote prefix the live files go there at intervals, in a thread of their own."""
        if self._uploader is not None:
            self._uploader.tick(time.monotonic())
        _replace(self.folder + STATUS_JSON, encode(status))

    def write_run(self, encoded: bytes, also: str | None = None) -> None:
        """Replace run.json in the folder and, where `also` is given, at that path too.

        Both are tried, whichever fails.

        Raises:
            RecordError: one of them could not be written; the first that failed is named.
        """
        failed: RecordError | None = None
        try:
            _replace(self.folder + RUN_JSON, encoded)
            if self._remote:
                _replace(self.run_folder + RUN_JSON, encoded)
        except RecordError as error:
            failed = error
        if also is not None:
            try:
                storage.write_through(also, encoded)
            except OSError as error:
                failed = failed or storage.refused(also, "written", error)
            else:
                if failed is not None:
                    failed = RecordError(failed.path, f"{failed.reason}; the record is kept in {also} alone")
        if failed:
            raise failed

    def let_reserve_go(self) -> None:
        """All outcomes are written: what was kept for them is there for the record. Never raises."""
        reserve.let_go(self.folder)

    def publish_latest(self) -> None:
        """Name this run in `<prefix>/.otel_exec/latest`."""
        _replace(storage.join(self._prefix, *LATEST), self._exec_id.encode() + b"\n")

    def discard(self) -> None:
        """Take the folder away again: its run was not begun, so nothing in it is anybody's. Never raises."""
        import shutil

        with contextlib.suppress(OSError):
            self._journal.close()
        shutil.rmtree(self.folder, ignore_errors=True)
        self._no_longer_running()
        if self._remote:
            with contextlib.suppress(OSError):
                storage.remove(self.run_folder + RUN_JSON)
            self._remote = False

    def close(self) -> None:
        """Close files; upload what belongs under a remote prefix. A second time is fine.

        Raises:
            RecordError: the upload failed; the local folder is kept and named.
        """
        self._journal.close()
        self.let_reserve_go()
        self._no_longer_running()
        if not self._remote:
            return
        self._remote = False
        if self._uploader is not None:
            self._uploader.finish()
        try:
            storage.upload(self.folder, self.run_folder)
        except OSError as error:
            said = storage.refused(self.run_folder, "written", error).reason
            raise RecordError(self.run_folder, f"{said}; the run's files are kept in {self.folder}") from error
        import shutil

        shutil.rmtree(self.folder, ignore_errors=True)

    def _no_longer_running(self) -> None:
        if self._running is not None:
            with contextlib.suppress(OSError):
                storage.remove(self._running)


def _replace(path: str, content: bytes) -> None:
    try:
        storage.replace(path, content)
    except OSError as error:
        raise storage.refused(path, "written", error) from error
