"""The metrics files: appended, bounded, in order."""

from __future__ import annotations

import errno
import os

import pytest

from otel_exec.spans.metrics_file import MetricsFile, metrics_files


def test_lines_follow_each_other(tmp_path):
    """Lines stand in one file in the order written."""
    file = MetricsFile(str(tmp_path))
    for line in (b"1\n", b"2\n"):
        file.append(line)
    assert metrics_files(str(tmp_path)) == [("metrics.jsonl", 4)]
    assert (tmp_path / "metrics.jsonl").read_bytes() == b"1\n2\n"


def test_files_are_bounded_and_two_are_kept(tmp_path):
    """Past its size the next file is begun; the newest two are kept, and listed in the order written, past ten as well."""
    file = MetricsFile(str(tmp_path), segment_bytes=10)
    for number in range(12):
        file.append(b"%08d\n" % number)
    assert metrics_files(str(tmp_path)) == [("metrics-11.jsonl", 9), ("metrics-12.jsonl", 9)]
    assert sorted(os.listdir(tmp_path)) == ["metrics-11.jsonl", "metrics-12.jsonl"]


def test_a_line_longer_than_a_file_has_one_of_its_own(tmp_path):
    """A line that is too long for a file is written all the same, and begins no empty one."""
    file = MetricsFile(str(tmp_path), segment_bytes=5)
    file.append(b"123456789\n")
    file.append(b"1\n")
    assert metrics_files(str(tmp_path)) == [("metrics.jsonl", 10), ("metrics-2.jsonl", 2)]


def test_a_full_disk_tears_one_line(tmp_path, monkeypatch):
    """What could be written in part is ended by the line that comes after it."""
    file = MetricsFile(str(tmp_path))
    write = os.write
    answers = iter([4, None])

    def full(descriptor, data):
        count = next(answers, -1)
        if count is None:
            raise OSError(errno.ENOSPC, "no space left on device")
        return write(descriptor, data if count < 0 else data[:count])

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(OSError, match="no space"):
        file.append(b"123456\n")
    file.append(b"whole\n")
    assert (tmp_path / "metrics.jsonl").read_bytes() == b"1234\nwhole\n"


def test_links_and_other_names_are_passed_over(tmp_path):
    """Symbolic links, folders and other files are none of a run's metrics; a missing folder has none."""
    (tmp_path / "metrics-x.jsonl").write_bytes(b"1\n")
    (tmp_path / "metrics-2.jsonl").mkdir()
    (tmp_path / "metrics-3.jsonl").symlink_to(tmp_path / "metrics-x.jsonl")
    (tmp_path / "metrics.jsonl.tmp").write_bytes(b"1\n")
    assert metrics_files(str(tmp_path)) == []
    assert metrics_files(str(tmp_path / "missing")) == []
