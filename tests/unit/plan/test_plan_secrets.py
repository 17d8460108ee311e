"""Which values are secrets."""

from __future__ import annotations

import pytest

from otel_exec.secrets import MASK, is_secret_field, mask


@pytest.mark.parametrize(
    "name",
    [
        "password",
        "db_password",
        "PASSWD",
        "passphrase",
        "encryption_key",
        "clientSecret",
        "secret",
        "credential",
        "aws_credentials",
        "authorization",
        "api_key",
        "apiKey",
        "APIKey",
        "access_key_id",
        "private_key",
        "secretKey",
        "x-api-key",
        "token",
        "hf_token",
        "authToken",
        "HFToken",
    ],
)
def test_secrets(name):
    """The words of the name decide, split at underscores, hyphens and capitals."""
    assert is_secret_field(name, "text")


@pytest.mark.parametrize(
    "name",
    [
        "tokens",
        "tokenizer",
        "sort_key",
        "eos_token",
        "pad_token",
        "mask_token",
        "bos_token",
        "unkToken",
        "token_count",
        "key",
        "secretary",
        "passwordless",
        "keyboard",
    ],
)
def test_no_secrets(name):
    """Words that only look like it, and the special tokens of vocabularies, are shown."""
    assert not is_secret_field(name, "text")


def test_token_counts_for_text_alone():
    """A number or a list called token hides nothing, and None never does."""
    assert not is_secret_field("max_token", 5)
    assert not is_secret_field("token", ["a"])
    assert not is_secret_field("password", None)


def test_mask_keeps_what_has_no_secret():
    """Trees without secrets are the same object; others are new with the secret and what lies below it replaced."""
    plain = {"a": [1, {"b": "x"}], "c": None}
    assert mask(plain) is plain
    tree = {"a": [{"api_key": {"deep": 1}}, ("x", {"token": "t"})], "same": plain}
    masked = mask(tree)
    assert masked == {"a": [{"api_key": MASK}, ("x", {"token": MASK})], "same": plain}
    assert masked["same"] is plain
    assert tree["a"][0] == {"api_key": {"deep": 1}}
