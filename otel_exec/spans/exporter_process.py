"""The exporter's own process: `python -m otel_exec.spans.exporter_process RUN_FOLDER`, started by `ExporterHandle`.

What comes in: endpoints as one line of JSON on stdin (secrets stand in no argument list), then nothing until the end of the run: a byte, or end of file
when the driver died. What goes out: requests; on stdout a dot for each acknowledgement after the end was told, and `!` with a sentence when the work can't be done.
It has a low priority and a session of its own, so that it takes no time from the steps and no Ctrl-C from the terminal; it outlives its driver by
no more than the bound on exporting at exit.
"""

from __future__ import annotations

import contextlib
import os
import select
import sys
from typing import NoReturn

import msgspec

from otel_exec.config import Endpoint
from otel_exec.errors import RecordError
from otel_exec.spans.cursor import Cursor, Lease
from otel_exec.spans.delivery import LONGEST_DRAIN_S, Export

__all__ = ["EXIT_DONE", "EXIT_LEFT_SOME", "ExporterSettings", "main"]

EXIT_DONE, EXIT_LEFT_SOME = 0, 3  # any other code is a death

_STDIN, _STDOUT, _STDERR = 0, 1, 2
_TICK_S = 1.0
_NICE = 10
_MAX_LOG_BYTES = 1 << 20


class ExporterSettings(msgspec.Struct):
    """What the driver says on stdin: where spans go, and metrics. `patience_s`: seconds without an acknowledgement before the rest is left in the spool."""

    endpoints: list[Endpoint]
    patience_s: float
    metrics: list[Endpoint] = []


class _Driver:
    """The process that started us, as seen from here."""

    def __init__(self) -> None:
        self._parent = os.getppid()
        self._rest = b""
        self.listening = False

    def settings(self) -> ExporterSettings:
        """Read the settings; blocks until they are there."""
        while b"\n" not in self._rest:
            piece = os.read(_STDIN, 65536)
            if not piece:
                raise SystemExit(0)  # the driver was gone before it said what to do
            self._rest += piece
        line, _, self._rest = self._rest.partition(b"\n")
        return msgspec.json.decode(line, type=ExporterSettings)

    def ended(self, within_s: float) -> bool:
        """Whether the run has ended, or the driver is gone; waits for it at most `within_s`.

        End of file alone would not do: a child that the driver forked may hold the pipe's other end.
        """
        if self._rest:
            return True
        ready, _, _ = select.select([_STDIN], [], [], within_s)
        return bool(ready) or os.getppid() != self._parent

    def tell(self, word: bytes) -> None:
        """Say something to the driver, who may be gone."""
        try:
            os.write(_STDOUT, word)
        except OSError:
            self.listening = False

    def progress(self) -> None:
        """Say that an acknowledgement came, once the driver waits for it."""
        if self.listening:
            self.tell(b".")


def main() -> NoReturn:
    """Export until the run has ended and everything is out, or nothing more gets out."""
    driver = _Driver()
    settings = driver.settings()
    with contextlib.suppress(OSError):
        os.nice(_NICE)
    code = EXIT_LEFT_SOME
    try:
        code = _export(sys.argv[1], settings, driver)
    except RecordError as error:
        driver.tell(f"!{error}".encode())
        sys.stderr.write(f"{error}\n")
    sys.stderr.flush()
    os._exit(code)  # threads that hang in the network, and gRPC's own, are not waited for


def _export(run_folder: str, settings: ExporterSettings, driver: _Driver) -> int:
    lease = Lease.take(run_folder)
    while lease is None:
        if driver.ended(_TICK_S):
            raise RecordError(run_folder, "another exporter is at work on this run")
        lease = Lease.take(run_folder)
    cursor = Cursor(run_folder)
    export = Export(run_folder, settings.endpoints, cursor, driver.progress, settings.metrics)
    export.start()
    while not driver.ended(_TICK_S):
        if os.fstat(_STDERR).st_size > _MAX_LOG_BYTES:
            os.ftruncate(_STDERR, 0)
    driver.listening = True
    export.end()
    finished = export.wait(settings.patience_s, LONGEST_DRAIN_S)
    if cursor.save_error:
        driver.tell(f"!{run_folder}/export.json can't be written ({cursor.save_error})".encode())
    return EXIT_DONE if finished else EXIT_LEFT_SOME


if __name__ == "__main__":
    main()
