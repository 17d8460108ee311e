"""Exceptions become data, whatever they are."""

from __future__ import annotations

import pickle
import signal

import pytest

from otel_exec.execute.failure import describe, of_exit


def raised(error):
    try:
        raise error
    except BaseException as caught:
        return caught


class NeedsTwo(Exception):
    def __init__(self, one, two):
        super().__init__(f"{one}{two}")


def test_an_exception_is_described():
    """Type, message, place and traceback; the exception itself where it can be pickled and read back."""
    info = describe(raised(ValueError("no")))
    assert (info.type, info.message) == ("ValueError", "no")
    assert info.where.startswith(__file__)
    assert info.traceback.startswith("Traceback")
    assert str(pickle.loads(info.pickled)) == "no"


def test_one_that_does_not_come_back_is_not_sent():
    """An exception that pickles but can't be read back is left out."""
    info = describe(raised(NeedsTwo("a", "b")))
    assert (info.message, info.pickled) == ("ab", None)


def test_causes_are_in_the_traceback():
    """The chain of causes is told."""
    try:
        try:
            raise KeyError("first")
        except KeyError as error:
            raise ValueError("second") from error
    except ValueError as error:
        text = describe(error).traceback
    assert "KeyError: 'first'" in text
    assert "direct cause" in text


def test_deep_recursion_and_lone_surrogates():
    """A stack overflow is short, a surrogate is escaped."""

    def down():
        down()

    with pytest.raises(RecursionError) as caught:
        down()
    assert len(describe(caught.value).traceback) < 70_000
    info = describe(raised(ValueError("\ud800")))
    info.message.encode()
    info.traceback.encode()


@pytest.mark.parametrize(
    ("code", "says"), [(3, "exit code 3"), (-signal.SIGSEGV, "SIGSEGV"), (-signal.SIGKILL, "memory"), (-250, "signal 250"), (None, "unknown")]
)
def test_ends_of_processes(code, says):
    """Exit codes and signals are named."""
    assert says in of_exit(code)


def test_a_secret_across_the_cut_is_not_shown_by_half(monkeypatch):
    """Long messages and tracebacks are cut beside what is hidden in them, never through it."""
    secret = "wJalrXUtnFEMI0K7MDENG0bPxRfiCY"
    monkeypatch.setenv("SERVICE_TOKEN", secret)
    for before in (3_980, 3_999, 4_000):
        info = describe(raised(ValueError("x" * before + secret + "y" * 9_000 + secret + "x" * before)))
        assert not any(part in info.message + info.traceback for part in (secret[:8], secret[-8:]))
    info = describe(raised(SystemExit("x" * 190 + secret)))
    assert secret[:8] not in info.message


def test_what_ray_wraps_is_told_as_itself():
    """Of an exception that came out of a Ray task of the user's own, type and message are those of what was raised there; the traceback says where, without colours."""
    wrapper = type(
        "RayTaskError(KeyError)", (KeyError,), {"__module__": "ray.exceptions", "__str__": lambda _: "\x1b[36mray::f()\x1b[39m there:1", "cause": KeyError("k")}
    )
    info = describe(raised(wrapper()))
    assert (info.type, info.message) == ("KeyError", "'k'")
    assert "ray::f() there:1" in info.traceback
    assert type(pickle.loads(info.pickled)) is KeyError
    assert describe(raised(type("Else", (KeyError,), {"cause": ValueError()})())).type.endswith("Else")
