"""An exception as data: what a report says of it, whatever it is and however badly it behaves.

What comes in: an exception of the user's code. What goes out: an `ErrorInfo`. Never raises: exceptions whose `str` fails, that can't be pickled,
or whose message is a gigabyte are all described somehow. Nothing is imported for it: the step may have used up the process's descriptors, or emptied `sys.path`.
"""

from __future__ import annotations

import os
import pickle
import re
import signal
import traceback

from otel_exec.errors import qualified_name
from otel_exec.execute.envelope import ErrorInfo
from otel_exec.known_secrets import cut, hide_known, uncut

__all__ = ["CUT_OFF", "SPENT", "describe", "of_exit", "refusal"]

_OURS = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep
# Where code lies that nobody who runs experiments has written: the standard library, the interpreter's own, what was installed.
_LIBRARIES = (os.path.dirname(os.path.abspath(os.__file__)) + os.sep, "<frozen")
_INSTALLED = tuple(f"{os.sep}{name}{os.sep}" for name in ("site-packages", "dist-packages"))

# What a worker process ends with where the code that it ran has closed its line to the driver, or has left it no file descriptors.
CUT_OFF, SPENT = 78, 79
_OF_OURS = {
    CUT_OFF: "the code that it ran closed file descriptors that were not its own (os.closerange?), the worker process's line to its driver among them",
    SPENT: "the code that it ran left the worker process without file descriptors: it keeps too many open, or closed those of others (see ulimit -n)",
}

# Ray colours what it quotes of a task's traceback.
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")

_MESSAGE_CHARS = 8_000
_TRACEBACK_CHARS = 64_000
_PICKLED_BYTES = 1_000_000


def _cut(text: str, limit: int) -> str:
    """Return the two ends of a text, without known secrets."""
    if len(text) <= limit:
        return hide_known(text)
    half = limit // 2
    stop, start = uncut(text, half), uncut(text, len(text) - half, back=False)
    return f"{hide_known(text[:stop])}\n... ({start - stop} characters left out) ...\n{hide_known(text[start:])}"


def _name(error: BaseException) -> str:
    try:
        return qualified_name(type(error))
    except BaseException:  # a metaclass of the user's
        return "Exception"


def _message(error: BaseException) -> str:
    try:
        text = f"called sys.exit({cut(repr(error.code), 200)})" if isinstance(error, SystemExit) else str(error)
    except BaseException as broken:
        text = f"<the exception's own str() raised {type(broken).__qualname__}>"
    return _cut(text, _MESSAGE_CHARS).encode("utf-8", "backslashreplace").decode()


def _is_ours(filename: str) -> bool:
    return filename.startswith(_OURS)


def _drop_ours(described: traceback.TracebackException, seen: set[int]) -> None:
    """Take our own frames out of an exception's traceback and of those it was raised from."""
    if id(described) in seen:
        return
    seen.add(id(described))
    described.stack = traceback.StackSummary.from_list([frame for frame in described.stack if not _is_ours(frame.filename)])
    for cause in (described.__cause__, described.__context__, *(described.exceptions or ())):
        if cause is not None:
            _drop_ours(cause, seen)


def _traceback(error: BaseException) -> str:
    try:
        described = traceback.TracebackException(type(error), error, error.__traceback__, compact=True)
        _drop_ours(described, set())
        text = "".join(described.format())
    except BaseException:  # a broken __str__ or __repr__, or no stack left to format with
        text = f"{_name(error)}: {_message(error)}\n"
    return _cut(text, _TRACEBACK_CHARS).encode("utf-8", "backslashreplace").decode()


def _where(error: BaseException) -> str | None:
    """Return `file:line` of the innermost frame that is the user's: not ours, and if there is one, not a library's."""
    found = fallback = None
    try:
        trace = error.__traceback__
        while trace is not None:
            filename = trace.tb_frame.f_code.co_filename
            if not _is_ours(filename):
                fallback = f"{filename}:{trace.tb_lineno}"
                if not filename.startswith(_LIBRARIES) and not any(folder in filename for folder in _INSTALLED):
                    found = fallback
            trace = trace.tb_next
    except BaseException:  # no memory or no stack left to look with
        return fallback
    return found or fallback


def _pickled(error: BaseException) -> bytes | None:
    """Return the exception pickled, if it comes back as the same type."""
    if isinstance(error, SystemExit | KeyboardInterrupt | GeneratorExit):
        return None
    try:
        data = pickle.dumps(error)
        if len(data) > _PICKLED_BYTES or type(pickle.loads(data)) is not type(error):  # noqa: S301  just made here
            return None
    except BaseException:
        return None
    return data


def _unwound(error: BaseException) -> BaseException:
    """Return what was raised in a Ray task of the user's own, for the wrapper in which Ray hands it on: `RayTaskError` has it as `cause`, and says where in its text."""
    try:
        cause = error.cause if type(error).__module__ == "ray.exceptions" else None  # type: ignore[attr-defined]  # Ray is not known here
    except BaseException:  # a user's own property
        return error
    return cause if isinstance(cause, BaseException) else error


def describe(error: BaseException, *, type_: str | None = None, message: str | None = None) -> ErrorInfo:
    """Return an exception as data, without the secrets that are known by value; the exception itself, pickled, is for its caller alone and stays as it is.

    Args:
        error: what the user's code raised.
        type_: an `error.type` of our own in place of its qualified name.
        message: in place of its own.
    """
    raised = _unwound(error)
    return ErrorInfo(
        type=type_ or _name(raised),
        message=message if message is not None else _message(raised),
        where=_where(error),
        traceback=_traceback(error) if raised is error else _COLOURS.sub("", _traceback(error)),
        pickled=_pickled(raised),
    )


def refusal(error: BaseException, type_: str) -> ErrorInfo:
    """Return an error of our own lines as data: its sentence alone, since a traceback of our files tells the user nothing.

    Args:
        error: what a file, or the system, refused us.
        type_: the `error.type`.
    """
    return ErrorInfo(type=type_, message=hide_known(_message(error)), pickled=_pickled(error))


def of_exit(returncode: int | None) -> str:
    """Return one sentence on how a process ended, from its `Popen.returncode`."""
    if returncode is None:
        return "the worker ended in an unknown way"
    if returncode in _OF_OURS:
        return _OF_OURS[returncode]
    if returncode >= 0:
        return f"the worker process ended with exit code {returncode}"
    try:
        name = signal.Signals(-returncode).name
    except ValueError:
        name = f"signal {-returncode}"
    hint = "; if nobody sent it, the system ran out of memory" if name == "SIGKILL" else ""
    return f"the worker process was ended by {name}{hint}"
