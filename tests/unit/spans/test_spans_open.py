"""Open spans in mapped memory: what another process reads of them."""

from __future__ import annotations

import os
import signal

import msgspec

from otel_exec.spans.open_spans import OpenEntry, OpenSpanTable, WrittenOpenTable, read_open


def entry(number, name="phase", node="n-abc123"):
    return OpenEntry(f"{number:016x}", "f" * 16, "phase", name, node, 1_700_000_000_000_000_000 + number)


def test_what_is_open_is_listed_oldest_first(tmp_path):
    """Opened and not closed: that is what a reader of the file and the writer itself see."""
    table = OpenSpanTable(str(tmp_path), "w")
    table.open(entry(2))
    slot = table.open(entry(1))
    table.open(entry(3))
    table.close(slot)
    table.open(entry(0))
    assert table.entries() == [entry(0), entry(2), entry(3)]
    assert read_open(table.path) == table.entries()


def test_an_item_is_listed_with_its_number_and_its_try(tmp_path):
    """So it is told from the task of a step, also in a slot that held an item before; numbers too large are cut."""
    table = OpenSpanTable(str(tmp_path), "w", slots=2)
    item = msgspec.structs.replace(entry(1), kind="task", item=0, attempt=2)
    large = msgspec.structs.replace(entry(2), kind="task", item=2**40, attempt=2**20)
    slot = table.open(item)
    table.open(large)
    assert read_open(table.path) == [item, msgspec.structs.replace(large, item=2**32 - 2, attempt=2**16 - 1)]
    table.close(slot)
    table.open(entry(0))
    assert (table.entries()[0].item, table.entries()[0].attempt) == (None, 0)


def test_a_killed_process_leaves_its_open_spans(tmp_path):
    """After SIGKILL the file still says what was open."""
    pid = os.fork()
    if not pid:
        table = OpenSpanTable(str(tmp_path), "w")
        table.open(entry(1))
        table.close(table.open(entry(2)))
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(pid, 0)
    assert read_open(str(tmp_path / "w.open")) == [entry(1)]


def test_long_names_are_cut_at_a_character(tmp_path):
    """A name of many bytes is cut, never in the middle of a character."""
    table = OpenSpanTable(str(tmp_path), "w")
    table.open(entry(1, name="é" * 200, node="ü" * 300))
    (found,) = table.entries()
    assert found.name == "é" * 92
    assert found.node_id == "ü" * 127


def test_a_full_table_lists_no_more_until_a_slot_is_free(tmp_path):
    """When all slots are taken a span gets -1; closing that is ignored; a freed slot is used again."""
    table = OpenSpanTable(str(tmp_path), "w", slots=2)
    slots = [table.open(entry(number)) for number in range(3)]
    assert slots[2] == -1
    table.close(-1)
    table.close(slots[0])
    table.close(slots[0])
    assert table.open(entry(5)) == slots[0]
    assert table.open(entry(6)) == -1
    assert table.entries() == [entry(1), entry(5)]


def test_a_half_written_slot_is_not_listed(tmp_path):
    """A slot whose first byte is clear holds nothing, whatever else is in it."""
    table = OpenSpanTable(str(tmp_path), "w")
    slot = table.open(entry(1))
    with open(table.path, "r+b") as file:
        file.seek(slot * 512)
        file.write(b"\0")
    assert read_open(table.path) == []


def test_removing_deletes_the_file_and_ends_the_listing(tmp_path):
    """An orderly end leaves no file; later calls do nothing."""
    table = OpenSpanTable(str(tmp_path), "w")
    slot = table.open(entry(1))
    table.remove()
    table.remove()
    table.close(slot)
    assert table.open(entry(2)) == -1
    assert table.entries() == []
    assert os.listdir(tmp_path) == []


def test_a_table_that_can_not_be_mapped_lists_nothing(tmp_path):
    """No file, no list, no error; a file that is none of ours reads as empty."""
    (tmp_path / "file").write_text("something else")
    table = OpenSpanTable(str(tmp_path / "file"), "w")
    assert table.open(entry(1)) == -1
    assert table.entries() == []
    assert read_open(str(tmp_path / "file")) == []
    assert read_open(str(tmp_path / "missing")) == []


def test_a_forked_child_leaves_its_parents_table_alone(tmp_path):
    """What the child opens and closes does not touch what the parent lists."""
    table = OpenSpanTable(str(tmp_path), "w")
    slot = table.open(entry(1))
    pid = os.fork()
    if not pid:
        table.close(slot)
        os._exit(0 if table.open(entry(2)) == -1 else 1)
    assert os.waitpid(pid, 0)[1] == 0
    assert table.entries() == [entry(1)]


def test_its_blocks_are_allocated_when_it_is_made(tmp_path):
    """No store into the table can find the disk full, which would be a SIGBUS: every block of its file is there from the start."""
    table = OpenSpanTable(str(tmp_path), "w")
    found = os.stat(table.path)
    assert found.st_blocks * 512 >= found.st_size > 0


def test_a_table_that_is_kept_for_others_is_written_when_it_is_told_to(tmp_path):
    """With plain writes, of what has changed: it reads as every table does, and survives a kill as they do."""
    table = WrittenOpenTable(str(tmp_path), "w")
    slot = table.open(entry(1))
    assert read_open(table.path) == []
    table.write()
    assert read_open(table.path) == table.entries() == [entry(1)]
    table.close(slot)
    table.open(entry(2))
    table.open(entry(3))
    table.write()
    table.write()
    assert read_open(table.path) == [entry(2), entry(3)]
    assert sorted(entry.name for entry in os.scandir(tmp_path)) == ["w.open"]
    table.remove()
    assert not os.path.lexists(table.path)


def test_a_disk_that_goes_away_ends_nobody_who_keeps_a_table_for_others(tmp_path):
    """Neither a file that is cut short or gone, nor a link in its place, is more than a table that is not read."""
    table = WrittenOpenTable(str(tmp_path), "w")
    os.truncate(table.path, 0)  # where it was mapped, the next span would be a SIGBUS
    table.open(entry(1))
    table.write()
    assert table.entries() == [entry(1)]
    assert read_open(table.path) == []
    os.unlink(table.path)
    os.symlink(tmp_path / "elsewhere", table.path)
    table.open(entry(2))
    table.write()
    assert not os.path.lexists(tmp_path / "elsewhere")
    table.remove()
    table.write()
    assert (table.open(entry(3)), table.entries()) == (-1, [])
