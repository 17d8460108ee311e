"""What travels by name, what by value, and what is said when neither can be."""

from __future__ import annotations

import functools
import pickle
import sys
import types
from dataclasses import dataclass

import pytest

from otel_exec.execute import packing
from otel_exec.execute.packing import BlobStore, Packer, StandInMain, open_blobs, unpack


@dataclass(frozen=True)
class Plain:
    path: str
    n: int


def plain(config):
    return config


@functools.wraps(plain)
def _wrapper(config):
    return plain.__wrapped__(config)


def _decorated(fn):
    @functools.wraps(fn)
    def inner(config):
        return fn(config)

    return inner


@_decorated
def decorated(config):
    return ("decorated", config)


@pytest.fixture
def packer(tmp_path, monkeypatch):
    monkeypatch.setattr(packing, "_blobs", None)
    return Packer(open_blobs(BlobStore(str(tmp_path))))


def test_what_can_be_imported_travels_by_name(packer, tmp_path):
    """Functions and classes of modules make no blob, and come back as themselves."""
    assert unpack(packer.value((plain, Plain("a", 1)))) == (plain, Plain("a", 1))
    assert list(tmp_path.iterdir()) == []


def test_a_function_below_a_decorator_travels_by_name(packer, tmp_path):
    """A function that its module's name leads to through a decorator is found through it, not copied."""
    inner = decorated.__wrapped__
    assert unpack(packer.value(inner)) is inner
    assert list(tmp_path.iterdir()) == []


def test_closures_travel_by_value_once(packer, tmp_path):
    """A closure makes one blob, however often it is packed, and is loaded once a process."""
    base = 5
    add = lambda n: n + base
    first, second = (unpack(packer.value((add, number))) for number in range(2))
    assert first[0](1) == 6
    assert first[0] is second[0] is not add
    assert len(list(tmp_path.iterdir())) == 1


def test_a_fan_outs_function_is_not_kept(packer):
    """What is packed in passing leaves nothing in the packer."""
    passing = lambda n: n
    packer.passing(passing)
    assert id(passing) not in packer._known


def test_classes_of_a_script_keep_one_identity(packer, monkeypatch):
    """A class of `__main__` that comes with two functions is one class, and can be pickled by name there."""
    script = types.ModuleType("__main__")
    exec(
        "class Thing:\n    def __init__(self, n): self.n = n\ndef make(n): return Thing(n)\ndef check(thing): return isinstance(thing, Thing)\n",
        script.__dict__,
    )
    monkeypatch.setitem(sys.modules, "__main__", script)
    make, check, thing = packer.value(script.make), packer.value(script.check), packer.value(script.Thing(3))
    monkeypatch.setitem(sys.modules, "__main__", StandInMain("exp.py", lambda name: ""))
    made = unpack(make)(2)
    assert unpack(check)(made)
    assert unpack(check)(unpack(thing))
    assert pickle.loads(pickle.dumps(made)).n == 2
    assert sys.modules["__main__"].__file__ == "exp.py"


def test_the_stand_in_asks_for_names(packer, monkeypatch):
    """What no function brought along is asked for; what the driver does not have is an AttributeError that says so; dunders are never asked for."""
    digest = packer.blob(lambda: "found")
    asked = []
    stand_in = StandInMain(None, lambda name: asked.append(name) or (digest if name == "there" else ""))
    assert stand_in.there() == "found"
    assert stand_in.there() == "found"
    with pytest.raises(AttributeError, match="missing"):
        stand_in.missing
    assert not hasattr(stand_in, "__path__")
    assert asked == ["there", "missing"]


def test_a_blob_outside_of_a_worker(packer, monkeypatch):
    """Loading a packed value where there is no run says so."""
    data = packer.value(lambda: 1)
    monkeypatch.setattr(packing, "_blobs", None)
    with pytest.raises(RuntimeError, match="outside"):
        unpack(data)


def test_blobs_are_written_once(tmp_path):
    """The same bytes are one file."""
    store = BlobStore(str(tmp_path))
    assert store.put(b"x") == store.put(b"x") != store.put(b"y")
    assert len(list(tmp_path.iterdir())) == 2
