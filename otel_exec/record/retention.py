"""Which runs are old enough to go, and how a run's folder goes.

What comes in: run folders with their starts, a rule. What goes out: those that the rule names; removed folders. Never touches what lies outside of `.otel_exec/runs`:
outputs, and the files beside them, stay. Whether a run lives is the caller's to know.
"""

from __future__ import annotations

import os
import re
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING

from otel_exec.errors import UsageError
from otel_exec.record import storage

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Rule", "parse_age", "remove_run", "sweep_halves"]

_UNITS = {"m": 60, "h": 3_600, "d": 86_400, "w": 604_800}
_AGE = re.compile(r"(\d{1,6})([mhdw])\Z", re.ASCII)
# What is being removed has a name that no reader takes for a run's.
_HALF = ".removing-"


@dataclass(frozen=True, slots=True)
class Rule:
    """What is kept: the newest `keep` runs, and those that began less than `younger_ns` nanoseconds ago. `None`: that half of the rule keeps nothing."""

    keep: int | None = None
    younger_ns: int | None = None

    def goes(self, started_ns: Sequence[int], now_ns: int) -> list[bool]:
        """Return of runs, given by their starts with the newest last, which may go."""
        count = len(started_ns)
        return [
            not (self.keep is not None and count - index <= self.keep) and not (self.younger_ns is not None and now_ns - at_ns < self.younger_ns)
            for index, at_ns in enumerate(started_ns)
        ]


def parse_age(text: str) -> int:
    """Return the nanoseconds of an age such as `30d`, `12h`, `2w`.

    Raises:
        UsageError: it is none.
    """
    found = _AGE.match(text.strip())
    if not found:
        raise UsageError(f"--older-than {text!r} is no age: give a whole number with m, h, d or w, such as 30d")
    return int(found[1]) * _UNITS[found[2]] * 1_000_000_000


def remove_run(folder: str) -> None:
    """Remove a run's folder. Killed meanwhile, what is left of it is no run any more, and `sweep_halves` takes it away.

    Raises:
        RecordError: it can't be removed.
    """
    try:
        if storage.is_remote(folder):
            storage.remove_folder(folder)
            return
        half = os.path.join(os.path.dirname(folder), _HALF + os.path.basename(folder))
        os.rename(folder, half)
        shutil.rmtree(half)
    except FileNotFoundError:
        return  # another was faster
    except OSError as error:
        raise storage.refused(folder, "removed", error) from error


def sweep_halves(runs: str) -> None:
    """Take away what a removal that was killed left of runs, in the local folder of all runs. Never raises."""
    try:
        names = os.listdir(runs)
    except OSError:
        return
    for name in names:
        if name.startswith(_HALF):
            shutil.rmtree(os.path.join(runs, name), ignore_errors=True)
