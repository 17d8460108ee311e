"""Executions as users write them. Never run: `test_driver_execution_typing.py` has mypy check it with `--strict`, and each `assert_type` and expected error counts."""

from __future__ import annotations

from typing import assert_type

from otel_exec import execution


@execution("plain")
def plain(number: int, *, word: str = "") -> str:
    return word * number


@execution("coroutine", exec_id="w", prefix="/tmp/p", timing=True)
async def coroutine(number: int) -> str:
    return plain(number, word="x")


async def uses() -> None:
    assert_type(plain(1, word="a"), str)
    assert_type(await coroutine(1), str)
    plain("1")  # type: ignore[arg-type]  # as written: the mistake that must stay one
    with execution("block", "w") as run:
        assert_type(run.exec_id, str | None)
    async with execution("block") as again:
        assert_type(again.exec_id, str | None)
