"""The verify hook: what a command prints, and what it leaves behind."""

from __future__ import annotations

import os
import signal
import sys

import pytest

from otel_exec.execute.verify import NotVerified, check


def test_what_a_command_prints_is_passed_on_without_known_secrets(monkeypatch, tmp_path):
    """In whatever pieces it comes, with all bytes as they were; the last line needs no end."""
    monkeypatch.setenv("SERVICE_TOKEN", "hf_0123456789")
    script = "import os, sys; w = sys.stdout.buffer; w.write(b'\\xff a hf_01'); w.flush(); w.write(b'23456789\\n'); w.flush(); os.write(2, b'hf_0123456789')"
    fed = []
    check([sys.executable, "-c", script], None, str(tmp_path), feed=fed.append)
    assert b"".join(fed) == b"\xff a ***\n***"


def test_a_command_that_fails_is_an_error_with_its_exit_code(tmp_path):
    """With what it printed passed on."""
    fed = []
    with pytest.raises(NotVerified, match="exit code 3"):
        check(["sh", "-c", "echo no; exit 3"], None, str(tmp_path), feed=fed.append)
    assert b"".join(fed) == b"no\n"


def test_what_a_command_leaves_behind_is_not_waited_for(tmp_path):
    """A process that goes on in the background holds its pipe; the verification is over all the same."""
    fed = []
    pid = tmp_path / "pid"
    check(["sh", "-c", f"sleep 600 & echo $! > {pid}; echo done"], None, str(tmp_path), feed=fed.append)
    try:
        assert b"".join(fed) == b"done\n"
    finally:
        os.kill(int(pid.read_text()), signal.SIGKILL)


def test_what_a_command_leaves_behind_may_print_for_ever(tmp_path):
    """The verification is over when its command is, however much comes from what it left."""
    fed = []
    pid = tmp_path / "pid"
    check(["sh", "-c", f"yes & echo $! > {pid}; echo done"], None, str(tmp_path), feed=fed.append)
    try:
        assert b"done\n" in b"".join(fed)
    finally:
        os.kill(int(pid.read_text()), signal.SIGKILL)
