from __future__ import annotations

import pytest

from otel_exec.report.as_json import as_mapping
from otel_exec.report.as_text import as_text, bar, table_lines
from otel_exec.report.look import ASCII, UNICODE, Look
from otel_exec.report.runs import runs
from otel_exec.report.summary_record import RunLine
from otel_exec.report.table import Column, Fact, Section, Table
from otel_exec.report.text_safety import display_width

COLUMNS = (
    Column("name", "Step", "name", min_width=6),
    Column("level", "Lvl", "count", priority=2),
    Column("took", "Took", "duration"),
    Column("extra", "Extra", "text", priority=10),
    Column("never", "Never", "count", sparse=True),
)
TABLE = Table("t", COLUMNS, [("a/long-name-here", 1, 2_000_000_000, "xxxxxxxx", None), ("b", 22, None, "y", 0)])


def test_columns_align_numbers_right_and_names_left():
    """With room enough all columns are shown, those without any value aside."""
    assert table_lines(TABLE, Look(80)) == [
        "  Step              Lvl  Took  Extra",
        "  a/long-name-here    1  2.0s  xxxxxxxx",
        "  b                  22     -  y",
    ]


def test_a_narrow_table_loses_extras_then_shortens_names_then_loses_by_priority():
    """The order in which a table gives way is the one promised."""
    assert table_lines(TABLE, Look(36))[1] == "  a/long-name-here 1 2.0s xxxxxxxx".replace(" 1 ", "   1 ")
    assert table_lines(TABLE, Look(28))[1] == "  a/long-name-here   1 2.0s"
    assert table_lines(TABLE, Look(24))[1] == "  a/lon...-here   1 2.0s"
    assert table_lines(TABLE, Look(16))[1] == "  a/l...ere 2.0s"
    assert all(display_width(line) <= 9 for line in table_lines(TABLE, Look(9)))


@pytest.mark.parametrize("width", range(3, 60))
def test_no_width_is_too_narrow(width):
    """Every line fits down to a single column of content, wide characters included."""
    table = Table("t", COLUMNS, [("日本語の長い名前", 1, 2_000_000_000, "xxxxxxxx", None)])
    if width >= 5:
        assert all(display_width(line) <= width for line in table_lines(table, Look(width, signs=UNICODE)))
    assert table_lines(table, Look(width))


def test_bars_show_a_sliver_of_what_is_not_nothing():
    """A share of nothing is no bar; the smallest share is still seen; the whole fills the width."""
    plain, drawn = Look(signs=ASCII), Look(signs=UNICODE)
    assert [bar(share, 8, plain) for share in (0, 0.001, 0.5, 1.0, 7.0)] == ["", ".", "####", "########", "########"]
    assert [bar(share, 8, drawn) for share in (0, 0.001, 0.5, 0.55, 1.0)] == ["", "▏", "████", "████▍", "████████"]


def test_sections_without_content_are_passed_over():
    """A heading alone says nothing, unless it is the report's own."""
    assert as_text([Section("", "Report", top=True), Section("a", "Empty")], Look(80)) == "Report\n======\n"


def test_json_keys_carry_their_units():
    """A duration is given in nanoseconds and seconds, a size in bytes, text-only columns not at all."""
    section = Section(
        "s",
        "S",
        facts=(Fact("took", 1_500_000_000, "duration"), Fact("size", 5, "bytes"), Fact("gone", None, "duration")),
        table=Table("rows", (Column("", "shown", "text"), Column("part", "", "share"), Column("b", "", "bar")), [("x", 0.5, 0.5)], hidden=3),
    )
    assert as_mapping([section]) == {
        "s": {"took_ns": 1_500_000_000, "took_seconds": 1.5, "size_bytes": 5, "gone_ns": None, "gone_seconds": None, "rows": [{"part": 0.5}], "rows_hidden": 3}
    }


def line(start_time: str, number: int) -> RunLine:
    from otel_exec.record.model import Experiment

    return RunLine("1.0", f"exec_{number:032x}", "interrupted", Experiment("lm_pipeline_with_a_name"), f"p/{number}", start_time, 4_000_000_000)


def test_a_list_of_runs_fits_80_columns_with_whole_exec_ids():
    """When, experiment, outcome, wall time and the whole exec id; runs of other years show their date."""
    text = as_text(
        runs([line("2026-11-27T14:41:14.000001+00:00", 1), line("2025-01-02T03:04:05.000000+00:00", 2)], "outputs", ["outputs/x: is empty"]), Look(80)
    )
    assert all(len(row) <= 80 for row in text.splitlines())
    assert "11-27 14:41 lm_pi..._name interrupted 4.0s exec_00000000000000000000000000000001" in text
    assert "2025-01-02  lm_pi..._name interrupted 4.0s exec_00000000000000000000000000000002" in text
    assert "can't be read: outputs/x: is empty" in text


def test_an_empty_prefix_says_so():
    """No runs is an answer, not an error."""
    assert "There are no runs here yet." in as_text(runs([], "outputs"), Look(80))
