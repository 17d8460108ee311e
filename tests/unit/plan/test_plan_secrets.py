"""Which values are secrets."""

from __future__ import annotations

import pytest

from otel_exec.secrets import MASK, hide_known, is_secret_field, mask


@pytest.mark.parametrize(
    "name",
    [
        "password",
        "db_password",
        "PASSWD",
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


def test_what_an_error_says_loses_the_secrets_of_the_environment(monkeypatch):
    """By value: of variables whose names say that they hold one, and of OTLP's headers, as they stand and decoded; nothing shorter than eight characters."""
    for name, value in {
        "DB_PASSWORD": "correct horse",
        "HF_TOKEN": "hf_0123456789",
        "SHORT_PASSWORD": "none",
        "PLAIN": "ordinary text",
        "OTEL_EXPORTER_OTLP_TRACES_HEADERS": "authorization=Bearer%20abcdefgh,x-tenant=a",
    }.items():
        monkeypatch.setenv(name, value)
    said = "can't log in with 'correct horse': none of hf_0123456789, Bearer%20abcdefgh, Bearer abcdefgh, abcdefgh is ordinary text"
    assert hide_known(said) == "can't log in with '***': none of ***, ***, ***, *** is ordinary text"
    assert hide_known("nothing to hide") == "nothing to hide"


def test_a_secret_of_the_environment_is_hidden_whole_and_no_word_of_it(monkeypatch):
    """A password with a blank in it takes no ordinary word out of a sentence; a header's parts count from eight characters on; a file's name is no secret."""
    for name, value in {
        "DB_PASSWORD": "hunter22 is",
        "DB_PASSWORD_FILE": "/run/secrets/db",
        "clientSecretDir": "/run/secrets",
        "OTEL_EXPORTER_OTLP_HEADERS": "authorization=Basic%20YTpzaG9ydA==,other=Bearer short1",
    }.items():
        monkeypatch.setenv(name, value)
    assert hide_known("what is is, and hunter22 is not") == "what is is, and *** not"
    assert hide_known("no file /run/secrets/db") == "no file /run/secrets/db"
    assert hide_known("a:short, short1, YTpzaG9ydA==") == "a:short, short1, ***"


def test_a_secret_that_is_set_or_changed_later_is_hidden(monkeypatch):
    """The environment is gathered again once it has changed, and not before."""
    monkeypatch.setenv("DB_PASSWORD", "the first one")
    assert hide_known("the first one, the second one") == "***, the second one"
    monkeypatch.setenv("DB_PASSWORD", "the second one")
    assert hide_known("the first one, the second one") == "the first one, ***"
    monkeypatch.setattr("otel_exec.secrets._words_of", None)
    assert hide_known("the second one") == "***"
    monkeypatch.undo()
    assert hide_known("the second one") == "the second one"
