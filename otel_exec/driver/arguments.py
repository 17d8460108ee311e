"""The flags of `python exp.py`.

What comes in: an argv. What goes out: a mapping from `Config` fields to what was given. Reads nothing else; dashes and underscores are the same.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, NoReturn

from otel_exec.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["parse"]


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message} (see {self.prog} --help)")


def _parser(prog: str, description: str | None) -> _Parser:
    parser = _Parser(
        prog=prog,
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
        epilog=f"example:\n  python {prog} --workers 4 --run-only 'tokenize/.*'\n  otel-exec summary run.json",
    )

    def flag(name: str, **options: object) -> None:
        names = [f"--{name}"]
        if "-" in name:
            names.append(f"--{name.replace('-', '_')}")
        parser.add_argument(*names, **options)  # type: ignore[arg-type]  # argparse's own overloads

    flag("prefix", metavar="PATH", help="where outputs go (default: OTEL_EXEC_PREFIX, else ./outputs)")
    flag("dry-run", action="store_true", default=None, help="say what would be run, and why; write nothing")
    flag("run-only", nargs="+", metavar="REGEX", help="only the steps whose names match, with their dependencies")
    flag("force", nargs="+", metavar="REGEX", help="run these steps again though they succeeded")
    parser.add_argument(
        "--force-run-failed",
        "--force_run_failed",
        dest="rerun_failed",
        action="store_true",
        default=None,
        help="run steps that failed before again (the default)",
    )
    parser.add_argument("--no-force-run-failed", "--no_force_run_failed", dest="rerun_failed", action="store_false", help="count them as failed")
    flag("max-concurrent", metavar="N", help="at most N steps at once")
    flag("executor", metavar="NAME", help="processes (default), threads, inline or ray")
    flag("ray-address", metavar="HOST:PORT", help="the Ray cluster to run on (default: RAY_ADDRESS, else one is started here)")
    flag("workers", metavar="N", help="how many workers (default: the CPUs that this process may use)")
    flag("resource", action="append", metavar="NAME=N", help="a custom resource that this machine has; may be given several times")
    flag("barrier", action="store_true", default=None, help="start a level when the one before has settled")
    flag("fail-fast", action="store_true", default=None, help="the first failure cancels the rest")
    flag("timeout", metavar="SECONDS", help="end the run after so long")
    flag("grace", metavar="SECONDS", help="what a cancelled step gets before it is killed (default 10)")
    flag("show-output", action="store_true", default=None, help="show what steps print, with their names in front")
    flag("timing", action="store_true", default=None, help="log every phase")
    flag("debug", action="store_true", default=None, help="log at level DEBUG, timing included")
    flag("run-json", metavar="PATH", help="where run.json is kept beside the run's folder (default ./run.json)")
    return parser


def parse(argv: Sequence[str], *, prog: str, description: str | None) -> dict[str, object]:
    """Return what was given, by `Config` field; `None` where it was not.

    Raises:
        UsageError: an unknown flag, or a flag without its value.
    """
    given = vars(_parser(prog, description).parse_args(list(argv)))
    return {
        "prefix": given["prefix"],
        "dry_run": given["dry_run"],
        "run_only": given["run_only"],
        "force": given["force"],
        "rerun_failed": given["rerun_failed"],
        "max_concurrent": given["max_concurrent"],
        "executor": given["executor"],
        "workers": given["workers"],
        "ray_address": given["ray_address"],
        "resources": given["resource"],
        "barrier": given["barrier"],
        "fail_fast": given["fail_fast"],
        "timeout_s": given["timeout"],
        "grace_s": given["grace"],
        "show_output": given["show_output"],
        "timing": given["timing"],
        "debug": given["debug"],
        "run_json": given["run_json"],
    }
