"""status.json, read: small, live, and perhaps not there yet.

What comes in: a run's folder. What goes out: a `StatusRecord`, or nothing. A file is hostile until it is decoded: no content of it raises anything.
"""

from __future__ import annotations

import msgspec

from otel_exec.record import storage
from otel_exec.record.find import STATUS_JSON
from otel_exec.record.model import SCHEMA_VERSION
from otel_exec.record.status_model import StatusRecord

__all__ = ["read_status"]

_MAJOR = SCHEMA_VERSION.partition(".")[0]


def read_status(folder: str) -> StatusRecord | None:
    """Return a run's status.json; `None` where there is none that this version can read: none yet, half a file, another schema, something else."""
    try:
        status = msgspec.json.decode(storage.read_bytes(folder + STATUS_JSON), type=StatusRecord)
    except (OSError, msgspec.MsgspecError, UnicodeError, RecursionError):
        return None
    return status if status.schema_version.partition(".")[0] == _MAJOR else None
