"""The registry as people read it: docs/semconv.md, and the words in it."""

from __future__ import annotations

import runpy

from otel_exec import semconv


def test_the_page_is_what_the_registry_says(root):
    """docs/semconv.md is what its generator makes now; `make generated` writes it anew."""
    generator = runpy.run_path(str(root / "docs" / "generate_semconv.py"))
    assert (root / "docs" / "semconv.md").read_text(encoding="utf-8") == generator["page"]()


def test_each_word_is_explained_once():
    """Each kind of span, outcome, status word and error of ours has an entry, and there is none that is not emitted."""
    assert [span.kind for span in semconv.SPANS] == list(semconv.Kind)
    assert [word.value for word in semconv.OUTCOMES] == list(semconv.Outcome)
    assert [word.value for word in semconv.STATUS_WORDS] == list(semconv.StatusWord)
    assert {word.value for word in semconv.ERRORS} == semconv.ERROR_WORDS
    for word in (*semconv.OUTCOMES, *semconv.STATUS_WORDS, *semconv.ERRORS, *semconv.EDGES):
        assert word.brief.endswith("."), word
        assert word.example.endswith("."), word


def test_metrics_are_registered_once_with_keys_that_are_registered():
    """Each metric has a name of its own, a unit of UCUM's that is used here, and attributes of the registry, none of which names a run or a step."""
    keys = {each.key for each in semconv.ATTRIBUTES if each.on in ("span", "metric")}
    assert len({metric.name for metric in semconv.METRICS}) == len(semconv.METRICS)
    for metric in semconv.METRICS:
        assert metric.name.startswith("otel_exec.")
        assert metric.instrument in ("histogram", "counter", "updowncounter")
        assert metric.unit == "s" if metric.name.endswith(".duration") else metric.unit.startswith("{")
        assert set(metric.attributes) <= keys - {semconv.EXEC_ID, semconv.NODE_ID, semconv.NODE_NAME, semconv.EXEC_TASK_ID, semconv.EXEC_WORKER_ID}


def test_names_in_prometheus():
    """They are those that the collector's exporter makes: units spelled out, counters end in `_total`."""
    names = {metric.name: metric.prometheus for metric in semconv.METRICS}
    assert names[semconv.METRIC_STEP_DURATION] == "otel_exec_step_duration_seconds"
    assert names[semconv.METRIC_STEPS] == "otel_exec_steps_total"
    assert names[semconv.METRIC_WORKERS] == "otel_exec_workers"
