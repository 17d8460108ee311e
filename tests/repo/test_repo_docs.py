"""The documents about themselves: links that lead somewhere, examples that are the real ones, commands that exist."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

LINK = re.compile(r"\[[^\]]+\]\(([^)\s]+)\)")


def _documents(texts):
    return {path: text for path, text in texts.items() if path.suffix == ".md"}


def _anchors(text):
    """The anchors of a document's headings, as the usual renderers make them."""
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


def test_links_lead_somewhere(root, texts):
    """Each relative link of each document names a file that is there, and a heading that is in it."""
    broken = []
    for path, text in _documents(texts).items():
        for target in LINK.findall(re.sub(r"```.*?```", "", text, flags=re.DOTALL)):
            if re.match(r"[a-z]+:", target):
                continue
            name, _, anchor = target.partition("#")
            goal = (root / path.parent / name) if name else root / path
            if not goal.exists() or (anchor and anchor not in _anchors(goal.read_text(encoding="utf-8"))):
                broken.append(f"{path}: {target}")
    assert broken == []


def test_every_document_can_be_found(root, texts):
    """Each page of docs/ is linked from another document."""
    goals = set()
    for path, text in _documents(texts).items():
        goals |= {(root / path.parent / target.partition("#")[0]).resolve() for target in LINK.findall(text) if not re.match(r"[a-z]+:", target)}
    lost = [str(path) for path in _documents(texts) if path.parts[0] == "docs" and (root / path).resolve() not in goals]
    assert lost == []


@pytest.mark.parametrize("document", ["README.md", "docs/quickstart.md"])
def test_the_first_experiment_is_the_example(root, document):
    """The first experiment that people read is examples/hello.py, letter by letter."""
    example = (root / "examples" / "hello.py").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", (root / document).read_text(encoding="utf-8"), re.DOTALL)
    assert example in blocks


def test_the_first_experiment_is_short(root):
    """examples/hello.py has at most 20 lines of code."""
    lines = (root / "examples" / "hello.py").read_text(encoding="utf-8").splitlines()
    assert sum(1 for line in lines if line.strip()) <= 20


def test_make_targets_in_documents_exist(root, texts):
    """Each `make target` that a document tells is in the Makefile."""
    targets = set(re.findall(r"^([a-z]+):", (root / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    told = {name for text in _documents(texts).values() for name in re.findall(r"(?:`|^ {4}|^)make ([a-z]+)\b", text, re.MULTILINE)}
    assert told
    assert told <= targets


def _commands():
    shown = subprocess.run([sys.executable, "-m", "otel_exec", "--help"], capture_output=True, text=True, check=True).stdout
    return shown, set(re.findall(r"^ {2,}([a-z]+)(?: {2,}|$)", shown, re.MULTILINE))


def test_commands_in_documents_exist(texts):
    """Each `otel-exec command` that the user documents tell is a command, but for decisions and the change log, which speak of other times."""
    shown, _ = _commands()
    told = {name for path, text in _documents(texts).items() if "decisions" not in path.parts for name in re.findall(r"otel-exec ([a-z]+)\b", text)}
    assert told
    assert [name for name in sorted(told) if not re.search(rf"^\s+{name}\b", shown, re.MULTILINE)] == []


def test_commands_are_documented(texts):
    """Each command that `otel-exec --help` lists is told in the user documents."""
    _, commands = _commands()
    assert commands
    everything = "\n".join(text for path, text in _documents(texts).items() if "decisions" not in path.parts)
    assert [name for name in sorted(commands) if f"otel-exec {name}" not in everything] == []


def test_public_names_are_documented(texts):
    """Each name of the public door is told in README or docs/."""
    import otel_exec

    everything = "\n".join(text for path, text in _documents(texts).items() if path.parts[0] in {"README.md", "docs"})
    assert [name for name in otel_exec.__all__ if name != "__version__" and not re.search(rf"\b{name}\b", everything)] == []


def test_decision_records_have_their_parts(texts):
    """Each decision record is numbered once and tells context, decision, alternatives and consequences."""
    records = {path: text for path, text in _documents(texts).items() if "decisions" in path.parts and re.match(r"\d", path.name)}
    assert records
    numbers = [path.name[:3] for path in records]
    assert len(set(numbers)) == len(numbers)
    for path, text in records.items():
        assert text.startswith(f"# {path.name[:3]}"), path
        for part in ("Context", "Decision", "Alternatives", "Consequences"):
            assert re.search(rf"^## {part}", text, re.MULTILINE), f"{path}: {part}"
