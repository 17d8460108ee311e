"""Opening files that somebody else may have put there: a pipe in a file's place must not hold a reader up, nor a giant fill its memory.

What comes in: a path. What goes out: a descriptor of a regular file, or its bytes, or an `OSError`. Never waits for anybody.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["LONGEST_BYTES", "data_chunks", "open_regular", "read_regular"]

# No file that we write whole comes near it: the record of 10,000 steps has some 30 MB.
LONGEST_BYTES = 256 << 20


def open_regular(path: str, *, follow: bool = True) -> int:
    """Return a descriptor for reading.

    Args:
        path: the file.
        follow: whether it may be a symbolic link.

    Raises:
        OSError: there is none, it can't be read, or it is a pipe, a device, a folder.
    """
    # Without O_NONBLOCK the opening of a pipe waits for a writer.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | (0 if follow else os.O_NOFOLLOW))
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISREG(mode):
        return descriptor
    os.close(descriptor)
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
    raise OSError(errno.EINVAL, "it is no regular file", path)


def read_regular(path: str, limit_bytes: int = LONGEST_BYTES) -> bytes:
    """Return a file's content.

    Args:
        path: the file.
        limit_bytes: what is longer is refused.

    Raises:
        OSError: as `open_regular`, or it is longer than that.
    """
    descriptor = open_regular(path)
    try:
        size = os.fstat(descriptor).st_size
        if size > limit_bytes:
            raise OSError(errno.EFBIG, f"it has {size:,} bytes, more than such a file ever has", path)
        parts = []
        left = limit_bytes
        while left and (part := os.read(descriptor, min(left, max(size, 1 << 16)))):
            parts.append(part)
            left -= len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)
    finally:
        os.close(descriptor)


def data_chunks(descriptor: int, position: int, chunk_bytes: int) -> Iterator[tuple[int, bytes]]:
    """Yield what was written to a file from a position on, in pieces, each with where it begins. Holes are passed over: a giant that is all holes costs nothing.

    Raises:
        OSError: it can't be read.
    """
    while True:
        try:
            position = os.lseek(descriptor, position, os.SEEK_DATA)
        except AttributeError:  # a system without
            pass
        except OSError as error:
            if error.errno == errno.ENXIO:
                return
        chunk = os.pread(descriptor, chunk_bytes, position)
        if not chunk:
            return
        yield position, chunk
        position += len(chunk)
