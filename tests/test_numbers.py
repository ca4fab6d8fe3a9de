"""Numbers that stand in more than one place are the same in each. The first place of a row is where it is from."""

import re
from decimal import Decimal, InvalidOperation
from math import prod
from typing import NamedTuple

import pytest

from tests.guides import ROOT


class Place(NamedTuple):
    """A file, and an expression whose group is the number. Every match in the file must have the same number."""

    file: str
    pattern: str


_UNITS = "deploy/systemd/tracker-{}.service"
NUMBERS: dict[str, list[Place]] = {
    "bytes of a visit in the journal": [
        Place("docs/benchmarks.md", r"\| a visit in the journal \| (\d+) bytes"),
        Place("docs/capacity.md", r"bytes of a visit in the journal, (\d+) "),
        Place("docs/capacity.md", r"\(1,000 · (\d+)\)"),
        Place("docs/operations.md", r"assumed to have (\d+) bytes in the outbox"),
        Place("docs/operations.md", r"`h` × (\d+) B × 3600"),
    ],
    "USD in 30 days of one worker, at the default linger": [
        Place("docs/capacity.md", r"^\| 0\.2 s \| [\d,]+ \| ([\d.]+) \|"),
        Place("docs/capacity.md", r"through one worker are ([\d.]+) USD"),
        Place("docs/operations.md", r"costs ([\d.]+) USD in 30 days at the default linger"),
    ],
    "USD in 30 days of one worker, at a linger of one second": [
        Place("docs/capacity.md", r"^\| 1 s \| [\d,]+ \| ([\d.]+) \|"),
        Place("docs/operations.md", r"and ([\d.]+) USD at one second"),
        Place("docs/operations.md", r"million messages, ([\d.]+) USD"),
    ],
    "the default linger in seconds": [
        Place("config/pixel.reference.yaml", r"^ +linger: ([\d.]+)"),
        Place("docs/capacity.md", r"\| `sns\.linger`, ([\d.]+) s \|"),
        Place("docs/operations.md", r"at the default linger of ([\d.]+) seconds"),
    ],
    "closed logs that logrotate keeps": [
        Place("deploy/logrotate/tracker", r"^ +rotate (\d+)$"),
        Place("docs/privacy.md", r"`rotate (\d+)` with `daily`"),
    ],
    "messages in flight at most": [
        Place("docs/capacity.md", r"([\d,]+) messages may be in flight"),
        Place("docs/operations.md", r"^At ([\d,]+) messages received and not deleted"),
        Place("deploy/aws/tracker.yaml", r"At ([\d,]+) in flight SQS"),
    ],
    "seconds that the queues keep messages": [
        Place("src/tracker/operations/wanted_settings.py", r"^RETENTION_SECONDS = (14 \* 24 \* 3600)"),
        Place("deploy/aws/tracker.yaml", r"MessageRetentionPeriod: (\d+)"),
    ],
    "receives before the dead-letter queue": [
        Place("src/tracker/operations/wanted_settings.py", r"^MAX_RECEIVE_COUNT = (\d+)"),
        Place("deploy/aws/tracker.yaml", r"maxReceiveCount: (\d+)"),
        Place("docs/deployment.md", r"dead-letter queue after (\d+) receives"),
    ],
    "the port of the pixel": [
        Place("config/pixel.reference.yaml", r"^http:\n(?: .*\n)*?  port: (\d+)"),
        Place("deploy/nginx/tracker.conf", r"server 127\.0\.0\.1:(\d+);"),
        Place("deploy/docker/Dockerfile", r"^EXPOSE (\d+)"),
        Place("deploy/kubernetes/pixel.statefulset.yaml", r"name: http, containerPort: (\d+)"),
        Place("docs/configuration.md", r"^\| `http\.port` \| `(\d+)`"),
    ],
    "the port of the pixel's admin listener": [
        Place("config/pixel.reference.yaml", r"^admin:\n(?: .*\n)*?  port: (\d+)"),
        Place("deploy/docker/Dockerfile", r"127\.0\.0\.1:(\d+)/healthz"),
        Place("deploy/kubernetes/pixel.statefulset.yaml", r"name: admin, containerPort: (\d+)"),
        Place("docs/configuration.md", r"^\| `admin\.port` \| `(\d+)`"),
        Place("docs/operations.md", r"\(ports (\d+) and \d+\)"),
    ],
    "the port of storage's admin listener": [
        Place("config/storage.reference.yaml", r"^admin:\n(?: .*\n)*?  port: (\d+)"),
        Place("deploy/docker/docker-compose.yml", r"^  storage:\n(?:    .*\n)*?.*127\.0\.0\.1:(\d+)/healthz"),
        Place("deploy/kubernetes/storage.statefulset.yaml", r"name: admin, containerPort: (\d+)"),
        Place("docs/operations.md", r"\(ports \d+ and (\d+)\)"),
    ],
    "the port of the archive's admin listener": [
        Place("docs/archive.md", r"--admin 127\.0\.0\.1:(\d+)"),
        Place("deploy/prometheus/prometheus.yml", r"--admin 127\.0\.0\.1:(\d+)"),
        Place("deploy/docker/docker-compose.yml", r'"--admin", "127\.0\.0\.1:(\d+)"'),
        Place("deploy/kubernetes/archive/container.yaml", r"name: archive, containerPort: (\d+)"),
        Place("src/tracker/local/__main__.py", r"^ARCHIVE_PORT = (\d+)"),
    ],
    "seconds that a connection is kept": [
        Place("config/pixel.reference.yaml", r"^  keepalive_timeout: (\d+)"),
        Place("deploy/nginx/tracker.conf", r"http\.keepalive_timeout \((\d+)\)"),
        Place("docs/deployment.md", r"below `http\.keepalive_timeout` \((\d+)\)"),
        Place("docs/configuration.md", r"^\| `http\.keepalive_timeout` \| `(\d+)`"),
    ],
    "seconds that nginx keeps a connection to the pixel": [
        Place("deploy/nginx/tracker.conf", r"^    keepalive_timeout (\d+)s;\n\}"),
        Place("docs/deployment.md", r"its upstream keepalive \((\d+) s\)"),
    ],
    "seconds of a stop": [
        Place("config/pixel.reference.yaml", r"^shutdown:\n(?: .*\n)*?  timeout: (\d+)"),
        Place("config/storage.reference.yaml", r"^shutdown:\n(?: .*\n)*?  timeout: (\d+)"),
        Place(_UNITS.format("pixel"), r"shutdown\.timeout \((\d+)\)"),
        Place(_UNITS.format("storage"), r"shutdown\.timeout \((\d+)\)"),
        Place("deploy/docker/docker-compose.yml", r"shutdown\.timeout is (\d+)"),
    ],
    "seconds of a stop on Kubernetes": [
        Place("deploy/kubernetes/pixel.yaml", r"^  timeout: (\d+)"),
        Place("docs/deployment.md", r"within `shutdown\.timeout` \((\d+) s\)"),
    ],
    "seconds of draining on Kubernetes": [
        Place("deploy/kubernetes/pixel.yaml", r"^  drain_delay: (\d+)"),
        Place("docs/deployment.md", r"for `shutdown\.drain_delay` \((\d+) s\)"),
    ],
    "seconds that Kubernetes gives a pixel": [
        Place("deploy/kubernetes/pixel.statefulset.yaml", r"terminationGracePeriodSeconds: (\d+)"),
        Place("docs/deployment.md", r"the pod's grace period \((\d+) s\)"),
    ],
    "days that a finished journal stays in the ledger": [
        Place("docs/privacy.md", r"\| the ledger \| [^|]+\| (\d+) days"),
        Place("docs/delivery-guarantees.md", r"(\d+) days after its last delivery"),
    ],
    "the oldest Python": [
        Place("setup.cfg", r"^python_requires = >=([\d.]+)"),
        Place("README.md", r"Python ([\d.]+) or newer"),
        Place("CONTRIBUTING.md", r"Python ([\d.]+) or newer"),
        Place("docs/deployment.md", r"^Python ([\d.]+) \(that of Debian 12\) or newer"),
    ],
}


def value(text: str) -> Decimal | str:
    """A number as it counts: 120,000 is 120000, and 14 * 24 is 336. A version is a text."""
    try:
        return prod((Decimal(factor) for factor in text.replace(",", "").split(" * ")), start=Decimal(1))
    except InvalidOperation:
        return text


@pytest.mark.parametrize("name", NUMBERS)
def test_a_number_is_the_same_wherever_it_stands(name: str) -> None:
    found: dict[Decimal | str, set[str]] = {}
    for file, pattern in NUMBERS[name]:
        if file.endswith(".md"):  # a sentence may be wrapped anywhere
            pattern = pattern.replace(" ", r"\s+")
        numbers = re.findall(pattern, (ROOT / file).read_text(encoding="utf-8"), re.MULTILINE)
        assert numbers, f"{file} no longer says {pattern!r}: {name}"
        for number in numbers:
            found.setdefault(value(number), set()).add(file)
    assert len(found) == 1, found


def rows(page: str, first_cell: str) -> list[list[str]]:
    """From all tables of a page, the rows whose first cell matches `first_cell`; a row is the list of its cells."""
    text = (ROOT / page).read_text(encoding="utf-8")
    lines = [line.strip("|").split("|") for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line] for line in lines if re.fullmatch(first_cell, line[0].strip())]


def test_the_table_of_costs_is_what_its_formula_gives() -> None:
    costs = rows("docs/capacity.md", r"`?[\d.]+ s`?")
    assert len(costs) == 3
    publish, receive, delete = 0.50, 0.40, 0.40 / 10
    for linger, requests, one, best, worst in costs:
        in_30_days = 2_592_000 / float(linger.removesuffix(" s"))
        assert float(requests.replace(",", "")) == in_30_days
        millions = in_30_days / 1e6
        assert float(one) == round(millions * (publish + receive + delete), 2)
        assert float(best) == round(millions * (publish + receive + 8 * delete), 2)
        assert float(worst) == round(millions * (publish + 8 * receive + 8 * delete), 2)


def number(name: str) -> Decimal:
    """The number of a row of NUMBERS, from its first place."""
    file, pattern = NUMBERS[name][0]
    [found] = re.findall(pattern, (ROOT / file).read_text(encoding="utf-8"), re.MULTILINE)
    return Decimal(found)


def test_the_table_of_quotas_is_what_its_formula_gives() -> None:
    [[_, visits_in_64_kib, _]] = rows("docs/capacity.md", r"\*n\*")
    each = Decimal(visits_in_64_kib.rpartition("= ")[2].replace(",", ""))
    quotas = [row for row in rows("docs/capacity.md", r"us-.*|all others") if len(row) == 5]
    assert quotas
    for row in quotas:
        quota, at_default, at_one_second, visits = (Decimal(cell.replace(",", "")) for cell in row[1:])
        assert at_default == quota * number("the default linger in seconds")
        assert at_one_second == quota
        assert visits == quota * each


def test_the_sizing_of_an_outbox_is_what_its_formula_gives() -> None:
    [outbox] = rows("docs/operations.md", r"outbox for an hour.*")
    visit = float(number("bytes of a visit in the journal"))
    for hits, size in zip((1, 100, 10_000), outbox[2:], strict=True):
        given, unit = size.split()
        assert abs(float(given) * {"MB": 1e6, "GB": 1e9}[unit] / (hits * visit * 3600) - 1) < 0.03
