"""Dashboard and alerts: fresh, well formed, and of metrics that exist; Grafana and Prometheus skip what is not."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from typing import Any

import promql_parser
import pytest
import yaml

from apportion.deployments.observability.alerts import alerts, rules
from apportion.deployments.observability.catalogue import CATALOGUE, Kind
from apportion.deployments.observability.dashboard import ROWS, dashboard
from tests.deployments.observability.vllm_metrics import VLLM
from tests.paths import ROOT

FOLDER = ROOT / "deployments" / "observability"
BOARD = json.loads(dashboard())
PANELS = [panel for panel in BOARD["panels"] if panel["type"] != "row"]
LABELS: Mapping[str, set[str]] = {
    **{
        name: {*metric.labels, *(("le",) if name.endswith("_bucket") and metric.kind is Kind.histogram else ())}
        for metric in CATALOGUE
        for name in metric.series
    },
    **{name: {"model", *(("le",) if name.endswith("_bucket") else ())} for name in VLLM},
}
RISING = {name for name in LABELS if name.endswith(("_total", "_bucket", "_sum", "_count"))}


def expressions() -> Iterator[tuple[str, str, str]]:
    """Where each stands, what it is, and the name of its series."""
    for panel in PANELS:
        for target in panel["targets"]:
            yield panel["title"], target["expr"].replace("$__rate_interval", "5m"), target["legendFormat"]
    for alert in alerts():
        told = alert.summary + alert.description
        labels = " ".join(f"{{{{{label}}}}}" for label in re.findall(r"\$labels\.(\w+)", told))
        yield alert.name, alert.expr, labels


def nodes(expr: Any) -> list[Any]:
    found: list[Any] = []
    promql_parser.walk(expr, lambda node: found.append(node))
    return found


def labels_of(expr: Any) -> set[str]:
    """Labels that the result has."""
    if isinstance(expr, promql_parser.VectorSelector):
        return LABELS[expr.name]
    if isinstance(expr, promql_parser.AggregateExpr):
        return set(expr.modifier.labels) if expr.modifier else set()
    if isinstance(expr, promql_parser.BinaryExpr):
        return labels_of(expr.lhs) | labels_of(expr.rhs)
    if isinstance(expr, promql_parser.MatrixSelector):
        return labels_of(expr.vector_selector)
    if isinstance(expr, promql_parser.ParenExpr):
        return labels_of(expr.expr)
    if isinstance(expr, promql_parser.Call):
        found = set().union(*(labels_of(arg) for arg in expr.args))
        return found - {"le"} if expr.func.name == "histogram_quantile" else found
    return set()


@pytest.mark.parametrize(("place", "expr", "legend"), [*expressions()])
def test_expressions_ask_for_what_there_is(place: str, expr: str, legend: str) -> None:
    parsed = promql_parser.parse(expr)

    for node in nodes(parsed):
        if isinstance(node, promql_parser.VectorSelector):
            assert node.name in LABELS, f"{place}: {node.name}"
            assert {matcher.name for matcher in node.matchers.matchers} <= LABELS[node.name], place
        if isinstance(node, promql_parser.AggregateExpr) and node.modifier:
            assert set(node.modifier.labels) <= labels_of(node.expr), f"{place}: {node}"
        if isinstance(node, promql_parser.Call) and node.func.name in {"rate", "increase"}:
            assert {one.name for one in nodes(node) if isinstance(one, promql_parser.VectorSelector)} <= RISING, place
        if isinstance(node, promql_parser.Call) and node.func.name == "histogram_quantile":
            assert "le" in labels_of(node.args[1]), place
    assert set(re.findall(r"{{(\w+)}}", legend)) <= labels_of(parsed), place


def test_counters_are_never_shown_as_they_are() -> None:
    for place, expr, _ in expressions():
        parsed = promql_parser.parse(expr)
        ranged = {node.vector_selector.name for node in nodes(parsed) if isinstance(node, promql_parser.MatrixSelector)}
        plain = {node.name for node in nodes(parsed) if isinstance(node, promql_parser.VectorSelector)} - ranged
        assert not plain & RISING, place


def test_every_metric_is_on_the_dashboard() -> None:
    shown = " ".join(target["expr"] for panel in PANELS for target in panel["targets"])

    assert [metric.name for metric in CATALOGUE if not re.search(rf"\b{metric.name}(_bucket|_sum)?\b", shown)] == []


def test_the_dashboard_is_one_that_grafana_takes() -> None:
    assert 0 < len(BOARD["uid"]) <= 40
    assert BOARD["title"]
    assert len({panel["id"] for panel in BOARD["panels"]}) == len(BOARD["panels"])
    assert sum(panel["type"] == "row" for panel in BOARD["panels"]) == len(ROWS)
    taken: set[tuple[int, int]] = set()
    for panel in BOARD["panels"]:
        at = panel["gridPos"]
        assert at["x"] >= 0
        assert at["x"] + at["w"] <= 24
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & taken, f"{panel['title']} lies on another panel"
        taken |= cells
    for panel in PANELS:
        assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])
        assert all(target["expr"] and target["datasource"] for target in panel["targets"])


@pytest.mark.parametrize(("name", "made"), [("apportion.json", dashboard()), ("alerts.yml", rules())])
def test_the_committed_files_are_fresh(name: str, made: str) -> None:
    assert (FOLDER / name).read_text() == made, f"{name} is old: run `apportion dashboards deployments/observability`"


def test_rules_are_what_prometheus_takes_and_fire_as_they_say() -> None:
    if (promtool := shutil.which("promtool")) is None:
        pytest.skip("promtool is missing; it comes with Debian's package prometheus")
    checks = (
        ["check", "rules", str(FOLDER / "alerts.yml")],
        ["test", "rules", str(ROOT / "tests/deployments/observability/alerts_test.yml")],
    )
    for check in checks:
        done = subprocess.run([promtool, *check], capture_output=True, text=True, check=False, timeout=60)
        assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_is_tried() -> None:
    tried = yaml.safe_load((ROOT / "tests/deployments/observability/alerts_test.yml").read_text())
    fired = {
        one["alertname"] for test in tried["tests"] for one in test["alert_rule_test"] if one.get("exp_alerts")
    }  # fmt: skip
    quiet = {
        one["alertname"] for test in tried["tests"] for one in test["alert_rule_test"] if not one.get("exp_alerts")
    }  # fmt: skip

    assert fired == quiet == {alert.name for alert in alerts()}
