"""Retention: which runs go, and that nothing else does."""

from __future__ import annotations

import fcntl
import os

import pytest

from otel_exec import deferred, output, read_run, run, step
from otel_exec.cli.main import main as otel_exec
from otel_exec.errors import UsageError
from otel_exec.record.find import list_runs
from otel_exec.record.retention import Rule, parse_age

DAY = 86_400_000_000_000


def _work(out):
    with open(os.path.join(out, "result"), "w", encoding="utf-8") as file:
        file.write("kept")


work = deferred(_work)


@step("work")
def one():
    """A step."""
    return work(out=output())


@pytest.mark.parametrize(
    ("rule", "going"),
    [
        (Rule(keep=1), [True, True, False]),
        (Rule(keep=0), [True, True, True]),
        (Rule(keep=9), [False, False, False]),
        (Rule(younger_ns=5 * DAY), [True, True, False]),
        (Rule(keep=2, younger_ns=5 * DAY), [True, False, False]),
    ],
)
def test_a_run_goes_that_no_part_of_the_rule_keeps(rule, going):
    """Runs of 20, 10 and 1 days ago."""
    assert rule.goes([80 * DAY, 90 * DAY, 99 * DAY], 100 * DAY) == going


@pytest.mark.parametrize(("text", "days"), [("30d", 30), ("2w", 14), ("48h", 2), ("1440m", 1)])
def test_ages_are_numbers_with_a_unit(text, days):
    """What `--older-than` takes."""
    assert parse_age(text) == days * DAY


@pytest.mark.parametrize("text", ["", "30", "d", "-1d", "1.5d", "30 days", "９d"])
def test_what_is_no_age_says_what_is(text):
    """The error gives an example."""
    with pytest.raises(UsageError, match="such as 30d"):
        parse_age(text)


def test_pruning_lists_first_and_never_touches_outputs(tmp_path, capsys):
    """Without --yes nothing is removed; with it run folders go and outputs stay; a run that goes on is kept."""
    prefix = str(tmp_path / "out")
    for _ in range(3):
        run([one()], prefix=prefix, executor="inline", run_json=str(tmp_path / "run.json"))
    folders = list_runs(prefix)
    assert len(folders) == 3
    assert otel_exec(["runs", prefix, "--prune", "--keep", "1"]) == 0
    said = capsys.readouterr().out
    assert "2 runs" in said
    assert "--yes" in said
    assert list_runs(prefix) == folders

    with open(folders[0] + "/spans/driver.jsonl", "ab") as held:
        fcntl.flock(held, fcntl.LOCK_EX)  # as its writer does
        assert otel_exec(["runs", prefix, "--prune", "--keep", "1", "--yes"]) == 0
        assert "it goes on" in capsys.readouterr().out
        assert list_runs(prefix) == [folders[0], folders[2]]
    assert otel_exec(["runs", prefix, "--prune", "--keep", "0", "--yes"]) == 0
    assert list_runs(prefix) == []
    assert [path.read_text() for path in (tmp_path / "out").glob("work-*/result")] == ["kept"]
    again = run([one()], prefix=prefix, executor="inline", run_json=str(tmp_path / "run.json"))
    assert again.steps[0].cached
    assert read_run(prefix).exec_id == again.exec_id


def test_pruning_without_a_rule_is_a_mistake(tmp_path, capsys):
    """Nobody removes everything by leaving something out."""
    os.makedirs(tmp_path / "out")
    assert otel_exec(["runs", str(tmp_path / "out"), "--prune"]) == 2
    assert otel_exec(["runs", str(tmp_path / "out"), "--keep", "1"]) == 2
    assert "--keep N" in capsys.readouterr().err


@pytest.mark.parametrize("linked", [".otel_exec", ".otel_exec/runs"])
def test_nothing_is_removed_through_a_link(tmp_path, capsys, linked):
    """Where the folder of runs is a link that leads out of the prefix, nothing is removed, and the sentence says where it leads."""
    elsewhere = tmp_path / "elsewhere"
    run([one()], prefix=str(tmp_path / "theirs"), executor="inline", run_json=str(tmp_path / "run.json"))
    os.rename(tmp_path / "theirs" / linked, elsewhere)
    (tmp_path / "out" / linked).parent.mkdir(parents=True)
    os.symlink(elsewhere, tmp_path / "out" / linked)
    prefix = str(tmp_path / "out")
    folders = list_runs(prefix)
    assert otel_exec(["runs", prefix, "--prune", "--keep", "0", "--yes"]) == 4
    assert f"to {os.path.realpath(tmp_path / 'out' / '.otel_exec' / 'runs')}: nothing is removed" in " ".join(capsys.readouterr().err.split())
    assert list_runs(prefix) == folders != []
