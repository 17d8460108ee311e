"""Interrupting a running task: KeyboardInterrupt in the user's code, never in ours, never in the next task.

What comes in: requests from another thread or from a signal handler. What goes out: the exception, raised in the task's thread while it is armed.
"""

from __future__ import annotations

import signal
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import FrameType

__all__ = ["Guard", "InlineGuard", "SignalGuard", "ThreadGuard"]


class Guard:
    """Whether the task that runs may be interrupted now.

    Used by the task's thread: `begin(sequence)`; then any number of `arm()` ... `disarm()` around the user's code; then `end()`.
    `request` is called from elsewhere. One that comes while the guard is not armed is kept until it is; one for another task is forgotten.
    `interrupted`: the task was asked to end. `abandoned`: nobody waits for it any more; it must leave no trace.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._sequence = -1
        self._armed = False
        self.interrupted = False
        self.abandoned = False

    def begin(self, sequence: int) -> None:
        """A task starts on the calling thread."""
        with self._lock:
            self._sequence = sequence
            self._armed = False
            self.interrupted = False

    def arm(self) -> None:
        """The user's code is about to run; raises KeyboardInterrupt at once where it was asked for meanwhile."""
        with self._lock:
            if self.interrupted:
                raise KeyboardInterrupt
            self._armed = True

    def disarm(self) -> None:
        """The user's code has ended."""
        with self._lock:
            self._armed = False

    def end(self) -> None:
        """The task has ended."""
        with self._lock:
            self._sequence = -1
            self._armed = False

    def request(self, sequence: int) -> None:
        """Interrupt the task of that sequence number, if it is the one that runs."""
        with self._lock:
            if sequence != self._sequence:
                return
            self.interrupted = True
            if self._armed:
                self._raise()

    def _raise(self) -> None:
        """Have KeyboardInterrupt raised in the task's thread. Called with the lock."""
        raise NotImplementedError


class SignalGuard(Guard):
    """For a worker process, whose tasks run in the main thread: SIGINT is honoured while the guard is armed and an interrupt was asked for, else ignored.

    Made in the main thread.
    """

    def __init__(self) -> None:
        super().__init__()
        self._main = threading.main_thread().ident or 0
        self._shields = 0
        self._missed = False
        self._handler = self._on_signal
        signal.signal(signal.SIGINT, self._handler)

    def _on_signal(self, _signum: int, _frame: FrameType | None) -> None:
        # Plain reads: the lock may be held by the very code that this interrupts.
        if self._armed and self.interrupted:
            if self._shields:
                self._missed = True
                return
            raise KeyboardInterrupt

    def shield(self) -> None:
        """Hold interrupts back on the main thread, until `unshield`: something must not stop half-way."""
        if threading.get_ident() == self._main:
            self._shields += 1

    def unshield(self) -> None:
        """Let interrupts through again; raises the one that came meanwhile."""
        if threading.get_ident() == self._main:
            self._shields -= 1
            if self._missed and not self._shields:
                self._missed = False
                raise KeyboardInterrupt

    def begin(self, sequence: int) -> None:
        """A task starts."""
        self._shields, self._missed = 0, False
        # What an earlier task put in its place (a library's handler) must not swallow our interrupts.
        if signal.getsignal(signal.SIGINT) is not self._handler:
            signal.signal(signal.SIGINT, self._handler)
        super().begin(sequence)

    def _raise(self) -> None:
        signal.pthread_kill(self._main, signal.SIGINT)


class ThreadGuard(Guard):
    """For a task on a thread: the exception is set in the thread, and comes when it next runs Python code."""

    def __init__(self) -> None:
        super().__init__()
        self._thread = 0
        # Imported here: a task may have used up the process's descriptors by the time that it is interrupted.
        import ctypes

        self._python = ctypes.pythonapi
        self._id = ctypes.c_ulong
        self._exception = ctypes.py_object(KeyboardInterrupt)

    def begin(self, sequence: int) -> None:
        """A task starts on the calling thread."""
        self._thread = threading.get_ident()
        super().begin(sequence)

    def disarm(self) -> None:
        """The user's code has ended: an exception that was set but has not come yet is taken back."""
        super().disarm()
        if self.interrupted:
            self._python.PyThreadState_SetAsyncExc(self._id(self._thread), None)

    def _raise(self) -> None:
        self._python.PyThreadState_SetAsyncExc(self._id(self._thread), self._exception)


class InlineGuard(Guard):
    """For a task in the thread that polls: only a signal handler of that very thread can interrupt it, by raising right there."""

    def request_here(self) -> None:
        """Raise KeyboardInterrupt if the user's code runs; called by a signal handler in the task's own thread."""
        if self._sequence < 0:
            return
        self.interrupted = True
        if self._armed:
            raise KeyboardInterrupt

    def _raise(self) -> None:
        """From another thread nothing can be raised here: the request stands until the code is armed next."""
