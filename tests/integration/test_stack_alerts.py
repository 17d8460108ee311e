"""The alert rules, by the real rule checker."""

from __future__ import annotations

import subprocess

import pytest
import yaml
from support.stack_programs import ROOT, program

BOARDS = ROOT / "dashboards"


@pytest.mark.parametrize("argv", [["check", "rules", "alerts.yaml"], ["test", "rules", "alerts_test.yaml"]])
def test_promtool_accepts_the_rules(argv):
    """The rules are valid, and in each scenario exactly the alerts that it names are raised."""
    done = subprocess.run([program("promtool"), *argv], cwd=BOARDS, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr


def test_each_alert_has_a_scenario():
    """Every alert is raised by some scenario, and is told in the README."""
    rules = yaml.safe_load((BOARDS / "alerts.yaml").read_text(encoding="utf-8"))
    alerts = {rule["alert"] for group in rules["groups"] for rule in group["rules"] if "alert" in rule}
    scenarios = yaml.safe_load((BOARDS / "alerts_test.yaml").read_text(encoding="utf-8"))["tests"]
    raised = {test["alertname"] for scenario in scenarios for test in scenario["alert_rule_test"] if test.get("exp_alerts")}
    assert raised == alerts
    text = (BOARDS / "README.md").read_text(encoding="utf-8")
    assert [alert for alert in alerts if alert not in text] == []
