"""Alert rules and dashboard: right by promtool, and every metric they name is one that a service has."""

import json
import re
from pathlib import Path
from typing import Any

import yaml
from prometheus_client import CollectorRegistry

from tracker import telemetry

from .tools import DEPLOY, ROOT, run, sections_of_the_guide

RULES = DEPLOY / "prometheus/tracker.rules.yml"
DASHBOARD = DEPLOY / "grafana/tracker.json"


def declared() -> set[str]:
    """The names that a scrape can show, of both services and of the archive."""
    names: set[str] = set()
    registries: list[CollectorRegistry] = [telemetry.PIXEL, telemetry.STORAGE, telemetry.ARCHIVE]
    for registry in registries:
        for family in registry.collect():
            suffixes = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count")}
            names |= {family.name + suffix for suffix in suffixes.get(family.type, ("",))}
    return names


def rules() -> list[dict[str, Any]]:
    document = yaml.safe_load(RULES.read_text())
    return [rule for group in document["groups"] for rule in group["rules"]]


def panels() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(DASHBOARD.read_text())["panels"]
    return found


def expressions() -> list[str]:
    return [rule["expr"] for rule in rules()] + [target["expr"] for panel in panels() for target in panel["targets"]]


def test_promtool_takes_the_rules_and_their_tests_pass() -> None:
    run("promtool", "check", "rules", RULES)
    run("promtool", "check", "config", DEPLOY / "prometheus/prometheus.yml")
    run("promtool", "test", "rules", DEPLOY / "prometheus/tracker.rules.test.yml")


def test_promtool_takes_what_the_dashboard_asks(tmp_path: Path) -> None:
    queries = [
        {"record": f"panel:{number}", "expr": expression.replace("$__rate_interval", "5m")}
        for number, expression in enumerate(expressions())
    ]
    path = tmp_path / "dashboard.yml"
    path.write_text(json.dumps({"groups": [{"name": "dashboard", "rules": queries}]}))
    run("promtool", "check", "rules", path)


def test_every_metric_that_is_asked_for_exists() -> None:
    named = {name for expression in expressions() for name in re.findall(r"\btracker_\w+", expression)}
    assert len(named) > 20
    assert named <= declared(), sorted(named - declared())


def test_every_reason_that_is_asked_for_exists() -> None:
    asked = {
        reason
        for expression in expressions()
        for reasons in re.findall(r'reason=~"([^"]+)"', expression)
        for reason in reasons.split("|")
    }
    assert asked
    glossary = (ROOT / "docs/glossary.md").read_text()
    assert all(f"| `{reason}` |" in glossary for reason in asked)


def test_every_alert_leads_to_its_section_of_the_guide() -> None:
    for rule in rules():
        page, _, anchor = rule["annotations"]["guide"].partition("#")
        assert page == "docs/operations.md"
        assert anchor in sections_of_the_guide(), rule["alert"]


def test_every_section_on_alarms_has_an_alarm_of_prometheus_or_cloudwatch() -> None:
    named = (DEPLOY / "aws/tracker.yaml").read_text() + RULES.read_text()
    assert set(re.findall(r"docs/operations\.md#([\w-]+)", named)) >= sections_of_the_guide()


def test_panels_do_not_overlap_and_have_ids_of_their_own() -> None:
    cells: set[tuple[int, int]] = set()
    for panel in panels():
        place = panel["gridPos"]
        columns = range(place["x"], place["x"] + place["w"])
        rows = range(place["y"], place["y"] + place["h"])
        own = {(x, y) for x in columns for y in rows}
        assert not own & cells, panel["title"]
        assert place["x"] + place["w"] <= 24
        cells |= own
    assert len({panel["id"] for panel in panels()}) == len(panels())
