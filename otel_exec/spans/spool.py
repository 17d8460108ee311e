"""The spool: finished spans, appended to their writer's own file before anything else happens to them.

What comes in: `SpanRecord`s. What goes out: OTLP/JSON lines in `<run folder>/spans/<writer>.jsonl`, and records read back from them.
One writer a file, one `os.write` a call (a SIGKILL loses nothing that was finished). Imports no OpenTelemetry.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from otel_exec.spans.span_record import AttributeValue, SpanRecord

__all__ = ["SpoolWriter", "decode_line", "encode_lines", "read_spool"]


def encode_lines(records: Sequence[SpanRecord], resource: Mapping[str, AttributeValue]) -> bytes:
    """Return the records as OTLP/JSON, one whole export request a line, newline-terminated (spec: OTLP file exporter, 1.5)."""
    raise NotImplementedError


def decode_line(line: bytes) -> list[SpanRecord]:
    """Return the spans of one line; raises `ValueError` on what is not one."""
    raise NotImplementedError


def read_spool(folder: str) -> Iterator[SpanRecord]:
    """Yield every span of all `*.jsonl` in a run's `spans` folder; torn or foreign lines are passed over (and counted by the caller through `decode_line` if it cares)."""
    raise NotImplementedError


class SpoolWriter:
    """Appends finished spans to one file. Never raises: the first error is kept in `error`, later ones are counted in `lost`.

    Thread-safe. After a fork the child's writes go to a file of its own, `<writer>-fork-<pid>.jsonl`.
    """

    def __init__(self, folder: str, writer: str, resource: Mapping[str, AttributeValue]) -> None:
        raise NotImplementedError

    error: Exception | None
    written: int
    lost: int

    def write(self, records: Sequence[SpanRecord]) -> None:
        """Append the records with one system call."""
        raise NotImplementedError

    def close(self) -> None:
        """Close the file; later writes are counted as lost. Safe to call twice."""
        raise NotImplementedError
