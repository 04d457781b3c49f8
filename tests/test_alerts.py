"""Alerts: Prometheus takes them, each fires when it should, and each says what to do."""

import re
import shutil
import subprocess
from typing import Any

import pytest
import yaml

from stock_assets.metrics import Group
from tests.conftest import ROOT
from tests.promql import metrics, used

FOLDER = ROOT / "dashboards"
PROMTOOL = shutil.which("promtool")
RUNBOOK = "dashboards/README.md"
CASES = "tests/alerts.yaml"


def read(name: str) -> Any:
    return yaml.safe_load((ROOT / name).read_text())


ALERTS = [rule for group in read("dashboards/alerts.yaml")["groups"] for rule in group["rules"]]
of_each_alert = pytest.mark.parametrize("alert", ALERTS, ids=[rule["alert"] for rule in ALERTS])


@pytest.mark.skipif(PROMTOOL is None, reason="promtool, which comes with Prometheus, is not here")
@pytest.mark.parametrize(
    "words",
    [
        ("check", "config", "dashboards/prometheus.yaml"),
        ("check", "rules", "--lint-fatal", "dashboards/alerts.yaml"),
        ("test", "rules", CASES),
    ],
    ids=" ".join,
)
def test_prometheus_finds_nothing_wrong(words: tuple[str, ...]) -> None:
    told = subprocess.run(
        [str(PROMTOOL), *words], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert told.returncode == 0, told.stdout + told.stderr


def test_names_are_ours_and_differ() -> None:
    names = [alert["alert"] for alert in ALERTS]
    assert len(set(names)) == len(names)
    assert all(re.fullmatch(r"StockAssets([A-Z][a-z]+)+", name) for name in names)


@of_each_alert
def test_an_alert_says_how_bad_it_is_what_it_means_and_what_to_do(alert: dict[str, Any]) -> None:
    told = alert["annotations"]
    assert alert["labels"]["severity"] in {"critical", "warning"}
    assert 0 < len(told["summary"]) <= 100
    assert told["description"].endswith(".")
    assert told["runbook"] == f"{RUNBOOK}#{alert['alert'].lower()}"
    assert f"\n### {alert['alert']}\n" in (ROOT / RUNBOOK).read_text()


def test_the_runbook_knows_no_other_alert() -> None:
    told = re.findall(r"^### (StockAssets\w+)$", (ROOT / RUNBOOK).read_text(), re.MULTILINE)
    assert told == [alert["alert"] for alert in ALERTS]


@of_each_alert
def test_an_alert_is_seen_to_fire_and_not_to_fire(alert: dict[str, Any]) -> None:
    cases = [case for test in read(CASES)["tests"] for case in test.get("alert_rule_test", ())]
    fires = {bool(case.get("exp_alerts")) for case in cases if case["alertname"] == alert["alert"]}
    assert fires == {True, False}


@of_each_alert
def test_an_alert_asks_for_what_there_is(alert: dict[str, Any]) -> None:
    there = metrics()
    for series, labels in used(alert["expr"]):
        assert series in there
        assert labels <= there[series]


def test_every_group_is_scraped_and_no_label_gives_way_to_one_of_prometheus() -> None:
    jobs = read("dashboards/prometheus.yaml")["scrape_configs"]
    scraped = [Group(group) for job in jobs for group in job.get("params", {}).get("group", ())]
    assert sorted(scraped) == sorted(Group)
    assert not any({"job", "instance"} & labels for labels in metrics().values())


def test_kubernetes_scrapes_the_same_as_one_machine() -> None:
    usual = read("dashboards/prometheus.yaml")
    jobs = {
        job["job_name"]: (job.get("scrape_interval", usual["global"]["scrape_interval"]), params)
        for job in usual["scrape_configs"]
        if (params := job.get("params")) or job["job_name"] == "stock_assets_database"
    }
    monitors = read("helm-values/prometheus.yaml")["prometheus"]["additionalServiceMonitors"]
    endpoints = {
        endpoint["relabelings"][0]["replacement"]: (endpoint["interval"], endpoint.get("params"))
        for monitor in monitors
        for endpoint in monitor["endpoints"]
    }
    assert endpoints == jobs


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("absent(stock_assets_source_up)", [("stock_assets_source_up", set())]),
        ('up{job="stock_assets_api"} + node_load1', []),
        (
            'max by (a) (rate(stock_assets_x{b=~"c}|(d", e!="f"}[5m])) / on (g) stock_assets_y',
            [("stock_assets_x", {"a", "b", "e"}), ("stock_assets_y", set())],
        ),
        (
            "sum by (a) (max by (b, c)(stock_assets_x)) > min(stock_assets_y{})",
            [("stock_assets_x", {"a", "b", "c"}), ("stock_assets_y", set())],
        ),
    ],
)
def test_what_an_expression_uses(expression: str, expected: list[tuple[str, set[str]]]) -> None:
    assert list(used(expression)) == expected
