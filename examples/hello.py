"""Counts primes twice, then adds the counts."""

from pathlib import Path

from otel_exec import DeferredCall, deferred, executor_main, output, step, versioned


def _count_primes(limit: int, path: str) -> None:
    primes = sum(all(n % d for d in range(2, int(n**0.5) + 1)) for n in range(2, limit))
    Path(path).write_text(str(primes), encoding="utf-8")


def _add(paths: list[str], path: str) -> None:
    Path(path).write_text(str(sum(int(Path(p).read_text(encoding="utf-8")) for p in paths)), encoding="utf-8")


count_primes, add = deferred(_count_primes), deferred(_add)


@step(name="primes/{limit}")
def primes(limit: int) -> DeferredCall:
    return count_primes(versioned(limit), output("count.txt"))


@step(name="sum")
def total(limits: list[int]) -> DeferredCall:
    return add([primes(limit) / "count.txt" for limit in limits], output("sum.txt"))


if __name__ == "__main__":
    executor_main(steps=[total([200_000, 400_000])])
