"""The image and the composition: right by hadolint and by Docker Compose itself, locked, and without privileges."""

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from tracker.aws import bucket_and_prefix
from tracker.config import load_pixel, load_storage
from tracker.pixel.__main__ import main as pixel_main
from tracker.storage.__main__ import main as storage_main
from tracker.visit_log_files import archived_directory

from .tools import DEPLOY, ROOT, run

DOCKERFILE = DEPLOY / "docker/Dockerfile"
COMPOSE = DEPLOY / "docker/docker-compose.yml"


def instructions(name: str) -> list[str]:
    text = re.sub(r"\\\n", " ", re.sub(r"^#.*\n", "", DOCKERFILE.read_text(), flags=re.MULTILINE))
    return [rest for word, _, rest in (line.partition(" ") for line in text.splitlines()) if word == name]


def composition() -> dict[str, Any]:
    document: dict[str, Any] = json.loads(run("docker-compose", "-f", COMPOSE, "config", "--format", "json"))
    return document


def test_hadolint_has_nothing_to_say() -> None:
    assert run("hadolint", DOCKERFILE).strip() == ""


def test_everything_is_installed_from_a_lock_with_hashes() -> None:
    [steps] = [step for step in instructions("RUN") if "requirements" in step]
    installs = [step for step in steps.split("&&") if " install " in step]
    assert len(installs) == 2
    for install in installs:
        words = shlex.split(install)
        assert "--require-hashes" in words
        named = words[words.index("-r") + 1]
        for lock in ("runtime", "archive"):  # without and with what the archive needs
            assert (ROOT / named.replace("$LOCK", lock)).exists()


def test_what_is_copied_is_there_and_let_into_the_build() -> None:
    ignored = (DEPLOY / "docker/Dockerfile.dockerignore").read_text().splitlines()
    for copy in instructions("COPY"):
        *sources, _ = copy.split()
        for source in sources:
            if source.startswith("--from") or source.startswith("/"):
                continue
            assert (ROOT / source).exists(), source
            assert f"!{source.split('/')[0]}" in ignored, source


def test_it_runs_in_exec_form_as_nobody_in_particular() -> None:
    assert instructions("USER") == ["10001:10001"]
    [command] = instructions("CMD")[-1:]
    assert json.loads(command) == ["tracker-pixel", "--config", "/etc/tracker/pixel.yaml"]
    assert instructions("HEALTHCHECK")


def test_the_services_run_without_privileges_on_a_read_only_root() -> None:
    services = composition()["services"]
    assert services.keys() == {"localstack", "provision", "pixel", "storage", "archive"}
    for name in ("provision", "pixel", "storage", "archive"):
        service = services[name]
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
    for name, target in (
        ("pixel", "/var/lib/tracker/outbox"),
        ("storage", "/var/log/tracker"),
        ("archive", "/var/log/tracker"),
    ):
        volumes = {volume["target"]: volume for volume in services[name]["volumes"]}
        assert volumes[target]["type"] == "volume"
        assert services[name]["depends_on"]["provision"]["condition"] == "service_completed_successfully"
        grace = services[name]["stop_grace_period"]
        assert grace == "30s"


def test_the_archive_has_a_user_of_its_own_to_whom_the_folder_of_the_markers_belongs() -> None:
    assert composition()["services"]["archive"]["user"] == "10002:10001"
    [steps] = [step for step in instructions("RUN") if "useradd" in step]
    users = dict(re.findall(r"useradd --uid (\d+) --gid tracker .*? (\S+) +&&", steps))
    assert users == {"10001": "tracker", "10002": "tracker-archive"}
    markers = archived_directory(Path(load_storage(DEPLOY / "docker/storage.yaml", {}).log.path))
    assert f"install -d -o tracker-archive -g tracker -m 0750 {markers}" in steps


def test_its_configurations_load_and_fit_its_volumes(tmp_path: Path) -> None:
    pixel = load_pixel(DEPLOY / "docker/pixel.yaml", {})
    storage = load_storage(DEPLOY / "docker/storage.yaml", {})
    assert pixel.outbox.dir == "/var/lib/tracker/outbox"
    assert storage.log.path == "/var/log/tracker/visits.log"
    assert bucket_and_prefix(storage.archive)[0] in (DEPLOY / "docker/make-bucket.sh").read_text()
    assert max(pixel.shutdown.timeout, storage.shutdown.timeout) < 30


def test_the_commands_of_the_composition_are_those_of_the_package(capsys: pytest.CaptureFixture[str]) -> None:
    setup = (ROOT / "setup.cfg").read_text()
    commands = {service["command"][0] for name, service in composition()["services"].items() if name != "localstack"}
    assert commands == {"tracker", "tracker-pixel", "tracker-storage"}
    for command in commands:
        assert re.search(rf"^    {command} = ", setup, re.MULTILINE)
    assert pixel_main(["--config", str(DEPLOY / "docker/pixel.yaml"), "--check"]) == 0
    assert storage_main(["--config", str(DEPLOY / "docker/storage.yaml"), "--check"]) == 0


@pytest.mark.parametrize("port", [8081, 8082, 8083])
def test_the_health_checks_are_python_that_runs(port: int) -> None:
    text = DOCKERFILE.read_text() if port == 8081 else COMPOSE.read_text()
    programs = [json.loads(found) for found in re.findall(r'"-c", ("import urllib[^"]+")', text)]
    [program] = [each for each in programs if f":{port}/healthz" in each]
    compile(program, "healthcheck", "exec")
