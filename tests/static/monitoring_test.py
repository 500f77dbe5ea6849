"""What rules and dashboard ask for is what services export, with the labels that they have."""

import json
import pathlib
import re
import shutil
import subprocess

import pytest
import yaml

from deploy.monitoring.dashboard import dashboard
from penstock.kube.containers import METRICS, object_name
from penstock.kube.network import SERVES
from penstock.telemetry.exported import exported

HERE, COMPOSE = pathlib.Path("deploy/monitoring"), pathlib.Path("deploy/compose")
NAME = re.compile(r"\b(?:rl|rpc)_[a-z_]+")
LABELS = {"le", "instance", "__name__"}


def known() -> dict[str, set[str]]:
    """Names as Prometheus has them, each with its labels."""
    return {name: set(each.labels) for each in exported(pathlib.Path()) for name in each.flat}


def queries() -> list[str]:
    rules = yaml.safe_load((HERE / "alerts.yaml").read_text())["groups"]
    panels = json.loads((HERE / "dashboard.json").read_text())["panels"]
    asked = [rule["expr"] for group in rules for rule in group["rules"]]
    return [*asked, *(target["expr"] for panel in panels for target in panel.get("targets", ()))]


@pytest.mark.parametrize("query", queries())
def test_every_metric_and_label_that_is_asked_for_is_exported(query: str) -> None:
    there = known()
    names = set(NAME.findall(query))
    assert names and names <= set(there), names - set(there)
    labels = {label for each in re.findall(r"by \(([^)]*)\)", query) for label in re.split(r",\s*", each)}
    labels |= set(re.findall(r"(\w+)=~?[\"']", query))
    assert labels <= set.union(*(there[name] for name in names)) | LABELS, query


def test_every_metric_is_on_the_dashboard_or_in_a_rule() -> None:
    asked = {name for query in queries() for name in NAME.findall(query)}
    there = {re.sub("_(bucket|sum|count)$", "", name) for name in known()}
    assert there <= {re.sub("_(bucket|sum|count)$", "", name) for name in asked}


def test_the_dashboard_is_the_one_that_is_written_here() -> None:
    assert json.loads((HERE / "dashboard.json").read_text()) == dashboard()


def test_every_alert_says_what_to_do() -> None:
    rules = [rule for group in yaml.safe_load((HERE / "alerts.yaml").read_text())["groups"] for rule in group["rules"]]
    assert len({rule["alert"] for rule in rules}) == len(rules)
    assert all(rule["annotations"]["summary"].endswith(".") for rule in rules)


def test_every_rule_is_tried_where_it_fires_and_where_it_is_quiet() -> None:
    rules = {
        rule["alert"]
        for group in yaml.safe_load((HERE / "alerts.yaml").read_text())["groups"]
        for rule in group["rules"]
    }
    tried = [
        each
        for test in yaml.safe_load((HERE / "alerts_test.yaml").read_text())["tests"]
        for each in test["alert_rule_test"]
    ]
    for fires in (True, False):
        assert {each["alertname"] for each in tried if bool(each["exp_alerts"]) is fires} == rules


def test_rules_fire_and_are_quiet_as_promtool_says() -> None:
    if shutil.which("promtool") is None:
        pytest.skip("no promtool here: Debian's package prometheus has it")
    done = subprocess.run(["promtool", "test", "rules", str(HERE / "alerts_test.yaml")], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_compose_scrapes_every_kind_that_a_run_may_have() -> None:
    (job,) = yaml.safe_load((COMPOSE / "prometheus.yaml").read_text())["scrape_configs"]
    (found,) = job["dns_sd_configs"]
    kinds = {kind for kinds in SERVES.values() for kind in kinds} | {"rollout"}
    assert (found["port"], set(found["names"])) == (METRICS, {object_name(kind) for kind in kinds})
    mounted = [
        source
        for service in yaml.safe_load((COMPOSE / "monitoring.yaml").read_text())["services"].values()
        for each in service.get("volumes", ())
        if (source := each.partition(":")[0]).startswith(".")
    ]
    assert mounted and all((COMPOSE / source).is_file() for source in mounted)
