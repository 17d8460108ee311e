"""`otel-exec`: finds the command, runs it, turns what went wrong into one line and an exit code.

What comes in: an argv. What goes out: an exit code. Each command is a module of this room, imported when it is asked for:
`otel-exec --help` imports none of them, and no command imports OpenTelemetry or Ray to read a file.

A command's module has `parser() -> Parser` and `execute(arguments) -> int`.
"""

from __future__ import annotations

import errno
import sys
from collections.abc import Sequence

from otel_exec.refused import cant_go_on

__all__ = ["COMMANDS", "main"]

COMMANDS = {
    "status": "how far a run has come, while it runs and after",
    "summary": "where the time of a run went",
    "metrics": "where the time of each node went, phase by phase",
    "runs": "the runs under a prefix",
    "replay": "send what a run's endpoints never acknowledged",
    "doctor": "what is wrong between here and a visible trace",
}

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO})

_HELP = """\
usage: otel-exec COMMAND [ARGUMENT ...]

Look at runs of experiments: what ran, what it came to, where the time went.

commands:
{commands}

options:
  -h, --help     show this and exit
  --version      show the version and exit

example:
  python exp.py
  otel-exec summary run.json

otel-exec COMMAND --help says more about a command."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return the exit code; never raises for a user's mistake.

    Args:
        argv: the arguments; default those of the process.
    """
    given = list(sys.argv[1:] if argv is None else argv)
    _open_streams()
    try:
        code = _dispatch(given)
        sys.stdout.flush()
    except BrokenPipeError:
        return _reader_gone()
    except KeyboardInterrupt:
        return 130
    except OverflowError:
        _complain("a number in the run's files is beyond what any run comes to: they are damaged")
        return 4
    except OSError as error:
        if error.filename is None and error.errno in _FULL:  # what writes files says of which
            said = error.strerror or str(error)
            _complain(f"stdout can't be written: {said[:1].lower()}{said[1:]}")
            _reader_gone()
        else:
            _complain(cant_go_on(error))
        return 4
    except Exception as error:
        from otel_exec.errors import OtelExecError

        if not isinstance(error, OtelExecError):
            raise
        _complain(str(error))
        return error.exit_code
    return code


def _dispatch(argv: list[str]) -> int:
    if argv and argv[0] in {"-h", "--help", "help"}:
        print(_HELP.format(commands="\n".join(f"  {name:<14} {text}" for name, text in COMMANDS.items())))
        return 0
    if argv and argv[0] == "--version":
        from otel_exec import __version__

        print(f"otel-exec {__version__}")
        return 0
    from otel_exec.errors import UsageError, unknown_name

    if not argv:
        raise UsageError(f"which command? (known: {', '.join(sorted(COMMANDS))}; see otel-exec --help)")
    name, *rest = argv
    if name.startswith("-"):
        raise UsageError(f"unknown option {name!r}: a command comes first (see otel-exec --help)")
    if name not in COMMANDS:
        raise UsageError(f"{unknown_name('command', name, COMMANDS)}; see otel-exec --help")
    import importlib

    command = importlib.import_module(f"otel_exec.cli.{name}")
    try:
        arguments = command.parser().parse_args(rest)
    except SystemExit as asked:  # argparse has shown a command's help
        return int(asked.code or 0)
    return int(command.execute(arguments))


def _complain(message: str) -> None:
    from otel_exec.printable import printable
    from otel_exec.report.text_safety import encodable

    text = " ".join(printable(line.strip()) for line in message.splitlines() if line.strip())
    print(encodable(f"otel-exec: {text}", getattr(sys.stderr, "encoding", None) or "ascii"), file=sys.stderr)


def _open_streams() -> None:
    """A stream that was closed before we began (`>&-`) is `None`: what would go there goes nowhere, and no file of a run takes its number."""
    import os

    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.open(os.devnull, os.O_WRONLY), "w", encoding="utf-8", closefd=False))  # noqa: SIM115  as long as the process


def _reader_gone() -> int:
    """Nobody takes our output any more (`| head`): the interpreter must not complain about it when it flushes."""
    import contextlib
    import os

    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0
