"""Alert rules, dashboard and documentation name metrics that are exported, and no others."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import httpx
import pytest
import yaml
from prometheus_client import CollectorRegistry, generate_latest

from sluice.capture.metrics import Progress, Telemetry
from sluice.clients.postgres import SlotState
from sluice.settings import PROJECT

pytestmark = [pytest.mark.services, pytest.mark.airflow]
METRIC = re.compile(r"\bsluice_[a-z_]+\b")


@pytest.fixture(scope="module")
def exported(person: Callable[[str], httpx.Client]) -> set[str]:
    text = person("viewer").get("/sluice/metrics").text
    return set(re.findall(r"^# TYPE (\S+) gauge$", text, flags=re.MULTILINE))


def test_every_exported_metric_is_documented_and_no_other(exported: set[str]) -> None:
    text = (PROJECT / "docs/monitoring.md").read_text()
    page, relay = text.split("## The relay's own metrics")
    assert set(re.findall(r"^\| `(sluice_\w+)`", page, flags=re.MULTILINE)) == exported
    slot = SlotState(
        confirmed_lsn=1, wal_status="extended", lag_bytes=1, safe_wal_size=1, active=True
    )
    registry = CollectorRegistry(auto_describe=False)
    registry.register(Telemetry(Progress(), lambda: slot))
    served = set(METRIC.findall(generate_latest(registry).decode()))
    named = set(re.findall(r"sluice_relay_\w+", relay))
    assert {name.removesuffix("_total") for name in named} == {
        name.removesuffix("_total") for name in served
    }


def test_alert_rules_are_whole_and_name_exported_metrics(exported: set[str]) -> None:
    rules = yaml.safe_load((PROJECT / "docs/prometheus/sluice.rules.yml").read_text())
    for rule in (rule for group in rules["groups"] for rule in group["rules"]):
        named = set(METRIC.findall(rule["expr"]))
        assert named, rule["alert"]
        assert named <= exported, rule["alert"]
        assert rule["labels"]["severity"] in {"warning", "critical"}
        assert {"summary", "description"} <= set(rule["annotations"])


def test_the_dashboard_names_exported_metrics(exported: set[str]) -> None:
    board: dict[str, Any] = json.loads((PROJECT / "docs/grafana/sluice.json").read_text())
    for panel in board["panels"]:
        for target in panel["targets"]:
            named = set(METRIC.findall(target["expr"]))
            assert named, panel["title"]
            assert named <= exported, panel["title"]
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])
