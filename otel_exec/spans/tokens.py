"""The numbers of tokens that a phase gives as metadata.

What comes in: a phase's metadata as the user's code gave it, or its span's attributes. What goes out: the numbers to sum, the same from either. Imports no OpenTelemetry.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from otel_exec.semconv import TOKEN_KEYS
from otel_exec.spans import sanitise

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["tokens_of"]


def tokens_of(attributes: Mapping[str, object]) -> dict[str, int] | None:
    """Return the numbers of tokens by name, those that are integers once they are cleaned; `None` where there are none. Never raises.

    An integer past 64 bits is cleaned into text, so it is not summed.
    """
    found: dict[str, int] | None = None
    for key in TOKEN_KEYS:
        if key in attributes:
            count = sanitise.attribute(attributes[key])
            if type(count) is int:
                found = found or {}
                found[key] = count
    return found
