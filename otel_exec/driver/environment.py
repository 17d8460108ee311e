"""Where a run happens: what goes into the record's `environment` and onto every span's resource.

What comes in: the machine, the interpreter, the repository that the script lies in. What goes out: plain values. Environment variables are never recorded.
"""

from __future__ import annotations

import os
import platform
import socket
import sys
from typing import TYPE_CHECKING

from otel_exec import __version__
from otel_exec.record.model import Experiment
from otel_exec.secrets import MASK, is_secret_field

if TYPE_CHECKING:
    from collections.abc import Sequence

    from otel_exec.spans.span_record import AttributeValue

__all__ = ["describe", "experiment_of", "instance_resource", "masked_argv", "revision"]


def describe(script: str | None) -> dict[str, object]:
    """Return the record's `environment`."""
    return {
        "otel_exec": __version__,
        "python": platform.python_version(),
        "implementation": platform.python_implementation(),
        "platform": sys.platform,
        "machine": platform.machine(),
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "cpus": os.cpu_count(),
        "revision": revision(os.path.dirname(script) if script else os.getcwd()),
    }


def experiment_of(name: str | None, description: str | None, argv: Sequence[str]) -> Experiment:
    """Return what is run: the script, its arguments, and a name, the script's stem where none was given."""
    main = sys.modules.get("__main__")
    script = getattr(main, "__file__", None)
    stem = os.path.splitext(os.path.basename(script))[0] if script else None
    return Experiment(
        name=name or stem or "experiment",
        description=description,
        script=os.path.abspath(script) if script else None,
        argv=masked_argv(argv),
    )


def instance_resource(service_name: str, exec_id: str, attributes: Sequence[tuple[str, str]], script: str | None) -> dict[str, AttributeValue]:
    """Return the resource of the run's spans. `service.instance.id` is the run, never a random one a process."""
    resource: dict[str, AttributeValue] = {
        "telemetry.sdk.name": "otel_exec",
        "telemetry.sdk.language": "python",
        "telemetry.sdk.version": __version__,
        "host.name": socket.gethostname(),
        **dict(attributes),
        "service.name": service_name,
        "service.instance.id": exec_id,
    }
    head = revision(os.path.dirname(script) if script else os.getcwd())
    if head:
        resource["vcs.ref.head.revision"] = head
    return resource


def masked_argv(argv: Sequence[str]) -> list[str]:
    """Return the arguments as the record keeps them: what is given to a flag that names a secret is masked."""
    kept: list[str] = []
    secret_follows = False
    for word in argv:
        name, separator, value = word.partition("=")
        if secret_follows and not word.startswith("-"):
            kept.append(MASK)
        elif word.startswith("-") and separator and is_secret_field(name, value):
            kept.append(f"{name}={MASK}")
        else:
            kept.append(word)
        secret_follows = word.startswith("-") and not separator and is_secret_field(name, "text")
    return kept


def revision(folder: str) -> str | None:
    """Return the commit that is checked out where `folder` lies, `None` where that can't be told. Reads git's files: starting git would cost milliseconds."""
    folder = os.path.abspath(folder)
    for _ in range(64):
        git = os.path.join(folder, ".git")
        if os.path.exists(git):
            return _head(git)
        parent = os.path.dirname(folder)
        if parent == folder:
            return None
        folder = parent
    return None


def _head(git: str) -> str | None:
    try:
        if os.path.isfile(git):  # a work tree: the file names the real folder
            with open(git, encoding="utf-8") as file:
                git = os.path.join(os.path.dirname(git), file.read().strip().removeprefix("gitdir: "))
        with open(os.path.join(git, "HEAD"), encoding="utf-8") as file:
            head = file.read().strip()
        if not head.startswith("ref: "):
            return head or None
        ref = head.removeprefix("ref: ")
        common = git
        pointer = os.path.join(git, "commondir")
        if os.path.exists(pointer):
            with open(pointer, encoding="utf-8") as file:
                common = os.path.join(git, file.read().strip())
        loose = os.path.join(common, ref)
        if os.path.exists(loose):
            with open(loose, encoding="utf-8") as file:
                return file.read().strip() or None
        with open(os.path.join(common, "packed-refs"), encoding="utf-8") as file:
            for line in file:
                sha, _, name = line.strip().partition(" ")
                if name == ref:
                    return sha
    except (OSError, UnicodeDecodeError):
        return None
    return None
