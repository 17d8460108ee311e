"""What the system refused, as a sentence: what, where, what to do.

What comes in: an `OSError`. What goes out: text. Imports nothing of ours, and nothing when it is asked: there may be no descriptor left to read a module with.
"""

from __future__ import annotations

import errno
import os
import resource
from typing import Final

__all__ = ["cant_go_on", "way_out"]

_WAYS_OUT: Final = {
    errno.EACCES: "give a path that you may write to, or ask its owner",
    errno.EPERM: "give a path that you may write to, or ask its owner",
    errno.EROFS: "give a path on a disk that can be written",
    errno.ENOSPC: "make room on the disk, then run again: finished steps are kept",
    errno.EDQUOT: "make room in your quota, then run again: finished steps are kept",
    errno.ENOTDIR: "a file stands where a folder is needed: move it away, or give another path",
    errno.EEXIST: "a file stands where a folder is needed: move it away, or give another path",
    errno.EISDIR: "a folder stands where a file is needed: move it away, or give another path",
    errno.ELOOP: "a symbolic link stands where a file is needed: remove it",
    errno.ENXIO: "nobody reads from this pipe: start its reader first",
    errno.ENAMETOOLONG: "shorten the name",
    errno.EFBIG: "the system limits how large a file may be (ulimit -f): raise the limit, then run again: finished steps are kept",
    errno.ENOENT: "its folder is gone: somebody deleted or unmounted it",
    errno.EMFILE: "the system limits how many files a process may have open (ulimit -n): raise the limit, close what is kept open, or take fewer --workers",
    errno.ENFILE: "the system has no more open files to give: end what keeps many open",
    errno.ENOMEM: "end what takes much memory, or give the process more",
    errno.EAGAIN: "the system has none to spare for now: try again; a process or thread that can't be started has met a limit on how many you may have "
    "(ulimit -u, or the container's), which you can raise, or take fewer --workers",
}
# Which limit a refusal is about, and what it counts.
_LIMITS: Final = {errno.EMFILE: (resource.RLIMIT_NOFILE, ""), errno.EFBIG: (resource.RLIMIT_FSIZE, " bytes")}


def way_out(error: OSError) -> str | None:
    """Return what to do about a refusal to write, `None` where that is not known."""
    return _WAYS_OUT.get(error.errno or 0)


def cant_go_on(error: OSError) -> str:
    """Return the sentence for a refusal that ends a program, wherever it came from."""
    if error.errno == errno.ENOENT and error.filename is None and _no_current_folder():
        return "can't go on: the current folder is gone: somebody deleted it; change to one that is there"
    said = (error.strerror or str(error) or type(error).__name__).strip()
    where = f": {os.fsdecode(error.filename)}" if isinstance(error.filename, str | bytes) else ""
    todo = _with_the_limit(error, way_out(error)) if error.errno != errno.ENOENT else None
    return f"can't go on: {said[:1].lower()}{said[1:]}{where}" + (f" ({todo})" if todo else "")


def _no_current_folder() -> bool:
    try:
        os.getcwd()
    except OSError:
        return True
    return False


def _with_the_limit(error: OSError, todo: str | None) -> str | None:
    """Return what to do with the number of this process's own limit in it."""
    which, unit = _LIMITS.get(error.errno or 0, (None, ""))
    if which is None or todo is None:
        return todo
    soft, _ = resource.getrlimit(which)
    return todo if soft == resource.RLIM_INFINITY else todo.replace(" (ulimit", f" to {soft}{unit} (ulimit")
