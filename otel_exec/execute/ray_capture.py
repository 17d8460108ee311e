"""Capturing what a task prints in a Ray worker process, which is not ours: descriptors and streams are borrowed for the time of the task, then given back.

What comes in and what goes out: as of `capture.ScratchCapture`.
"""

from __future__ import annotations

import contextlib
import os
import sys
from typing import TYPE_CHECKING

from otel_exec.execute.capture import Captured, ScratchCapture, far_copy

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["BorrowingCapture"]


class BorrowingCapture(ScratchCapture):
    """A `ScratchCapture` between `begin` and `end` alone. Arguments as of it."""

    def __init__(self, path: str, cap_bytes: int, show: Callable[[str], None] | None = None) -> None:
        self._theirs = (sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__)
        self._saved = [far_copy(fd) for fd in (1, 2)]
        super().__init__(path, cap_bytes, show)
        self._give_back()

    def begin(self, output_path: str | None, attempt: int) -> None:
        """Borrow the streams; a task starts."""
        self._theirs = (sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__)
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(Exception):
                stream.flush()
        self._redirect()
        self._put(self._stdout, self._stderr, self._stdout, self._stderr)
        super().begin(output_path, attempt)

    def end(self, last: bytes = b"") -> Captured:
        """The task ended: finish its log, give the streams back."""
        try:
            return super().end(last)
        finally:
            self._give_back()

    def _give_back(self) -> None:
        for fd, saved in zip((1, 2), self._saved, strict=True):
            with contextlib.suppress(OSError):
                os.dup2(saved, fd)
        self._put(*self._theirs)

    def _put(self, out: object, err: object, first_out: object, first_err: object) -> None:
        sys.stdout, sys.stderr = out, err
        sys.__stdout__, sys.__stderr__ = first_out, first_err  # type: ignore[misc, assignment]  # the interpreter's own as well
