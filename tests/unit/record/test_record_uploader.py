"""Uploads while a run goes on: at intervals, of what changed, without a wait."""

from __future__ import annotations

import fsspec
import pytest

from otel_exec.record import storage
from otel_exec.record.uploader import Uploader


@pytest.fixture
def store():
    """A store in memory, empty."""
    found = fsspec.filesystem("memory")
    found.store.clear()
    found.pseudo_dirs[:] = [""]
    return found


def test_what_changed_is_uploaded_at_intervals(tmp_path, store):
    """Nothing before the first interval has passed; then what is new, and later only what changed."""
    (tmp_path / "spans").mkdir()
    (tmp_path / "spans" / "driver.jsonl").write_text("one\n", encoding="utf-8")
    (tmp_path / "status.json").write_text("{}", encoding="utf-8")
    uploader = Uploader(str(tmp_path), "memory://p/run", interval_s=30.0)
    for now_s in (100.0, 129.9):
        uploader.tick(now_s)
        uploader.finish()
        assert store.find("/p") == []
    uploader.tick(130.0)
    uploader.finish()
    assert sorted(store.find("/p")) == ["/p/run/spans/driver.jsonl", "/p/run/status.json"]
    with (tmp_path / "spans" / "driver.jsonl").open("a", encoding="utf-8") as file:
        file.write("two\n")
    store.pipe_file("/p/run/status.json", b"as it was put there")
    uploader.tick(1e9)
    uploader.finish()
    assert store.cat_file("/p/run/spans/driver.jsonl") == b"one\ntwo\n"
    assert store.cat_file("/p/run/status.json") == b"as it was put there", "it had not changed"
    assert uploader.failures == 0


def test_a_store_that_refuses_is_tried_again(tmp_path, monkeypatch):
    """A failed upload is counted, and the next interval tries again."""
    (tmp_path / "status.json").write_text("{}", encoding="utf-8")

    def refuse(*_args, **_options):
        raise OSError("no such bucket")

    monkeypatch.setattr(storage, "upload", refuse)
    uploader = Uploader(str(tmp_path), "memory://p/run", interval_s=1.0)
    for now_s in (0.0, 1e9, 2e9):
        uploader.tick(now_s)
        uploader.finish()
    assert (uploader.failures, uploader.last_error) == (2, "no such bucket")


def test_a_store_that_has_no_such_place_is_not_taken_for_a_file_that_went(tmp_path, monkeypatch):
    """Both are `FileNotFoundError`: a file that went is passed over; a store's 404 is raised, since the caller removes what it thinks is there."""
    from fsspec.implementations.memory import MemoryFileSystem

    (tmp_path / "a").write_text("a", encoding="utf-8")

    def refuse(_self, path, _to, **_):
        raise FileNotFoundError(2, "no such bucket", path)

    monkeypatch.setattr(MemoryFileSystem, "put_file", refuse)
    with pytest.raises(FileNotFoundError, match="no such bucket"):
        storage.upload(str(tmp_path), "memory://nowhere/run")

    def gone(_self, path, _to, **_):
        (tmp_path / "a").unlink()
        raise FileNotFoundError(2, "no such file", path)

    monkeypatch.setattr(MemoryFileSystem, "put_file", gone)
    storage.upload(str(tmp_path), "memory://nowhere/run")
