"""What runs in the driver's own process joins the run: its threads carry the context, its spans are recorded.

What comes in: a block. What goes out: nothing; of several runs at once the last one cleans up.
"""

from __future__ import annotations

import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["joined_here"]

# Runs in this process whose code runs in it: threads are instrumented while there are any.
_runs_lock = threading.Lock()
_runs_here = 0


@contextmanager
def joined_here(*, install_provider: bool) -> Iterator[None]:
    """Let the spans and threads of code that runs in this process join the run, for the block. Of several runs at once the last one cleans up."""
    global _runs_here
    from otel_exec.spans import provider

    if install_provider:
        provider.install_global()
    with _runs_lock:
        _runs_here += 1
        provider.instrument_with_first_thread()
    try:
        yield
    finally:
        with _runs_lock:
            _runs_here -= 1
            if not _runs_here:
                provider.uninstrument_threads()
