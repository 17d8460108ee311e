"""Records made by hand, for tests of what is made from a record.

`twelve_steps()` has what a real run has: levels, two failures and what depended on them, cached steps, retries, a fan-out, phases, nodes, gates and warnings.
Times are in milliseconds after the run's start, written out below; nothing is computed by the code under test.
"""

from __future__ import annotations

import zlib

from otel_exec.clock import to_iso
from otel_exec.record.model import (
    SCHEMA_VERSION,
    AttemptRecord,
    CachedFrom,
    CriticalPath,
    ExecutorRecord,
    Experiment,
    Export,
    GateRecord,
    ItemsRecord,
    LevelRecord,
    NodeRecord,
    PhaseRecord,
    RecordedError,
    RecordWarning,
    RunRecord,
    StepRecord,
    Wall,
    WorkerRecord,
)

MS = 1_000_000
HEX = "4bf92f3577b34da6a3ce929d0e0e4736"
START_NS = 1_795_790_474_000_001_000  # 2026-11-27T14:41:14.000001+00:00
RUN_FOLDER = "outputs/.otel_exec/runs/exec_" + HEX


def attempt(number: int, created: int, claimed: int, start: int, end: int, settled: int, **more) -> AttemptRecord:
    """One attempt; instants in ms. `verify` and `wait` (ms) are parts of what lies around the function; storing is the rest after it."""
    verify, wait = more.pop("verify", 0), more.pop("wait", 0)
    return AttemptRecord(
        attempt=number,
        worker_id=more.pop("worker", "0"),
        outcome=more.pop("outcome", "success"),
        created_ns=created * MS,
        claimed_ns=claimed * MS,
        settled_ns=settled * MS,
        start_ns=start * MS,
        end_ns=end * MS,
        span_id=f"{zlib.crc32(f'{number} {start}'.encode()):016x}",
        wait_ns=wait * MS,
        queue_ns=(claimed - created - wait) * MS,
        load_ns=(start - claimed) * MS,
        execution_ns=(end - start) * MS,
        verification_ns=verify * MS if verify else None,
        store_ns=(settled - end - verify) * MS,
        **more,
    )


def step(name: str, hash_: str, level: int | None, attempts: list[AttemptRecord], depends_on: list[str], **more) -> StepRecord:
    """A step whose times are those of its attempts."""
    node_id = f"{name}-{hash_}"
    outcome = more.pop("outcome", attempts[-1].outcome if attempts else "skip")
    status = {"success": "SUCCESS", "failure": "FAILED", "timeout": "FAILED", "error": "FAILED", "skip": "DEP_FAILED", "cancellation": "CANCELLED"}.get(outcome)
    first, last = (attempts[0], attempts[-1]) if attempts else (None, None)
    record = StepRecord(
        node_id=node_id,
        name=name,
        fn_name=f"pipeline.{name.split('/', maxsplit=1)[0]}",
        template=name.split("/", maxsplit=1)[0] + "/{name}",
        level=level,
        config={"input_path": "raw"},
        version={"name": name, "config": {}, "dependencies": []},
        dependencies=[f"outputs/{node}" for node in depends_on],
        output_path=f"outputs/{node_id}",
        depends_on=depends_on,
        status=more.pop("status", status),
        outcome=outcome,
        attempts=attempts,
        span_id=f"{zlib.crc32(node_id.encode()):016x}",
        **more,
    )
    if first and last:
        record.node_time_ns = sum(attempt.execution_ns for attempt in attempts) + (record.items.busy_ns if record.items else 0)
        record.start_ns, record.end_ns = first.created_ns, last.settled_ns
        record.scheduled_time = to_iso(START_NS + first.created_ns)
        record.execution_start_time, record.execution_end_time = to_iso(START_NS + last.start_ns), to_iso(START_NS + last.end_ns)
        record.duration_seconds = last.execution_ns / 1e9
        record.total_duration_seconds = (last.settled_ns - first.created_ns) / 1e9
    return record


def phase(count: int, total: int, *, self_ms: int | None = None, errors: int = 0, longest: int | None = None) -> PhaseRecord:
    """A phase; times in ms."""
    own = total if self_ms is None else self_ms
    return PhaseRecord(
        count=count,
        total_ns=total * MS,
        union_ns=total * MS,
        self_ns=own * MS,
        share_ns=own * MS,
        errors=errors,
        max_ns=(longest or total) * MS,
        min_ns=MS,
        p50_ns=MS,
    )


def _base(**more) -> RunRecord:
    fields = {
        "schema_version": SCHEMA_VERSION,
        "exec_id": f"exec_{HEX}",
        "trace_id": HEX,
        "root_span_id": "00f067aa0ba902b7",
        "outcome": "success",
        "experiment": Experiment(
            name="lm_pipeline", description="A small language model from the standard library's own sources", script="lm_pipeline.py", argv=["--workers", "4"]
        ),
        "executor": ExecutorRecord(kind="processes", workers=4),
        "prefix": "outputs",
        "run_folder": RUN_FOLDER,
        "start_time": to_iso(START_NS),
        "start_time_unix_nano": str(START_NS),
    }
    return RunRecord(**{**fields, **more})


def agent() -> RunRecord:
    """A run without steps: an agent loop of three nodes beside the execution's own; the numbers of `node_1` are those of the picture in docs/phases.md."""
    shares = {"llm_completion": 3_500, "memory_selection": 2_000, "input_extraction": 50}
    node_1 = {name: phase(5, total, longest=total // 4) for name, total in shares.items()}
    loop = {"(nodes)": phase(25, 7_000), "plan": phase(2, 2_400, self_ms=400, errors=1)}
    tools = {"search 日本語": phase(12, 1_400, self_ms=700, errors=2), "a tool whose name goes on for longer than any column has room for": phase(3, 300)}
    return _base(
        experiment=Experiment(name="agent"),
        executor=ExecutorRecord(kind="execution", workers=0),
        alias="workflow-17",
        duration_ns=10_000 * MS,
        nodes=[
            NodeRecord("agent", "agent", total_ns=10_000 * MS, phases=loop),
            NodeRecord("node_1", "node_1", total_ns=6_000 * MS, phases=node_1, token_usage={"input_tokens": 12_400, "output_tokens": 800}),
            NodeRecord("tools", "tools", total_ns=1_000 * MS, phases=tools),
        ],
    )


def _worker(number: int, busy: int, ready: int, stopped: int, done: int, failed: int = 0) -> WorkerRecord:
    return WorkerRecord(
        worker_id=str(number),
        pid=4711 + number,
        host="atlas",
        busy_ns=busy * MS,
        started_at=to_iso(START_NS + 5 * MS),
        ready_at=to_iso(START_NS + ready * MS),
        stopped_at=to_iso(START_NS + stopped * MS),
        initialization_ms=ready - 5,
        uptime_ms=stopped - 5,
        tasks_completed=done,
        tasks_failed=failed,
    )


def twelve_steps() -> RunRecord:
    """A run of 12 steps and a group: 7 ran well, 2 failed, 1 depended on a failure, 2 were cached."""
    earlier = CachedFrom(exec_id="exec_" + "a" * 32, trace_id="a" * 32, duration_seconds=72.5, total_duration_seconds=73.0)
    steps = [
        step("collect", "1f6e23", 1, [], [], outcome="success", cached=True, cached_from=earlier, status="SUCCESS"),
        step(
            "clean", "9d2c11", 2, [], ["collect-1f6e23"], outcome="success", cached=True, cached_from=CachedFrom(exec_id="exec_" + "a" * 32), status="SUCCESS"
        ),
        step("split", "77ab01", 3, [attempt(1, 12, 160, 240, 2_640, 2_660, worker="0", cpu_ns=2_310 * MS, peak_rss_bytes=96 * 2**20)], ["clean-9d2c11"]),
        step(
            "train_bpe/vocab=8000",
            "c0ffee",
            4,
            [
                attempt(
                    1,
                    2_660,
                    2_662,
                    2_680,
                    41_280,
                    41_310,
                    worker="1",
                    verify=20,
                    cpu_ns=38_400 * MS,
                    peak_rss_bytes=412 * 2**20,
                    phases={"count_pairs": phase(40, 31_000, longest=2_100), "merge": phase(7_744, 7_000, longest=12)},
                )
            ],
            ["split-77ab01"],
            phases={"count_pairs": phase(40, 31_000, longest=2_100), "merge": phase(7_744, 7_000, longest=12)},
        ),
        step(
            "train_bpe/vocab=32000",
            "0ddba1",
            4,
            [
                attempt(
                    1,
                    2_660,
                    2_663,
                    2_690,
                    9_690,
                    9_700,
                    worker="2",
                    outcome="failure",
                    cpu_ns=6_900 * MS,
                    peak_rss_bytes=380 * 2**20,
                    error=RecordedError("MemoryError", "could not allocate the pair table"),
                ),
                attempt(
                    2, 11_700, 11_702, 11_710, 131_710, 131_760, worker="2", verify=25, backoff_ns=2_000 * MS, cpu_ns=118_000 * MS, peak_rss_bytes=1_420 * 2**20
                ),
            ],
            ["split-77ab01"],
            phases={"count_pairs": phase(61, 96_500, longest=3_900), "merge": phase(31_744, 24_000, longest=15), "save": phase(2, 650, errors=1)},
        ),
        step(
            "tokenize/vocab=8000",
            "5ca1ab",
            5,
            [attempt(1, 41_310, 41_312, 41_330, 60_930, 60_960, worker="1", cpu_ns=17_000 * MS, peak_rss_bytes=220 * 2**20)],
            ["train_bpe/vocab=8000-c0ffee"],
            items=ItemsRecord(count=16, completed=16, attempts=17, busy_ns=52_000 * MS, p50_ns=3_100 * MS, p95_ns=3_900 * MS, p99_ns=4_000 * MS),
            phases={"tokenize_shard": phase(16, 52_000, self_ms=19_500, longest=4_000)},
        ),
        step(
            "tokenize/vocab=32000",
            "fa57ed",
            5,
            [attempt(1, 131_760, 131_762, 131_790, 158_790, 158_830, worker="2", cpu_ns=25_000 * MS, peak_rss_bytes=260 * 2**20)],
            ["train_bpe/vocab=32000-0ddba1"],
            items=ItemsRecord(count=16, completed=16, attempts=16, busy_ns=70_000 * MS, p50_ns=4_100 * MS, p95_ns=5_000 * MS, p99_ns=5_100 * MS),
            phases={"tokenize_shard": phase(16, 70_000, self_ms=26_900, longest=5_100)},
        ),
        step(
            "train_ngram/vocab=8000",
            "ba5e11",
            6,
            [attempt(1, 60_960, 60_970, 61_000, 88_000, 88_040, worker="3", cpu_ns=26_500 * MS, peak_rss_bytes=730 * 2**20)],
            ["tokenize/vocab=8000-5ca1ab"],
        ),
        step(
            "train_ngram/vocab=32000",
            "decade",
            6,
            [attempt(1, 158_830, 158_831, 158_860, 214_860, 214_920, worker="2", cpu_ns=54_100 * MS, peak_rss_bytes=1_010 * 2**20)],
            ["tokenize/vocab=32000-fa57ed"],
        ),
        step(
            "evaluate/vocab=8000",
            "f00d5a",
            7,
            [attempt(1, 88_040, 88_050, 88_070, 96_270, 96_300, worker="1", outcome="failure", cpu_ns=8_100 * MS, peak_rss_bytes=150 * 2**20)],
            ["train_ngram/vocab=8000-ba5e11"],
            error=RecordedError(
                "ZeroDivisionError",
                "division by zero\nwhile scoring shard 3",
                where="examples/lm_pipeline.py:142",
                traceback='Traceback (most recent call last):\n  File "examples/lm_pipeline.py", line 142, in perplexity\nZeroDivisionError: division by zero\n',
                log="outputs/evaluate/vocab=8000-f00d5a/.executor_log",
            ),
        ),
        step(
            "evaluate/vocab=32000",
            "d15ea5",
            7,
            [
                attempt(1, 214_920, 214_922, 214_940, 224_940, 224_960, worker="0", outcome="timeout", cpu_ns=None, peak_rss_bytes=None),
                attempt(
                    2,
                    226_100,
                    246_102,
                    246_120,
                    256_120,
                    256_140,
                    worker="0",
                    wait=20_000,
                    outcome="timeout",
                    cpu_ns=9_800 * MS,
                    peak_rss_bytes=None,
                    backoff_ns=1_140 * MS,
                ),
            ],
            ["train_ngram/vocab=32000-decade"],
            error=RecordedError("timeout", "ran longer than its timeout of 10 s", log="outputs/evaluate/vocab=32000-d15ea5/.executor_log"),
        ),
        step("report", "b16b00", 8, [], ["evaluate/vocab=8000-f00d5a", "evaluate/vocab=32000-d15ea5"], reason="upstream_failed"),
        step("lm/all", "a11a11", None, [], ["report-b16b00"], group=True, reason="upstream_failed"),
    ]
    for cached in steps[:2]:
        cached.start_ns = cached.end_ns = 12 * MS
        cached.span_id = "1" * 16
    steps[11].start_ns = steps[11].end_ns = 256_140 * MS
    chain = ["split-77ab01", "train_bpe/vocab=32000-0ddba1", "tokenize/vocab=32000-fa57ed", "train_ngram/vocab=32000-decade", "evaluate/vocab=32000-d15ea5"]
    slack = {node.node_id: 0 for node in steps}
    # The other branch: 2400 + 38600 + 19600 + 27000 + 8200 = 95800 against 2400 + 120000 + 27000 + 56000 + 10000 = 215400.
    for node in ("train_bpe/vocab=8000-c0ffee", "tokenize/vocab=8000-5ca1ab", "train_ngram/vocab=8000-ba5e11", "evaluate/vocab=8000-f00d5a"):
        slack[node] = 119_600 * MS
    return _base(
        outcome="failure",
        end_time=to_iso(START_NS + 256_230 * MS),
        duration_ns=256_230 * MS,
        steps=steps,
        nodes=[
            NodeRecord(
                "planner",
                "planner",
                total_ns=900 * MS,
                phases={"llm_call": phase(3, 850, longest=310), "prompt": phase(3, 50, longest=22)},
                token_usage={"tokens": 3_400},
            )
        ],
        levels=[LevelRecord(level=n, task_count=1) for n in range(1, 9)],
        workers=[
            _worker(0, 22_400, 150, 256_220, 1, 1),
            _worker(1, 66_400, 155, 256_220, 2, 1),
            _worker(2, 210_000, 158, 256_220, 3),
            _worker(3, 27_000, 161, 256_220, 1),
        ],
        gates=[GateRecord(name="disk", level=1, outcome="success", start_ns=12 * MS, end_ns=100 * MS)],
        critical_path=CriticalPath(steps=chain, duration_ns=215_400 * MS, slack_ns=slack),
        wall=Wall(
            executing_ns=234_430 * MS,
            verifying_ns=25 * MS,
            storing_ns=185 * MS,
            loading_ns=191 * MS,
            worker_startup_ns=67 * MS,
            queued_ns=9 * MS,
            waiting_ns=20_000 * MS,
            backoff_ns=1_140 * MS,
            gates_ns=88 * MS,
            driver_ns=95 * MS,
        ),
        export=Export(endpoint="http://localhost:4317", protocol="grpc", spans=71, spans_acknowledged=69),
        warnings=[
            RecordWarning("unversioned_config_differs", "step clean: cache_path differs between lm_pipeline.py:31 and lm_pipeline.py:40; the first is used"),
            RecordWarning("spans_dropped", "attributes of phases were longer than 4096 characters and were cut", 12),
        ],
    )


def all_cached() -> RunRecord:
    """A second run of five steps that all succeeded before: nothing ran."""
    names = ["collect", "clean", "split", "train", "evaluate"]
    steps = [
        step(
            name,
            f"{i:06x}",
            i + 1,
            [],
            [f"{names[i - 1]}-{i - 1:06x}"] if i else [],
            outcome="success",
            cached=True,
            status="SUCCESS",
            cached_from=CachedFrom(exec_id="exec_" + "b" * 32, trace_id="b" * 32, duration_seconds=1.5 + i, total_duration_seconds=2.0 + i),
        )
        for i, name in enumerate(names)
    ]
    for one in steps:
        one.start_ns = one.end_ns = 9 * MS
    return _base(
        steps=steps,
        end_time=to_iso(START_NS + 14 * MS),
        duration_ns=14 * MS,
        executor=ExecutorRecord(kind="processes", workers=4),
        critical_path=CriticalPath(slack_ns={one.node_id: 0 for one in steps}),
        wall=Wall(driver_ns=14 * MS),
    )


def empty() -> RunRecord:
    """A run without steps, as `execution()` makes one."""
    return _base(
        experiment=Experiment(name="my-app"),
        executor=ExecutorRecord(kind="inline", workers=1),
        end_time=to_iso(START_NS + 1_000 * MS),
        duration_ns=1_000 * MS,
        critical_path=CriticalPath(),
        wall=Wall(driver_ns=1_000 * MS),
    )


def running() -> RunRecord:
    """A run as it is written while it goes on: one step done, one running, one to come."""
    open_attempt = AttemptRecord(attempt=1, worker_id="1", created_ns=1_040 * MS, claimed_ns=1_050 * MS)
    steps = [
        step("first", "aaaaaa", 1, [attempt(1, 10, 20, 30, 1_030, 1_040)], []),
        StepRecord("second-bbbbbb", "second", level=2, depends_on=["first-aaaaaa"], status="RUNNING", start_ns=1_040 * MS, attempts=[open_attempt]),
        StepRecord("third-cccccc", "third", level=3, depends_on=["second-bbbbbb"]),
    ]
    return _base(
        outcome="running",
        steps=steps,
        workers=[WorkerRecord("0", busy_ns=1_000 * MS, started_at=to_iso(START_NS)), WorkerRecord("1", started_at=to_iso(START_NS))],
    )


def interrupted() -> RunRecord:
    """A run whose driver was killed, as it is put together afterwards: what was open was closed at the last sign of life."""
    record = running()
    record.outcome = "interrupted"
    record.duration_ns = 5_000 * MS
    record.end_time = to_iso(START_NS + 5_000 * MS)
    second = record.steps[1]
    second.attempts = [
        attempt(1, 1_040, 1_050, 1_060, 5_000, 5_000, outcome="error", worker="1", error=RecordedError("interrupted", "the run's driver was gone"))
    ]
    second.outcome, second.end_ns = "error", 5_000 * MS
    second.error = RecordedError("interrupted", "the run's driver was gone; this is the last sign of life", log="outputs/second-bbbbbb/.executor_log")
    record.steps[2].outcome, record.steps[2].reason = "skip", "cancelled"
    for worker in record.workers:
        worker.ready_at = to_iso(START_NS + 8 * MS)
    record.wall = Wall(executing_ns=4_940 * MS, storing_ns=10 * MS, loading_ns=20 * MS, worker_startup_ns=8 * MS, queued_ns=20 * MS, driver_ns=2 * MS)
    record.critical_path = CriticalPath(["first-aaaaaa", "second-bbbbbb"], 4_940 * MS, {"first-aaaaaa": 0, "second-bbbbbb": 0, "third-cccccc": 0})
    return record


def hostile() -> RunRecord:
    """A run whose names and messages try to take over the terminal."""
    record = running()
    record.outcome, record.duration_ns = "failure", 2_000 * MS
    record.experiment = Experiment(name="demo\x1b[2J\x07", description="line\nbreak")
    bad = step("evil\x1b[31m\u202egnp.exe\r\n日本語の長い名前がここに入ります", "666666", 1, [attempt(1, 10, 20, 30, 1_030, 1_040, outcome="failure")], [])
    bad.error = RecordedError("ValueError", "\x1b]0;title\x07 first \u2028line\x00\nsecond line", where="exp.py:1", log="outputs/evil/.executor_log")
    record.steps = [bad]
    record.warnings = [RecordWarning("odd", "a \x1b[1mbold\x1b[0m claim")]
    return record


def many(count: int = 10_000, *, workers: int = 8) -> RunRecord:
    """A run of `count` short steps in 20 levels, `workers` at once, each with a config, a version and two phases: as large on disk as such a run is."""
    steps: list[StepRecord] = []
    free = [160] * workers
    per_level = max(1, count // 20)
    for i in range(count):
        worker = i % workers
        created = 12 if i < per_level else 200
        claimed = max(free[worker], created)
        length = 20 + (i * 7919) % 97
        start, end = claimed + 1, claimed + 1 + length
        free[worker] = end + 2
        depends_on = [steps[i - per_level].node_id] if i >= per_level else []
        one = step(
            f"tokenize/shard-{i:05d}",
            f"{i:06x}",
            i // per_level + 1,
            [
                attempt(
                    1,
                    created,
                    claimed,
                    start,
                    end,
                    end + 1,
                    worker=str(worker),
                    cpu_ns=length * MS,
                    peak_rss_bytes=50 * 2**20,
                    phases={"read": phase(1, 4), "encode": phase(3, 12)},
                )
            ],
            depends_on,
            phases={"read": phase(1, 4), "encode": phase(3, 12)},
        )
        one.config = {"train_path": f"outputs/raw/shard-{i:05d}.txt", "cache_path": f"outputs/cache/{i}", "vocab_size": 32_000, "normalise": True}
        one.version = {
            "name": one.name,
            "config": {"vocab_size": 32_000, "train_path": "DEP[0]/train"},
            "dependencies": [{"name": "raw", "config": {}, "dependencies": []}],
        }
        steps.append(one)
    end = max(free) + 10
    chain = [one.node_id for one in steps[::per_level]][:20]
    return _base(
        steps=steps,
        duration_ns=end * MS,
        end_time=to_iso(START_NS + end * MS),
        workers=[_worker(n, free[n] - 200, 150, end - 2, count // workers) for n in range(workers)],
        critical_path=CriticalPath(chain, 20 * 60 * MS, {one.node_id: (i * 31 % 500) * MS for i, one in enumerate(steps)}),
        wall=Wall(executing_ns=(end - 100) * MS, driver_ns=100 * MS),
    )
