"""Writes docs/semconv.md from the registry: `python docs/generate_semconv.py`.

What comes in: `otel_exec/semconv.py`. What goes out: one page of tables; `tests/repo/test_repo_semconv_page.py` holds it against the registry.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from otel_exec import semconv

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

PAGE = Path(__file__).with_name("semconv.md")

_HEAD = """\
# Semantic conventions

Every name that otel_exec emits. This page is made from `otel_exec/semconv.py` by `make generated`, and tests hold that registry against what runs emit, against the dashboards and against the collector's configuration.

`development` means that a name may still change, with an entry in the change log; `stable` names are OpenTelemetry's own and stay. Names of spans never hold an id or a hash. Durations are in seconds in metrics, and in nanoseconds where an attribute holds one.
"""
_KINDS = {"span": "spans", "link": "links", "resource": "the resource of every span", "metric": "metrics alone"}


def page() -> str:
    """Return the page's text."""
    parts = [
        _HEAD,
        _section(
            "Spans",
            "The scope is `otel_exec`; `exec.kind` says which one a span is. A span of the user's own that joins a run has `exec.id` and no `exec.kind`.",
            _spans(),
        ),
    ]
    for on, words in _KINDS.items():
        parts.append(_section(f"Attributes of {words}", "", _attributes(on)))
    for title, intro, words in (
        ("Outcomes", "The values of `exec.outcome`, and of `outcome` in the record. A run whose driver died is `interrupted` in the record.", semconv.OUTCOMES),
        ("Status words", "The values of `status` in `.executor_status`.", semconv.STATUS_WORDS),
        ("Errors", "The values of `error.type` that are ours; else it is the exception's qualified name, such as `ValueError`.", semconv.ERRORS),
        ("Edges", "The values of `exec.edge`, on links.", semconv.EDGES),
    ):
        parts.append(_section(title, intro, _words(words)))
    parts.append(
        _section(
            "Metrics",
            "Attributes are templates and words, never a step's own name or a run's id, so that series do not grow with the number of runs. "
            "The name in Prometheus is what the collector's exporter makes of it; of a histogram it has `_bucket`, `_sum` and `_count`.",
            _metrics(),
        )
    )
    return "\n".join(parts)


def _section(title: str, intro: str, table: str) -> str:
    return f"## {title}\n\n{intro}{chr(10) * 2 if intro else ''}{table}"


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |\n" for line in lines)


def _code(*texts: str) -> str:
    return ", ".join(f"`{text}`" for text in texts)


def _spans() -> str:
    return _table(
        ("`exec.kind`", "name", "example", "span kind", "parent", "what it measures", "stability"),
        (
            (
                _code(span.kind),
                _code(span.name),
                _code(span.example),
                span.otel_kind,
                _code(*span.parents) or "an inbound `TRACEPARENT`, else none",
                span.measures,
                span.stability,
            )
            for span in semconv.SPANS
        ),
    )


def _attributes(on: str) -> str:
    return _table(
        ("key", "type", "on", "meaning", "example", "stability"),
        (
            (_code(each.key), each.type, _code(*each.kinds) or "all", each.brief, _code(json.dumps(each.example)), each.stability)
            for each in semconv.ATTRIBUTES
            if each.on == on
        ),
    )


def _words(words: Sequence[semconv.Word]) -> str:
    return _table(("value", "meaning", "example", "stability"), ((_code(word.value), word.brief, word.example, word.stability) for word in words))


def _metrics() -> str:
    examples = {each.key: each.example for each in semconv.ATTRIBUTES}

    def example(metric: semconv.Metric) -> str:
        labels = ", ".join(f"{key.replace('.', '_')}={json.dumps('true' if examples[key] is True else str(examples[key]))}" for key in metric.attributes)
        return f"{metric.prometheus}{'_count' if metric.instrument == 'histogram' else ''}{{{labels}}}"

    return _table(
        ("name", "instrument", "unit", "meaning", "attributes", "example in Prometheus", "stability"),
        (
            (_code(metric.name), metric.instrument, _code(metric.unit), metric.brief, _code(*metric.attributes), _code(example(metric)), metric.stability)
            for metric in semconv.METRICS
        ),
    )


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
