"""The alerting rules: well formed, over metrics that exist, each with a runbook that exists.

`promtool check rules` and `promtool test rules` look deeper; they are not needed here.
"""

import re
from typing import Any

import pytest
import yaml

from nubabel_workers.domain.ports import Incident
from tests.unit.deployment.files import ROOT
from tests.unit.deployment.test_docs import anchors, metric_names

FOLDER = ROOT / "deploy" / "prometheus"
RULES: list[dict[str, Any]] = [
    rule for group in yaml.safe_load((FOLDER / "alerts.yml").read_text())["groups"] for rule in group["rules"]
]
STEPS = {"publish_overdue", "keep_deadlines", "reconcile", "expire", "listen"}


def label_values(expression: str, label: str) -> set[str]:
    return {value for text in re.findall(rf'\b{label}=~?"([^"]+)"', expression) for value in text.split("|")}


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_a_rule_has_all_that_prometheus_and_people_need(rule: dict[str, Any]) -> None:
    assert set(rule) - {"for"} == {"alert", "expr", "labels", "annotations"}
    assert re.fullmatch(r"Nubabel[A-Z]\w+", rule["alert"])
    assert re.fullmatch(r"\d+[smh]", rule.get("for", "0s"))
    assert rule["labels"]["severity"] in {"critical", "warning"}
    assert set(rule["annotations"]) == {"summary", "runbook"}
    assert rule["expr"].count("(") == rule["expr"].count(")")


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_its_metrics_exist(rule: dict[str, Any]) -> None:
    named = set(re.findall(r"\bnubabel_\w+", rule["expr"]))

    assert named
    assert named - metric_names() == set()


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_its_runbook_exists(rule: dict[str, Any]) -> None:
    page, _, anchor = rule["annotations"]["runbook"].partition("#")

    assert anchor in anchors(ROOT / page)


def test_the_values_that_rules_compare_exist() -> None:
    expressions = " ".join(rule["expr"] for rule in RULES)
    scheduler = (ROOT / "nubabel_workers" / "scheduler" / "__main__.py").read_text()

    assert label_values(expressions, "kind") <= set(Incident)
    assert label_values(expressions, "work") <= STEPS
    assert all(f'repeat("{step}"' in scheduler for step in STEPS - {"listen"})


def test_names_are_unique_and_each_alert_is_tested() -> None:
    names = [rule["alert"] for rule in RULES]
    tested = (FOLDER / "alerts_test.yml").read_text()

    assert len(names) == len(set(names))
    assert [name for name in names if f'"{name}"' not in tested] == []
