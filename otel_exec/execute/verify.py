"""The verify hook: whether a step's output is what it should be.

What comes in: a command (argv) or a function, the config and the output path. What goes out: nothing, or an exception that says why not.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from otel_exec.known_secrets import hide_known
from otel_exec.semconv import ERROR_VERIFY

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from subprocess import Popen

__all__ = ["NotVerified", "check", "commands"]

_FEED_BYTES = 65_536
# What a pipe holds.
_PIPE_BYTES = 65_536
# How often a command that prints nothing is asked whether it has ended: what it left behind may hold its pipe for as long as it likes.
_LOOK_MS = 100
_LONGEST_LINE = 1 << 20


class NotVerified(Exception):
    """The output did not pass; the message is one sentence. `error_type` is what stands in `error.type`."""

    error_type = ERROR_VERIFY


def commands(verify: Sequence[str] | str | object | None) -> tuple[str, ...] | None:
    """Return a command hook as an argv of templates (a string is split into words), `None` where there is none or it is a function."""
    if verify is None or callable(verify):
        return None
    from otel_exec.plan.commands import shell_words  # the driver's: a worker is given words

    return tuple(shell_words(verify)) if isinstance(verify, str) else tuple(verify)  # type: ignore[arg-type]  # callable and None are out


def check(
    hook: Sequence[str] | Callable[[Any, str], object],
    config: Any,
    output_path: str,
    *,
    environ: Mapping[str, str] | None = None,
    feed: Callable[[bytes], None] | None = None,
) -> None:
    """Check a step's output.

    Args:
        hook: argv, each word formatted (`str.format`) with `{output_path}`, run in the output folder; or `fn(config, output_path)`.
        config: what the step's function was given.
        output_path: where the output is; a remote one has no folder to run in.
        environ: the command's environment; `None`: this process's.
        feed: takes what the command prints, without the secrets that are known by value; `None`: it prints where this process does.

    Raises:
        NotVerified: it returned non-zero or `False`, or the command can't be run.
        BaseException: whatever the function raised.
    """
    if callable(hook):
        if hook(config, output_path) is False:
            raise NotVerified("verify returned False")
        return
    import shlex
    import subprocess

    try:
        argv = [part.format(output_path=output_path) for part in hook]
    except (ValueError, LookupError, AttributeError) as error:
        raise NotVerified(f"the verify command {shlex.join(hook)} can't be formatted: {error}") from None
    said = shlex.join(argv)
    if not argv:
        raise NotVerified("the verify command is empty")
    folder = output_path if "://" not in output_path and os.path.isdir(output_path) else None
    pipe = subprocess.PIPE if feed is not None else None
    try:
        process = subprocess.Popen(argv, cwd=folder, env=environ, stdin=subprocess.DEVNULL, stdout=pipe, stderr=subprocess.STDOUT if pipe else None)
    except OSError as error:
        raise NotVerified(f"the verify command can't be run: {said}: {error.strerror or error}") from error
    with process:
        try:
            if feed is not None and process.stdout is not None:
                _pass_on(process, process.stdout.fileno(), feed)
            code = process.wait()
        except BaseException:
            process.kill()
            raise
    if code != 0:
        ended = f"was ended by signal {-code}" if code < 0 else f"ended with exit code {code}"
        raise NotVerified(f"the verify command {ended}: {said}")


def _pass_on(process: Popen[bytes], fd: int, feed: Callable[[bytes], None]) -> None:
    """Feed what the command prints until it has ended."""
    import select

    lines = _Hidden(feed)
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    left = _PIPE_BYTES  # of what it had printed when it ended: what it left behind may print for ever
    while left > 0:
        ended = process.poll() is not None
        if poll.poll(0 if ended else _LOOK_MS):
            chunk = os.read(fd, _FEED_BYTES)
            if not chunk:
                break
            lines.feed(chunk)
            left -= len(chunk) if ended else 0
        elif ended:
            break
    lines.close()


class _Hidden:
    """Passes text on without known secrets: by whole lines, so that none is cut in two."""

    def __init__(self, feed: Callable[[bytes], None]) -> None:
        self._feed = feed
        self._kept = b""

    def feed(self, data: bytes) -> None:
        lines, newline, self._kept = (self._kept + data).rpartition(b"\n")
        if len(self._kept) > _LONGEST_LINE:
            lines, newline, self._kept = lines + newline + self._kept, b"", b""
        if lines or newline:
            self._pass(lines + newline)

    def close(self) -> None:
        if self._kept:
            self._pass(self._kept)

    def _pass(self, data: bytes) -> None:
        self._feed(hide_known(data.decode("utf-8", "surrogateescape")).encode("utf-8", "surrogateescape"))
