"""Commands given as text: split into words as a shell would, without one to run them.

What comes in: a command as text. What goes out: its words, or a sentence on what only a shell would understand. Pure.
"""

from __future__ import annotations

import re
import shlex

__all__ = ["NotWordsError", "shell_words"]

# A word as it was written, quotes and all: what shlex.split makes one word of, in POSIX mode without comments.
_WRITTEN = re.compile(r"""(?:[^\s"'\\]|\\.|"(?:[^"\\]|\\.)*"|'[^']*')+""", re.DOTALL)
# Words that are operators to a shell (POSIX.1-2017, Shell Command Language, 2.2 and 2.10.1), unless quoted: `;`, `&&`, `||`, `|`, `&`, `>file`, `2>&1`, `<<`; and `word;`.
_OPERATOR = re.compile(r"[0-9]*[<>].*|[;&|].*|(?:.*[^\\])?;", re.DOTALL)


class NotWordsError(ValueError):
    """A command can't be run as the words that it is made of. `sentence` says why, `hint` what to write; `word` is the one that only a shell would understand, if it is one."""

    def __init__(self, sentence: str, hint: str, word: str = "") -> None:
        super().__init__(sentence, hint, word)
        self.sentence = sentence
        self.hint = hint
        self.word = word

    def __str__(self) -> str:
        return f"{self.sentence}; {self.hint}"


def shell_words(command: str, *, what: str = "verify") -> list[str]:
    """Return the words of a command.

    Args:
        command: as text; quotes and backslashes as in a shell, nothing is expanded.
        what: what the command is for, as the subject of the sentence.

    Raises:
        NotWordsError: a quote is not closed, or a word that is not quoted would be an operator in a shell.
    """
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise NotWordsError(f"{what} {command!r} can't be split into words: {str(error).lower()}", "close the quote, or give a list of words") from None
    for written in _WRITTEN.findall(command):
        if _OPERATOR.fullmatch(written):
            sentence = f"{what} is not run by a shell, so {written!r} would be passed to the command as a word"
            raise NotWordsError(sentence, "give ['sh', '-c', '...'] or a function", written)
    return words
