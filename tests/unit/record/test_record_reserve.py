"""Room that is kept for outcomes: given back piece by piece to a disk that is full."""

from __future__ import annotations

import errno
import os

import pytest

from otel_exec.errors import RecordError
from otel_exec.record import reserve, storage
from otel_exec.record.journal import Journal, JournalLine, read_journal


class FullDisk:
    """A disk that has room for nothing until so many pieces of the reserve were given back."""

    def __init__(self, folder, pieces):
        self.path = folder + reserve.RESERVE
        reserve.keep_room(folder)
        self.room_at = os.path.getsize(self.path) - pieces * (16 << 10)
        self.asked = 0

    def write(self):
        """Write, where there is room."""
        self.asked += 1
        if os.path.getsize(self.path) > self.room_at:
            raise OSError(errno.ENOSPC, "No space left on device")
        return "written"


def test_a_write_that_finds_no_room_gets_it_from_the_reserve(tmp_path):
    """As much as it takes, no more; the rest is kept for the next."""
    disk = FullDisk(str(tmp_path), pieces=3)
    assert reserve.with_room(str(tmp_path), disk.write) == "written"
    assert (disk.asked, os.path.getsize(disk.path)) == (4, disk.room_at)
    assert os.path.getsize(disk.path) > 0


def test_a_reserve_that_is_used_up_gives_no_more(tmp_path):
    """Then the error is the disk's own, and nothing waits."""
    disk = FullDisk(str(tmp_path), pieces=10**6)
    with pytest.raises(OSError, match="No space left"):
        reserve.with_room(str(tmp_path), disk.write)
    assert os.path.getsize(disk.path) == 0


def test_other_errors_take_nothing(tmp_path):
    """Room helps against a full disk or quota alone, also where a sentence was made of what the disk said."""
    reserve.keep_room(str(tmp_path))
    kept = os.path.getsize(tmp_path / "reserve")
    for error in (PermissionError(errno.EACCES, "no"), storage.refused("x", "written", OSError(errno.EROFS, "no")), RecordError("x", "no")):
        assert not reserve.no_room(error)
        with pytest.raises(type(error)):
            reserve.with_room(str(tmp_path), lambda error=error: _raise(error))
    assert os.path.getsize(tmp_path / "reserve") == kept
    said = storage.refused("x", "written", OSError(errno.EDQUOT, "no"))
    said.__cause__ = OSError(errno.EDQUOT, "no")
    assert reserve.no_room(said)


def _raise(error):
    raise error


def test_it_takes_no_more_than_a_sixteenth_of_what_is_free(tmp_path, monkeypatch):
    """A disk that is nearly full at the start is not filled by it; where there is next to nothing, nothing is kept."""
    real = os.statvfs(tmp_path)
    for free, expected in ((10 << 30, 1 << 20), (1 << 20, 64 << 10), (200 << 10, None)):
        monkeypatch.setattr(os, "statvfs", lambda _, free=free: os.statvfs_result((real.f_bsize, 1, free, free, free, *real[5:])))
        reserve.keep_room(str(tmp_path))
        assert (os.path.getsize(tmp_path / "reserve") if expected else None) == expected
        assert os.path.exists(tmp_path / "reserve") == bool(expected)
        reserve.let_go(str(tmp_path))
    assert not os.path.exists(tmp_path / "reserve")


def test_a_link_in_its_place_is_not_followed(tmp_path):
    """Nobody's file is cut short for it."""
    (tmp_path / "theirs").write_text("as it was", encoding="utf-8")
    (tmp_path / "reserve").symlink_to("theirs")
    with pytest.raises(OSError, match="full"):
        reserve.with_room(str(tmp_path), lambda: _raise(OSError(errno.ENOSPC, "full")))
    assert (tmp_path / "theirs").read_text(encoding="utf-8") == "as it was"


def test_the_journal_has_each_transition_once_on_a_disk_that_fills_up(tmp_path, monkeypatch):
    """What was cut short goes on where it was cut, with room from the reserve."""
    reserve.keep_room(str(tmp_path))
    journal = Journal(str(tmp_path))
    real, calls = os.write, []

    def cut_short(descriptor, content):
        calls.append(len(content))
        if len(calls) % 2:
            return real(descriptor, content[: max(1, len(content) // 2)])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "write", cut_short)
    journal.append([JournalLine(at, "created", node=f"n{at}") for at in range(1, 6)])
    monkeypatch.undo()
    journal.close()
    assert len(calls) > 4
    assert [line.at for line in read_journal(str(tmp_path))] == [1, 2, 3, 4, 5]
