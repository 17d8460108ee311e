"""What `@step` takes beside the name: resources, retries, timeout, verify.

What comes in: what the user wrote. What goes out: checked values; for each mistake a sentence and a hint, collected, not raised, so that all are shown at once.
"""

from __future__ import annotations

import difflib
import re
import string
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

from otel_exec.errors import unknown_name
from otel_exec.plan.commands import NotWordsError, shell_words
from otel_exec.plan.graph import Resources

if TYPE_CHECKING:
    from otel_exec.plan.node import Verify

__all__ = ["Findings", "parse_resources", "parse_retries", "parse_timeout", "parse_verify"]

# Sentences with their hints.
Findings = list[tuple[str, str]]

_KNOWN: Final = ("num_cpus", "num_gpus", "memory")
_CLUSTER_OPTIONS: Final = ("runtime_env", "scheduling_strategy")
_MEMORY = re.compile(r"\s*([0-9]+(?:\.[0-9]*)?|\.[0-9]+)\s*([kmgtp]?)(i?)b?\s*", re.IGNORECASE)


# More than any machine has, and an amount of seconds that still fits into nanoseconds is asked for below.
_MOST: Final = 1e18
_MOST_SECONDS: Final = 1e9


def _amount(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= _MOST:
        return None
    return value


def _memory_bytes(value: object) -> int | None:
    """Return bytes; `GB` is 10^9 and `GiB` 2^30, as in IEC 80000-13."""
    if isinstance(value, str):
        match = _MEMORY.fullmatch(value)
        if match is None:
            return None
        number, unit, binary = match.groups()
        if binary and not unit:
            return None
        amount = float(number) * (1024 if binary else 1000) ** " kmgtp".index(unit.lower() or " ")
        return int(amount) if amount <= _MOST else None
    amount = _amount(value)
    return None if amount is None else int(amount)


def parse_resources(given: object, findings: Findings) -> Resources:
    """Return what a step asks for.

    `resources={"tpu": 1}` and `resources={"resources": {"tpu": 1}}` are the same.
    """
    if given is None:
        return Resources()
    if not isinstance(given, Mapping):
        findings.append((f"resources={given!r} is no mapping", 'write resources={"num_cpus": 2, "memory": "4GB"}'))
        return Resources()
    plain: dict[str, float | None] = {}
    memory_bytes: int | None = None
    custom: dict[str, float] = {}
    options: dict[str, Any] = {}
    flat = {key: value for key, value in given.items() if key != "resources"}
    inner = given.get("resources", {})
    if isinstance(inner, Mapping):
        flat.update(inner)
    else:
        flat["resources"] = inner
    for key, value in flat.items():
        if not isinstance(key, str):
            findings.append((f"the resource name {key!r} is no text", "name resources by text"))
        elif key in _CLUSTER_OPTIONS:
            options[key] = value
        elif value is None:
            continue
        elif key == "memory":
            memory_bytes = _memory_bytes(value)
            if memory_bytes is None:
                findings.append((f"the resource memory={value!r} can't be read", 'give bytes, or text such as "2GB" or "512MiB"'))
        elif _misspelt(key):
            findings.append((unknown_name("resource", key, _KNOWN), "custom resources take any name that is not close to these"))
        elif _amount(value) is None:
            findings.append((f"the resource {key}={value!r} is no amount", "give a number from 0 up"))
        elif key in _KNOWN:
            plain[key] = _amount(value)
        else:
            custom[key] = float(value)
    return Resources(plain.get("num_cpus"), plain.get("num_gpus"), memory_bytes, custom, options)


def _misspelt(key: str) -> bool:
    if key in _KNOWN:
        return False
    return key.lower() in ("cpu", "cpus", "gpu", "gpus", "mem", "num_cpu", "num_gpu") or bool(difflib.get_close_matches(key.lower(), _KNOWN, n=1, cutoff=0.85))


def parse_retries(given: object, findings: Findings) -> int:
    """Return how many further attempts a step has."""
    if isinstance(given, bool) or not isinstance(given, int) or given < 0:
        findings.append((f"retries={given!r} is no number of retries", "give a whole number from 0 up"))
        return 0
    return given


def parse_timeout(given: object, findings: Findings) -> float | None:
    """Return the time an attempt may take, in seconds."""
    if given is None:
        return None
    seconds = given.total_seconds() if isinstance(given, timedelta) else _amount(given)
    if seconds is None or not 0 < seconds <= _MOST_SECONDS:
        findings.append((f"timeout={given!r:.60} is no time", "give seconds above 0, or leave it out for none"))
        return None
    return float(seconds)


def parse_verify(given: object, findings: Findings) -> Verify | None:
    """Return the check of a step's output, with only `{output_path}` as a placeholder where it is a command."""
    if given is None or callable(given):
        return given
    if isinstance(given, str):
        words: Sequence[object] = [given]
    elif isinstance(given, Sequence):
        words = given
    else:
        words = []
    if not words or not all(isinstance(word, str) for word in words) or not str(words[0]).strip():
        findings.append((f"verify={given!r} is no check", "give a command as text or as a list of words, or fn(config, output_path)"))
        return None
    if isinstance(given, str):
        try:
            shell_words(given)
        except NotWordsError as error:
            findings.append((error.sentence, error.hint))
            return None
    for word in words:
        try:
            names = {name for _, name, _, _ in string.Formatter().parse(str(word)) if name is not None}
        except ValueError as error:
            findings.append((f"the verify command {word!r} can't be formatted ({error})", "write {{ and }} for plain braces"))
            return None
        if names - {"output_path"}:
            findings.append(
                (f"verify: {unknown_name('placeholder', min(names - {'output_path'}), ['output_path'])}", "write {{ and }} for plain braces"),
            )
            return None
        try:
            str(word).format(output_path="")
        except (ValueError, LookupError) as error:
            findings.append((f"the verify command {word!r} can't be formatted ({error})", "write {output_path} as it is"))
            return None
    return given if isinstance(given, str) else tuple(str(word) for word in words)
