"""The metrics: named as Prometheus asks, described once, and documented as they are."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Histogram, generate_latest
from prometheus_client.core import Metric

from tracker import telemetry
from tracker.collectors import WeightedHistogram
from tracker.core.discards import NOT_PUBLISHED, NOT_RECORDED, REFUSED_CONNECTIONS, REFUSED_STATUSES
from tracker.telemetry import PIXEL, STORAGE

ROOT = Path(__file__).parent.parent

FAMILIES = {family.name: family for registry in (PIXEL, STORAGE) for family in registry.collect()}
LABELS = {
    "le": None,  # a bucket's bound
    "reason": {*NOT_RECORDED, *NOT_PUBLISHED, *REFUSED_CONNECTIONS},
    "result": {"failed", "refused", "unread", "applied"},
    "role": {"main", "worker"},
    "status": {str(status) for status in REFUSED_STATUSES},
    "version": None,
}


@pytest.mark.parametrize("name", ["PROMETHEUS_MULTIPROC_DIR", "prometheus_multiproc_dir"])
def test_a_directory_for_the_metrics_of_other_programs_is_ignored(name: str) -> None:
    program = "from tracker import telemetry; telemetry.HITS.inc(); print(telemetry.total(telemetry.HITS))"
    environment = {**os.environ, name: "/nowhere"}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("1\n", "")


@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
def test_every_metric_is_named_by_the_rules(family: Metric) -> None:
    assert re.fullmatch(r"tracker_(pixel|storage|admin|process|build)_[a-z][a-z_]*[a-z]", family.name)
    assert family.documentation
    if family.type == "histogram":
        assert family.name.endswith("_seconds")
    for unit in ("second", "byte"):  # base units, at the end, in the plural
        assert not re.search(rf"{unit}(_|$)|(milli|micro|kilo|mega){unit}", family.name)
        assert f"{unit}s_" not in family.name
    assert all(sample.name.endswith("_total") for sample in family.samples) or family.type != "counter"


def test_no_label_can_hold_what_a_visitor_sent() -> None:
    for family in FAMILIES.values():
        for sample in family.samples:
            for label, value in sample.labels.items():
                allowed = LABELS[label]
                assert allowed is None or value in allowed


def test_each_service_shows_its_own_metrics_alone() -> None:
    assert b"tracker_storage_" not in generate_latest(PIXEL)
    assert b"tracker_pixel_" not in generate_latest(STORAGE)


def test_the_metrics_page_is_what_the_table_makes_of_it() -> None:
    page = (ROOT / "docs/metrics.md").read_text(encoding="utf-8")
    assert telemetry.page(page) == page, "run: make metrics"
    for family in FAMILIES.values():
        assert f"| `{family.name}" in page


def test_the_glossary_has_every_reason_of_a_discard() -> None:
    assert reasons_of("a discard") == {*NOT_RECORDED, *NOT_PUBLISHED}


def test_the_glossary_has_every_reason_of_a_refused_connection() -> None:
    assert reasons_of("a refused connection") == {*REFUSED_CONNECTIONS}


def test_the_metrics_page_has_every_status_of_a_refused_request() -> None:
    page = (ROOT / "docs/metrics.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (`\d{3}`.*?) \|", page, re.MULTILINE)
    assert sorted(re.findall(r"\d+", " ".join(rows))) == [str(status) for status in REFUSED_STATUSES]


def reasons_of(what: str) -> set[str]:
    """The reasons in the glossary's table of this name."""
    glossary = (ROOT / "docs/glossary.md").read_text(encoding="utf-8")
    section = glossary[glossary.index(f"## Reasons of {what}") :].removeprefix("## ").partition("\n## ")[0]
    return set(re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE))


@given(st.lists(st.tuples(st.floats(0, 1e6), st.integers(1, 5)), max_size=20))
def test_the_weighted_histogram_is_an_ordinary_one_that_is_told_several_times(values: list[tuple[float, int]]) -> None:
    one, other = CollectorRegistry(), CollectorRegistry()
    weighted = WeightedHistogram("x_seconds", "Help.", (0.1, 1, 60), one)
    ordinary = Histogram("x_seconds", "Help.", buckets=(0.1, 1, 60), registry=other)
    for value, count in values:
        weighted.observe(value, count)
        for _ in range(count):
            ordinary.observe(value)
    for name, labels in (("bucket", "0.1"), ("bucket", "1.0"), ("bucket", "60.0"), ("bucket", "+Inf"), ("count", "")):
        sample = (f"x_seconds_{name}", {"le": labels} if labels else {})
        assert one.get_sample_value(*sample) == other.get_sample_value(*sample)
    assert one.get_sample_value("x_seconds_sum") == pytest.approx(other.get_sample_value("x_seconds_sum"))
