"""Commands as text: words, or what only a shell would understand."""

from __future__ import annotations

import pytest

from otel_exec.plan.commands import NotWordsError, shell_words


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("test -s {output_path}/model.bin", ["test", "-s", "{output_path}/model.bin"]),
        ("grep ';' sums", ["grep", ";", "sums"]),
        ('awk "a; b" x', ["awk", "a; b", "x"]),
        (r"find . -exec test -s {} \;", ["find", ".", "-exec", "test", "-s", "{}", ";"]),
        (r"expr 1 \> 0", ["expr", "1", ">", "0"]),
        ("curl http://host/?a=1&b=2", ["curl", "http://host/?a=1&b=2"]),
        ("check a<b 2", ["check", "a<b", "2"]),
        ("sh -c 'a && b | c > d'", ["sh", "-c", "a && b | c > d"]),
    ],
)
def test_words_as_a_shell_would_split_them(command, words):
    """Quoted operators, and operators in the middle of a word, are plain text."""
    assert shell_words(command) == words


@pytest.mark.parametrize(
    ("command", "word"),
    [
        ("cd x; ls", "x;"),
        ("cd x ; ls", ";"),
        ("cd 'a b'; ls", "'a b';"),
        ("a && b", "&&"),
        ("a || b", "||"),
        ("a | b", "|"),
        ("a |b", "|b"),
        ("a > out", ">"),
        ("a >> out", ">>"),
        ("a >out", ">out"),
        ("a < in", "<"),
        ("a 2>&1", "2>&1"),
        ("a 2> err", "2>"),
        ("a &", "&"),
    ],
)
def test_what_only_a_shell_understands_is_refused(command, word):
    """An operator that is not quoted would be passed on as a word: the command does not do what it says."""
    with pytest.raises(NotWordsError) as caught:
        shell_words(command, what="gate")
    assert caught.value.word == word
    assert str(caught.value) == f"gate is not run by a shell, so {word!r} would be passed to the command as a word; give ['sh', '-c', '...'] or a function"


def test_a_quote_that_is_not_closed():
    """It is said with the command."""
    with pytest.raises(NotWordsError) as caught:
        shell_words("test 'a")
    assert caught.value.sentence == """verify "test 'a" can't be split into words: no closing quotation"""
