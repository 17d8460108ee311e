"""The language-model pipeline's library, called as any function is: no run, no executor."""

from __future__ import annotations

import itertools
import json
import math
import sys
import sysconfig
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

TEXT = 'The quick brown fox: "jumps_over" 12345 lazy dögs -- twice.\n\n    def jump(self):\n        return self.jump_over(dog)\n'


def _merges_by_definition(words, merges):
    """Byte-pair merges by the definition alone: count all pairs anew each time."""
    spellings = {word: list(word) for word in words}
    learned = []
    for token in range(256, 256 + merges):
        pairs = Counter()
        for word, count in words.items():
            for pair in itertools.pairwise(spellings[word]):
                pairs[pair] += count
        if not pairs:
            break
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        if pairs[best] < 2:
            break
        learned.append(best)
        for word, spelling in spellings.items():
            merged, position = [], 0
            while position < len(spelling):
                if tuple(spelling[position : position + 2]) == best:
                    merged.append(token)
                    position += 2
                else:
                    merged.append(spelling[position])
                    position += 1
            spellings[word] = merged
    return learned


@given(st.dictionaries(st.binary(min_size=1, max_size=8).map(lambda raw: bytes(b"abc"[byte % 3] for byte in raw)), st.integers(1, 9), max_size=8))
def test_merges_are_those_of_the_definition(lm, words):
    """The incremental trainer learns the same merges as counting all pairs anew after each merge."""
    assert lm.learn_merges(Counter(words), 12) == _merges_by_definition(words, 12)


@given(st.text(max_size=60))
def test_what_was_encoded_decodes_to_itself(lm, text):
    """Any text comes back from its tokens, whatever the merges were learned from."""
    text = text.encode(errors="replace").decode()
    tokenizer = lm.Tokenizer(lm.learn_merges(Counter({b" the": 5, b" then": 4, b"self": 3}), 8))
    tokens = tokenizer.encode(text)
    assert tokenizer.decode([*tokens, tokenizer.end]) == text
    assert all(0 <= token < tokenizer.end for token in tokens)


def test_merges_shorten_the_text_they_were_learned_from(lm):
    """Text with merges takes fewer tokens than it has bytes."""
    words = Counter(word.encode() for word in lm._WORD.findall(TEXT * 3))
    tokenizer = lm.Tokenizer(lm.learn_merges(words, 100))
    assert len(tokenizer.encode(TEXT)) < len(TEXT.encode()) / 2


@given(st.lists(st.integers(0, 5), min_size=8, max_size=80), st.integers(1, 4), st.lists(st.integers(0, 5), max_size=5))
def test_probabilities_of_all_tokens_add_up_to_one(lm, stream, order, context):
    """After any context, seen or not, the model's probabilities are a distribution over the vocabulary."""
    model = lm.fit([stream], 6, order)
    assert math.isclose(sum(model.probability(context, token) for token in range(6)), 1.0, rel_tol=1e-9)
    assert all(model.probability(context, token) > 0 for token in range(6))


def test_discounts_and_probabilities_by_hand(lm):
    """A bigram model of six tokens has the Kneser-Ney numbers that paper and pencil give."""
    model = lm.fit([[0, 1, 0, 1, 0, 2]], 3, 2)
    # Bigrams: (0,1) twice, (1,0) twice, (0,2) once. n1 = 1, n2 = 2, so the discount is 1 / 5.
    assert model.discounts[1] == pytest.approx(0.2)
    # Different tokens before 0, 1, 2: one each, so n1 = 3, n2 = 0 and the discount of unigrams falls back to one half: (1 - .5) / 3 + .5 * 3 / 3 / 3 = 1 / 3.
    assert model.probability([], 0) == pytest.approx(1 / 3)
    # After 0: (2 - .2) / 3 + .2 * 2 / 3 / 3.
    assert model.probability([0], 1) == pytest.approx(1.8 / 3 + 0.4 / 9)
    assert model.bits([0, 1]) == pytest.approx(-math.log2(1 / 3) - math.log2(1.8 / 3 + 0.4 / 9))


@pytest.mark.parametrize("order", [0, 5])
def test_an_order_that_does_not_fit_is_refused(lm, order):
    """An n-gram that 64 bits can't hold is a mistake, not a wrong number."""
    with pytest.raises(ValueError, match=f"order {order}"):
        lm.fit([[1, 2, 3]], 4, order)


def test_a_model_survives_its_files(lm, tmp_path):
    """A model that was saved and loaded gives the same probabilities."""
    model = lm.fit([[0, 1, 2, 1, 0, 3, 1, 2, 2, 1], [3, 1, 2]], 4, 3)
    lm.save_model(model, tmp_path)
    again = lm.load_model(tmp_path)
    assert again.counts == model.counts
    assert again.bits([1, 2, 3, 0, 0, 1]) == model.bits([1, 2, 3, 0, 0, 1])


def test_docstrings_and_code_are_told_apart(lm):
    """Docstrings become prose; code keeps its comments and loses them."""
    parts = lm._parts('"""Module."""\n# why\ndef f():\n    """Does f.\n\n    At length."""\n    return "not one"\n')
    assert parts["prose"] == "Module.\n\nDoes f.\n\nAt length."
    assert "# why" in parts["code"]
    assert '"not one"' in parts["code"]
    assert "Does f" not in parts["code"]


def _documents(path):
    return [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines()]


def test_repeated_paragraphs_are_dropped(lm, tmp_path):
    """A paragraph is kept where it stands first, whatever its case and spacing later; documents left nearly empty go."""
    lm._write_documents(
        tmp_path / "in.jsonl",
        [
            {"source": "a.py", "text": "One two.\n\n\nThree  four.  "},
            {"source": "b.py", "text": "three four.\n\nFive six seven."},
            {"source": "c.py", "text": "ONE TWO."},
        ],
    )
    lm._clean(lm.CleanConfig(str(tmp_path / "in.jsonl"), 5, str(tmp_path)))
    assert _documents(tmp_path / "documents.jsonl") == [{"source": "a.py", "text": "One two.\n\nThree  four."}, {"source": "b.py", "text": "Five six seven."}]


def test_the_split_keeps_a_source_on_one_side(lm, tmp_path):
    """No source file has text in both the training shards and the test set, and nothing is lost."""
    kinds = [str(tmp_path / f"{kind}.jsonl") for kind in ("prose", "code")]
    for path in kinds:
        lm._write_documents(Path(path), [{"source": f"m{number}.py", "text": path} for number in range(200)])
    lm._split(lm.SplitConfig(kinds, 3, 10, str(tmp_path / "out")))
    test = _documents(tmp_path / "out" / "test.jsonl")
    train = [document for shard in sorted((tmp_path / "out" / "train").glob("*.jsonl")) for document in _documents(shard)]
    assert len(test) + len(train) == 400
    assert not {document["source"] for document in test} & {document["source"] for document in train}
    assert 0.05 < len(test) / 400 < 0.16


def test_a_split_without_a_side_is_refused(lm, tmp_path):
    """Too little text is said, not divided by."""
    lm._write_documents(tmp_path / "one.jsonl", [{"source": "a.py", "text": "x"}])
    with pytest.raises(ValueError, match="too few documents"):
        lm._split(lm.SplitConfig([str(tmp_path / "one.jsonl")], 2, 10, str(tmp_path / "out")))


def test_a_python_without_sources_is_said(lm, tmp_path):
    """Where the standard library has no sources, the error says what is missing."""
    with pytest.raises(FileNotFoundError, match=r"needs its \.py files"):
        lm._collect(lm.CollectConfig(str(tmp_path), "3", "code", 1000, str(tmp_path)))


def _run_by_hand(lm, root):
    """The pipeline without its wiring; returns every file that it wrote."""

    def out(name):
        (root / name).mkdir(parents=True, exist_ok=True)
        return str(root / name)

    for kind in ("prose", "code"):
        lm._collect(lm.CollectConfig(sysconfig.get_paths()["stdlib"], sys.version, kind, 60_000, out(f"collect/{kind}")))
        lm._clean(lm.CleanConfig(out(f"collect/{kind}") + "/documents.jsonl", 200, out(f"clean/{kind}")))
    lm._split(lm.SplitConfig([out(f"clean/{kind}") + "/documents.jsonl" for kind in ("prose", "code")], 2, 25, out("split")))
    scores = []
    for size in (300, 400):
        lm._train_tokenizer(lm.TokenizerConfig(out("split") + "/train", size, out(f"tokenizer{size}")))
        lm._tokenize(
            lm.TokenizeConfig(out("split") + "/train", out("split") + "/test.jsonl", out(f"tokenizer{size}") + "/tokenizer.json", out(f"tokens{size}"))
        )
        lm._train(lm.TrainConfig(out(f"tokens{size}"), size, 3, out(f"model{size}")))
        lm._evaluate(lm.EvaluateConfig(out(f"model{size}"), out(f"tokens{size}"), out(f"evaluate{size}")))
        scores.append(out(f"evaluate{size}") + "/score.json")
    lm._report(lm.ReportConfig(scores, out("report")))
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def test_the_whole_pipeline_is_the_same_again(lm, tmp_path):
    """Outside any run the pipeline works on the real standard library, learns something, and writes the same bytes a second time."""
    first = _run_by_hand(lm, tmp_path / "first")
    score = json.loads(first["evaluate400/score.json"])
    assert 1.0 < score["bits_per_byte"] < 6.0  # far below the 8 bits of a byte that nothing is known about
    assert score["perplexity_per_byte"] == pytest.approx(2 ** score["bits_per_byte"], rel=1e-3)
    assert "| vocabulary |" in first["report/report.md"].decode()
    second = _run_by_hand(lm, tmp_path / "second")
    assert second == first
