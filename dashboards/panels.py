"""Grafana's JSON for the few kinds of panel that the boards are made of.

What comes in: questions, units, queries. What goes out: dictionaries in the form of Grafana's dashboard schema. Knows nothing of what otel_exec measures.

Source: Grafana's dashboard schema (kinds/dashboard), version 41; data queries of its Prometheus and Tempo data sources.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

__all__ = ["SPAN_ID", "Board", "Query", "bars", "bars_of_traces", "spans", "stat", "textbox", "timeseries", "values_of"]

PROMETHEUS = {"type": "prometheus", "uid": "${prometheus}"}
TEMPO = {"type": "tempo", "uid": "${tempo}"}
# What tables of spans are grouped by, see `spans`.
SPAN_ID = "span:id"
_SCHEMA_VERSION = 41
_WIDTH = 24


@dataclass(frozen=True)
class Query:
    """A PromQL query and how its series are called; `over_time` is off where one value for the whole range is asked for."""

    expression: str
    legend: str
    over_time: bool = True


@dataclass
class Board:
    """A dashboard: rows of panels, each row a list of (width, panel), widths of 24 in all."""

    uid: str
    title: str
    description: str
    variables: list[dict[str, Any]] = field(default_factory=list)
    rows: list[tuple[int, list[tuple[int, dict[str, Any]]]]] = field(default_factory=list)
    since: str = "now-24h"

    def row(self, height: int, *panels: tuple[int, dict[str, Any]]) -> None:
        """Add a row of panels."""
        if sum(width for width, _ in panels) > _WIDTH:
            raise ValueError(f"{self.title}: a row is wider than {_WIDTH}")
        self.rows.append((height, list(panels)))

    def json(self) -> dict[str, Any]:
        """Return the whole dashboard."""
        panels = []
        y = 0
        for height, row in self.rows:
            x = 0
            for width, panel in row:
                panels.append({"id": len(panels) + 1, **panel, "gridPos": {"x": x, "y": y, "w": width, "h": height}})
                x += width
            y += height
        return {
            "uid": self.uid,
            "title": self.title,
            "description": self.description,
            "tags": ["otel_exec"],
            "timezone": "browser",
            "editable": True,
            "graphTooltip": 1,
            "schemaVersion": _SCHEMA_VERSION,
            "version": 1,
            "refresh": "",
            "time": {"from": self.since, "to": "now"},
            "templating": {"list": [_source("prometheus"), _source("tempo"), *self.variables]},
            "annotations": {"list": []},
            "links": [
                {
                    "type": "dashboards",
                    "title": "otel_exec",
                    "tags": ["otel_exec"],
                    "asDropdown": False,
                    "includeVars": False,
                    "keepTime": True,
                    "targetBlank": False,
                    "icon": "external link",
                    "tooltip": "",
                    "url": "",
                }
            ],
            "panels": panels,
        }


def _source(kind: str) -> dict[str, Any]:
    return {"type": "datasource", "name": kind, "label": kind.capitalize(), "query": kind, "current": {"text": kind.capitalize(), "value": kind}, "hide": 2}


def values_of(name: str, label: str, query: str) -> dict[str, Any]:
    """Return a variable with the values that a label has in Prometheus; all of them unless some are chosen."""
    return {
        "type": "query",
        "name": name,
        "label": label,
        "datasource": PROMETHEUS,
        "query": {"query": query, "refId": name},
        "refresh": 2,
        "sort": 1,
        "multi": True,
        "includeAll": True,
        "allValue": ".*",
        "current": {"text": "All", "value": "$__all"},
    }


def textbox(name: str, label: str, value: str) -> dict[str, Any]:
    """Return a variable that is typed in, or set by a link."""
    return {"type": "textbox", "name": name, "label": label, "query": value, "current": {"text": value, "value": value}}


def _panel(kind: str, question: str, description: str, source: dict[str, Any], unit: str, **more: Any) -> dict[str, Any]:
    if not question.endswith("?"):
        raise ValueError(f"{question!r} is no question")
    # Prometheus extrapolates: 3 runs may be 3.04.
    whole = {"decimals": 0} if unit == "short" and source is PROMETHEUS else {}
    return {
        "type": kind,
        "title": question,
        "description": description,
        "datasource": source,
        "fieldConfig": {"defaults": {"unit": unit, **whole, **more.pop("defaults", {})}, "overrides": more.pop("overrides", [])},
        **more,
    }


def _prometheus(queries: tuple[Query, ...], *, exemplars: bool = False) -> list[dict[str, Any]]:
    return [
        {
            "datasource": PROMETHEUS,
            "refId": chr(ord("A") + number),
            "expr": query.expression,
            "legendFormat": query.legend,
            "range": query.over_time,
            "instant": not query.over_time,
            "exemplar": exemplars and number == 0,  # of one series of a panel: all of them would show the same dots
            "editorMode": "code",
        }
        for number, query in enumerate(queries)
    ]


def timeseries(
    question: str, description: str, unit: str, *queries: Query, exemplars: bool = False, stacked: bool = False, least: float | None = 0
) -> dict[str, Any]:
    """Return lines over time, points where runs are rare; `exemplars` shows dots that lead to traces."""
    custom = {
        "drawStyle": "bars" if stacked else "line",
        "showPoints": "auto",
        "spanNulls": not stacked,
        "lineWidth": 1,
        "fillOpacity": 60 if stacked else 5,
        "stacking": {"mode": "normal" if stacked else "none", "group": "A"},
    }
    defaults: dict[str, Any] = {"custom": custom} | ({} if least is None else {"min": least})
    return _panel(
        "timeseries",
        question,
        description,
        PROMETHEUS,
        unit,
        defaults=defaults,
        interval="1m",
        targets=_prometheus(queries, exemplars=exemplars),
        options={
            "legend": {"displayMode": "table", "placement": "right", "showLegend": True, "calcs": ["lastNotNull", "max"]},
            "tooltip": {"mode": "multi", "sort": "desc"},
        },
    )


def bars(question: str, description: str, unit: str, *queries: Query) -> dict[str, Any]:
    """Return one bar a series, over the whole range."""
    return _panel("bargauge", question, description, PROMETHEUS, unit, defaults={"min": 0}, targets=_prometheus(queries), options=_bar_options())


def _bar_options() -> dict[str, Any]:
    reduce = {"calcs": ["lastNotNull"], "fields": "", "values": False}
    return {"orientation": "horizontal", "displayMode": "gradient", "valueMode": "text", "showUnfilled": True, "reduceOptions": reduce}


def stat(question: str, description: str, unit: str, *queries: Query) -> dict[str, Any]:
    """Return one number a series, over the whole range."""
    options = {
        "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
        "textMode": "value_and_name",
        "colorMode": "value",
        "graphMode": "none",
    }
    return _panel("stat", question, description, PROMETHEUS, unit, targets=_prometheus(queries), options=options)


def spans(
    question: str, description: str, query: str, *, sort: str, descending: bool = False, limit: int = 1000, links: dict[str, str] | None = None
) -> dict[str, Any]:
    """Return a table of spans; their durations are bars, so that with times in order it reads like a Gantt chart.

    Args:
        question: the panel's title.
        description: what is shown beside it.
        query: TraceQL; by what it groups, a span's id, is no column.
        sort: the column by which rows are sorted.
        descending: whether the largest comes first.
        limit: of traces, and of the spans of one.
        links: a column to the address behind its values.
    """
    overrides = [
        _override("Duration", "unit", "ns", {"id": "custom.cellOptions", "value": {"type": "gauge", "mode": "basic"}}),
        _override("Start time", "unit", "dateTimeAsIso"),
    ]
    for column, url in (links or {}).items():
        overrides.append(_override(column, "links", [{"title": f"{question} ${{__value.raw}}", "url": url}]))
    target = {"datasource": TEMPO, "refId": "A", "queryType": "traceql", "query": query, "limit": limit, "spss": limit, "tableType": "spans", "filters": []}
    return _panel(
        "table",
        question,
        description,
        TEMPO,
        "short",
        overrides=overrides,
        targets=[target],
        transformations=[{"id": "organize", "options": {"excludeByName": {f"by({SPAN_ID})": True}, "indexByName": {}, "renameByName": {}}}],
        options={"showHeader": True, "cellHeight": "sm", "sortBy": [{"displayName": sort, "desc": descending}]},
    )


def _override(column: str, key: str, value: Any, *more: dict[str, Any]) -> dict[str, Any]:
    return {"matcher": {"id": "byName", "options": column}, "properties": [{"id": key, "value": value}, *more]}


def bars_of_traces(question: str, description: str, unit: str, query: str) -> dict[str, Any]:
    """Return one bar a series of a TraceQL metrics query, over the whole range."""
    target = {"datasource": TEMPO, "refId": "A", "queryType": "traceql", "query": query, "metricsQueryType": "instant", "limit": 100, "filters": []}
    return _panel("bargauge", question, description, TEMPO, unit, defaults={"min": 0}, targets=[target], options=_bar_options())
