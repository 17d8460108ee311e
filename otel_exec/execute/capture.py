"""Capturing what a task prints: by file descriptors in a worker process, by the streams' proxies among threads.

What comes in: the starts and ends of tasks, and whatever their code writes. What goes out: `.executor_log`, the last lines, and whole lines to show live.
A worker process has its descriptors 1 and 2 on a scratch file for good: what C code and child processes print is caught, and a task that prints nothing costs one `fstat`.
"""

from __future__ import annotations

import contextlib
import contextvars
import io
import os
import sys
import threading
import time
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from otel_exec.execute.output_log import Bounded, LogFile
from otel_exec.record.spare import with_descriptor

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["ITEM_CAP_BYTES", "Capture", "Captured", "ProxiedStreams", "ScratchCapture", "StreamCapture", "current_capture", "far_copy", "use_capture"]

# A scratch file is cut back to nothing once it is this much longer than what is kept of it.
_SCRATCH_SLACK_BYTES = 8 * 1024 * 1024
_READ_BYTES = 1024 * 1024
_FLUSH_NS = 1_000_000_000
_FAR = 100
# What an item of a fan-out that ran on another worker sends home of its output.
ITEM_CAP_BYTES = 64 * 1024


class Captured:
    """What was caught of one task: the log's path (`None`: nothing was printed, or there is no file), its last lines, and why it could not be written, if so.

    `content` is what was caught where there is no file.
    """

    __slots__ = ("content", "error", "log_path", "tail")

    def __init__(self, log_path: str | None = None, tail: str = "", error: OSError | None = None, content: bytes = b"") -> None:
        self.log_path = log_path
        self.tail = tail
        self.error = error
        self.content = content


class Capture(Protocol):
    """Catches one task's output at a time. `begin` and `end` are called by the thread that runs the task."""

    def begin(self, output_path: str | None, attempt: int) -> None:
        """A task starts; `None`: an item of a fan-out, which has no file."""
        ...

    def end(self, last: bytes = b"") -> Captured:
        """It ended: finish its log, with `last` (its error) below what was printed. Never raises."""
        ...

    def feed(self, data: bytes) -> None:
        """Take in what something else printed for the task (a verify command, an item on another worker)."""
        ...

    @property
    def pipes(self) -> bool:
        """Whether a child process's output must be piped and fed, since it is not caught by itself."""
        ...


class _Log:
    """The bounded content and the file of one task, and its lines to show."""

    def __init__(self, output_path: str | None, attempt: int, cap_bytes: int, show: Callable[[str], None] | None) -> None:
        self.kept = Bounded(cap_bytes if output_path is not None else min(cap_bytes, ITEM_CAP_BYTES))
        self.file = LogFile(output_path, attempt) if output_path is not None else None
        self.error: OSError | None = None
        self._show = show
        self._line = b""

    def feed(self, data: bytes) -> None:
        self.kept.feed(data)
        if self._show is not None:
            lines, newline, self._line = (self._line + data).rpartition(b"\n")
            if newline:
                self._show((lines + newline).decode("utf-8", "replace"))
            elif len(self._line) > _READ_BYTES:  # one endless line
                self._line = b""

    def update(self) -> None:
        if self.error is None and self.file is not None:
            try:
                self.file.update(self.kept)
            except OSError as error:
                self.error = error

    def finish(self, last: bytes) -> Captured:
        if self._show is not None and self._line:
            self._show(self._line.decode("utf-8", "replace") + "\n")
        if self.file is None:
            return Captured(content=self.kept.content())
        tail = self.kept.last_lines()
        if last:
            self.kept.feed(last if self.kept.ends_line else b"\n" + last)
        path = None
        if self.error is None:
            try:
                path = with_descriptor(partial(self.file.finish, self.kept))
            except OSError as error:
                self.error = error
        self.file.close()
        return Captured(path, tail, self.error)


class ScratchCapture:
    """Descriptors 1 and 2 of this process on a scratch file, for good; each task's slice of it goes into its log.

    Args:
        path: the scratch file, made here.
        cap_bytes: bound of each log.
        show: takes whole lines, or `None`.
    """

    pipes = False

    def __init__(self, path: str, cap_bytes: int, show: Callable[[str], None] | None = None) -> None:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self._fd = far_copy(fd)
        os.close(fd)
        found = os.fstat(self._fd)
        self._identity = (found.st_ino, found.st_dev)
        self._cap = cap_bytes
        self._show = show
        self._lock = threading.Lock()
        self._log: _Log | None = None
        self._place: tuple[str | None, int] = (None, 1)
        self._at = 0
        self._running = False
        self.cut = False
        self._redirect()
        self._stdout = sys.stdout = _text_stream(1)
        self._stderr = sys.stderr = _text_stream(2)
        sys.__stdout__ = self._stdout  # type: ignore[misc]  # the interpreter's own go to the scratch file as well
        sys.__stderr__ = self._stderr  # type: ignore[misc]  # as above

    def _redirect(self) -> None:
        os.dup2(self._fd, 1)
        os.dup2(self._fd, 2)

    def begin(self, output_path: str | None, attempt: int) -> None:
        """A task starts: what is printed from now on is its own."""
        with self._lock:
            size = os.fstat(self._fd).st_size
            if size > _SCRATCH_SLACK_BYTES:
                os.ftruncate(self._fd, 0)
                size = 0
            self._at = size
            self._place = (output_path, attempt)
            self._log = None
            self._running = True
            self.cut = False

    def end(self, last: bytes = b"") -> Captured:
        """The task ended: put the streams back as they were, finish its log."""
        self._restore()
        with self._lock:
            if not self._running:
                return Captured()
            self._running = False
            try:
                if self._log is None and not last and os.fstat(self._fd).st_size == self._at:
                    return Captured()
                self._consume()
            except OSError as error:
                self._log = None
                return Captured(error=error)
            log, self._log = self._log, None
            if log is None and last:
                log = _Log(*self._place, self._cap, self._show)
            return log.finish(last) if log is not None else Captured()

    def feed(self, data: bytes) -> None:
        """Take in what was printed elsewhere: it is written where this process prints."""
        with contextlib.suppress(OSError, ValueError):
            self._stdout.flush()
        with contextlib.suppress(OSError):
            os.write(self._fd, data)

    def position(self) -> int:
        """Return where in the scratch file the next task's output begins."""
        return os.fstat(self._fd).st_size

    def look(self) -> bool:
        """Bring the running task's log up to date, from another thread; returns whether it prints so much that it should be looked at again soon."""
        with self._lock:
            if not self._running:
                return False
            before = self._at
            try:
                size = os.fstat(self._fd).st_size
                if size == before:
                    return False
                self._consume()
            except OSError:
                return False
            if self._log is not None:
                self._log.update()
            return size - before > _READ_BYTES

    def last_lines(self) -> str:
        """Return the last lines of what the task has printed, as of the last look; from any thread."""
        with self._lock:
            return self._log.kept.last_lines() if self._log is not None else ""

    def _consume(self) -> None:
        """Read what was printed since the last look; of a flood only the parts that are kept. Called with the lock."""
        size = os.fstat(self._fd).st_size
        if size < self._at:  # the task cut the file itself
            self._at = 0
        if size == self._at:
            return
        if self._log is None:
            self._log = _Log(*self._place, self._cap, self._show)
        log = self._log
        while self._at < size:
            if len(log.kept.head) >= log.kept.half and size - self._at > log.kept.half and self._show is None:
                log.kept.skip(size - log.kept.half - self._at)
                self._at = size - log.kept.half
            want = min(size - self._at, _READ_BYTES)
            data = os.pread(self._fd, want, self._at)
            if not data:
                break
            self._at += len(data)
            log.feed(data)
        if self._at > _SCRATCH_SLACK_BYTES and os.fstat(self._fd).st_size - self._at < _READ_BYTES:
            os.ftruncate(self._fd, 0)
            self._at = 0
            self.cut = True

    def _stands_at(self, fd: int) -> bool:
        try:
            found = os.fstat(fd)
        except OSError:
            return False
        return (found.st_ino, found.st_dev) == self._identity

    def _restore(self) -> None:
        """Undo what a task may have done to the standard streams: closed or redirected descriptors, replaced objects."""
        for fd, stream in ((1, self._stdout), (2, self._stderr)):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
            with contextlib.suppress(OSError):  # a task that closed the scratch file's own descriptor prints nowhere any more
                if not self._stands_at(fd):
                    os.dup2(self._fd, fd)
        if sys.stdout is not self._stdout:
            if not self._stdout.closed:
                with contextlib.suppress(Exception):
                    sys.stdout.flush()
            sys.stdout = self._stdout
        if sys.stderr is not self._stderr:
            sys.stderr = self._stderr
        if self._stdout.closed:
            self._stdout = sys.stdout = sys.__stdout__ = _text_stream(1)  # type: ignore[misc]  # the interpreter's own, too
        if self._stderr.closed:
            self._stderr = sys.stderr = sys.__stderr__ = _text_stream(2)  # type: ignore[misc]  # as above


def far_copy(fd: int) -> int:
    """Return another descriptor of the same file, far from what a careless task closes, or as far as the limit of open files lets it."""
    import fcntl
    import resource

    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, _FAR if limit == resource.RLIM_INFINITY else min(_FAR, limit * 3 // 4))
    except OSError:  # all above that are taken
        return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3)


def _text_stream(fd: int) -> io.TextIOWrapper:
    return io.TextIOWrapper(io.BufferedWriter(io.FileIO(fd, "w", closefd=False)), encoding="utf-8", errors="backslashreplace", line_buffering=True)


class StreamCapture:
    """Catches what one task writes to `sys.stdout` and `sys.stderr` among threads, through the proxies of `ProxiedStreams`."""

    pipes = True

    def __init__(self, cap_bytes: int, clock_ns: Callable[[], int] = time.monotonic_ns) -> None:
        self._cap = cap_bytes
        self._now = clock_ns
        self._lock = threading.Lock()
        self._log: _Log | None = None
        self._written_ns = 0
        self.show: Callable[[str], None] | None = None

    def begin(self, output_path: str | None, attempt: int) -> None:
        """A task starts."""
        with self._lock:
            self._log = _Log(output_path, attempt, self._cap, self.show)
            self._written_ns = self._now()

    def end(self, last: bytes = b"") -> Captured:
        """It ended: finish its log."""
        with self._lock:
            log, self._log = self._log, None
        return log.finish(last) if log is not None else Captured()

    def last_lines(self) -> str:
        """Return the last lines of what the task has printed so far; from any thread."""
        with self._lock:
            return self._log.kept.last_lines() if self._log is not None else ""

    def feed(self, data: bytes) -> None:
        """Take in what the task printed; about each second the log is brought up to date."""
        with self._lock:
            if self._log is None:
                return
            self._log.feed(data)
            now = self._now()
            if now - self._written_ns > _FLUSH_NS:
                self._written_ns = now
                self._log.update()


# --- among threads --------------------------------------------------------------------------------------------------------------------------------

_current: contextvars.ContextVar[Capture | None] = contextvars.ContextVar("otel_exec_capture", default=None)


def current_capture() -> Capture | None:
    """Return the capture of the task that the code is in."""
    capture = _current.get()
    if capture is None:
        from otel_exec.spans.phases import current_scope

        scope = current_scope()  # a thread that carries the OpenTelemetry context alone
        capture = getattr(getattr(scope, "fan_out", None), "capture", None)
    return capture


@contextlib.contextmanager
def use_capture(capture: Capture) -> Iterator[None]:
    """Send what the block prints to `capture`."""
    token = _current.set(capture)
    try:
        yield
    finally:
        _current.reset(token)


class _Proxy(io.TextIOBase):
    """A standard stream that sends what a task writes to the task's capture, and all else where it went before."""

    def __init__(self, behind: Any) -> None:
        super().__init__()
        self.behind = behind

    def write(self, text: str) -> int:
        capture = current_capture()
        if capture is None:
            self.behind.write(text)
        else:
            capture.feed(text.encode("utf-8", "backslashreplace"))
        return len(text)

    def flush(self) -> None:
        with contextlib.suppress(ValueError):
            self.behind.flush()

    def writable(self) -> bool:
        return True

    def isatty(self) -> bool:
        return current_capture() is None and bool(self.behind.isatty())

    def fileno(self) -> int:
        return int(self.behind.fileno())

    @property
    def encoding(self) -> str:  # type: ignore[override]  # read-only here
        return "utf-8"

    def __getattr__(self, name: str) -> Any:
        return getattr(self.behind, name)


class ProxiedStreams:
    """Puts the proxies in place of `sys.stdout` and `sys.stderr`; `stop` takes them away again where they still stand."""

    def __init__(self) -> None:
        self._pairs: list[tuple[str, Any, _Proxy]] = []

    def start(self) -> None:
        """Put them in place, unless they are: an application may have put its own there meanwhile."""
        for name in ("stdout", "stderr"):
            behind = getattr(sys, name)
            if behind is None or isinstance(behind, _Proxy):
                continue
            proxy = _Proxy(behind)
            setattr(sys, name, proxy)
            self._pairs.append((name, behind, proxy))

    def stop(self) -> None:
        """Take them away. Safe to call twice."""
        for name, behind, proxy in reversed(self._pairs):
            if getattr(sys, name) is proxy:
                setattr(sys, name, behind)
        self._pairs = []
