"""Bytes in files, on a local disk or on anything that fsspec reads and writes.

What comes in: paths and bytes. What goes out: the few ways in which a record touches a store: append a line, replace whole, create once, read.
A path with `://` in it is a URL and goes through fsspec, which is imported then and not before; any other is a local path and takes plain system calls,
as few as will do, since every step pays for them. Nothing here knows what the bytes mean.

Every function raises `OSError` when a store refuses, whatever the store's own library raises; `refused` makes a sentence of it.

A replaced file is whole whenever a process is killed. It is not flushed to the disk's platters: after a power cut the last few seconds may be missing.
"""

from __future__ import annotations

import errno
import os
import select
import stat
import threading
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from otel_exec.errors import RecordError
from otel_exec.refused import way_out
from otel_exec.regular_file import open_regular, read_regular

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = [
    "append_line",
    "create_exclusive",
    "exists",
    "is_remote",
    "join",
    "list_folders",
    "make_folder",
    "modified_s",
    "read_bytes",
    "read_head",
    "refused",
    "remove",
    "remove_folder",
    "replace",
    "upload",
    "write_through",
]

# A link in the place of a file of ours is somebody else's doing: it is not written through.
_APPEND = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
# How long the reader of a pipe may take for what stands in it.
_READER_PATIENCE_S = 5

# Check-then-write on a remote store is one step at least within this process (`memory://` has no other).
_remote_lock = threading.RLock()


def is_remote(path: str) -> bool:
    """Return whether a path is a URL, for fsspec to deal with."""
    return "://" in path


def join(path: str, *parts: str) -> str:
    """Return a path below another one; the parts are ours and hold no `..`."""
    return "/".join((path.rstrip("/") if len(path) > 1 else path, *parts))


def refused(path: str, doing: str, error: OSError) -> RecordError:
    """Return the error to raise when a store refused.

    Args:
        path: the file or folder.
        doing: what was tried: `read`, `written`, `made`.
        error: what the store said.
    """
    said = "it is no regular file" if error.errno == errno.ESPIPE else error.strerror or str(error) or type(error).__name__
    todo = way_out(error) if doing != "read" else None
    return RecordError(path, f"can't be {doing}: {said[:1].lower()}{said[1:]}" + (f" ({todo})" if todo else ""))


def make_folder(path: str) -> None:
    """Make a folder, parents included; one that is there already is fine."""
    if is_remote(path):
        with _remote(path) as (store, inner):
            store.makedirs(inner, exist_ok=True)
        return
    try:
        os.mkdir(path)
    except FileExistsError:
        if not os.path.isdir(path):
            raise
    except FileNotFoundError:
        os.makedirs(path, exist_ok=True)


def append_line(path: str, line: bytes) -> None:
    """Append one line, given without its newline, with one write.

    Where the last line is torn (its writer was killed) the new one starts on a line of its own. A store that can't append gets the file rewritten: one writer a file.
    """
    if is_remote(path):
        _append_remote(path, line)
        return
    descriptor = os.open(path, _APPEND, 0o666)
    try:
        size = os.lseek(descriptor, 0, os.SEEK_END)
        torn = size > 0 and os.pread(descriptor, 1, size - 1) != b"\n"
        _write_all(descriptor, b"\n" + line + b"\n" if torn else line + b"\n")
    finally:
        os.close(descriptor)


def replace(path: str, content: bytes) -> None:
    """Replace a file whole: every reader sees the old content or the new, also when this process is killed meanwhile."""
    if is_remote(path):
        with _remote(path) as (store, inner):
            store.pipe_file(inner, content)
        return
    beside = f"{path}.{os.getpid()}-{threading.get_ident()}.tmp"
    try:
        descriptor = os.open(beside, _CREATE, 0o666)
    except FileExistsError:  # left by a killed process that had this pid
        os.unlink(beside)
        descriptor = os.open(beside, _CREATE, 0o666)
    try:
        try:
            _write_all(descriptor, content)
        finally:
            os.close(descriptor)
        os.replace(beside, path)
    except BaseException:
        _unlink(beside)
        raise


def write_through(path: str, content: bytes) -> None:
    """Replace a file that the user named: a symlink keeps pointing where it does, and what is no regular file (`/dev/null`, a pipe) is written to, not replaced.

    Nobody is waited for who does not read: a pipe without a reader is refused, and one whose reader does not go on after some seconds.
    """
    if not is_remote(path):
        try:
            regular = stat.S_ISREG(os.stat(path).st_mode)  # before links are followed: those in /dev/fd lead to no name
        except FileNotFoundError:
            regular = True
        if not regular:
            # Without O_NONBLOCK the opening of a pipe waits for a reader, who may never come.
            descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC | os.O_NONBLOCK)
            try:
                _write_to_reader(descriptor, content)
            finally:
                os.close(descriptor)
            return
        path = os.path.realpath(path)
    replace(path, content)


def _write_to_reader(descriptor: int, content: bytes) -> None:
    """Write to what may be read slowly, as long as it is read."""
    poll = select.poll()
    poll.register(descriptor, select.POLLOUT)
    while content:
        try:
            content = content[os.write(descriptor, content) :]
        except BlockingIOError:
            if not poll.poll(_READER_PATIENCE_S * 1000):
                raise TimeoutError(errno.ETIMEDOUT, f"its reader took nothing for {_READER_PATIENCE_S} s") from None


def create_exclusive(path: str, content: bytes) -> bool:
    """Create a file with this content; `False`, and nothing written, when there is one.

    Local: exact among all processes. Remote: exact among the threads of this process, and among processes where the store can create exclusively.
    """
    if is_remote(path):
        return _create_remote(path, content)
    try:
        descriptor = os.open(path, _CREATE, 0o666)
    except FileExistsError:
        return False
    try:
        _write_all(descriptor, content)
    finally:
        os.close(descriptor)
    return True


def read_bytes(path: str) -> bytes:
    """Return a file's content."""
    if is_remote(path):
        with _remote(path) as (store, inner):
            content: bytes = store.cat_file(inner)
            return content
    return read_regular(path)


def read_head(path: str, size_bytes: int) -> bytes:
    """Return the first bytes of a file, fewer when it is shorter."""
    if is_remote(path):
        with _remote(path) as (store, inner):
            content: bytes = store.cat_file(inner, start=0, end=size_bytes)
            return content
    descriptor = open_regular(path)
    try:
        return os.read(descriptor, size_bytes)
    finally:
        os.close(descriptor)


def exists(path: str) -> bool:
    """Return whether there is a file or folder; `False` where one can't tell."""
    if is_remote(path):
        try:
            with _remote(path) as (store, inner):
                return bool(store.exists(inner))
        except OSError:
            return False
    return os.path.exists(path)


def modified_s(path: str) -> float | None:
    """Return when a file was last written, in seconds since the Unix epoch; `None` where the store doesn't say."""
    if is_remote(path):
        with _remote(path) as (store, inner):
            try:
                return float(store.modified(inner).timestamp())
            except NotImplementedError:
                return None
    return os.stat(path).st_mtime


def remove(path: str) -> None:
    """Remove a file; one that is gone already is fine."""
    if is_remote(path):
        try:
            with _remote(path) as (store, inner):
                store.rm_file(inner)
        except FileNotFoundError:
            pass
        return
    _unlink(path)


def remove_folder(path: str) -> None:
    """Remove a remote folder with all that is in it; one that is gone already is fine."""
    try:
        with _remote(path) as (store, inner):
            store.rm(inner, recursive=True)
    except FileNotFoundError:
        pass


def list_folders(path: str) -> list[str]:
    """Return the names of the folders in a folder, in no order; [] when it is missing. Symlinks are passed over: what is listed lies inside."""
    if is_remote(path):
        try:
            with _remote(path) as (store, inner):
                return [entry["name"].rstrip("/").rsplit("/", 1)[-1] for entry in store.ls(inner, detail=True) if entry["type"] == "directory"]
        except FileNotFoundError:
            return []
    try:
        with os.scandir(path) as entries:
            return [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
    except (FileNotFoundError, NotADirectoryError):
        return []


def upload(folder: str, to: str, changed: Callable[[str], bool] = lambda _path: True) -> None:
    """Copy a local folder's files, sub-folders included, to a remote one; only those that `changed` says so of. A file that goes meanwhile is passed over."""
    with _remote(to) as (store, inner):
        for base, _, names in os.walk(folder):
            below = os.path.relpath(base, folder)
            target = inner if below == os.curdir else f"{inner}/{below}"
            store.makedirs(target, exist_ok=True)
            for name in sorted(names):
                path = os.path.join(base, name)
                if changed(path):
                    try:
                        store.put_file(path, f"{target}/{name}")
                    except FileNotFoundError:
                        if os.path.lexists(path):  # it is the store that has no such bucket: callers remove what they think is there
                            raise


@contextmanager
def _remote(path: str) -> Iterator[tuple[Any, str]]:
    """Yield the store of a URL and the path in it; whatever a store's library raises becomes an `OSError`."""
    try:
        import fsspec

        yield fsspec.core.url_to_fs(path)
    except OSError:
        raise
    except Exception as error:
        raise OSError(errno.EIO, f"{type(error).__name__}: {error}") from error


def _append_remote(path: str, line: bytes) -> None:
    with _remote_lock, _remote(path) as (store, inner):
        try:
            before: bytes = store.cat_file(inner)
        except FileNotFoundError:
            before = b""
        separator = b"" if not before or before.endswith(b"\n") else b"\n"
        store.pipe_file(inner, before + separator + line + b"\n")


def _create_remote(path: str, content: bytes) -> bool:
    with _remote_lock, _remote(path) as (store, inner):
        # Asked of the store itself, not of a listing that it remembers.
        store.invalidate_cache()
        if store.exists(inner):
            return False
        try:
            store.pipe_file(inner, content, mode="create")
        except FileExistsError:
            return False
        except (NotImplementedError, TypeError, ValueError):  # the store has no exclusive creation
            store.pipe_file(inner, content)
        return True


def _write_all(descriptor: int, content: bytes) -> None:
    written = os.write(descriptor, content)
    while written < len(content):  # a signal, or a disk that is filling up
        written += os.write(descriptor, content[written:])


def _unlink(path: str) -> None:
    with suppress(FileNotFoundError):
        os.unlink(path)
