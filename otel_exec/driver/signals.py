"""SIGINT, SIGTERM and SIGHUP while a run goes on.

What comes in: signals. What goes out: calls of `cancel`, safe in a handler. Outside the main thread nothing is done: Python delivers signals there alone.
"""

from __future__ import annotations

import os
import signal
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["Received", "cancelling"]


class Received:
    """Which signal ended the run, `None` if none did."""

    number: int | None = None


@contextmanager
def cancelling(cancel: Callable[[str], None]) -> Iterator[Received]:
    """Turn these signals into cancellation of the run for the block: once it ends in order, twice at once, three times without another word. One that `nohup` ignores stays so."""
    received = Received()
    if threading.current_thread() is not threading.main_thread():
        yield received
        return
    count = 0

    def handler(number: int, _frame: object) -> None:
        nonlocal count
        count += 1
        if count > 2:
            os._exit(128 + number)
        received.number = number
        cancel("interrupt" if number == signal.SIGINT else "terminate")

    heard = [signal.SIGINT, signal.SIGTERM]
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
        heard.append(signal.SIGHUP)
    before = {number: signal.signal(number, handler) for number in heard}
    try:
        yield received
    finally:
        for number, old in before.items():
            signal.signal(number, old)
