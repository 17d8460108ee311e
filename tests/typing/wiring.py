"""Wiring as users write it. Never run: `test_plan_typing.py` has mypy check it with `--strict`, and each `assert_type` and expected error counts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import assert_type

from otel_exec.plan.refs import StepRef, versioned
from otel_exec.plan.step import DeferredCall, deferred, output, step


@dataclass(frozen=True)
class TokenizeConfig:
    train_path: str
    cache_path: str
    vocab_size: int


@dataclass(frozen=True)
class TrainConfig:
    data: Path
    out: str | Path
    also: Sequence[str]
    rates: dict[str, float]
    base: str | None = None
    seeds: list[int] = field(default_factory=list)


def _tokenize(config: TokenizeConfig) -> None: ...
def _train(config: TrainConfig, /) -> float:
    return 0.0


def _report(scores: list[str], out: Path, title: str = "report") -> None: ...


tokenize = deferred(_tokenize)
train = deferred(_train)
report = deferred(_report)


@deferred
def download_files(url: str, to: str) -> int:
    return len(url + to)


@step(name="download/{name}", description="fetch {name}", retries=2, timeout=60.0, resources={"num_cpus": 1, "memory": "1GB"}, verify="test -s {output_path}")
def download(name: str, *, mirror: str = "main") -> DeferredCall:
    return download_files(versioned(name), to=output("raw"))


@step("tokenize/{name}")
def tokenize_dataset(name: str, raw: StepRef) -> DeferredCall:
    return tokenize(TokenizeConfig(raw / "train", output(), versioned(32_000)))


@step(name="train/{seed}", override_output_path="models/{seed}")
def train_model(seed: int, data: StepRef, old: StepRef) -> DeferredCall:
    return train(
        TrainConfig(
            data=data / "cache",
            out=output(),
            also=[data, StepRef.hardcoded("vocab.json")],
            rates={"lr": versioned(0.1)},
            base=old.nonblocking() / "weights",
            seeds=[versioned(seed)],
        )
    )


@step(name="report")
def write_report(models: list[StepRef]) -> DeferredCall:
    return report([model / "scores.json" for model in models], out=output("report.md"), title=versioned("scores"))


@step(name="best")
def best(models: list[StepRef]) -> StepRef:
    return models[0]


@step(name="demo/all")
def run_all() -> None:
    wiki = tokenize_dataset("wiki", download("wiki", mirror="eu"))
    first = train_model(0, wiki, wiki)
    models = [train_model(seed, data=wiki, old=first.with_output_path("models/first")) for seed in range(3)]
    write_report([*models, best(models)])


assert_type(run_all(), StepRef)
assert_type(download("wiki") / "a" / Path("b.txt"), StepRef)
assert_type(versioned(3), int)

tokenize_dataset("wiki")  # type: ignore[call-arg]  # a step keeps the parameters of its function
tokenize(3)  # type: ignore[arg-type]  # and so does a deferred function
step(name="x", retries="2")  # type: ignore[arg-type]  # options are typed
