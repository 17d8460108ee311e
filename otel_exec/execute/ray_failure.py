"""What an error of Ray's means for an attempt, in our words.

What comes in: the exception that Ray gave in place of a result. What goes out: an `error.type`, one sentence, and whether the attempt may be blameless.
"""

from __future__ import annotations

from typing import NamedTuple

from ray import exceptions

from otel_exec.errors import qualified_name
from otel_exec.known_secrets import cut
from otel_exec.semconv import ERROR_CANCELLED, ERROR_NODE_DIED, ERROR_OBJECT_STORE, ERROR_OOM_KILLED, ERROR_WORKER_DIED, ERROR_WORKER_SETUP

__all__ = ["Loss", "lost_to"]

_SENTENCE_CHARS = 500


class Loss(NamedTuple):
    """Why an attempt has no report. `blameless`: it may not be the attempt's own fault."""

    error_type: str
    reason: str
    blameless: bool


def lost_to(error: BaseException) -> Loss:
    """Return what an error of Ray's means."""
    if isinstance(error, exceptions.OutOfMemoryError):
        return Loss(ERROR_OOM_KILLED, f"Ray ended its worker since the node ran out of memory: {_first(error)}", blameless=True)
    if isinstance(error, exceptions.TaskCancelledError):
        return Loss(ERROR_CANCELLED, "its Ray task was cancelled", blameless=False)
    if isinstance(error, exceptions.NodeDiedError | exceptions.OwnerDiedError | exceptions.ObjectLostError):
        return Loss(ERROR_NODE_DIED, f"the node that it ran on has died: {_first(error)}", blameless=True)
    if isinstance(error, exceptions.WorkerCrashedError):
        return Loss(ERROR_WORKER_DIED, "the Ray worker process that it ran in has ended unexpectedly", blameless=True)
    if isinstance(error, exceptions.ObjectStoreFullError | exceptions.OutOfDiskError):
        return Loss(ERROR_OBJECT_STORE, f"Ray's object store has no room for it: {_first(error)}", blameless=False)
    if isinstance(error, exceptions.RuntimeEnvSetupError):
        return Loss(ERROR_WORKER_SETUP, f"its runtime_env can't be made on a node: {_last(error)}", blameless=False)
    if isinstance(error, exceptions.RayTaskError):
        cause = error.cause
        if isinstance(cause, exceptions.RayError):
            return lost_to(cause)
        kind = qualified_name(type(cause)) if cause is not None else "an error"
        if isinstance(cause, ModuleNotFoundError):
            return Loss(ERROR_WORKER_SETUP, f"otel_exec can't be imported on that node (No module named {cause.name!r}): install it there", blameless=False)
        return Loss(ERROR_WORKER_SETUP, f"its worker could not begin: {kind}: {_first(cause or error)}", blameless=False)
    return Loss(ERROR_WORKER_SETUP, f"Ray could not run it: {type(error).__name__}: {_first(error)}", blameless=False)


def _first(error: BaseException) -> str:
    """Return the first line of an error's text, bounded."""
    return cut(next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__), _SENTENCE_CHARS)


def _last(error: BaseException) -> str:
    """Return the last line, bounded: of a text that is a traceback, what it came to."""
    return cut(next((line.strip() for line in reversed(str(error).splitlines()) if line.strip()), type(error).__name__), _SENTENCE_CHARS)
