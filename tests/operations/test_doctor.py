"""The doctor: green on a healthy system, and for each fault a finding that names it, its harm and its remedy."""

import json
import os
import pty
import re
import subprocess
import sys
import tempfile
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import pytest
from aiohttp import ClientError, web

from tests.launched import environment
from tests.ports import free_port
from tests.system.processes import Service
from tests.system.wire import get
from tracker import cli
from tracker.config import Http, LogConfig, OutboxConfig, SqsConfig
from tracker.operations.client_ip_checks import judge_client_ip
from tracker.operations.findings import Finding, Level
from tracker.operations.host_checks import check_log, check_outbox, judge_disk, judge_file_system, lock_holder
from tracker.operations.service_checks import (
    Metrics,
    judge_pixel_metrics,
    judge_polling,
    judge_storage_metrics,
    judge_visibility,
)
from tracker.storage.ledger import Ledger
from tracker.visit_log_files import ledger_path

from .conftest import REGION, Bench, proxy


def found(findings: list[Finding], level: Level, subject: str, words: str) -> Finding:
    """The one finding of this level and subject with these words; each says why it matters and how to fix it."""
    [finding] = [one for one in findings if (one.level, one.subject) == (level, subject) and words in one.what]
    assert finding.fix
    assert finding.why or level is Level.UNKNOWN
    return finding


# -- a healthy system, as an operator runs it ------------------------------------------------------------------


def run_doctor(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tracker.cli", "doctor", *arguments]
    return subprocess.run(
        command, cwd=folder, env=environment(folder), capture_output=True, text=True, timeout=60, check=False
    )


def run_on_a_terminal(folder: Path, *arguments: str) -> str:
    """What a terminal is shown."""
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "tracker.cli", "doctor", *arguments]
    env = {**environment(folder), "TERM": "xterm"}
    env.pop("NO_COLOR", None)
    with subprocess.Popen(command, cwd=folder, env=env, stdout=theirs, stderr=theirs) as process:
        os.close(theirs)
        shown = b""
        try:
            while chunk := os.read(ours, 65_536):
                shown += chunk
        except OSError:  # Linux says EIO when the last writer has closed its end
            pass
        process.wait(60)
    os.close(ours)
    return shown.decode()


async def test_a_healthy_system_is_green_and_its_canary_passes_every_hop(bench: Bench) -> None:
    pixel_file, storage_file = bench.pixel_config({"outbox": {"max_bytes": 1 << 20}}), bench.storage_config()
    ports = json.loads(pixel_file.read_text())
    admin = json.loads(storage_file.read_text())["admin"]["port"]
    pixel = Service("tracker.pixel", pixel_file, bench.folder, None, ports["http"]["port"], ports["admin"]["port"])
    storage = Service("tracker.storage", storage_file, bench.folder, None, 0, admin)
    try:
        pixel.wait_ready()
        storage.wait_ready()
        both = ("--pixel", "pixel.yaml", "--storage", "storage.yaml")

        done = run_doctor(bench.folder, *both)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "FAULT" not in done.stdout
        assert "\x1b" not in done.stdout  # a pipe gets plain text
        hops = re.findall(r"^ok +canary +(.*?)(?: after)? \d+ ms", done.stdout, re.MULTILINE)
        assert hops == [
            "answered with the GIF",
            "accepted by SNS",
            "received by storage from SQS",
            "a line of the visit log",
            "from the request to its line",
        ]
        log = (bench.folder / "visits.log").read_text()
        assert re.fullmatch(r"\S+\|null\|tracker-doctor/[\d.]+\w* [0-9a-f]{16}\|127\.0\.0\.1\n", log)

        # A proxy that is not in http.trusted_proxies gives itself away.
        for number in range(6):
            get(pixel.port, "/track", [("X-Forwarded-For", f"198.51.100.{number}")])
        pixel.wait_metric("tracker_pixel_headers_untrusted", 6)
        shown = run_on_a_terminal(bench.folder, *both, "--no-canary")
        assert "\x1b[1;31mFAULT   \x1b[0m client IP      6 of 7 visits came with X-Forwarded-For" in shown
        assert "http.trusted_proxies" in shown
        assert "storage has what SNS had accepted of 1 journals" in shown
        assert "\x1b[32mok" in shown
        assert "… checking the outbox" in shown

        storage.stop()
        findings = await bench.doctor(pixel=pixel_file, storage=storage_file, canary=True)
        assert any(one.subject == "canary" and "accepted by SNS" in one.what for one in findings)
        found(findings, Level.FAULT, "canary", "the visit log did not get its line in time")
    finally:
        pixel.destroy()
        storage.destroy()


async def test_a_canary_that_sns_does_not_take_is_missed_where_it_stays(bench: Bench) -> None:
    nobody = f"http://127.0.0.1:{free_port()}"
    file = bench.pixel_config({"sns": {"endpoint_url": nobody}})
    ports = json.loads(file.read_text())
    pixel = Service("tracker.pixel", file, bench.folder, None, ports["http"]["port"], ports["admin"]["port"])
    try:
        pixel.wait_ready()
        get(pixel.port, "/track")
        pixel.wait_alive(lambda: json.loads(pixel.readiness()).get("publish_error"), "an error of the publisher")
        findings = await bench.doctor(pixel=file, canary=True)
    finally:
        pixel.destroy()
    found(findings, Level.FAULT, "pixel", "it cannot publish")
    found(findings, Level.FAULT, "canary", "SNS did not accept it in time")
    assert not [one for one in findings if one.subject == "canary" and "line" in one.what and one.level is Level.OK]


# -- one fault after the other; those of topic, queue and subscription are in test_doctor_aws.py ------------------


async def test_a_queue_that_is_not_there(bench: Bench) -> None:
    findings = await bench.doctor(storage=bench.storage_config({"sqs": {"queue": "visist"}}))
    finding = found(findings, Level.FAULT, "queue", "there is no queue visist in eu-west-1")
    assert f"tracker provision --queue visist --region {REGION}" in finding.fix


async def test_a_topic_that_is_not_there(bench: Bench) -> None:
    arn = f"arn:aws:sns:{REGION}:000000000000:trackign"
    findings = await bench.doctor(pixel=bench.pixel_config({"sns": {"topic_arn": arn}}))
    found(findings, Level.FAULT, "topic", "AWS does not know it")


def sns_error(code: str) -> web.Response:
    text = f"<ErrorResponse><Error><Code>{code}</Code><Message>No.</Message></Error></ErrorResponse>"
    return web.Response(status=403, text=text, content_type="text/xml")


async def test_credentials_that_aws_does_not_take(bench: Bench) -> None:
    async with proxy(bench.endpoint, intervene=lambda action: sns_error("InvalidClientTokenId")) as endpoint:
        findings = await bench.doctor(pixel=bench.pixel_config({"sns": {"endpoint_url": endpoint}}))
    found(findings, Level.FAULT, "topic", "AWS does not accept the credentials")


async def test_credentials_that_may_not_look_are_no_fault_of_the_system(bench: Bench) -> None:
    async with proxy(bench.endpoint, intervene=lambda action: sns_error("AuthorizationError")) as endpoint:
        findings = await bench.doctor(pixel=bench.pixel_config({"sns": {"endpoint_url": endpoint}}))
    assert "DoctorPolicy" in found(findings, Level.UNKNOWN, "topic", "no permission to look").fix


async def test_an_endpoint_where_nobody_listens(bench: Bench) -> None:
    findings = await bench.doctor(storage=bench.storage_config({"sqs": {"endpoint_url": "http://127.0.0.1:9"}}))
    found(findings, Level.UNKNOWN, "queue", "AWS could not be asked")


@pytest.mark.parametrize(("minutes", "level"), [(1, Level.WARNING), (-1, Level.WARNING), (10, Level.FAULT)])
async def test_a_clock_that_differs_from_that_of_aws(bench: Bench, minutes: int, level: Level) -> None:
    date = format_datetime(datetime.now(UTC) - timedelta(minutes=minutes), usegmt=True)
    async with proxy(bench.endpoint, date=date) as endpoint:
        findings = await bench.doctor(pixel=bench.pixel_config({"sns": {"endpoint_url": endpoint}}))
    found(findings, level, "clock", "ahead of" if minutes > 0 else "behind")


async def test_signatures_refused_for_the_clock_are_the_clocks_fault(bench: Bench) -> None:
    date = format_datetime(datetime.now(UTC) + timedelta(minutes=10), usegmt=True)
    async with proxy(
        bench.endpoint, intervene=lambda action: sns_error("SignatureDoesNotMatch"), date=date
    ) as endpoint:
        findings = await bench.doctor(pixel=bench.pixel_config({"sns": {"endpoint_url": endpoint}}))
    found(findings, Level.FAULT, "clock", "behind")


async def test_services_that_do_not_run(bench: Bench) -> None:
    (bench.folder / "outbox").mkdir(mode=0o750)
    findings = await bench.doctor(pixel=bench.pixel_config(), storage=bench.storage_config())
    for service, place in (("pixel", "outbox"), ("storage", "visit log")):
        assert f"systemctl start tracker-{service}" in found(findings, Level.FAULT, service, "nothing answers").fix
        found(findings, Level.WARNING, place, f"no {service} holds")


def test_a_configuration_that_cannot_be_used(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "pixel.yaml"
    file.write_text("http: {prot: 80}")
    assert cli.main(["doctor", "--pixel", str(file)]) == 1
    said = capsys.readouterr().out
    for mistake in ("sns.topic_arn: expected a value", "http.prot: unknown key"):
        assert re.search(rf"^FAULT +configuration +{file}: {mistake}", said, re.MULTILINE)


def test_what_the_doctor_could_not_look_at_is_no_fault_and_has_a_status_of_its_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    missing, pixel = tmp_path / "missing.yaml", tmp_path / "pixel.yaml"
    assert cli.main(["doctor", "--pixel", str(missing)]) == 3
    assert re.search(rf"^unknown +configuration +{missing}: cannot be read", capsys.readouterr().out, re.MULTILINE)
    pixel.write_text("http: {prot: 80}")
    assert cli.main(["doctor", "--pixel", str(pixel), "--storage", str(missing)]) == 1


def test_an_outbox_that_may_outgrow_its_disk(tmp_path: Path) -> None:
    findings = list(check_outbox(OutboxConfig(dir=str(tmp_path), max_bytes=1 << 60)))
    assert "outbox.max_bytes" in found(findings, Level.WARNING, "outbox", "may still grow by").fix


def test_what_an_outbox_should_not_hold(tmp_path: Path) -> None:
    (tmp_path / f"{'0' * 32}.bad").mkdir()
    (tmp_path / "refused.ndjson").write_text("{}\n")
    tmp_path.chmod(0o777)
    findings = list(check_outbox(OutboxConfig(dir=str(tmp_path))))
    found(findings, Level.WARNING, "outbox", "set aside")
    found(findings, Level.WARNING, "outbox", "SNS refuses")
    found(findings, Level.FAULT, "outbox", "every user may write")


@pytest.mark.parametrize(("mode", "level"), [(0o777, Level.FAULT), (0o755, Level.WARNING)])
def test_a_directory_that_every_user_may_enter_is_closed_by_the_command_that_is_printed(
    tmp_path: Path, mode: int, level: Level
) -> None:
    config = OutboxConfig(dir=str(tmp_path))
    tmp_path.chmod(mode)
    subprocess.run(found(list(check_outbox(config)), level, "outbox", "every user may").fix, shell=True, check=True)
    assert not [finding for finding in check_outbox(config) if "every user may" in finding.what]


def test_a_ledger_that_cannot_be_used_is_named_with_its_reason(tmp_path: Path) -> None:
    log = tmp_path / "visits.log"
    ledger_path(log).parent.mkdir()
    ledger_path(log).write_bytes(b"no database" * 1000)
    finding = found(list(check_log(LogConfig(path=str(log)))), Level.FAULT, "visit log", "ledger.sqlite is damaged")
    assert "--accept-log" in finding.what
    ledger_path(log).write_bytes(b"")
    found(list(check_log(LogConfig(path=str(log)))), Level.FAULT, "visit log", "ledger.sqlite is empty")
    ledger_path(log).unlink()
    Ledger(ledger_path(log)).close()
    assert not [each for each in check_log(LogConfig(path=str(log))) if "ledger.sqlite" in each.what]


def test_a_visit_log_that_is_a_link_and_what_a_crash_left(tmp_path: Path) -> None:
    log = tmp_path / "visits.log"
    (tmp_path / "visits.log.torn-20261124T100000.000000Z").touch()
    found(list(check_log(LogConfig(path=str(log)))), Level.WARNING, "visit log", "a crash left visits.log.torn-")
    log.symlink_to("elsewhere.log")
    findings = list(check_log(LogConfig(path=str(log))))
    path = found(findings, Level.FAULT, "visit log", "symbolic link").fix.removeprefix("set log.path to ")
    assert path == str(tmp_path / "elsewhere.log")
    assert not [finding for finding in check_log(LogConfig(path=path)) if "symbolic link" in finding.what]


@pytest.mark.parametrize("subject", ["outbox", "visit log"])
def test_an_outbox_or_a_log_in_memory_is_a_warning(subject: str, tmp_path: Path) -> None:
    for kind in ("tmpfs", "ramfs"):
        finding = found(list(judge_file_system(subject, tmp_path, kind)), Level.WARNING, subject, f"is on a {kind}")
        assert finding.why.startswith("a reboot loses")
    assert list(judge_file_system(subject, tmp_path, "ext4")) == []


@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="/dev/shm is Linux's")
def test_the_file_system_of_a_directory_is_looked_up() -> None:
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        found(list(check_outbox(OutboxConfig(dir=folder))), Level.WARNING, "outbox", f"{folder} is on a tmpfs")
        log = LogConfig(path=f"{folder}/visits.log")
        found(list(check_log(log)), Level.WARNING, "visit log", f"{folder} is on a tmpfs")


@pytest.mark.parametrize(
    ("free", "level"), [(50, Level.OK), (11, Level.OK), (9, Level.WARNING), (2, Level.WARNING), (1, Level.FAULT)]
)
@pytest.mark.parametrize("subject", ["outbox", "visit log"])
def test_a_disk_that_is_nearly_full(subject: str, free: int, level: Level) -> None:
    assert judge_disk(subject, Path("/var"), free << 20, 100 << 20).level is level


@pytest.mark.parametrize(("timeout", "level"), [(30, Level.OK), (120, Level.OK), (10, Level.WARNING)])
def test_a_short_visibility_timeout_is_warned_of(timeout: int, level: Level) -> None:
    assert judge_visibility(SqsConfig(queue="visits", visibility_timeout=timeout)).level is level


def test_polls_without_a_wait_are_warned_of() -> None:
    finding = judge_polling(SqsConfig(queue="visits", wait_time=0))
    assert finding.level is Level.WARNING
    assert judge_polling(SqsConfig(queue="visits", wait_time=int(finding.fix.rpartition(" ")[2]))).level is Level.OK


def test_an_answer_that_is_no_metrics_comes_from_another_program() -> None:
    with pytest.raises(ClientError, match="another program"):
        Metrics("404: Not Found")


def test_what_storage_counts_is_judged() -> None:
    metrics = Metrics(
        "tracker_storage_missing_bytes 276\ntracker_storage_gapped_journals 3\n"
        "tracker_storage_messages_malformed_total 2\ntracker_storage_messages_conflicting_total 4\n"
    )
    findings = list(judge_storage_metrics(metrics))
    found(findings, Level.WARNING, "storage", "276 bytes of 3 journals")
    found(findings, Level.FAULT, "storage", "4 messages had other bytes")
    found(findings, Level.WARNING, "storage", "2 times since its start it received a message that it could not read")
    assert not list(judge_storage_metrics(Metrics("tracker_storage_missing_bytes 0\n")))


def test_what_the_pixel_gave_up_is_named_with_its_reason() -> None:
    discarded = "tracker_pixel_visits_discarded_total"
    metrics = Metrics("\n".join(f'{discarded}{{reason="{reason}"}} 3' for reason in ("outbox_full", "privacy")) + "\n")
    [finding] = judge_pixel_metrics(metrics)
    assert "outbox_full" in finding.what
    assert "outbox.max_bytes" in finding.fix


def test_without_a_configuration_there_is_nothing_to_look_at(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["doctor"]) == 2
    assert "--pixel" in capsys.readouterr().err


@pytest.mark.skipif(sys.platform != "linux", reason="/proc/locks is Linux's")
def test_the_holder_of_a_lock_is_named_without_taking_it(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    assert lock_holder(lock) is None
    lock.touch()
    assert lock_holder(lock) is None
    program = f"import fcntl; f = open({str(lock)!r}); fcntl.flock(f, fcntl.LOCK_EX); print(1, flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", program], stdin=-1, stdout=-1, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "1\n"
        assert lock_holder(lock) == process.pid
        process.communicate("\n")
    assert lock_holder(lock) is None


@pytest.mark.parametrize(
    ("header", "trusted", "warned"),
    [
        ("X-Forwarded-For", ["10.0.0.0/8"], False),
        ("cloudfront-viewer-address", ["10.0.0.0/8"], False),
        ("X-Viewer-Address", ["10.0.0.0/8"], True),
        ("X-Viewer-Address", [], False),
    ],
)
def test_a_header_whose_addresses_may_be_read_in_two_ways_is_said(
    header: str, trusted: list[str], warned: bool
) -> None:
    config = Http(client_ip_header=header, trusted_proxies=trusted)
    findings = list(judge_client_ip(config, visits=0, untrusted=0, unnamed=0))
    assert [finding.level for finding in findings] == ([Level.WARNING] if warned else [])
    assert all(header in finding.what for finding in findings)


@pytest.mark.parametrize(
    ("visits", "unnamed", "level"),
    [(1_000, 600, Level.WARNING), (1_000, 400, Level.OK), (10, 10, Level.OK), (120, 120, Level.WARNING)],
)
def test_a_trusted_proxy_that_names_no_client_is_a_warning_when_most_visits_come_through_it(
    visits: int, unnamed: int, level: Level
) -> None:
    [finding] = judge_client_ip(Http(trusted_proxies=["10.0.0.1"]), visits=visits, untrusted=0, unnamed=unnamed)
    assert finding.level is level
    if level is Level.WARNING:
        assert f"{unnamed} of {visits} visits came through a trusted proxy that named no client" in finding.what


def test_the_doctor_says_that_it_cannot_see_an_untrusted_proxy_without_a_header() -> None:
    [finding] = judge_client_ip(Http(), visits=5, untrusted=0, unnamed=0)
    assert finding.what.endswith("one that sends no X-Forwarded-For cannot be seen")
