"""The boards against their generator, and against the registry of names."""

from __future__ import annotations

import json
import re
import runpy

import pytest
import yaml

from otel_exec.semconv import ATTRIBUTES, METRICS, Kind, Outcome

BOARDS = ("run", "steps", "workers", "phases")
# Labels and metrics that the Collector's span_metrics and Prometheus exporter add to ours; what Grafana fills in.
LABELS = {"service_name", "job", "le"}
SPAN_METRICS = {"otel_exec_spans_calls_total", *(f"otel_exec_spans_duration_seconds_{part}" for part in ("bucket", "sum", "count"))}


@pytest.fixture(scope="module", params=BOARDS)
def board(root, request):
    return json.loads((root / "dashboards" / f"{request.param}.json").read_text(encoding="utf-8"))


def _targets(board):
    for panel in board["panels"]:
        for target in panel["targets"]:
            yield panel, target


def test_boards_are_what_the_generator_makes(root):
    """Each committed board is what dashboards/generate.py makes now; `make generated` writes them anew."""
    made = runpy.run_path(str(root / "dashboards" / "generate.py"))["boards"]()
    assert {path.name for path in (root / "dashboards").glob("*.json")} == set(made)
    for name, text in made.items():
        assert (root / "dashboards" / name).read_text(encoding="utf-8") == text, name


def test_every_panel_is_a_question_with_a_unit_and_a_query(board):
    """Each panel's title is a question, asked once on its board; it has a unit, a query, and lies within the board's width."""
    titles = [panel["title"] for panel in board["panels"]]
    assert len(set(titles)) == len(titles)
    for panel in board["panels"]:
        assert panel["title"].endswith("?")
        assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
        assert panel["targets"], panel["title"]
        assert panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24


def _check_promql(expression):
    """Hold one expression against the registry: its metrics (or ones that a rule records), labels, kinds and outcomes."""
    known = LABELS | {each.key.replace(".", "_") for each in ATTRIBUTES}
    labels = set(re.findall(r"(\w+)\s*(?:=~|=|!=)\s*\"", expression))
    for grouping in re.findall(r"\b(?:by|on) \(([^)]*)\)", expression):
        labels |= {name.strip() for name in grouping.split(",")}
    assert labels <= known, expression
    assert set(re.findall(r"\botel_exec_\w+", expression)) <= SPAN_METRICS | {metric.prometheus for metric in METRICS}, expression
    for label, allowed in (("exec_kind", set(Kind)), ("exec_outcome", set(Outcome))):
        for values in re.findall(rf'\b{label}=~?"([^"$]+)"', expression):
            assert set(values.split("|")) <= allowed, expression


def test_labels_and_metrics_are_registered(board):
    """Each PromQL query asks for metrics that there are, by labels, kinds and outcomes that the registry has."""
    for _, target in _targets(board):
        if "expr" in target:
            _check_promql(target["expr"])


def test_alerts_ask_for_what_is_registered(root):
    """So does each alert rule, and a rule that it refers to is recorded."""
    groups = yaml.safe_load((root / "dashboards" / "alerts.yaml").read_text(encoding="utf-8"))["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    recorded = {rule["record"] for rule in rules if "record" in rule}
    for rule in rules:
        _check_promql(rule["expr"])
        assert set(re.findall(r"\botel_exec:[\w:]+", rule["expr"])) <= recorded
        told = " ".join(rule.get("annotations", {}).values())
        assert set(re.findall(r"\$labels\.(\w+)", told)) <= set(re.findall(r"\w+", rule["expr"])), rule["alert"]


def test_data_sources_ask_for_what_is_registered(root):
    """So does each query by which a span leads to metrics, and the tags that it takes along are attributes with their labels."""
    text = (root / "collector-config" / "grafana" / "datasources" / "otel_exec.yaml").read_text(encoding="utf-8")
    asked = 0
    for source in yaml.safe_load(text)["datasources"]:
        links = source["jsonData"].get("tracesToMetrics", {})
        for query in links.get("queries", ()):
            _check_promql(query["query"])
            asked += 1
        for tag in links.get("tags", ()):
            assert tag["key"] in {each.key for each in ATTRIBUTES}
            assert tag["value"] == tag["key"].replace(".", "_")
    assert asked


def test_attributes_are_registered(board):
    """Each TraceQL query asks for attributes of the registry, and for kinds and outcomes that there are."""
    known = {f"span.{each.key}" for each in ATTRIBUTES if each.on == "span"} | {f"resource.{each.key}" for each in ATTRIBUTES if each.on == "resource"}
    for _, target in _targets(board):
        query = target.get("query", "")
        assert set(re.findall(r"\b(?:span|resource)\.[\w.]+", query)) <= known, query
        for words, allowed in (("kind", set(Kind)), ("outcome", set(Outcome))):
            for values in re.findall(rf'span\.exec\.{words} =~? "([^"$]+)"', query):
                assert set(values.split("|")) <= allowed, query


def test_dots_are_asked_for_once(board):
    """Of a panel's queries the first alone asks for exemplars: each would bring the same dots."""
    for panel in board["panels"]:
        assert not any(target.get("exemplar") for target in panel["targets"][1:]), panel["title"]


def test_both_languages_are_asked(board):
    """A board asks Tempo; all but that of a single run, which no metric knows, ask Prometheus, too."""
    kinds = {target["datasource"]["type"] for _, target in _targets(board)}
    assert kinds == ({"tempo"} if board["uid"] == "otel-exec-run" else {"prometheus", "tempo"})


def test_the_readme_tells_every_question(root, board):
    """dashboards/README.md has each board's title and each of its questions."""
    text = (root / "dashboards" / "README.md").read_text(encoding="utf-8")
    assert [title for title in (board["title"], *(panel["title"] for panel in board["panels"])) if title not in text] == []
