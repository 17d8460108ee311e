"""What of the environment is hidden in texts of others, by value."""

from __future__ import annotations

import base64
import json
import os
import shlex
from urllib.parse import quote, quote_plus, urlencode

import pytest

from otel_exec.known_secrets import any_known, cut, doubt, hide_known, is_secret_variable, suspect, uncut


@pytest.fixture(autouse=True)
def _nothing_else(monkeypatch):
    """The environment of whoever runs the tests has no say."""
    for name in os.environ:
        monkeypatch.delenv(name)


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
    monkeypatch.setattr("otel_exec.known_secrets._words_of", None)
    monkeypatch.setenv("TRACEPARENT", "no secret: what was gathered stands")
    assert hide_known("the second one") == "***"
    monkeypatch.undo()
    assert hide_known("the second one") == "the second one"


NASTY = "wJalrXUtn'FEMI/K7\"MDENG+b\\Px é&%"


@pytest.mark.parametrize(
    "said",
    [
        quote(NASTY, safe=""),
        quote(NASTY),
        quote_plus(NASTY),
        urlencode({"key": NASTY}).partition("=")[2],
        repr(NASTY)[1:-1],
        ascii(NASTY)[1:-1],
        str(KeyError("no " + NASTY)).partition("no ")[2][:-1],
        repr(NASTY.encode())[2:-1],
        json.dumps(NASTY)[1:-1],
        json.dumps(NASTY, ensure_ascii=False)[1:-1],
        repr(json.dumps({"key": NASTY}))[10:-3],
        shlex.quote(NASTY)[1:-1],
        base64.b64encode(NASTY.encode()).decode(),
        base64.urlsafe_b64encode(NASTY.encode()).decode(),
    ],
)
def test_a_secret_is_hidden_as_others_write_it(monkeypatch, said):
    """Percent-encoded as HTTP clients do, between the quotes of Python's, JSON's and a shell's literals, one within another, and in Base64."""
    monkeypatch.setenv("API_KEY", NASTY)
    assert hide_known(f"({said})") == "(***)"


@pytest.mark.parametrize("user", ["", "u", "us", "use", "user@host"])
def test_a_secret_in_basic_credentials_is_hidden(monkeypatch, user):
    """Wherever in what was encoded the password lies: at most the characters at its edges, which it shares with its neighbours, are left."""
    monkeypatch.setenv("API_KEY", "correct horse battery")
    encoded = base64.b64encode(f"{user}:correct horse battery:{user}".encode()).decode()
    shown = hide_known(encoded)
    assert "***" in shown
    left = [base64.b64decode(part[: len(part) // 4 * 4]) for part in shown.split("***")]
    assert not any(word in part for part in left for word in (b"corr", b"tery"))


def test_an_ordinary_secret_has_few_forms():
    """Letters and digits look the same in all of them but Base64: what is looked for in each text stays short, and shorter still for phases."""
    from otel_exec.known_secrets import _words_of

    words, telling = _words_of([frozenset({"hf_0123456789", "Bearer hf_0123456789"})])
    assert len(words) <= 12
    assert telling == ("asic ", "hf_0123456789")


@pytest.mark.parametrize(
    "name",
    [
        "PGPASSWORD", "MYSQL_PWD", "SSHPASS", "REDISCLI_AUTH", "GITHUB_PAT", "GH_PAT", "OPENAI_KEY", "OPENAI_KEY_2", "ENCRYPTION_KEY", "PASSPHRASE",
        "GPG_PASSPHRASE", "SMTP_PASS", "DB_PWD", "NPM_AUTH", "HF_TOKEN", "AWS_SECRET_ACCESS_KEY", "DBPASS", "ftp_pass",
    ],
)  # fmt: skip
def test_variables_that_are_secrets(name):
    """By the names that programs use for theirs."""
    assert is_secret_variable(name, "s3cr3t-Value99")


@pytest.mark.parametrize(
    "name",
    [
        "PWD", "OLDPWD", "KEYBOARD", "PATH", "KEYMAP", "MONKEY", "SORT_KEY", "GPG_KEY", "SSH_PUBLIC_KEY", "XAUTHORITY", "SSH_AUTH_SOCK", "BYPASS", "GIT_ASKPASS",
        "PASSWORD_FILE", "DB_PASSWORD_FILE", "COMPASS", "CLASSPATH", "PATTERN", "TOKENIZERS", "MAX_TOKENS", "AUTHOR", "HOME", "KEY",
    ],
)  # fmt: skip
def test_variables_that_are_none(name):
    """Names that only look like it, and names of places, take no word out of anybody's sentence."""
    assert not is_secret_variable(name, "s3cr3t-Value99")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("SSH_KEY", "~/.ssh/id_ed25519"),
        ("PROJECT_PWD", "/data/somebody/project"),
        ("GOOGLE_APPLICATION_CREDENTIALS", "/run/secrets/google.json"),
        ("FILE_PAT", "*.parquet"),
        ("KERBEROS_AUTH", "required"),
    ],
)
def test_places_and_ordinary_words_are_no_secrets(name, value):
    """Where the name leaves it open the value decides: paths, patterns and modes are shown."""
    assert not is_secret_variable(name, value)


def test_passwords_in_urls_are_hidden(monkeypatch):
    """In whatever variable: as they stand and decoded, with a slash in them, of each of several URLs, in a parameter; never a port, a path, or a user's own name."""
    for name, value in {
        "DATABASE_URL": "postgres://u:dbSECRET88@h:5432/d",
        "BROKERS": "amqp://a:first%2Fone1@h,amqp://b:second/two2@h",
        "OTEL_EXPORTER_OTLP_ENDPOINT": "http://u:otlpSECRET@h:4318/?api_key=paramSECRET&page=ordinary1",
        "CACHE": "redis://:onlySECRET@h",
        "DEV": "postgres://postgres:postgres@localhost/app postgres://somebody:somebody@h/d http://h:80808080/at@home12",
    }.items():
        monkeypatch.setenv(name, value)
    for secret in ("dbSECRET88", "first%2Fone1", "first/one1", "second/two2", "otlpSECRET", "paramSECRET", "onlySECRET"):
        assert hide_known(f"<{secret}>") == "<***>"
    for said in ("can't reach postgres of somebody", "port 80808080", "/at@home12", "ordinary1", "h:4318"):
        assert hide_known(said) == said


def test_a_private_key_is_hidden_by_the_line(monkeypatch):
    """An error shows a line of it as a rule."""
    monkeypatch.setenv("DEPLOY_KEY", "-----BEGIN KEY-----\nMIIEowIBAAKCAQEA\nq83f0123456789ab\n-----END KEY-----\n")
    assert hide_known("near q83f0123456789ab: -----END KEY-----") == "near ***: -----END KEY-----"


def test_a_secret_is_never_cut_in_two(monkeypatch):
    """A cut through one is moved to before it, or behind it where the end is kept."""
    monkeypatch.setenv("HF_TOKEN", "hf_0123456789")
    text = "xxxx hf_0123456789 yyyy"
    assert [text[: uncut(text, at)] for at in (4, 5, 6, 17)] == ["xxxx", "xxxx ", "xxxx ", "xxxx "]
    assert text[uncut(text, 6, back=False) :] == " yyyy"
    assert uncut(text, 18) == uncut(text, 18, back=False) == 18
    assert cut(text, 10) == "xxxx "
    assert cut(text, 18) == "xxxx ***"
    assert cut(text, 99) == "xxxx *** yyyy"


def test_whether_any_secret_is_known(monkeypatch):
    """Nothing has to be looked for in an environment that holds none."""
    assert not any_known()
    monkeypatch.setenv("HF_TOKEN", "hf_0123456789")
    assert any_known()


def test_what_comes_by_the_thousand_is_looked_through_where_it_may_hold_one(monkeypatch):
    """A few words tell: none of them is in an ordinary text, one in each that has a secret, of Base64 in credentials."""
    doubt()
    assert not suspect("a Basic course")
    monkeypatch.setenv("HF_TOKEN", "hf_01234/6789")
    doubt()
    for said in ("got hf_01234/6789", "got hf_01234%2F6789", "Basic " + base64.b64encode(b"u:hf_01234/6789").decode()):
        assert suspect(said)
    assert not suspect("an ordinary text")
