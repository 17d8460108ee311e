"""An interrupt hits the task it was meant for, while the user's code runs, and nothing else."""

from __future__ import annotations

import signal
import threading

import pytest

from otel_exec.execute.interrupts import InlineGuard, SignalGuard, ThreadGuard


@pytest.fixture
def guard():
    before = signal.getsignal(signal.SIGINT)
    yield SignalGuard()
    signal.signal(signal.SIGINT, before)


def test_it_comes_while_the_code_runs(guard):
    """Armed and of the right sequence: KeyboardInterrupt."""
    guard.begin(7)
    guard.arm()
    with pytest.raises(KeyboardInterrupt):
        guard.request(7)
    guard.disarm()
    assert guard.interrupted


def test_another_tasks_interrupt_is_forgotten(guard):
    """A request for a task that is over does nothing."""
    guard.begin(8)
    guard.arm()
    guard.request(7)
    guard.disarm()
    guard.end()
    guard.request(8)
    assert not guard.interrupted


def test_one_that_comes_early_waits(guard):
    """A request before the code runs is honoured when it begins; the next task starts clean."""
    guard.begin(1)
    guard.request(1)
    with pytest.raises(KeyboardInterrupt):
        guard.arm()
    guard.begin(2)
    guard.arm()
    guard.disarm()


def test_a_stray_signal_is_ignored(guard):
    """SIGINT that nobody asked for does nothing, armed or not."""
    signal.raise_signal(signal.SIGINT)
    guard.begin(1)
    guard.arm()
    signal.raise_signal(signal.SIGINT)
    guard.disarm()


def test_a_replaced_handler_is_put_back(guard):
    """A library's SIGINT handler does not outlive its task."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    guard.begin(1)
    guard.arm()
    with pytest.raises(KeyboardInterrupt):
        guard.request(1)


def test_a_shield_holds_it_back(guard):
    """What must not stop half-way is finished first; the interrupt comes once."""
    guard.begin(1)
    guard.arm()
    guard.shield()
    guard.request(1)
    with pytest.raises(KeyboardInterrupt):
        guard.unshield()
    guard.shield()
    guard.unshield()


def test_threads_are_interrupted_by_name():
    """The exception comes in the task's own thread, and none is left over after the code has ended."""
    guard = ThreadGuard()
    begun, ended, seen = threading.Event(), threading.Event(), []

    def task():
        try:
            try:
                guard.begin(1)
                guard.arm()
                begun.set()
                while not ended.wait(0.001):
                    pass
            finally:
                guard.disarm()
        except KeyboardInterrupt:
            guard.disarm()
            seen.append("interrupted")
        for _ in range(1000):
            pass
        seen.append("went on")

    thread = threading.Thread(target=task)
    thread.start()
    begun.wait(10)
    guard.request(1)
    thread.join(10)
    assert seen == ["interrupted", "went on"]


def test_inline_raises_right_there():
    """A signal handler of the task's own thread raises in it; between tasks it does nothing."""
    guard = InlineGuard()
    guard.request_here()
    guard.begin(0)
    guard.request_here()
    with pytest.raises(KeyboardInterrupt):
        guard.arm()
    guard.begin(0)
    guard.arm()
    with pytest.raises(KeyboardInterrupt):
        guard.request_here()
