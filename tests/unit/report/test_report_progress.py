from __future__ import annotations

import io

import pytest

from otel_exec.report.eta import Eta, eta
from otel_exec.report.look import ASCII, UNICODE, Look
from otel_exec.report.painter import Painter
from otel_exec.report.progress import LevelProgress, ProgressView, RunningStep, StepEvent, event_line, output_lines, progress_lines
from otel_exec.report.text_safety import display_width

S = 1_000_000_000


def view(**more) -> ProgressView:
    fields = {
        "name": "lm_pipeline",
        "done": 6,
        "total": 12,
        "failed": 1,
        "cached": 2,
        "elapsed_ns": 226 * S,
        "levels": (LevelProgress(1, 4, 4), LevelProgress(2, 2, 5, running=2), LevelProgress(3, 0, 3)),
        "running": (RunningStep("train/big", "1", 12 * S, phase="count_pairs"), RunningStep("tokenize/日本", "2", 90 * S, attempt=2)),
        "eta_ns": 150 * S,
    }
    return ProgressView(**{**fields, **more})


def test_the_block_says_how_far_what_runs_and_how_long_it_will_take():
    """A headline with bar, counts, time and ETA; the levels that are not finished; the running steps, longest first, with attempt and phase."""
    assert progress_lines(view(), Look(80)) == [
        "lm_pipeline  #########.........  50%  6/12  1 failed  2 cached  3m46s  ETA 2m30s",
        "  level 2: 2/5 done, 2 running",
        "  level 3: 0/3 done",
        "  1m30s  tokenize/日本 (attempt 2)",
        "    12s  train/big -> count_pairs",
    ]


def test_without_a_basis_there_is_no_eta():
    """An unknown ETA is not shown, nor are counts of nothing; a single level is not worth a line."""
    assert progress_lines(view(eta_ns=None, failed=0, cached=0, levels=(LevelProgress(1, 6, 12),), running=()), Look(80, signs=UNICODE)) == [
        "lm_pipeline  ██████████░░░░░░░░░░  50%  6/12  3m46s"
    ]


@pytest.mark.parametrize("left_ns", [0, 999_999])
def test_an_eta_of_nothing_is_not_told(left_ns):
    """Steps that took longer than usual have used up what was expected of them: nobody knows how long they will still take."""
    assert "ETA" not in progress_lines(view(eta_ns=left_ns), Look(200))[0]
    assert "ETA 1.0ms" in progress_lines(view(eta_ns=1_000_000), Look(200))[0]


def test_what_an_eta_rests_on_is_said_where_there_is_room():
    """At 120 columns the headline says where the ETA comes from; at 80 the bar keeps its room."""
    assert progress_lines(view(eta_basis="earlier runs"), Look(120))[0].endswith("ETA 2m30s (from earlier runs)")
    assert progress_lines(view(eta_basis="earlier runs"), Look(80))[0].endswith("ETA 2m30s")


@pytest.mark.parametrize("width", [*range(10, 60), 80, 200])
@pytest.mark.parametrize("height", [2, 3, 5, 24])
@pytest.mark.parametrize("count", [0, 2, 50])
def test_the_block_fits_the_terminal(width, height, count):
    """Whatever runs, every line fits the width, and the block the height but one."""
    running = [RunningStep(f"step/日本語/{i}", str(i), i * S, phase="a\x1b[2Jphase") for i in range(count)]
    lines = progress_lines(view(running=running, note="stopping"), Look(width, signs=ASCII), height=height)
    assert all(display_width(line) <= width for line in lines)
    assert len(lines) <= max(2, height - 1)
    assert all(line.isprintable() for line in lines)


def test_what_does_not_fit_is_counted():
    """Of many running steps the longest are shown, and how many there are besides."""
    running = [RunningStep(f"s{i}", str(i), i * S) for i in range(10)]
    lines = progress_lines(view(levels=(), running=running), Look(80), height=6)
    assert lines[1:] == ["  9.0s  s9", "  8.0s  s8", "  7.0s  s7", "  ... and 7 more running"]


def test_a_run_without_steps_is_done():
    """Nothing to do is 100 percent, not a division by zero."""
    assert "100%  0/0" in progress_lines(view(done=0, total=0, failed=0, cached=0, levels=(), running=()), Look(80))[0]


@pytest.mark.parametrize(
    ("event", "line"),
    [
        (StepEvent("started", "a", 0, 12, worker_id="1"), "[ 0/12] started   a on worker 1"),
        (StepEvent("started", "a", 0, 12, worker_id="1", attempt=2), "[ 0/12] started   a on worker 1 (attempt 2)"),
        (StepEvent("finished", "a", 1, 12, duration_ns=3 * S), "[ 1/12] finished  a in 3.0s"),
        (StepEvent("failed", "b", 2, 12, duration_ns=270 * S, detail="ValueError: x\ny"), "[ 2/12] failed    b after 4m30s: ValueError: x y"),
        (StepEvent("retrying", "b", 2, 12, duration_ns=2 * S, attempt=2, detail="OSError: z"), "[ 2/12] retrying  b in 2.0s, attempt 2 is next: OSError: z"),
        (StepEvent("cached", "c", 3, 12), "[ 3/12] cached    c"),
        (StepEvent("waiting", "d", 3, 12, detail="host:boot:1:2 has its lock"), "[ 3/12] waiting   d: host:boot:1:2 has its lock"),
        (StepEvent("skipped", "e\x1b[2J\n", 12, 12, detail="b failed"), "[12/12] skipped   e\\x1b[2J\\n: b failed"),
    ],
)
def test_each_event_is_one_line(event, line):
    """Piped, each thing that happens is one line: how many steps have settled, what, which step, how long, why."""
    assert event_line(event, Look()) == line


def test_output_has_the_steps_name_in_front_of_each_line():
    """What a step prints can be told apart, and can't take over the terminal."""
    assert output_lines("a", "one\r\n\x1b[2Jtwo\n", Look()) == ["a | one", "a | \\x1b[2Jtwo"]


def test_eta_shares_the_work_left_among_the_workers():
    """Four steps of 10 s and one that has run for 4 s of its 10 are 46 s of work: 23 s for two workers."""
    assert eta({"t": 4}, [("t", 4 * S)], {"t": 10 * S}, at_once=2).left_ns == 23 * S


def test_eta_is_never_less_than_the_longest_step_left():
    """A hundred workers don't make one step faster."""
    assert eta({"t": 3, "big": 1}, [], {"t": S, "big": 60 * S}, at_once=100).left_ns == 60 * S


def test_eta_needs_a_basis_for_half_of_what_is_left():
    """Without means there is none; earlier runs are a basis too; what has none of its own takes the usual."""
    assert eta({"t": 4}, [], {}, at_once=1) is None
    assert eta({"t": 4, "u": 5}, [], {"t": S}, at_once=1) is None
    assert eta({"t": 4}, [], {}, at_once=1, earlier_ns={"t": S}) == Eta(4 * S, "earlier runs")
    assert eta({"t": 4}, [], {"t": 2 * S}, at_once=1, earlier_ns={"t": S}) == Eta(8 * S, "this run")
    assert eta({"t": 4, "u": 1}, [], {"t": S}, at_once=1, earlier_ns={"u": S}) == Eta(5 * S, "both")
    assert eta({"t": 4, "u": 4}, [], {"t": S}, at_once=1).left_ns == 8 * S


def test_eta_of_nothing_left_is_zero_and_overdue_steps_count_for_nothing():
    """A step that runs longer than usual doesn't take time back."""
    assert eta({}, [], {}, at_once=4).left_ns == 0
    assert eta({"t": 0}, [("t", 99 * S)], {"t": S}, at_once=4).left_ns == 0


class Screen:
    """A terminal of `width` columns: knows newline, return, cursor up and erase down; takes styles and ignores them."""

    def __init__(self, width: int) -> None:
        self.width, self.rows, self.row = width, [""], 0

    def feed(self, text: str) -> None:
        i = 0
        while i < len(text):
            char = text[i]
            if char == "\x1b":
                end = next(j for j in range(i + 2, len(text)) if text[j].isalpha())
                number, what = text[i + 2 : end], text[end]
                if what == "A":
                    self.row = max(0, self.row - int(number))
                elif what == "J":
                    self.rows = [*self.rows[: self.row], ""]
                else:
                    assert what == "m"
                i = end + 1
                continue
            if char == "\n":
                self._down()
            elif char != "\r":
                if len(self.rows[self.row]) == self.width:
                    self._down()
                self.rows[self.row] += char
            i += 1

    def _down(self) -> None:
        self.row += 1
        if self.row == len(self.rows):
            self.rows.append("")


class Terminal(io.StringIO):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.screen = Screen(width)

    def write(self, text: str) -> int:
        self.screen.feed(text)
        return len(text)


def test_the_block_is_repainted_in_place():
    """Painting again leaves the new block alone on the screen, also when it is shorter."""
    terminal = Terminal(20)
    painter = Painter(terminal)
    painter.paint(["one", "two", "three"], 20)
    painter.paint(["\x1b[1mfour\x1b[0m"], 20)
    assert terminal.screen.rows == ["four", ""]


def test_lines_that_stay_go_above_the_block():
    """What is said scrolls up; the block stays at the foot, under it."""
    terminal = Terminal(20)
    painter = Painter(terminal)
    painter.paint(["block"], 20)
    painter.say("first", 20)
    painter.say("second\n", 20)
    painter.paint(["block 2"], 20)
    assert terminal.screen.rows == ["first", "second", "block 2", ""]


def test_others_may_print_between_clear_and_paint():
    """After `clear` the block is gone, and what others print stands where it was."""
    terminal = Terminal(20)
    painter = Painter(terminal)
    painter.paint(["a", "b"], 20)
    painter.clear(20)
    terminal.write("the user's own\n")
    painter.paint(["a", "b"], 20)
    painter.clear(20)
    assert terminal.screen.rows == ["the user's own", ""]


def test_a_terminal_made_narrower_is_cleaned_all_the_same():
    """Lines that now take more rows than they have lines are erased whole."""
    terminal = Terminal(10)
    painter = Painter(terminal)
    painter.paint(["0123456789abcdef"], 10)  # as a narrowed terminal shows a line of 16 columns: in two rows
    painter.paint(["x"], 10)
    assert terminal.screen.rows == ["x", ""]


def test_a_stream_that_is_gone_silences_the_painter():
    """A closed stream is no reason for a run to fail."""
    stream = io.StringIO()
    painter = Painter(stream)
    stream.close()
    painter.paint(["x"], 10)
    painter.say("y", 10)
    painter.clear(10)


def test_what_steps_wait_for_is_said():
    """Under the running ones, of many the first three; it goes before the note, and fits the terminal."""
    waiting = [(f"gpu/{number}", "no node of the Ray cluster has\n1 of GPU") for number in range(5)]
    lines = progress_lines(view(levels=(), waiting=waiting, note="stopping"), Look(80))
    assert lines[-4:] == [*(f"  gpu/{number} waits: no node of the Ray cluster has 1 of GPU" for number in range(3)), "stopping"]
    (_, cut) = progress_lines(view(levels=(), running=(), waiting=waiting[:1]), Look(40))
    assert cut == "  gpu/0 waits: no node of the Ray..."
    for height in range(2, 8):
        assert len(progress_lines(view(waiting=waiting, note="stopping"), Look(20), height=height)) <= max(2, height - 1)
