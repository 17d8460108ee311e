"""Writes the boards from the registry of names: `python dashboards/generate.py`.

What comes in: `otel_exec.semconv`, and `span_metrics` of collector-config/otelcol.yaml, whose metrics count spans. What goes out: run.json, steps.json, workers.json,
phases.json beside this file; `tests/repo/test_repo_dashboards.py` compares them, and `tests/integration/test_stack_*.py` asks the real programs every query.

Runs are short and rare, so numbers are increases over the time that is shown or over a minute of it, never rates of this moment.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

from panels import SPAN_ID, Board, Query, bars, bars_of_traces, spans, stat, textbox, timeseries, values_of  # noqa: E402  # found by the path that was just added

from otel_exec import semconv  # noqa: E402  # as above
from otel_exec.semconv import Kind, Outcome  # noqa: E402  # as above

CALLS = "otel_exec_spans_calls_total"
SECONDS = "otel_exec_spans_duration_seconds"
_NOT_WELL = (Outcome.FAILURE, Outcome.TIMEOUT, Outcome.ERROR)
_PARTS = (Kind.WAIT, Kind.QUEUE, Kind.LOAD, Kind.TASK, Kind.VERIFY, Kind.STORE, Kind.BACKOFF)


def label(key: str) -> str:
    """Return an attribute's name as a label of Prometheus."""
    return key.replace(".", "_")


KIND, TEMPLATE, OUTCOME, PHASE, ERROR = (
    label(key) for key in (semconv.EXEC_KIND, semconv.EXEC_TEMPLATE, semconv.EXEC_OUTCOME, semconv.EXEC_PHASE, semconv.ERROR_TYPE)
)
EXPERIMENT = "service_name"


def chosen(kind: str, *more: str, template: bool = True) -> str:
    """Return the selector of what the board's variables choose, of one kind of span (or several, with `|` between)."""
    parts = [f'{EXPERIMENT}=~"$experiment"', f'{KIND}=~"{kind}"', *([f'{TEMPLATE}=~"$template"'] if template else []), *more]
    return "{" + ", ".join(parts) + "}"


def increase(metric: str, selector: str, by: str, over: str) -> str:
    """Return by how much a counter grew, added up over all labels but `by`."""
    return f"sum by ({by}) (increase({metric}{selector}[{over}]))"


def percentile(p: float, selector: str, by: str, over: str) -> str:
    """Return a percentile of durations."""
    return f"histogram_quantile({p}, {increase(SECONDS + '_bucket', selector, f'le, {by}' if by else 'le', over)})"


def average(selector: str, by: str, over: str, back: str = "") -> str:
    """Return the average duration; nothing where there was none."""
    offset = f" offset {back}" if back else ""
    total, count = (f"sum by ({by}) (increase({SECONDS}_{part}{selector}[{over}]{offset}))" for part in ("sum", "count"))
    return f"{total} / ({count} > 0)"


def own(attribute: str) -> str:
    """Return an attribute of a span as TraceQL has it."""
    return f"span.{attribute}"


def selected(*attributes: str) -> str:
    """Return TraceQL's words for columns, of every span of a trace, the newest traces first.

    Grouped by span, since of a group that several blocks have spans of Tempo shows one block's: of a run that took minutes it would show a part, and not say so.
    """
    return f" | by({SPAN_ID}) | select({', '.join(own(each) for each in attributes)}) with (most_recent=true)"


def longest(*attributes: str) -> str:
    """Return TraceQL's words for the twenty longest durations: a search would take spans as they come and not the longest of all."""
    return f"max_over_time(duration) by ({', '.join(own(each) for each in attributes)}) | topk(20)"


OF_EXPERIMENT = 'resource.service.name =~ "$experiment"'

EXPERIMENT_VARIABLE = values_of("experiment", "Experiment", f"label_values({CALLS}, {EXPERIMENT})")
TEMPLATE_VARIABLE = values_of("template", "Step", f'label_values({CALLS}{{{EXPERIMENT}=~"$experiment", {TEMPLATE}!=""}}, {TEMPLATE})')


def run_board() -> Board:
    """One run, by its exec id."""
    board = Board(
        "otel-exec-run",
        "otel_exec: run",
        "One run: what happened when, what took longest, what failed. Choose it in the list, or paste its exec id.",
        [textbox("exec_id", "Exec id", "")],
    )
    kind, outcome = own(semconv.EXEC_KIND), own(semconv.EXEC_OUTCOME)
    of_run = f'{own(semconv.EXEC_ID)} = "$exec_id"'
    board.row(
        7,
        (
            24,
            spans(
                "Which runs were there, and what did they come to?",
                "A run's exec id leads to this board for that run alone; its trace id to the whole trace.",
                f'{{ {kind} = "{Kind.RUN}" }}' + selected(semconv.EXEC_ID, semconv.EXEC_NAME, semconv.EXEC_OUTCOME),
                sort="Start time",
                descending=True,
                limit=100,
                links={semconv.EXEC_ID: "/d/otel-exec-run?var-exec_id=${__value.raw}&${__url_time_range}"},
            ),
        ),
    )
    board.row(
        12,
        (
            16,
            spans(
                "Which steps ran when?",
                "In the order in which they became ready; the bars are how long they took, from ready to settled. For runs of up to some 2,000 steps; Tempo takes too long for more.",
                f'{{ {of_run} && {kind} = "{Kind.STEP}" }}' + selected(semconv.NODE_NAME, semconv.EXEC_LEVEL, semconv.EXEC_OUTCOME, semconv.EXEC_CACHED),
                sort="Start time",
            ),
        ),
        (
            8,
            spans(
                "How long did each level take?",
                "Levels overlap unless the run had --barrier.",
                f'{{ {of_run} && {kind} = "{Kind.LEVEL}" }}' + selected(semconv.EXEC_LEVEL, semconv.EXEC_OUTCOME),
                sort="Start time",
            ),
        ),
    )
    board.row(
        10,
        (
            12,
            bars_of_traces(
                "Which steps had the longest try, and on which worker?",
                "The function alone, the longest try of each step on each worker; items of fan-outs too. The twenty longest.",
                "s",
                f'{{ {of_run} && {kind} = "{Kind.TASK}" }} | {longest(semconv.NODE_NAME, semconv.EXEC_WORKER_ID)}',
            ),
        ),
        (
            12,
            spans(
                "What failed, and with which error?",
                "Every span that came to failure, timeout or error; the innermost one says where it began.",
                f'{{ {of_run} && {outcome} =~ "{"|".join(_NOT_WELL)}" }}' + selected(semconv.EXEC_KIND, semconv.NODE_NAME, semconv.ERROR_TYPE),
                sort="Start time",
            ),
        ),
    )
    board.row(
        9,
        (
            12,
            bars_of_traces(
                "How much of the steps' time was queue, and how much was work?",
                "Seconds added up over all steps: the parts of a step, attempt by attempt. Items of fan-outs count as task, too.",
                "s",
                f'{{ {of_run} && {kind} =~ "{"|".join(_PARTS)}" }} | sum_over_time(duration) by ({kind})',
            ),
        ),
        (
            12,
            bars_of_traces(
                "Which phases took most?",
                "Seconds added up over all occurrences in the run.",
                "s",
                f'{{ {of_run} && {kind} = "{Kind.PHASE}" }} | sum_over_time(duration) by ({own(semconv.EXEC_PHASE)})',
            ),
        ),
    )
    return board


def steps_board() -> Board:
    """Steps, over all runs."""
    past = textbox("past", "Compared with", "1w")
    board = Board(
        "otel-exec-steps", "otel_exec: steps over time", "How steps do over days and weeks.", [EXPERIMENT_VARIABLE, TEMPLATE_VARIABLE, past], since="now-7d"
    )
    task, step = chosen(Kind.TASK, f'{OUTCOME}="{Outcome.SUCCESS}"'), chosen(Kind.STEP)
    board.row(
        10,
        (
            12,
            timeseries(
                "How long does a step's function take?",
                "Of tries that succeeded. A dot is one of them, and leads to its trace.",
                "s",
                *(Query(percentile(p, task, TEMPLATE, "$__rate_interval"), f"{{{{{TEMPLATE}}}}} p{p * 100:g}") for p in (0.5, 0.95, 0.99)),
                exemplars=True,
            ),
        ),
        (
            12,
            timeseries(
                "What do steps come to?",
                "Settled steps by outcome, those that an earlier run had made included.",
                "short",
                Query(increase(CALLS, step, OUTCOME, "$__rate_interval"), f"{{{{{OUTCOME}}}}}"),
                stacked=True,
            ),
        ),
    )
    board.row(
        10,
        (
            12,
            bars(
                "Which steps are slower than they were?",
                "Average time of the function in the time shown, divided by that of the same span of time before: 2 is twice as slow. $past is how far back.",
                "none",
                Query(f"({average(task, TEMPLATE, '$__range')}) / ({average(task, TEMPLATE, '$__range', '$past')})", f"{{{{{TEMPLATE}}}}}", over_time=False),
            ),
        ),
        (
            12,
            timeseries(
                "How often are steps tried again?",
                "Back-offs: one for each further try.",
                "short",
                Query(increase(CALLS, chosen(Kind.BACKOFF), TEMPLATE, "$__rate_interval"), f"{{{{{TEMPLATE}}}}}"),
                stacked=True,
            ),
        ),
    )
    board.row(
        9,
        (
            8,
            bars(
                "Which steps take most of the time?",
                "Seconds of the function, added up over the time shown.",
                "s",
                Query(f"topk(20, {increase(SECONDS + '_sum', task, TEMPLATE, '$__range')})", f"{{{{{TEMPLATE}}}}}", over_time=False),
            ),
        ),
        (
            8,
            bars(
                "Which errors are there?",
                "Steps and gates that did not come to success, by the error's type.",
                "short",
                Query(
                    increase(CALLS, chosen(f"{Kind.STEP}|{Kind.GATE}", f'{ERROR}!=""'), f"{TEMPLATE}, {ERROR}", "$__range"),
                    f"{{{{{TEMPLATE}}}}} {{{{{ERROR}}}}}",
                    over_time=False,
                ),
            ),
        ),
        (
            8,
            stat(
                "How many runs were there, and how did they end?",
                "By outcome, in the time shown.",
                "short",
                Query(increase(CALLS, chosen(Kind.RUN, template=False), OUTCOME, "$__range"), f"{{{{{OUTCOME}}}}}", over_time=False),
            ),
        ),
    )
    board.row(
        10,
        (
            24,
            bars_of_traces(
                "Which were the slowest steps of all, and in which run?",
                "The twenty that took longest from ready to settled; put the exec id into the board of a run.",
                "s",
                f'{{ {OF_EXPERIMENT} && {own(semconv.EXEC_KIND)} = "{Kind.STEP}" && {own(semconv.EXEC_TEMPLATE)} =~ "$template" }} | {longest(semconv.EXEC_ID, semconv.NODE_NAME)}',
            ),
        ),
    )
    return board


def workers_board() -> Board:
    """Workers, and how well they are used."""
    board = Board(
        "otel-exec-workers",
        "otel_exec: workers and cluster",
        "Whether there are enough workers, and whether they live.",
        [EXPERIMENT_VARIABLE],
        since="now-24h",
    )
    workers = next(metric for metric in semconv.METRICS if metric.name == semconv.METRIC_WORKERS)
    state = label(semconv.EXEC_WORKER_STATE)
    worker, init, queue = (chosen(kind, template=False) for kind in (Kind.WORKER, Kind.WORKER_INIT, Kind.QUEUE))
    task = chosen(Kind.TASK, template=False)
    board.row(
        9,
        (
            12,
            timeseries(
                "How many workers are up, and what do they do?",
                "As the run says it each few seconds. Where two runs of one experiment go on at once, the last one that spoke.",
                "short",
                Query(
                    f'sum by ({state}) ({workers.prometheus}{{{EXPERIMENT}=~"$experiment"}} or {workers.prometheus}{{job=~"$experiment"}})', f"{{{{{state}}}}}"
                ),
            ),
        ),
        (
            12,
            timeseries(
                "How long do steps wait for a worker?",
                "Created to claimed, attempt by attempt.",
                "s",
                *(Query(percentile(p, queue, "", "$__rate_interval"), f"p{p * 100:g}") for p in (0.5, 0.95, 0.99)),
                exemplars=True,
            ),
        ),
    )
    board.row(
        8,
        (
            8,
            bars(
                "How much of their time did workers work?",
                "Of runs that have ended: time of the functions over the time that workers were up. Items of a fan-out count for who computes them and for who waits, so it can pass one.",
                "percentunit",
                Query(
                    f"{increase(SECONDS + '_sum', task, EXPERIMENT, '$__range')} / {increase(SECONDS + '_sum', worker, EXPERIMENT, '$__range')}",
                    f"{{{{{EXPERIMENT}}}}}",
                    over_time=False,
                ),
            ),
        ),
        (
            8,
            timeseries(
                "How long does a worker take to start?",
                "From the start of its process until it takes tasks.",
                "s",
                *(Query(percentile(p, init, "", "$__rate_interval"), f"p{p * 100:g}") for p in (0.5, 0.95)),
                exemplars=True,
            ),
        ),
        (
            8,
            stat(
                "How did workers end?",
                "In the time shown; success is being told to.",
                "short",
                Query(increase(CALLS, worker, f"{OUTCOME}, {ERROR}", "$__range"), f"{{{{{OUTCOME}}}}} {{{{{ERROR}}}}}", over_time=False),
            ),
        ),
    )
    board.row(
        10,
        (
            12,
            spans(
                "Which workers died?",
                "They ended without being told to: their process or node died, or memory was short. Those that went with a driver that was killed are not among them.",
                f'{{ {OF_EXPERIMENT} && {own(semconv.EXEC_KIND)} = "{Kind.WORKER}" && {own(semconv.EXEC_OUTCOME)} = "{Outcome.ERROR}"'
                f' && {own(semconv.ERROR_TYPE)} != "{semconv.ERROR_INTERRUPTED}" }}' + selected(semconv.EXEC_ID, semconv.EXEC_WORKER_ID, semconv.ERROR_TYPE),
                sort="Start time",
                descending=True,
                links={semconv.EXEC_ID: "/d/otel-exec-run?var-exec_id=${__value.raw}&${__url_time_range}"},
            ),
        ),
        (
            12,
            bars_of_traces(
                "On which machines was how much done?",
                "Seconds of tasks, by the host that the span was written on.",
                "s",
                f'{{ {OF_EXPERIMENT} && {own(semconv.EXEC_KIND)} = "{Kind.TASK}" }} | sum_over_time(duration) by (resource.host.name)',
            ),
        ),
    )
    return board


def phases_board() -> Board:
    """What happens within a step."""
    phase_variable = values_of("phase", "Phase", f'label_values({CALLS}{{{EXPERIMENT}=~"$experiment", {PHASE}!=""}}, {PHASE})')
    board = Board(
        "otel-exec-phases", "otel_exec: phases", "Where time goes within a step.", [EXPERIMENT_VARIABLE, TEMPLATE_VARIABLE, phase_variable], since="now-24h"
    )
    phase, task = chosen(Kind.PHASE, f'{PHASE}=~"$phase"'), chosen(Kind.TASK)
    board.row(
        10,
        (
            12,
            bars(
                "Where does time go within a step?",
                "Seconds of each phase over those of its step's tasks. Phases nest and may run at once, so they need not add up to one.",
                "percentunit",
                Query(
                    f"{increase(SECONDS + '_sum', phase, f'{TEMPLATE}, {PHASE}', '$__range')} / on ({TEMPLATE}) group_left {increase(SECONDS + '_sum', task, TEMPLATE, '$__range')}",
                    f"{{{{{TEMPLATE}}}}} {{{{{PHASE}}}}}",
                    over_time=False,
                ),
            ),
        ),
        (
            12,
            bars(
                "What is a step's time made of?",
                "Seconds of each part, all steps and attempts.",
                "s",
                Query(increase(SECONDS + "_sum", chosen("|".join(_PARTS)), KIND, "$__range"), f"{{{{{KIND}}}}}", over_time=False),
            ),
        ),
    )
    board.row(
        10,
        (
            12,
            timeseries(
                "How long does one occurrence of a phase take?",
                "A dot is one of them, and leads to its trace.",
                "s",
                *(Query(percentile(p, phase, PHASE, "$__rate_interval"), f"{{{{{PHASE}}}}} p{p * 100:g}") for p in (0.5, 0.95)),
                exemplars=True,
            ),
        ),
        (
            12,
            timeseries(
                "How often does a phase occur, and how does it end?",
                "",
                "short",
                Query(increase(CALLS, phase, f"{PHASE}, {OUTCOME}", "$__rate_interval"), f"{{{{{PHASE}}}}} {{{{{OUTCOME}}}}}"),
                stacked=True,
            ),
        ),
    )
    board.row(
        10,
        (
            24,
            bars_of_traces(
                "Which occurrences were the longest?",
                "The twenty longest, one for each phase of each step of each run; put the exec id into the board of a run.",
                "s",
                f'{{ {OF_EXPERIMENT} && {own(semconv.EXEC_KIND)} = "{Kind.PHASE}" && {own(semconv.EXEC_PHASE)} =~ "$phase" && {own(semconv.EXEC_TEMPLATE)} =~ "$template" }}'
                f" | {longest(semconv.EXEC_ID, semconv.EXEC_PHASE, semconv.NODE_NAME)}",
            ),
        ),
    )
    return board


def boards() -> dict[str, str]:
    """Return each file's name and text."""
    made = {"run": run_board(), "steps": steps_board(), "workers": workers_board(), "phases": phases_board()}
    return {f"{name}.json": json.dumps(board.json(), indent=2) + "\n" for name, board in made.items()}


if __name__ == "__main__":
    for name, text in boards().items():
        (HERE / name).write_text(text, encoding="utf-8")
