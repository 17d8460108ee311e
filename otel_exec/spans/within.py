"""A call that is over when its time is over, whatever the other side does.

What comes in: a call that may block. What goes out: its result, or `None` where the time went by first. Touches nothing else.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["within"]

_T = TypeVar("_T")


def within(timeout_s: float, call: Callable[[], _T]) -> _T | None:
    """Return what the call returns, `None` where it takes longer than `timeout_s`.

    Timeouts of sockets begin anew with each byte, and who sends one now and then is waited for without end. So the call has a thread of its own, which is
    left behind when the time is over: for commands that end soon, not for processes that stay.

    Raises:
        Exception: what the call raised in time.
    """
    found: list[_T] = []
    raised: list[BaseException] = []

    def run() -> None:
        try:
            found.append(call())
        except BaseException as error:  # it is raised where it was called
            raised.append(error)

    thread = threading.Thread(target=run, name="otel-exec-doctor", daemon=True)
    thread.start()
    thread.join(timeout_s)
    if raised:
        raise raised[0]
    return found[0] if found else None
