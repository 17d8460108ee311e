"""One descriptor is kept for what a run must write down."""

from __future__ import annotations

import errno
import os

import pytest

from otel_exec.errors import RecordError
from otel_exec.record import spare, storage
from otel_exec.record.spare import keep_descriptor, was_needed, with_descriptor


@pytest.fixture
def kept(monkeypatch):
    """A descriptor that is kept for this test."""
    monkeypatch.setattr(spare, "_kept", -1)
    keep_descriptor()
    was_needed()
    yield spare._kept
    if spare._kept >= 0:
        os.close(spare._kept)


def write_when_free(number, error):
    """Return a write that is refused as long as a descriptor's number is taken."""

    def write():
        try:
            os.fstat(number)
        except OSError:
            return "written"
        raise error

    return write


FULL = OSError(errno.EMFILE, "Too many open files")


def test_a_write_that_finds_no_descriptor_has_the_one_that_was_kept(kept):
    """The write is done again, without another word; afterwards one is kept again."""
    assert with_descriptor(write_when_free(kept, FULL)) == "written"
    assert spare._kept >= 0
    assert was_needed()
    assert not was_needed()


def test_an_error_of_the_record_is_seen_through(kept):
    """It is the same where the write has made a sentence of the system's error."""
    refused = storage.refused("x", "written", FULL)
    refused.__cause__ = FULL
    assert with_descriptor(write_when_free(kept, refused)) == "written"


def test_what_is_refused_for_another_reason_is_refused(kept):
    """The descriptor stays for those who need it."""
    with pytest.raises(PermissionError):
        with_descriptor(write_when_free(kept, PermissionError(errno.EACCES, "no")))
    with pytest.raises(RecordError):
        with_descriptor(write_when_free(kept, RecordError("x", "is damaged")))
    assert spare._kept == kept
    assert not was_needed()


def test_without_one_the_refusal_stands(monkeypatch):
    """Where none could be kept, what the system says is raised."""
    monkeypatch.setattr(spare, "_kept", -1)
    with pytest.raises(OSError, match="Too many"):
        with_descriptor(write_when_free(0, FULL))


def test_a_number_that_is_somebody_elses_by_now_is_left_alone(kept, tmp_path):
    """A step may have closed it, and been given its number for a file of its own."""
    file = os.open(tmp_path / "theirs", os.O_RDWR | os.O_CREAT)
    os.dup2(file, kept)
    with pytest.raises(OSError, match="Too many"):
        with_descriptor(write_when_free(file, FULL))
    assert os.write(kept, b"still open") == 10
    os.close(file)
    os.close(kept)
