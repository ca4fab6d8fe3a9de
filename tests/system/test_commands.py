"""The services as commands: exit statuses, what they say of a bad configuration, and who may share what."""

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.launched import environment
from tests.ports import free_port
from tracker.pixel.__main__ import main as pixel_main
from tracker.storage.__main__ import main as storage_main

from .processes import Config, Service, merged, run, write_config
from .stack import FakeStack
from .wire import LOOPBACK, get

MAINS = {"tracker.pixel": pixel_main, "tracker.storage": storage_main}
MODULES = list(MAINS)
VALID: dict[str, Config] = {
    "tracker.pixel": {"sns": {"topic_arn": "arn:aws:sns:us-east-1:000000000000:tracking"}},
    "tracker.storage": {"sqs": {"queue": "visits", "region": "us-east-1"}},
}


Check = Callable[..., tuple[int, str]]


@pytest.fixture
def check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Check:
    """`--check` of a service in this process, which takes a tenth of the time of another one.

    It returns the exit status and the text on standard error. A start reads the configuration with the same call:
    `test_a_start_names_the_mistakes_that_a_check_names` compares them.
    """

    def run_check(module: str, path: Path, env: Mapping[str, str] | None = None) -> tuple[int, str]:
        variables = environment(tmp_path, env)
        with monkeypatch.context() as patch:
            patch.chdir(tmp_path)
            for name in os.environ.keys() - variables.keys():
                patch.delenv(name)
            for name, value in variables.items():
                patch.setenv(name, value)
            status = MAINS[module](["--config", str(path), "--check"])
        return status, capsys.readouterr().err

    return run_check


@pytest.mark.parametrize("module", MODULES)
def test_a_start_names_the_mistakes_that_a_check_names(tmp_path: Path, module: str, check: Check) -> None:
    path = write_config(tmp_path / "bad.yaml", merged(VALID[module], {"admin": {"port": 0}, "logging": {"level": 1}}))
    variables = {"AWS_PROFILE": "nobody"}
    status, said = check(module, path, variables)
    done = run(module, "--config", str(path), home=tmp_path, env=variables)
    assert (done.returncode, done.stderr) == (status, said)
    assert [line.partition(": expected ")[0] for line in said.splitlines()] == [
        f"{path}: admin.port",
        f"{path}: logging.level",
        "environment AWS_PROFILE",
    ]


@pytest.mark.parametrize("module", MODULES)
def test_check_validates_and_exits(tmp_path: Path, module: str, check: Check) -> None:
    assert check(module, write_config(tmp_path / "good.yaml", VALID[module])) == (0, "")
    assert not (tmp_path / "var").exists()


# Both services check a configuration by the same function (`lifecycle.run_command`).
@pytest.mark.parametrize(
    ("module", "closed"),
    [
        ("tracker.pixel", ">&-"),
        ("tracker.pixel", "| true"),
        ("tracker.storage", ">/dev/full"),
        ("tracker.storage", "2>&- >&-"),
    ],
)
def test_check_on_a_standard_output_that_takes_nothing_ends_without_a_traceback(
    tmp_path: Path, module: str, closed: str
) -> None:
    path = write_config(tmp_path / "good.yaml", VALID[module])
    script = f"set -o pipefail; {sys.executable} -m {module} --config {path} --check {closed}"
    done = subprocess.run(
        ["bash", "-c", script], capture_output=True, text=True, timeout=60, env=environment(tmp_path), check=False
    )
    assert done.returncode == (1 if "full" in closed else 0) or (done.returncode == 141 and "true" in closed)
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr


AWS_MISTAKES: list[tuple[dict[str, str], str]] = [
    ({"AWS_PROFILE": "nobody"}, "environment AWS_PROFILE: expected a profile of "),
    ({"AWS_DEFAULT_PROFILE": "nobody"}, "environment AWS_DEFAULT_PROFILE: expected a profile of "),
    (
        {"AWS_CA_BUNDLE": "/nowhere/ca.pem"},
        "environment AWS_CA_BUNDLE: expected a file of certificates, /nowhere/ca.pem",
    ),
    ({"AWS_PROFILE": "role"}, "source_profile of the AWS profile role: expected a profile, there is no 'gone'"),
    ({"AWS_PROFILE": "ca"}, "ca_bundle of the AWS profile ca: expected a file of certificates, /nowhere/ca.pem"),
    ({"AWS_CONFIG_FILE": "broken"}, "AWS settings: ConfigParseError: Unable to parse config file: "),
    (
        {"AWS_SHARED_CREDENTIALS_FILE": "pipe"},
        "environment AWS_SHARED_CREDENTIALS_FILE: expected a file, pipe is a pipe",
    ),
    ({"REQUESTS_CA_BUNDLE": "/etc/hostname"}, "environment REQUESTS_CA_BUNDLE: expected a file of certificates, "),
]


@pytest.mark.parametrize("module", MODULES)
@pytest.mark.parametrize(
    ("variables", "named"), AWS_MISTAKES, ids=["-".join(*each[0].items()) for each in AWS_MISTAKES]
)
def test_a_wrong_setting_of_the_aws_tools_is_named_with_all_other_mistakes(
    tmp_path: Path, module: str, variables: dict[str, str], named: str, check: Check
) -> None:
    (tmp_path / ".aws").mkdir()
    (tmp_path / ".aws/config").write_text(
        "[profile role]\nrole_arn = arn:aws:iam::000000000000:role/r\nsource_profile = gone\n"
        "[profile ca]\nca_bundle = /nowhere/ca.pem\n"
    )
    (tmp_path / "broken").write_text("[default\nno = section")
    os.mkfifo(tmp_path / "pipe")
    path = write_config(tmp_path / "bad.yaml", merged(VALID[module], {"admin": {"port": 0}}))
    status, said = check(module, path, variables)
    assert status == 78
    first, second = said.splitlines()
    assert first.startswith(f"{path}: admin.port: expected ")
    assert second.startswith(named)


def test_storage_without_a_region_says_the_three_ways_to_give_one(tmp_path: Path, check: Check) -> None:
    path = write_config(tmp_path / "bad.yaml", {"sqs": {"queue": "visits"}})
    assert check("tracker.storage", path) == (
        78,
        f"{path}: sqs.region: expected an AWS Region, found none: set sqs.region, or give sqs.queue as an ARN or a URL "
        "of AWS, or set AWS_REGION (or AWS_DEFAULT_REGION, or `region` of the AWS profile)\n",
    )


@pytest.mark.parametrize(
    ("queue", "variables"),
    [
        ("arn:aws-cn:sqs:cn-north-1:123456789012:visits", {}),
        ("https://queue.amazonaws.com/123456789012/visits", {}),
        ("visits", {"AWS_REGION": "eu-west-1"}),
        ("visits", {"AWS_DEFAULT_REGION": "eu-west-1"}),
        ("visits", {"AWS_PROFILE": "mine"}),
        ("visits", {"AWS_REGION": "eu-west-1", "AWS_CONFIG_FILE": "/dev/null", "AWS_SHARED_CREDENTIALS_FILE": ""}),
    ],
)
def test_a_region_comes_from_the_queue_or_from_the_settings_of_the_aws_tools(
    tmp_path: Path, queue: str, variables: dict[str, str], check: Check
) -> None:
    (tmp_path / ".aws").mkdir()
    (tmp_path / ".aws/config").write_text("[profile mine]\nregion = eu-west-1\n")
    path = write_config(tmp_path / "good.yaml", {"sqs": {"queue": queue}})
    assert check("tracker.storage", path, variables) == (0, "")


BAD: list[tuple[str, Config, str]] = [
    ("tracker.pixel", {"http": {"prot": 8080}}, "http.prot"),
    ("tracker.pixel", {"http": {"port": "eighty"}}, "http.port"),
    ("tracker.pixel", {"http": {"port": 0}}, "http.port"),
    ("tracker.pixel", {"sns": {"topic_arn": "tracking"}}, "sns.topic_arn"),
    ("tracker.pixel", {"sns": {"topic_arn": None}}, "sns.topic_arn"),
    ("tracker.pixel", {"sns": {"format": "zipped"}}, "sns.format"),
    ("tracker.pixel", {"workers": "many"}, "workers"),
    ("tracker.pixel", {"workers": 0}, "workers"),
    ("tracker.pixel", {"privacy": {"honor": ["gpc", "cookies"]}}, "privacy.honor"),
    ("tracker.pixel", {"http": {"trusted_proxies": ["10.0.0.0/33"]}}, "http.trusted_proxies"),
    ("tracker.pixel", {"shutdown": {"timeout": -1}}, "shutdown.timeout"),
    ("tracker.pixel", {"storage": {}}, "storage"),
    ("tracker.storage", {"sqs": {"queue": ""}}, "sqs.queue"),
    ("tracker.storage", {"sqs": {"wait_time": 21}}, "sqs.wait_time"),
    ("tracker.storage", {"sqs": {"receivers": True}}, "sqs.receivers"),
    ("tracker.storage", {"log": {"mode": "rw-r-----"}}, "log.mode"),
    ("tracker.storage", {"log": {"rotate": {"every": "year"}}}, "log.rotate.every"),
    ("tracker.storage", {"logging": {"level": "loud"}}, "logging.level"),
]


@pytest.mark.parametrize(
    ("module", "override", "key"), BAD, ids=[f"{m[8:]}-{k}-{n}" for n, (m, _, k) in enumerate(BAD)]
)
def test_a_bad_configuration_names_file_and_key(
    tmp_path: Path, module: str, override: Config, key: str, check: Check
) -> None:
    path = write_config(tmp_path / "bad.yaml", merged(VALID[module], override))
    status, said = check(module, path)
    assert status == 78, said
    assert str(path) in said
    assert key in said


@pytest.mark.parametrize(
    ("module", "section", "key"), [("tracker.pixel", "sns", "topic_arn"), ("tracker.storage", "sqs", "queue")]
)
def test_a_missing_key_is_named(tmp_path: Path, module: str, section: str, key: str, check: Check) -> None:
    configs: list[Any] = [{section: {}}, {}]
    for config in configs:
        path = write_config(tmp_path / "bad.yaml", config)
        status, said = check(module, path)
        assert status == 78
        assert str(path) in said
        assert section in said


@pytest.mark.parametrize("module", MODULES)
@pytest.mark.parametrize(
    "text",
    [
        "http: [",
        "- a\n- list\n",
        "{}\n---\n{}",
        "http: {port: 1}\nhttp: {port: 2}\n",
        "[" * 5_000,
        '"\\x1b[2J": 1',
        'logging: {level: "\\x1b[2J"}',
    ],
    ids=["open", "list", "two documents", "twice", "deep", "escape in a key", "escape in a value"],
)
def test_what_is_no_configuration_at_all_is_named(tmp_path: Path, module: str, text: str, check: Check) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    status, said = check(module, path)
    assert status == 78
    assert str(path) in said
    assert all(line.isprintable() for line in said.splitlines())


@pytest.mark.parametrize("module", MODULES)
def test_a_missing_file_is_named(tmp_path: Path, module: str, check: Check) -> None:
    status, said = check(module, tmp_path / "nowhere.yaml")
    assert status == 78
    assert str(tmp_path / "nowhere.yaml") in said


def test_the_environment_overrides_and_its_mistakes_are_named(tmp_path: Path, check: Check) -> None:
    path = write_config(tmp_path / "pixel.yaml", merged(VALID["tracker.pixel"], {"http": {"port": "eighty"}}))
    assert check("tracker.pixel", path, {"TRACKER_HTTP__PORT": "9000"}) == (0, "")
    status, said = check("tracker.pixel", path, {"TRACKER_HTTP__PORT": "ninety"})
    assert status == 78
    assert "TRACKER_HTTP__PORT" in said
    assert "http.port" in said


@pytest.mark.parametrize("module", MODULES)
def test_a_usage_error_is_two(module: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match=r"^2$"):
        MAINS[module](["--no-such-option"])
    assert "usage" in capsys.readouterr().err.lower()


def test_a_second_service_on_one_log_or_outbox_waits_until_the_first_has_ended_or_for_a_time_or_for_a_stop_request(
    stack: FakeStack,
) -> None:
    for start, held in ((stack.start_storage, stack.log_path), (stack.start_pixel, stack.outbox)):
        first, patient, stopped = start(), start(ready=False), start(ready=False)
        stopped.wait_alive(partial(stopped.logged, "start_delayed"), "waiting")
        stopped.stop()
        assert patient.wait() == 1  # a status at which a supervisor starts it again
        assert patient.logged("start_delayed", str(held), str(first.pid))
        assert patient.logged("service_failed", str(held), str(first.pid))
        assert patient.family() == {}
        for service in (patient, stopped):
            assert "Traceback" not in service.output
        assert first.is_ready()
        second = start(ready=False)
        second.wait_alive(partial(second.logged, "start_delayed"), "waiting")
        first.stop()
        second.wait_ready()
        second.stop()


def taken_addresses(stack: FakeStack, address: Config) -> dict[str, Service]:
    """Services that have just been started, by the key whose address somebody else has."""
    return {
        "http.port": stack.start_pixel({"http": address, "outbox": {"dir": str(stack.home / "a")}}, ready=False),
        "admin.port": stack.start_pixel({"admin": address, "outbox": {"dir": str(stack.home / "b")}}, ready=False),
        "storage's admin.port": stack.start_storage({"admin": address}, ready=False),
    }


def test_an_address_in_use_is_waited_for_and_then_ends_the_service_so_that_it_is_started_again(
    stack: FakeStack,
) -> None:
    with socket.create_server((LOOPBACK, free_port())) as taken:
        host, port = "*", taken.getsockname()[1]
        services = taken_addresses(stack, {"host": host, "port": port})
        for key, service in services.items():
            assert service.wait() == 1
            [waiting] = service.logged("start_delayed")
            [ended] = service.logged("service_failed error=")
            for line in (waiting, ended):
                assert f"error={key.rpartition(' ')[2]}: expected a free port" in line
                assert f"cannot listen on {host}:{port}: Address already in use" in line
            assert "Traceback" not in service.output
            assert service.family() == {}


def test_a_service_goes_on_once_the_address_it_waits_for_is_free(stack: FakeStack) -> None:
    with socket.create_server((LOOPBACK, free_port())) as taken:
        pixel = stack.start_pixel({"http": {"port": taken.getsockname()[1]}}, ready=False)
        pixel.wait_alive(lambda: pixel.logged("start_delayed"), "waits")
    pixel.wait_ready()
    with socket.create_server((LOOPBACK, free_port())) as taken:
        storage = stack.start_storage({"admin": {"port": taken.getsockname()[1]}}, ready=False)
        storage.wait_alive(lambda: storage.logged("start_delayed"), "waits")
    storage.wait_ready()
    assert get(pixel.port).is_gif
    stack.wait_lines(1)
    pixel.stop()
    storage.stop()


def test_an_outbox_at_a_wrong_path_is_a_configuration_error(stack: FakeStack) -> None:
    (stack.home / "file").write_text("no directory")
    pixel = stack.start_pixel({"outbox": {"dir": str(stack.home / "file" / "outbox")}}, ready=False)
    assert pixel.wait() == 78
    assert str(stack.home / "file") in pixel.output
    assert "Traceback" not in pixel.output


def test_a_queue_that_loses_good_visits_is_warned_about(stack: FakeStack) -> None:
    """`tests/storage/test_stages.py` has the other queues."""
    name = f"{stack.queue}-poor"
    stack.aws.create_queue(name)
    poor = stack.start_storage({"sqs": {"queue": name}})
    poor.wait_alive(lambda: poor.logged("dead-letter"), "a warning")
    poor.stop()


def test_aiohttp_without_its_c_parser_is_refused(tmp_path: Path) -> None:
    config = merged(VALID["tracker.pixel"], {"http": {"port": free_port()}, "admin": {"port": free_port()}})
    path = write_config(tmp_path / "good.yaml", config)
    done = run("tracker.pixel", "--config", str(path), home=tmp_path, env={"AIOHTTP_NO_EXTENSIONS": "1"})
    assert done.returncode == 78, done.stderr
    assert "C parser" in done.stderr


@pytest.mark.parametrize("section", ["http", "admin"])
def test_an_address_of_another_host_names_file_and_key(tmp_path: Path, section: str) -> None:
    free = {"http": {"port": free_port()}, "admin": {"port": free_port()}, "outbox": {"dir": str(tmp_path / "outbox")}}
    config = merged(merged(VALID["tracker.pixel"], free), {section: {"host": "192.0.2.1"}})
    path = write_config(tmp_path / "elsewhere.yaml", config)
    done = run("tracker.pixel", "--config", str(path), home=tmp_path)
    assert done.returncode == 78, done.stderr
    assert f'{path}: {section}.host: expected "*", an address or a name of this host, cannot listen on ' in done.stderr
