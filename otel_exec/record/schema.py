"""The JSON Schemas of run.json, status.json and a line of journal.jsonl, made from the structs that write them.

What comes in: the types of `model.py` and `journal.py`. What goes out: `*.schema.json` beside this file, draft 2020-12, committed; a test holds them against the types.
`python -m otel_exec.record.schema` writes them; with `--check` it writes nothing and ends with 1 when one is out of date.

Objects are open: a newer minor version may add keys. Schema ids are relative names, since the files are found beside this one and nowhere else.
"""

from __future__ import annotations

import json
import os
import sys
from typing import TYPE_CHECKING, Any

import msgspec

from otel_exec.record.journal import JournalLine
from otel_exec.record.model import SCHEMA_VERSION, RunRecord
from otel_exec.record.status_model import StatusRecord

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["SCHEMAS", "main", "schema_of", "schema_path"]

DIALECT = "https://json-schema.org/draft/2020-12/schema"

# File name, type, title.
SCHEMAS: tuple[tuple[str, type[msgspec.Struct], str], ...] = (
    ("run.schema.json", RunRecord, "run.json"),
    ("status.schema.json", StatusRecord, "status.json"),
    ("journal_line.schema.json", JournalLine, "a line of journal.jsonl"),
)


def schema_path(name: str) -> str:
    """Return where a schema lies."""
    return os.path.join(os.path.dirname(__file__), name)


def schema_of(name: str) -> bytes:
    """Return the text of a schema as it has to be."""
    for file_name, type_, title in SCHEMAS:
        if file_name == name:
            body: dict[str, Any] = msgspec.json.schema(type_)
            main_definition = body["$defs"][type_.__name__]
            schema = {
                "$schema": DIALECT,
                "$id": f"otel_exec/{SCHEMA_VERSION}/{file_name}",
                "title": f"otel_exec: {title}",
                "description": main_definition["description"],
                **body,
            }
            return json.dumps(_plain(schema), indent=2, ensure_ascii=False).encode() + b"\n"
    raise KeyError(name)


def main(arguments: Sequence[str]) -> int:
    """Write the schemas, or with `--check` compare them; return the exit code."""
    stale = []
    for name, _, _ in SCHEMAS:
        wanted = schema_of(name)
        try:
            with open(schema_path(name), "rb") as file:
                same = file.read() == wanted
        except FileNotFoundError:
            same = False
        if same:
            continue
        stale.append(name)
        if "--check" not in arguments:
            with open(schema_path(name), "wb") as file:
                file.write(wanted)
    verb = "is out of date: run python -m otel_exec.record.schema" if "--check" in arguments else "written"
    for name in stale:
        sys.stdout.write(f"{name} {verb}\n")
    return 1 if stale and "--check" in arguments else 0


def _plain(value: Any) -> Any:
    """Return the schema with each description on one line."""
    if isinstance(value, dict):
        return {key: " ".join(held.split()) if key == "description" and isinstance(held, str) else _plain(held) for key, held in value.items()}
    if isinstance(value, list):
        return [_plain(held) for held in value]
    return value


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
