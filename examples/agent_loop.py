"""An agent in a loop: three nodes take turns until a question is answered, calls run side by side, some fail and are tried again.

It answers questions about the standard library from its modules' own documentation, offline. What would be a call to a language model is a wait, as long as
the number of tokens says, and a choice of words by their rarity. The timing calls are those of a program that has ids of its own.

    python examples/agent_loop.py                   as a program: one run without steps
    python examples/agent_loop.py --as-experiment   as an experiment: each question is a step
    otel-exec metrics --breakdown --bottlenecks
"""

from __future__ import annotations

import asyncio
import importlib
import math
import re
import sys
from collections import Counter
from pathlib import Path

from otel_exec import DeferredCall, atime_phase, atimed, deferred, execution, executor_main, output, step, time_phase, timed, versioned

QUESTIONS = (
    "Which queue algorithm keeps a heap by priority?",
    "Which module makes serialized representations of objects?",
    "What is a lexical analyzer for simple shell syntaxes?",
)
MODULES = (
    "argparse base64 bisect codecs collections copy csv datetime difflib email enum functools gzip heapq io itertools json logging "
    "pickle queue random re sched shelve shlex shutil sqlite3 string tempfile textwrap threading uuid zipfile zlib"
)
MAX_ITERATIONS = 3
SECONDS_PER_TOKEN = 0.002


class Overloaded(RuntimeError):
    """The model takes no more calls just now."""


class Model:
    """Stands for a remote model: waits, answers, and refuses every fourth call at first."""

    def __init__(self) -> None:
        self.calls = 0

    async def complete(self, prompt: str) -> str:
        """Return the prompt's rarest words, the rarest first."""
        self.calls += 1
        if self.calls % 4 == 0:
            raise Overloaded("too many calls")
        await asyncio.sleep(len(prompt.split()) * SECONDS_PER_TOKEN)
        return " ".join(rare_words(prompt)[:6])


def words(text: str) -> list[str]:
    return re.findall(r"[a-z]{3,}", text.lower())


def rare_words(text: str) -> list[str]:
    return sorted(set(words(text)), key=lambda word: (FREQUENCY.get(word, 0), word))


DOCUMENTS = {name: importlib.import_module(name).__doc__ or "" for name in MODULES.split()}
FREQUENCY = Counter(word for text in DOCUMENTS.values() for word in set(words(text)))


@atimed("llm_call")
async def call_model(execution_id: str, node_id: str, model: Model, prompt: str) -> str:
    """Ask the model; each try is an occurrence of the phase `llm_call` of that node, failed or not."""
    with time_phase(execution_id, node_id, "tokenize") as tokenizing:
        tokenizing.set(input_tokens=len(words(prompt)))
    return await model.complete(prompt)


async def ask(execution_id: str, node_id: str, model: Model, prompt: str) -> str:
    """Ask until the model takes the call."""
    while True:
        try:
            return await call_model(execution_id, node_id, model, prompt)
        except Overloaded:
            async with atime_phase(execution_id, node_id, "retry_wait"):
                await asyncio.sleep(0.01)


@timed("search")
def search(execution_id: str, node_id: str, query: str) -> tuple[float, str]:
    """Score every document; runs in a thread of its own."""
    wanted = Counter(words(query))
    scores = {
        name: sum(wanted[word] * math.log(len(DOCUMENTS) / FREQUENCY[word]) for word in set(words(text)) & wanted.keys()) for name, text in DOCUMENTS.items()
    }
    best = max(scores, key=lambda name: (scores[name], name))
    return scores[best], best


async def plan(execution_id: str, model: Model, question: str, notes: list[str]) -> list[str]:
    """The planner: which searches are worth making."""
    with time_phase(execution_id, "planner", "prompt_building"):
        prompt = f"{question} " + " ".join(DOCUMENTS[name][:400] for name in notes)
    keywords = (await ask(execution_id, "planner", model, prompt)).split()
    return [question, " ".join(keywords[:3]), f"{question} {' '.join(keywords[3:])}"]


async def research(execution_id: str, model: Model, queries: list[str]) -> list[tuple[float, str]]:
    """The researcher: all searches at once, in threads, and beside them a look at each query by the model."""
    searches = [asyncio.to_thread(search, execution_id, "researcher", query) for query in queries]
    looks = [ask(execution_id, "researcher", model, query) for query in queries]
    found = await asyncio.gather(*searches, *looks)
    return [each for each in found if isinstance(each, tuple)]


async def write(execution_id: str, model: Model, question: str, module: str) -> str:
    """The writer: an answer, and whether it holds."""
    with time_phase(execution_id, "writer", "prompt_building"):
        prompt = f"{question} {DOCUMENTS[module]}"
    async with atime_phase(execution_id, "writer", "draft", output_tokens=12):
        await ask(execution_id, "writer", model, prompt)
    with time_phase(execution_id, "writer", "self_check"):
        return f"{module}: {DOCUMENTS[module].strip().splitlines()[0]}"


async def answer(execution_id: str, question: str) -> str:
    """The loop: plan, search, write, until the best document is found twice."""
    model, notes = Model(), list[str]()
    for _ in range(MAX_ITERATIONS):
        queries = await plan(execution_id, model, question, notes)
        _, best = max(await research(execution_id, model, queries))
        if best in notes:
            break
        notes.append(best)
    return await write(execution_id, model, question, notes[-1])


def _answer(question: str, path: str) -> None:
    Path(path).write_text(asyncio.run(answer("", question)) + "\n", encoding="utf-8")


answer_one = deferred(_answer)


@step(name="answer/{number}")
def answers(number: int) -> DeferredCall:
    return answer_one(versioned(QUESTIONS[number]), output("answer.txt"))


@execution("agent", exec_id="agent-loop-1")
def main() -> None:
    for question in QUESTIONS:
        print(asyncio.run(answer("agent-loop-1", question)))


if __name__ == "__main__":
    if "--as-experiment" in sys.argv:
        executor_main(steps=[answers(number) for number in range(len(QUESTIONS))], argv=[word for word in sys.argv[1:] if word != "--as-experiment"])
    else:
        main()
