"""Damages the files of runs in every way that is known, and gives them to every command.

    PYTHONPATH=tests python -m faults.fuzz --mutations 10000 --seed 1

Bit flips, truncations, wrong types, deep nesting, huge numbers, wrong encodings, and pipes, folders, giants and circles in our files' places: of run.json, status.json,
export.json, the journal, the spool, lists of open spans and step files. Whatever stands there, a command ends with one of its exit codes, without a traceback, in seconds.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import json
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from otel_exec import OtelExecError, StepRef, deferred, output, phase, read_run, run, step, versioned
from otel_exec.cli.main import COMMANDS
from otel_exec.cli.main import main as otel_exec

LONGEST_S = 20
MOST_MEMORY_BYTES = 500 << 20
EXIT_CODES = {0, 1, 2, 4}
# Commands that read no run: nothing here can reach them.
_NO_RUN = {"doctor", "lint", "perfetto", "compose"}


def _work(number: int, upstream: object, out: str) -> None:
    with phase("think", number=number), phase("deeper"):
        Path(out, "done").write_text(str(number), encoding="utf-8")
    if number == 3:
        raise ValueError("three fails")


work = deferred(_work)


@step("work/{number}")
def one(number: int, upstream: StepRef | None = None) -> object:
    """A step."""
    return work(number=versioned(number), upstream=upstream, out=output())


def plan() -> list[StepRef]:
    """Return two chains, of which one fails."""
    return [one(2, one(1)), one(4, one(3))]


def make_run(base: Path) -> tuple[Path, str]:
    """Make a prefix with one run in it; returns the prefix and the exec id."""
    prefix = base / "prefix"
    with contextlib.suppress(RuntimeError):
        run(plan(), prefix=str(prefix), executor="inline", run_json=str(base / "run.json"))
    return prefix, read_run(str(prefix)).exec_id


def as_killed(prefix: Path, exec_id: str) -> None:
    """Make the run look as if its driver had been killed: half a journal, a record that says `running`, a list of open spans."""
    folder = prefix / ".otel_exec" / "runs" / exec_id
    record = json.loads((folder / "run.json").read_text())
    record["outcome"] = "running"
    (folder / "run.json").write_text(json.dumps(record, separators=(",", ":")))
    status = json.loads((folder / "status.json").read_text())
    status["state"], status["driver"] = "running", ""
    (folder / "status.json").write_text(json.dumps(status))
    journal = (folder / "journal.jsonl").read_bytes().split(b"\n")
    (folder / "journal.jsonl").write_bytes(b"\n".join(journal[: len(journal) * 2 // 3]) + b"\n")
    from otel_exec.spans.open_spans import OpenSpanTable

    table = OpenSpanTable(str(folder / "spans"), "worker-0")
    table.open_span("1" * 16, "2" * 16, "phase", "open", "work/1", 1)


# Ways to damage a file.


def _flip(content: bytes, chance: random.Random) -> bytes:
    damaged = bytearray(content)
    for _ in range(chance.choice((1, 1, 3, 30))):
        if damaged:
            damaged[chance.randrange(len(damaged))] ^= 1 << chance.randrange(8)
    return bytes(damaged)


def _cut(content: bytes, chance: random.Random) -> bytes:
    return content[: chance.randrange(len(content) + 1)]


def _splice(content: bytes, chance: random.Random) -> bytes:
    start, end = sorted(chance.randrange(len(content) + 1) for _ in range(2))
    return chance.choice((content[:start] + content[end:], content + content[start:end], content[end:] + content[:end]))


_VALUES: tuple[object, ...] = (
    None,
    True,
    -1,
    0,
    2**63,
    2**64,
    -(2**80),
    10**400,
    1e308,
    "",
    "x" * 70_000,
    "\ud800",
    "\x1b]0;owned\x07\x1b[2J",
    "../../../../etc/passwd",
    "/etc/passwd",
    "9" * 5_000,
    "9999-12-31T23:59:59+00:00",
    "0001-01-01T00:00:00-23:59",
    [],
    {},
    [[]],
    {"": {}},
    [None] * 3,
    {"a": [1, {"b": "c"}]},
)


def _retype(content: bytes, chance: random.Random) -> bytes:
    """Put a value of another kind in some place of some line's JSON."""
    lines = content.split(b"\n")
    at = chance.randrange(len(lines))
    try:
        document = json.loads(lines[at])
    except ValueError:
        return _flip(content, chance)
    places: list[tuple[object, object]] = []
    pending = [document]
    while pending:
        here = pending.pop()
        keys = list(here) if isinstance(here, dict) else range(len(here)) if isinstance(here, list) else ()
        for key in keys:
            places.append((here, key))
            pending.append(here[key])
    for _ in range(chance.choice((1, 1, 2, 5))):
        if places:
            holder, key = chance.choice(places)
            if isinstance(holder, dict) and chance.random() < 0.2:
                holder.pop(key, None)
            else:
                with contextlib.suppress(IndexError, KeyError):
                    holder[key] = chance.choice(_VALUES)
    lines[at] = json.dumps(document).encode()
    return b"\n".join(lines)


def _nest(content: bytes, chance: random.Random) -> bytes:
    depth = chance.choice((50, 1_000, 200_000))
    head, tail = chance.choice(((b"[", b"]"), (b'{"a":', b"}"), (b'{"resourceSpans":[', b"]}"), (b'{"schema_version":"1.0","exec_id":"x","steps":[', b"]}")))
    nested = head * depth + b"1" + tail * depth
    return chance.choice((nested, content + nested, content.replace(b"[]", nested, 1), nested + b"\n" + content))


def _number(content: bytes, chance: random.Random) -> bytes:
    number = chance.choice((b"1e999", b"-1e999", b"NaN", b"Infinity", b"9" * 4_000, b"1" + b"0" * 400, b"0.1e-400", b"-0", b"1.5", b"18446744073709551616"))
    digits = [index for index in range(len(content)) if content[index : index + 1].isdigit()]
    if not digits:
        return number
    at = chance.choice(digits)
    end = at
    while end < len(content) and content[end : end + 1].isdigit():
        end += 1
    return content[:at] + number + content[end:]


def _recode(content: bytes, chance: random.Random) -> bytes:
    text = content.decode("utf-8", "replace")
    return chance.choice(
        (
            text.encode("utf-16", "replace"),
            text.encode("utf-32", "replace"),
            b"\xef\xbb\xbf" + content,
            b"\x00" * chance.randrange(1, 5_000),
            content.replace(b'"', b"\xff", 1),
            content.replace(b"\n", b"\r\n"),
            content.replace(b'":', b'\\ud800":', 1),
            b"",
            b"\n" * 1_000,
            chance.randbytes(2_000),
        )
    )


_DAMAGES: tuple[Callable[[bytes, random.Random], bytes], ...] = (_flip, _flip, _cut, _splice, _retype, _retype, _retype, _nest, _number, _recode)


def _replace_by(path: Path, chance: random.Random) -> str:
    """Put something that is no file, or is a giant, in a file's place."""
    path.unlink()
    kind = chance.choice(("folder", "pipe", "giant", "circle", "elsewhere", "device", "nothing"))
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "giant":
        with path.open("wb") as file:
            file.truncate(1 << 40)
    elif kind == "circle":
        path.symlink_to(path)
    elif kind == "elsewhere":
        path.symlink_to("/etc/passwd")
    elif kind == "device":
        path.symlink_to("/dev/zero")
    return kind


def damage(prefix: Path, chance: random.Random) -> str:
    """Damage one file, or two; returns what was done."""
    files = [path for path in prefix.rglob("*") if path.is_file() and path.name != "done" and not path.is_symlink()]
    done = []
    for path in chance.sample(sorted(files), chance.choice((1, 1, 1, 2))):
        if chance.random() < 0.05:
            done.append(f"{path.name}: {_replace_by(path, chance)}")
            continue
        how = chance.choice(_DAMAGES)
        path.write_bytes(how(path.read_bytes(), chance))
        done.append(f"{path.name}: {how.__name__}")
    return ", ".join(done)


# Reading it.


@dataclass
class Commands:
    """All that a person can do with a run."""

    prefix: Path
    exec_id: str

    def __iter__(self) -> Iterator[list[str]]:
        folder = f"{self.prefix}/.otel_exec/runs/{self.exec_id}"
        for name in COMMANDS:
            if name in _NO_RUN:
                continue
            options = {action for each in importlib.import_module(f"otel_exec.cli.{name}").parser()._actions for action in each.option_strings}
            base = [name, "--endpoint", "http://127.0.0.1:9", "--dry-run"] if name == "replay" else [name]
            where = str(self.prefix) if name == "runs" else folder
            yield [*base, where]
            if "--json" in options:
                yield [*base, where, "--json"]
            if "--tasks" in options:
                yield [*base, where, "--json", "--tasks"]
        yield ["summary", str(self.prefix)]
        yield ["summary", f"{folder}/run.json"]


class Hung(BaseException):
    """A command did not come back in time; no `except Exception` takes it for something else."""


def _alarm(_number: int, _frame: object) -> None:
    raise Hung


def checked(what: str, call: Callable[[], object]) -> str:
    """Call; returns what is wrong with how it ended, "" for nothing."""
    out, err = io.TextIOWrapper(io.BytesIO(), encoding="utf-8"), io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    signal.alarm(LONGEST_S)
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = call()
    except Hung:
        return f"{what}: hung\n{traceback.format_exc(limit=-6)}"
    except BaseException:
        return f"{what}: raised\n{traceback.format_exc(limit=-8)}"
    finally:
        signal.alarm(0)
    for stream in (out, err):
        stream.flush()
        said = stream.buffer.getvalue()
        if b"Traceback" in said:
            return f"{what}: printed a traceback\n{said.decode(errors='replace')[-2000:]}"
        if b"\x1b]" in said or b"\x1b[2J" in said:
            return f"{what}: printed what a terminal obeys"
    if isinstance(code, int) and code not in EXIT_CODES:
        return f"{what}: exit code {code}"
    return ""


def _run_again(prefix: Path) -> int:
    """Run the experiment over what is there."""
    with contextlib.suppress(OtelExecError):
        run(plan(), prefix=str(prefix), executor="inline", run_json=str(prefix.parent / "run.json"))
    return 0


def campaign(mutations: int, seed: int, *, base: Path | None = None) -> list[str]:
    """Damage so often; returns what went wrong, each with its number."""
    chance = random.Random(seed)
    wrong: list[str] = []
    signal.signal(signal.SIGALRM, _alarm)
    folder = Path(tempfile.mkdtemp(prefix="otel-exec-fuzz-")) if base is None else base
    originals = []
    for name in ("ended", "killed"):
        (folder / name).mkdir()
        prefix, exec_id = make_run(folder / name)
        originals.append((prefix, exec_id))
    as_killed(*originals[1])
    for number in range(mutations):
        original, exec_id = originals[number % 2]
        here = folder / "now"
        shutil.copytree(original, here, symlinks=True)
        done = damage(here, chance)
        problems = [checked(" ".join(argv), lambda argv=argv: otel_exec(argv)) for argv in Commands(here, exec_id)]
        if number % 4 < 2:
            problems.append(checked("run again", lambda here=here: _run_again(here)))
        wrong += [f"seed {seed}, mutation {number} ({done}): {problem}" for problem in problems if problem]
        shutil.rmtree(here, ignore_errors=True)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    if base is None and peak > MOST_MEMORY_BYTES:
        wrong.append(f"seed {seed}: {peak >> 20} MB of memory")
    shutil.rmtree(folder, ignore_errors=True)
    return wrong


def main() -> None:
    """Run the campaign that was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mutations", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 32))
    asked = parser.parse_args()
    print(f"fuzz: seed {asked.seed}, {asked.mutations:,} mutations", flush=True)
    wrong = campaign(asked.mutations, asked.seed)
    for problem in wrong:
        print(problem)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
    print(f"fuzz: {asked.mutations:,} mutations, {len(wrong)} went wrong, {peak} MB at most")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
