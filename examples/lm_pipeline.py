"""A small language-model pipeline on real text that every machine with Python has: its own standard library.

    python examples/lm_pipeline.py            # half a minute on two cores
    python examples/lm_pipeline.py --small    # some seconds

collect -> clean and deduplicate -> split -> and for each of two vocabulary sizes: train a byte-pair tokenizer -> tokenize the shards
-> train an n-gram model -> evaluate it on held-out files -> one report that compares the two.

The file has the three layers of every experiment. First the library: functions from a config of plain values to files, which can be called,
tested and moved elsewhere without an executor. Below it the wiring, which says what depends on what. Last the entry step.
Everything written is the same, byte for byte, when it is made again by the same Python.
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import heapq
import itertools
import json
import math
import os
import platform
import re
import sysconfig
import tokenize as python_tokenize
from array import array
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

# Two helpers for the inside of a step. Outside a run `map_tasks` is a plain map and `phase` measures nothing,
# so the library below stays usable, and testable, by itself.
from otel_exec import map_tasks, phase

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence


# --- Library: text ---------------------------------------------------------------------------------------------------------------------


class Document(TypedDict):
    """One line of a `.jsonl` file: where the text comes from, relative to the standard library, and the text."""

    source: str
    text: str


@dataclass(frozen=True)
class CollectConfig:
    """What to read: `kind` is `prose` (docstrings) or `code` (sources without their docstrings); `max_bytes` bounds the text taken."""

    stdlib_path: str
    python_version: str
    kind: str
    max_bytes: int
    output_path: str


@dataclass(frozen=True)
class CleanConfig:
    """`min_bytes`: shorter documents are dropped."""

    input_path: str
    min_bytes: int
    output_path: str


@dataclass(frozen=True)
class SplitConfig:
    """`test_percent` of the source files go to the test set, the others into `shards` files for training."""

    input_paths: list[str]
    shards: int
    test_percent: int
    output_path: str


# Not text that somebody wrote to be read: tests hold broken and generated files, the others are copies of something else.
_PASSED_OVER = frozenset({"__pycache__", "dist-packages", "idle_test", "pydoc_data", "site-packages", "test", "tests"})


def _digest(text: str) -> int:
    """Return a number for a text that is the same on every machine and in every process, as `hash` is not."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")


def _write_documents(path: Path, documents: Iterable[Document]) -> int:
    """Write one JSON object a line; returns how many bytes of text they hold."""
    size = 0
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="\n") as file:
        for document in documents:
            file.write(json.dumps(document) + "\n")
            size += len(document["text"].encode())
    return size


def _read_documents(path: Path) -> Iterator[Document]:
    with path.open(encoding="utf-8") as file:
        for line in file:
            document: Document = json.loads(line)
            yield document


def _source_files(stdlib_path: str) -> list[str]:
    """Return the relative paths of the sources in an order that mixes the packages, so that a part of it is a fair sample."""
    found: list[str] = []
    for folder, below, names in os.walk(stdlib_path):
        below[:] = [name for name in below if name not in _PASSED_OVER]
        found += [Path(folder, name).relative_to(stdlib_path).as_posix() for name in names if name.endswith(".py")]
    return sorted(found, key=lambda name: (_digest(name), name))


def _parts(source: str) -> dict[str, str]:
    """Return a module's docstrings as `prose` and the rest of it, comments included, as `code`."""
    lines = source.splitlines()
    prose: list[str] = []
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        docstring = ast.get_docstring(node)
        if docstring is None:
            continue
        prose.append(docstring)
        expression = node.body[0]
        for number in range(expression.lineno - 1, expression.end_lineno or expression.lineno):
            lines[number] = ""
    return {"prose": "\n\n".join(prose), "code": "\n".join(lines)}


def _collect(config: CollectConfig) -> None:
    """Read the standard library's modules until there are `max_bytes` of text."""
    if not Path(config.stdlib_path, "ast.py").exists():
        raise FileNotFoundError(f"{config.stdlib_path}: no standard library in source form here; this experiment needs its .py files")
    documents: list[Document] = []
    size = 0
    with phase("read", kind=config.kind):
        for name in _source_files(config.stdlib_path):
            try:
                with python_tokenize.open(Path(config.stdlib_path, name)) as file:
                    text = _parts(file.read())[config.kind]
            except (SyntaxError, UnicodeDecodeError):
                continue  # a template or a file that is broken on purpose
            documents.append({"source": name, "text": text})
            size += len(text.encode())
            if size >= config.max_bytes:
                break
    with phase("write"):
        _write_documents(Path(config.output_path, "documents.jsonl"), documents)


def _paragraphs(text: str) -> list[str]:
    """Return the blocks between blank lines, without trailing blanks."""
    lines = (line.rstrip() for line in text.splitlines())
    return ["\n".join(block) for filled, block in itertools.groupby(lines, key=bool) if filled]


def _clean(config: CleanConfig) -> None:
    """Drop every paragraph that stood in an earlier document or earlier in this one, then the documents that are nearly empty."""
    seen: set[str] = set()
    kept: list[Document] = []
    read = dropped = 0
    with phase("deduplicate"):
        for document in _read_documents(Path(config.input_path)):
            read += 1
            fresh: list[str] = []
            for paragraph in _paragraphs(document["text"]):
                key = " ".join(paragraph.lower().split())
                if key in seen:
                    dropped += 1
                else:
                    seen.add(key)
                    fresh.append(paragraph)
            text = "\n\n".join(fresh)
            if len(text.encode()) >= config.min_bytes:
                kept.append({"source": document["source"], "text": text})
    with phase("write"):
        size = _write_documents(Path(config.output_path, "documents.jsonl"), kept)
    print(f"{len(kept)} of {read} documents kept, {size:,} bytes; {dropped} repeated paragraphs dropped")


def _split(config: SplitConfig) -> None:
    """Deal the documents into training shards and a test set, by source file: a module's code and prose fall on the same side."""
    output = Path(config.output_path)
    shards: list[list[Document]] = [[] for _ in range(config.shards)]
    test: list[Document] = []
    for input_path in config.input_paths:
        for document in _read_documents(Path(input_path)):
            place = _digest("split:" + document["source"])
            if place % 100 < config.test_percent:
                test.append(document)
            else:
                shards[place // 100 % config.shards].append(document)
    if not test or not any(shards):
        raise ValueError(f"too few documents to split: {len(test)} for the test set, {sum(map(len, shards))} for training")
    for index, shard in enumerate(shards):
        _write_documents(output / "train" / f"{index:03d}.jsonl", shard)
    _write_documents(output / "test.jsonl", test)


# --- Library: tokenizer ----------------------------------------------------------------------------------------------------------------

Pair = tuple[int, int]


@dataclass(frozen=True)
class TokenizerConfig:
    """`vocab_size` counts the 256 bytes, the merges and the mark that ends a text."""

    train_path: str
    vocab_size: int
    output_path: str


@dataclass(frozen=True)
class TokenizeConfig:
    """Where the texts and the tokenizer are."""

    train_path: str
    test_path: str
    tokenizer_path: str
    output_path: str


@dataclass(frozen=True)
class ShardJob:
    """One item of the fan-out: a file of documents to a file of tokens."""

    documents_path: str
    tokenizer_path: str
    tokens_path: str


class ShardCount(TypedDict):
    """What became of a shard. `bytes` counts text, `tokens` includes one mark a document."""

    documents: int
    bytes: int
    tokens: int


# Words keep the blank before them; runs of signs, digits and white space stand by themselves. Merges never cross these borders.
_WORD = re.compile(r" ?[^\W\d_]+| ?\d{1,3}| ?[^\w\s]+|_+|\s+(?=\S)|\s+")


def _count_words(path: Path) -> Counter[bytes]:
    words: Counter[str] = Counter()
    for shard in sorted(path.glob("*.jsonl")):
        for document in _read_documents(shard):
            words.update(_WORD.findall(document["text"]))
    return Counter({word.encode(): count for word, count in words.items()})


def learn_merges(words: Counter[bytes], merges: int) -> list[Pair]:
    """Return the byte-pair merges in the order learned: each time the pair that occurs most, the smaller one of equals.

    Source: Sennrich, Haddow, Birch: Neural Machine Translation of Rare Words with Subword Units, ACL 2016, on bytes instead of letters.
    Only the words that hold the merged pair are touched, and a heap with stale entries finds the next one.
    """
    spellings = [list(word) for word in words]
    counts = list(words.values())
    pair_counts: Counter[Pair] = Counter()
    pair_words: defaultdict[Pair, set[int]] = defaultdict(set)
    for index, spelling in enumerate(spellings):
        for pair in itertools.pairwise(spelling):
            pair_counts[pair] += counts[index]
            pair_words[pair].add(index)
    heap = [(-count, pair) for pair, count in pair_counts.items()]
    heapq.heapify(heap)
    learned: list[Pair] = []
    while heap and len(learned) < merges:
        negated, best = heapq.heappop(heap)
        if pair_counts[best] != -negated:
            continue  # stale: the count changed since, and the pair was pushed again with the new one
        if -negated < 2:
            break
        token = 256 + len(learned)
        learned.append(best)
        changed: Counter[Pair] = Counter()
        for index in pair_words.pop(best):
            before = spellings[index]
            after = _merge(before, best, token)
            spellings[index] = after
            for pair in itertools.pairwise(before):
                changed[pair] -= counts[index]
            for pair in itertools.pairwise(after):
                changed[pair] += counts[index]
                pair_words[pair].add(index)
        for pair, change in changed.items():
            if change:
                pair_counts[pair] += change
                if pair_counts[pair] > 0:
                    heapq.heappush(heap, (-pair_counts[pair], pair))
        del pair_counts[best]
    return learned


def _merge(spelling: Sequence[int], pair: Pair, token: int) -> list[int]:
    merged: list[int] = []
    position = 0
    while position < len(spelling):
        if position + 1 < len(spelling) and spelling[position] == pair[0] and spelling[position + 1] == pair[1]:
            merged.append(token)
            position += 2
        else:
            merged.append(spelling[position])
            position += 1
    return merged


class Tokenizer:
    """Byte-pair encoding with given merges. Tokens 0 to 255 are the bytes, the next ones the merges, the last one ends a text."""

    def __init__(self, merges: Sequence[Pair]) -> None:
        self._ranks = {pair: rank for rank, pair in enumerate(merges)}
        self._known: dict[str, tuple[int, ...]] = {}
        self._spelled = [bytes([byte]) for byte in range(256)]
        for left, right in merges:
            self._spelled.append(self._spelled[left] + self._spelled[right])
        self.end = 256 + len(merges)

    def encode(self, text: str) -> list[int]:
        """Return the tokens of a text, the ending mark not included."""
        tokens: list[int] = []
        for word in _WORD.findall(text):
            known = self._known.get(word)
            if known is None:
                known = self._known[word] = self._encode_word(word)
            tokens += known
        return tokens

    def decode(self, tokens: Iterable[int]) -> str:
        """Return the text that the tokens stand for."""
        return b"".join(self._spelled[token] for token in tokens if token != self.end).decode(errors="replace")

    def _encode_word(self, word: str) -> tuple[int, ...]:
        spelling = list(word.encode())
        last = len(self._ranks)
        while len(spelling) > 1:
            rank, pair = min((self._ranks.get(pair, last), pair) for pair in itertools.pairwise(spelling))
            if rank == last:
                break
            spelling = _merge(spelling, pair, 256 + rank)
        return tuple(spelling)


def load_tokenizer(path: str) -> Tokenizer:
    """Read a tokenizer."""
    merges = json.loads(Path(path).read_text(encoding="utf-8"))["merges"]
    return Tokenizer([(left, right) for left, right in merges])


def _train_tokenizer(config: TokenizerConfig) -> None:
    with phase("count words"):
        words = _count_words(Path(config.train_path))
    with phase("merge pairs", vocab_size=config.vocab_size):
        merges = learn_merges(words, config.vocab_size - 257)
    Path(config.output_path, "tokenizer.json").write_text(json.dumps({"merges": merges}), encoding="utf-8")
    print(f"{len(merges)} merges from {len(words):,} different words")


def _tokenize_shard(job: ShardJob) -> ShardCount:
    """Encode one file of documents; written as 16-bit numbers in the machine's byte order."""
    tokenizer = load_tokenizer(job.tokenizer_path)
    tokens = array("H")
    documents = size = 0
    for document in _read_documents(Path(job.documents_path)):
        tokens.extend(tokenizer.encode(document["text"]))
        tokens.append(tokenizer.end)
        documents += 1
        size += len(document["text"].encode())
    Path(job.tokens_path).write_bytes(tokens.tobytes())
    return {"documents": documents, "bytes": size, "tokens": len(tokens)}


def _tokenize(config: TokenizeConfig) -> None:
    """Encode the shards and the test set, each file an item of a fan-out that idle workers share."""
    output = Path(config.output_path)
    (output / "train").mkdir(parents=True, exist_ok=True)
    shards = sorted(Path(config.train_path).glob("*.jsonl"))
    jobs = [ShardJob(str(shard), config.tokenizer_path, str(output / "train" / f"{shard.stem}.u16")) for shard in shards]
    jobs.append(ShardJob(config.test_path, config.tokenizer_path, str(output / "test.u16")))
    *parts, test = map_tasks(_tokenize_shard, jobs)
    train: ShardCount = {
        "documents": sum(part["documents"] for part in parts),
        "bytes": sum(part["bytes"] for part in parts),
        "tokens": sum(part["tokens"] for part in parts),
    }
    (output / "counts.json").write_text(json.dumps({"train": train, "test": test}, indent=1), encoding="utf-8")
    print(f"{train['tokens']:,} tokens, {train['bytes'] / train['tokens']:.2f} bytes each")


# --- Library: model --------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TrainConfig:
    """`order`: how many tokens an n-gram has at most."""

    tokens_path: str
    vocab_size: int
    order: int
    output_path: str


@dataclass(frozen=True)
class EvaluateConfig:
    """What to evaluate on what."""

    model_path: str
    tokens_path: str
    output_path: str


class Score(TypedDict):
    """How well a model foretells the test set. `perplexity_per_byte` is comparable among tokenizers, `perplexity_per_token` is not."""

    vocab_size: int
    order: int
    ngrams: int
    train_bytes: int
    train_tokens: int
    test_bytes: int
    test_tokens: int
    bits_per_byte: float
    perplexity_per_byte: float
    perplexity_per_token: float


_BITS = 16  # a token; an n-gram is packed into one integer, its last token lowest, which hashes faster than a tuple and takes a third of the memory


def _read_tokens(path: Path) -> array[int]:
    tokens = array("H")
    tokens.frombytes(path.read_bytes())
    return tokens


def count_ngrams(tokens: Sequence[int], order: int) -> Counter[int]:
    """Return how often each n-gram of exactly `order` tokens occurs."""
    if order == 1:
        return Counter(tokens)
    mask = (1 << _BITS * order) - 1
    key = 0
    keys: list[int] = []
    for token in tokens:
        key = (key << _BITS | token) & mask
        keys.append(key)
    return Counter(keys[order - 1 :])


class NgramModel:
    """An n-gram model with interpolated Kneser-Ney smoothing and one discount an order.

    Source: Chen, Goodman: An Empirical Study of Smoothing Techniques for Language Modeling, Computer Speech and Language 13, 1999,
    equations 21 to 24; discount n1 / (n1 + 2 n2) after Ney, Essen, Kneser, 1994.
    `counts[n - 1]` holds the n-grams of n tokens: how often they occur for the longest, else how many different tokens come before them.
    """

    def __init__(self, counts: Sequence[dict[int, int]], vocab_size: int) -> None:
        self.counts = counts
        self.vocab_size = vocab_size
        self.discounts = [_discount(of_order) for of_order in counts]
        self._totals: list[dict[int, int]] = []
        self._kinds: list[dict[int, int]] = []
        for of_order in counts:
            totals: defaultdict[int, int] = defaultdict(int)
            kinds: defaultdict[int, int] = defaultdict(int)
            for key, count in of_order.items():
                totals[key >> _BITS] += count
                kinds[key >> _BITS] += 1
            self._totals.append(dict(totals))
            self._kinds.append(dict(kinds))

    @property
    def order(self) -> int:
        """The number of tokens in the longest n-gram."""
        return len(self.counts)

    def probability(self, context: Sequence[int], token: int) -> float:
        """Return how likely `token` is after `context`, of which the last `order - 1` tokens are looked at."""
        probability = 1.0 / self.vocab_size
        history = 0
        for length in range(min(self.order, len(context) + 1)):
            if length:
                history |= context[-length] << _BITS * (length - 1)
            total = self._totals[length].get(history)
            if total is None:
                break  # a context that was never seen: neither was any longer one
            discount = self.discounts[length]
            count = self.counts[length].get(history << _BITS | token, 0)
            probability = (max(count - discount, 0.0) + discount * self._kinds[length][history] * probability) / total
        return probability

    def bits(self, tokens: Sequence[int]) -> float:
        """Return the information in a stream of tokens, in bits."""
        reach = self.order - 1
        return -sum(math.log2(self.probability(tokens[max(0, position - reach) : position], token)) for position, token in enumerate(tokens))


def _discount(counts: dict[int, int]) -> float:
    once = sum(1 for count in counts.values() if count == 1)
    twice = sum(1 for count in counts.values() if count == 2)
    return once / (once + 2 * twice) if once and twice else 0.5


def fit(shards: Sequence[Sequence[int]], vocab_size: int, order: int) -> NgramModel:
    """Make a model of the shards, each one stream in which the ending marks are tokens like others; `order` of 1 to 4."""
    if not 1 <= order <= 64 // _BITS:
        raise ValueError(f"order {order}: an n-gram of 1 to {64 // _BITS} tokens of {_BITS} bits fits into 64")
    longest: Counter[int] = Counter()
    for shard in shards:
        longest.update(count_ngrams(shard, order))
    counts: list[dict[int, int]] = [longest]
    for length in range(order - 1, 0, -1):
        mask = (1 << _BITS * length) - 1
        counts.insert(0, Counter(key & mask for key in counts[0]))
    return NgramModel(counts, vocab_size)


def save_model(model: NgramModel, folder: Path) -> None:
    """Write each order's n-grams in ascending order, packed, beside their counts."""
    for length, counts in enumerate(model.counts, start=1):
        keys = array("Q", sorted(counts))
        Path(folder, f"{length}-gram.keys.u64").write_bytes(keys.tobytes())
        Path(folder, f"{length}-gram.counts.u32").write_bytes(array("I", (counts[key] for key in keys)).tobytes())
    header = {"order": model.order, "vocab_size": model.vocab_size, "discounts": model.discounts, "ngrams": [len(counts) for counts in model.counts]}
    Path(folder, "model.json").write_text(json.dumps(header, indent=1), encoding="utf-8")


def load_model(folder: Path) -> NgramModel:
    """Read what `save_model` wrote."""
    header = json.loads(Path(folder, "model.json").read_text(encoding="utf-8"))
    counts: list[dict[int, int]] = []
    for length in range(1, header["order"] + 1):
        keys, values = array("Q"), array("I")
        keys.frombytes(Path(folder, f"{length}-gram.keys.u64").read_bytes())
        values.frombytes(Path(folder, f"{length}-gram.counts.u32").read_bytes())
        counts.append(dict(zip(keys, values, strict=True)))
    return NgramModel(counts, header["vocab_size"])


def _train(config: TrainConfig) -> None:
    with phase("read"):
        shards = [_read_tokens(path) for path in sorted(Path(config.tokens_path, "train").glob("*.u16"))]
    with phase("count n-grams", order=config.order):
        model = fit(shards, config.vocab_size, config.order)
    with phase("write"):
        save_model(model, Path(config.output_path))
    print(f"{sum(map(len, model.counts)):,} n-grams of up to {model.order} tokens")


def _evaluate(config: EvaluateConfig) -> None:
    with phase("load model"):
        model = load_model(Path(config.model_path))
    tokens = _read_tokens(Path(config.tokens_path, "test.u16"))
    with phase("score", tokens=len(tokens)):
        bits = model.bits(tokens)
    counts = json.loads(Path(config.tokens_path, "counts.json").read_text(encoding="utf-8"))
    score: Score = {
        "vocab_size": model.vocab_size,
        "order": model.order,
        "ngrams": sum(map(len, model.counts)),
        "train_bytes": counts["train"]["bytes"],
        "train_tokens": counts["train"]["tokens"],
        "test_bytes": counts["test"]["bytes"],
        "test_tokens": len(tokens),
        "bits_per_byte": round(bits / counts["test"]["bytes"], 4),
        "perplexity_per_byte": round(2 ** (bits / counts["test"]["bytes"]), 4),
        "perplexity_per_token": round(2 ** (bits / len(tokens)), 2),
    }
    Path(config.output_path, "score.json").write_text(json.dumps(score, indent=1), encoding="utf-8")
    print(f"{score['perplexity_per_byte']} per byte, {score['bits_per_byte']} bits")


# --- Library: report -------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ReportConfig:
    """The scores to compare."""

    score_paths: list[str]
    output_path: str


def _report(config: ReportConfig) -> None:
    """Write `report.json` and `report.md`, the best model first."""
    scores: list[Score] = [json.loads(Path(path).read_text(encoding="utf-8")) for path in config.score_paths]
    scores.sort(key=lambda score: (score["bits_per_byte"], score["vocab_size"]))
    best = scores[0]
    rows = [
        f"| {score['vocab_size']:,} | {score['order']} | {score['ngrams']:,} | {score['train_bytes'] / score['train_tokens']:.2f} "
        f"| {score['bits_per_byte']:.3f} | {score['perplexity_per_byte']:.3f} | {score['perplexity_per_token']:.1f} |"
        for score in scores
    ]
    lines = [
        "# N-gram models of Python's standard library",
        "",
        f"Trained on {best['train_bytes']:,} bytes, evaluated on {best['test_bytes']:,} bytes of other modules. Lower is better;",
        "only the numbers per byte compare across vocabularies.",
        "",
        "| vocabulary | order | n-grams | bytes a token | bits a byte | perplexity a byte | perplexity a token |",
        "|-----------:|------:|--------:|--------------:|------------:|------------------:|-------------------:|",
        *rows,
        "",
    ]
    Path(config.output_path, "report.json").write_text(json.dumps({"scores": scores}, indent=1), encoding="utf-8")
    Path(config.output_path, "report.md").write_text("\n".join(lines), encoding="utf-8")
    print("\n".join(lines[5:-1]))


# --- Wiring ----------------------------------------------------------------------------------------------------------------------------
# From here on the executor is known: which function is a step, what it is called, what it depends on, what is part of its identity.

from otel_exec import DeferredCall, StepRef, deferred, executor_main, output, step, versioned  # noqa: E402  the library above does without them


@dataclass(frozen=True)
class Size:
    """How much of everything: `max_bytes` of each kind of text, `vocab_sizes` to compare."""

    max_bytes: int
    shards: int
    vocab_sizes: tuple[int, ...]
    order: int


FULL = Size(max_bytes=6_000_000, shards=8, vocab_sizes=(1_024, 8_192), order=4)
SMALL = Size(max_bytes=1_000_000, shards=4, vocab_sizes=(512, 2_048), order=3)

collect = deferred(_collect)
clean = deferred(_clean)
split = deferred(_split)
train_tokenizer = deferred(_train_tokenizer)
tokenize = deferred(_tokenize)
train = deferred(_train)
evaluate = deferred(_evaluate)
report = deferred(_report)


@step(name="lm/collect/{kind}", description="{kind} of the standard library, up to {max_bytes} bytes")
def collect_text(kind: str, max_bytes: int) -> DeferredCall:
    stdlib = sysconfig.get_paths()["stdlib"]
    return collect(CollectConfig(stdlib, versioned(platform.python_version()), versioned(kind), versioned(max_bytes), output()))


@step(name="lm/clean/{kind}")
def clean_text(kind: str, raw: StepRef) -> DeferredCall:
    return clean(CleanConfig(raw / "documents.jsonl", versioned(200), output()))


@step(name="lm/split")
def split_text(texts: list[StepRef], shards: int) -> DeferredCall:
    return split(SplitConfig([text / "documents.jsonl" for text in texts], versioned(shards), versioned(10), output()))


@step(name="lm/tokenizer/{vocab_size}")
def build_tokenizer(texts: StepRef, vocab_size: int) -> DeferredCall:
    return train_tokenizer(TokenizerConfig(texts / "train", versioned(vocab_size), output()))


@step(name="lm/tokens/{vocab_size}")
def tokenize_text(texts: StepRef, tokenizer: StepRef, vocab_size: int) -> DeferredCall:
    return tokenize(TokenizeConfig(texts / "train", texts / "test.jsonl", tokenizer / "tokenizer.json", output()))


@step(name="lm/model/{vocab_size}")
def train_model(tokens: StepRef, vocab_size: int, order: int) -> DeferredCall:
    return train(TrainConfig(tokens, versioned(vocab_size), versioned(order), output()))


@step(name="lm/evaluate/{vocab_size}")
def evaluate_model(model: StepRef, tokens: StepRef, vocab_size: int) -> DeferredCall:
    return evaluate(EvaluateConfig(model, tokens, output()))


@step(name="lm/report")
def write_report(scores: list[StepRef]) -> DeferredCall:
    return report(ReportConfig([score / "score.json" for score in scores], output()))


@step(name="lm/all")
def run_all(size: Size) -> None:
    texts = split_text([clean_text(kind, collect_text(kind, size.max_bytes)) for kind in ("prose", "code")], size.shards)
    scores: list[StepRef] = []
    for vocab_size in size.vocab_sizes:
        tokens = tokenize_text(texts, build_tokenizer(texts, vocab_size), vocab_size)
        scores.append(evaluate_model(train_model(tokens, vocab_size, size.order), tokens, vocab_size))
    write_report(scores)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--small", action="store_true")
    arguments, rest = parser.parse_known_args()
    executor_main(
        steps=[run_all(SMALL if arguments.small else FULL)],
        description="n-gram models of the standard library" + (", a small sample" if arguments.small else " (with --small: of a small sample)"),
        argv=rest,
    )
