"""Live files of runs under a remote prefix: found again where their driver is dead, and in nobody else's folder."""

from __future__ import annotations

import os
import tempfile

import pytest

from otel_exec.record.live_folders import dead_folders, make_folder
from otel_exec.record.process_id import driver_id

PREFIX = "s3://bucket/prefix"


@pytest.fixture(autouse=True)
def temporary(tmp_path, monkeypatch):
    """A temporary folder of the test's own."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def die(folder):
    """Have the folder name a driver that is no more."""
    holder = driver_id("exec_1").split(":")
    holder[3] = "1/exec_1"  # no process began so early and has this pid
    with open(folder + "/driver", "w", encoding="utf-8") as file:
        file.write(":".join(holder))


def test_folders_of_dead_drivers_are_found_under_their_own_prefix():
    """One that lives is not, nor one of another prefix; a slash at the prefix's end changes nothing."""
    living, dead, elsewhere = make_folder(PREFIX, "exec_1"), make_folder(PREFIX, "exec_2"), make_folder("s3://other", "exec_3")
    for folder in (dead, elsewhere):
        die(folder)
    assert os.stat(dead).st_mode & 0o777 == 0o700
    assert dead_folders(PREFIX) == dead_folders(PREFIX + "/") == [dead]
    assert os.path.basename(living) == "exec_1"


def test_a_folder_without_a_driver_is_left_alone(temporary):
    """What says nothing may be somebody's who is just beginning."""
    os.unlink(make_folder(PREFIX, "exec_1") + "/driver")
    (temporary / f"otel-exec-live-{os.getuid()}" / "noise").write_text("")
    assert dead_folders(PREFIX) == []


@pytest.mark.parametrize("how", ["everybody's", "a link"])
def test_a_place_that_others_could_write_to_is_not_used(temporary, how):
    """The temporary folder is shared: then the run has a folder of a random name, and none is found again."""
    home = temporary / f"otel-exec-live-{os.getuid()}"
    if how == "a link":
        (temporary / "theirs").mkdir(mode=0o700)
        home.symlink_to("theirs")
    else:
        home.mkdir()
        home.chmod(0o777)
    folder = make_folder(PREFIX, "exec_1")
    die(folder)
    assert os.path.dirname(folder) == str(temporary)
    assert os.path.basename(folder).startswith("exec_1-")
    assert dead_folders(PREFIX) == []
