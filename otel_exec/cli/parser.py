"""The argument parser of a command: argparse, with errors in one line and an example in the help.

What comes in: a command's arguments. What goes out: a namespace, or a `UsageError`.
"""

from __future__ import annotations

import argparse
from typing import NoReturn

from otel_exec.errors import UsageError

__all__ = ["Parser", "positive"]


class Parser(argparse.ArgumentParser):
    """Raises `UsageError` where argparse would print its usage and end the process."""

    def __init__(self, command: str, description: str, example: str) -> None:
        super().__init__(
            prog=f"otel-exec {command}",
            description=description,
            epilog="example:\n" + "\n".join(f"  {line}" for line in example.splitlines()),
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )

    def error(self, message: str) -> NoReturn:
        """Raise the mistake with a hint on where to read on."""
        hint = "RUN, or a prefix, is given without --prefix; see" if "--prefix" in message else "see"
        raise UsageError(f"{message} ({hint} {self.prog} --help)")


def positive(text: str) -> int:
    """Return a whole number from 1 on."""
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 1 on")
    return number
