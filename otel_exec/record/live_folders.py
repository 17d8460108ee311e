"""Where the live files of runs under a remote prefix lie: folders in this machine's temporary folder, found again by the next run of the same user.

What comes in: a remote prefix, an exec id. What goes out: a folder of one's own, and those whose drivers are dead. Each has a file `driver` that names its driver.
The temporary folder is everybody's: what somebody else owns, or could write to, is not used.
"""

from __future__ import annotations

import hashlib
import os
import stat
import tempfile
from contextlib import suppress

from otel_exec.record import storage
from otel_exec.record.process_id import driver_id, holder_dead

__all__ = ["dead_folders", "make_folder"]

_DRIVER = "/driver"
_DRIVER_BYTES = 4096


def make_folder(prefix: str, exec_id: str) -> str:
    """Make the folder of a run's live files; raises `OSError`."""
    base = _base(prefix)
    folder = f"{base}/{exec_id}" if base else tempfile.mkdtemp(prefix=f"{exec_id}-")
    if base:
        os.mkdir(folder, 0o700)
    storage.replace(folder + _DRIVER, driver_id(exec_id).encode())
    return folder


def dead_folders(prefix: str) -> list[str]:
    """Return the folders that drivers left behind which are provably dead; in no order. Never raises."""
    found = []
    with suppress(OSError):
        base = _base(prefix)
        for name in os.listdir(base) if base else ():
            with suppress(OSError):
                if holder_dead(storage.read_head(f"{base}/{name}{_DRIVER}", _DRIVER_BYTES).decode("utf-8", "replace")):
                    found.append(f"{base}/{name}")
    return found


def _base(prefix: str) -> str | None:
    """Return the folder for this user and prefix, made where it is missing; `None` where it can't be ours alone."""
    home = os.path.join(tempfile.gettempdir(), f"otel-exec-live-{os.getuid()}")
    base = os.path.join(home, hashlib.sha256(prefix.rstrip("/").encode("utf-8", "surrogateescape")).hexdigest()[:24])
    for path in (home, base):
        with suppress(FileExistsError):
            os.mkdir(path, 0o700)
        there = os.stat(path, follow_symlinks=False)
        if not stat.S_ISDIR(there.st_mode) or there.st_uid != os.getuid() or there.st_mode & 0o077:
            return None
    return base
