"""Warnings of ours, said through the user's own set-up of logging, which may be anything.

What comes in: a logger and what to say. What goes out: a record, to whoever handles it. What their filters, handlers and record factories raise reaches nobody.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import logging

__all__ = ["warn"]


def warn(logger: logging.Logger, message: str, *args: object, exc_info: BaseException | None = None) -> None:
    """Log a warning, as `logger.warning` does. Never raises: it is said from the user's code, whose outcome it must not change."""
    try:
        logger.warning(message, *args, exc_info=exc_info)
    except Exception:  # a handler of theirs; even logging's own way of saying so raises where stderr was closed
        return
