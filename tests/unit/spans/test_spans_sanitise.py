"""Cleaning of names and attributes."""

from __future__ import annotations

import numpy as np
import pytest

from otel_exec import known_secrets
from otel_exec.spans import sanitise


class Hostile:
    def __str__(self):
        raise RuntimeError("no text")


@pytest.mark.parametrize(
    ("value", "clean"),
    [
        (float("nan"), "NaN"),
        (float("inf"), "Infinity"),
        (float("-inf"), "-Infinity"),
        (2**63 - 1, 2**63 - 1),
        (2**63, str(2**63)),
        (-(2**63) - 1, str(-(2**63) - 1)),
        (True, True),
        (None, None),
        (b"caf\xc3\xa9", "café"),
        ("\ud800x", "\ufffdx"),
        ("\ud83d\ude00", "😀"),
        ([1, 2.5], [1.0, 2.5]),
        ([1, None, "a"], ["1", "a"]),
        ((), []),
        ([[1], [2]], ["[1]", "[2]"]),
        ({"b", "a"}, ["a", "b"]),
        ({"a": 1}, "{'a': 1}"),
        (np.int64(7), 7),
        (np.float32(0.5), 0.5),
    ],
)
def test_a_value_becomes_what_otlp_can_carry(value, clean):
    """Each kind of value that receivers refuse has one clean form."""
    found = sanitise.attribute(value)
    assert found == clean
    assert type(found) is type(clean)


def test_an_int_too_long_for_text_becomes_hex():
    """str() refuses ints past 4300 digits; such a value still has text."""
    assert sanitise.attribute(1 << 100_000).startswith("0x1000")


def test_a_value_without_text_is_named_by_its_type():
    """An object whose own __str__ raises does not raise in us."""
    assert sanitise.attribute(Hostile()) == "<Hostile>"


def test_long_things_are_cut():
    """Names, keys, texts and lists keep to their bounds."""
    assert len(sanitise.name("n" * 5000)) == sanitise.MAX_NAME
    cleaned = sanitise.attributes({"k" * 5000: "v" * 50_000, "list": list(range(5000))})
    assert [len(key) for key in cleaned] == [sanitise.MAX_KEY, 4]
    assert [len(value) for value in cleaned.values()] == [sanitise.MAX_TEXT, sanitise.MAX_ITEMS]


def test_limits_of_the_environment_are_kept():
    """`value_limit` cuts texts, `count_limit` drops what comes after."""
    assert sanitise.attributes({"a": "long", "b": ["long"], "c": 1}, value_limit=2, count_limit=2) == {"a": "lo", "b": ["lo"]}


def test_keys_that_are_no_text_become_text_and_empty_ones_go():
    """Attribute keys are text that is not empty."""
    assert sanitise.attributes({1: "a", "": "b"}) == {"1": "a"}


def test_known_secrets_are_in_no_value_and_no_name(monkeypatch):
    """Nor in lists, keys, and texts that are cut; what holds none is the same object, and clean."""
    monkeypatch.setenv("SERVICE_TOKEN", "hf_0123456789")
    known_secrets.doubt()
    given = {"note": "got hf_0123456789", "many": ["hf_0123456789", "b"], "for hf_0123456789": 1, "n": 1}
    assert sanitise.attributes(given) == {"note": "got ***", "many": ["***", "b"], "for ***": 1, "n": 1}
    assert sanitise.attributes({"note": given["note"]}, value_limit=9) == {"note": "got "}
    assert sanitise.phase_name("call hf_0123456789") == "call ***"
    assert sanitise.phase_name("x" * 1020 + "hf_0123456789") == "x" * 1020
    plain = "an ordinary name"
    assert sanitise.phase_name(plain) is plain


def test_a_task_that_begins_looks_at_the_environment_again(monkeypatch):
    """A secret that was set meanwhile is hidden from then on."""
    known_secrets.doubt()
    assert sanitise.attributes({"note": "hf_0123456789"}) == {"note": "hf_0123456789"}
    monkeypatch.setenv("SERVICE_TOKEN", "hf_0123456789")
    known_secrets.doubt()
    assert sanitise.attributes({"note": "hf_0123456789"}) == {"note": "***"}
