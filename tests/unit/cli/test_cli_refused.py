"""What the system refuses is said in one sentence: what, where, what to do."""

from __future__ import annotations

import errno
import os
import resource

import pytest

from otel_exec.cli.main import main
from otel_exec.errors import RecordError
from otel_exec.execute.packing import BlobStore
from otel_exec.refused import cant_go_on


def limited(monkeypatch, soft):
    monkeypatch.setattr(resource, "getrlimit", lambda _which: (soft, soft))


@pytest.mark.parametrize(
    ("number", "soft", "says"),
    [
        (errno.EMFILE, 16, "too many open files (the system limits how many files a process may have open to 16 (ulimit -n): raise the limit, close "),
        (errno.EFBIG, 4000, "file too large (the system limits how large a file may be to 4000 bytes (ulimit -f): raise the limit, then run again"),
        (errno.EMFILE, resource.RLIM_INFINITY, "too many open files (the system limits how many files a process may have open (ulimit -n): raise"),
        (errno.EAGAIN, 1, "resource temporarily unavailable (the system has none to spare for now: try again; a process or thread that can't be started"),
    ],
)
def test_a_limit_is_named_with_its_number(monkeypatch, number, soft, says):
    """Too many files, too large a file: the limit that this process has, and how to raise it."""
    limited(monkeypatch, soft)
    assert cant_go_on(OSError(number, os.strerror(number))).startswith(f"can't go on: {says}")


def test_a_refused_file_is_named():
    """Where the system says which file, so do we; a file that is missing is not taken for the current folder."""
    assert (
        cant_go_on(OSError(errno.EROFS, "Read-only file system", "/x/y"))
        == "can't go on: read-only file system: /x/y (give a path on a disk that can be written)"
    )
    assert cant_go_on(OSError(errno.ENOENT, "No such file or directory", b"/x/y")) == "can't go on: no such file or directory: /x/y"
    assert cant_go_on(OSError("said by a library")) == "can't go on: said by a library"


def test_a_deleted_current_folder_is_said(monkeypatch, capsys):
    """A command that needs the current folder says that it is gone."""

    def gone():
        raise FileNotFoundError(errno.ENOENT, "No such file or directory")

    monkeypatch.setattr(os, "getcwd", gone)
    assert main(["doctor"]) == 4
    assert capsys.readouterr().err == "otel-exec: can't go on: the current folder is gone: somebody deleted it; change to one that is there\n"


def test_a_blob_that_cannot_be_written_is_not_the_functions_fault(tmp_path):
    """Where the temporary folder takes no more, the file and the reason are named, not the step's function."""
    with pytest.raises(RecordError, match="can't be written: no such file or directory"):
        BlobStore(str(tmp_path / "gone")).put(b"a function")
