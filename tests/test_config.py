"""The configuration: what may be left out, what overrides what, and the one line an operator gets for each mistake."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tracker.config import PixelConfig, Rotate, StorageConfig, load_pixel, load_storage
from tracker.errors import ConfigurationError

ARN = "arn:aws:sns:us-east-1:000000000000:tracking"
SNS = f'sns: {{topic_arn: "{ARN}"}}\n'
SQS = "sqs: {queue: visits}\n"

Load = Callable[..., PixelConfig | StorageConfig]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "tracker.yaml"


def complaint(load: Load, file: Path, text: str, environ: dict[str, str] | None = None) -> str:
    file.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigurationError) as raised:
        load(file, environ or {})
    assert "\n" not in str(raised.value)
    return str(raised.value)


def pixel(file: Path, text: str = SNS, **environ: str) -> PixelConfig:
    file.write_text(text, encoding="utf-8")
    return load_pixel(file, environ)


def test_all_but_the_topic_has_a_default(file: Path) -> None:
    config = pixel(file)
    assert config.sns.topic_arn == ARN
    assert (config.http.host, config.http.port, config.http.path, config.workers) == ("0.0.0.0", 8080, "/track", 1)
    assert (config.sns.linger, config.sns.format, config.shutdown.timeout) == (0.2, "packed", 25.0)
    assert (config.outbox.max_bytes, config.outbox.segment_bytes) == (1 << 30, 1 << 24)


def test_all_but_the_queue_has_a_default(file: Path) -> None:
    file.write_text(SQS)
    config = load_storage(file, {})
    assert config.sqs.queue == "visits"
    assert (config.sqs.receivers, config.sqs.wait_time, config.sqs.visibility_timeout) == (2, 10, 120)
    assert (config.log.path, config.log.mode, config.admin.port) == ("var/visits.log", "0640", 8082)


def test_a_section_with_all_its_keys_commented_out_is_one_of_defaults(file: Path) -> None:
    assert pixel(file, SNS + "http:\n  # port: 80\n") == pixel(file)


@pytest.mark.parametrize("name", ["pixel", "storage"])
def test_the_files_that_come_with_the_project_are_right(name: str) -> None:
    path = Path(__file__).parent.parent / "config" / f"{name}.yaml"
    (load_pixel if name == "pixel" else load_storage)(path, {})


PIXEL_MISTAKES = {
    "nothing at all": ("", "sns.topic_arn: expected a value, it is required"),
    "no sns": ("workers: 2", "sns.topic_arn: expected a value, it is required"),
    "empty sns": ("sns:", "sns.topic_arn: expected a value, it is required"),
    "sns without a topic": ("sns: {linger: 1}", "sns.topic_arn: expected a value, it is required"),
    "section of another kind": ("sns: 3", "sns: expected object, got int"),
    "unknown section": (SNS + "htpp: {}", "htpp: unknown key"),
    "section of the other service": (SNS + SQS, "sqs: unknown key"),
    "unknown key": (SNS + "http: {prot: 1}", "http.prot: unknown key"),
    "text for a number": (SNS + 'http: {port: "80"}', "http.port: expected int, got str"),
    "yes for a number": (SNS + "http: {port: yes}", "http.port: expected int, got bool"),
    "number for text": (SNS + "http: {host: 1}", "http.host: expected str, got int"),
    "null": (SNS + "http: {port: null}", "http.port: expected int, got null"),
    "port too small": (SNS + "http: {port: 0}", "http.port: expected int >= 1"),
    "port too large": (SNS + "http: {port: 65536}", "http.port: expected int <= 65535"),
    "nan": (SNS + "shutdown: {timeout: .nan}", "shutdown.timeout: expected float > 0.0"),
    "infinity": (SNS + "shutdown: {timeout: .inf}", "shutdown.timeout: expected float <= 86400.0"),
    "relative path": (SNS + "http: {path: track}", "http.path: expected str matching regex '^/[A-Za-z0-9._~/-]*$'"),
    "no workers": (SNS + "workers: 0", "workers: expected int >= 1"),
    "workers by another word": (SNS + "workers: many", "workers: expected auto or a number, got 'many'"),
    "unknown word": (SNS + "privacy: {ip: half}", "privacy.ip: expected full or truncated, got 'half'"),
    "unknown word in a list": (SNS + "privacy: {honor: [gpc, x]}", "privacy.honor[1]: expected dnt or gpc, got 'x'"),
    "no list": (SNS + "privacy: {honor: gpc}", "privacy.honor: expected array, got str"),
    "host bits": (
        SNS + "http: {trusted_proxies: [10.0.0.0/8, 10.0.0.1/8]}",
        "http.trusted_proxies[1]: expected an IP address or a network in CIDR form (10.0.0.1/8 has host bits set)",
    ),
    "no address": (
        SNS + "http: {trusted_proxies: [proxy]}",
        "http.trusted_proxies[0]: expected an IP address or a network in CIDR form "
        "('proxy' does not appear to be an IPv4 or IPv6 network)",
    ),
    "a key that YAML reads as true": (SNS + "http: {on: 1}", "http: every key must be text"),
    "a number as a section": (SNS + "1: 2", "every key must be text"),
    "a list": ("- 1", "expected a mapping of sections, got list"),
    "text": ("sns", "expected a mapping of sections, got str"),
    "a key twice": (SNS + "http:\n  port: 1\n  port: 2", "line 4 expected YAML: the key 'port' stands twice"),
    "a section twice": (SNS + SNS, "line 2 expected YAML: the key 'sns' stands twice"),
    "no YAML": (SNS + "\nhttp: {port: }}", "line 3 expected YAML: expected <block end>, but found '}'"),
    "an alias to nothing": (SNS + "http: *x", "line 2 expected YAML: found undefined alias 'x'"),
}


@pytest.mark.parametrize(("text", "expected"), PIXEL_MISTAKES.values(), ids=PIXEL_MISTAKES.keys())
def test_a_mistake_in_the_pixel_file(file: Path, text: str, expected: str) -> None:
    assert complaint(load_pixel, file, text) == f"{file}: {expected}"


def test_a_date_that_is_none_is_a_mistake(file: Path) -> None:
    # Python 3.14 also says which month was there.
    said = complaint(load_pixel, file, "workers: 2020-99-99")
    assert said.startswith(f"{file}: expected YAML: month must be in 1..12")


@pytest.mark.parametrize(
    "arn", ["tracking", "arn:aws:sqs:us-east-1:000000000000:tracking", ARN + ".fifo", ARN + ":sub"]
)
def test_a_topic_that_is_no_arn_of_a_topic(file: Path, arn: str) -> None:
    assert complaint(load_pixel, file, f'sns: {{topic_arn: "{arn}"}}').startswith(
        f"{file}: sns.topic_arn: expected str matching regex"
    )


STORAGE_MISTAKES = {
    "nothing at all": ("", "sqs.queue: expected a value, it is required"),
    "no queue": ("sqs: {receivers: 1}", "sqs.queue: expected a value, it is required"),
    "empty queue": ('sqs: {queue: ""}', "sqs.queue: expected str of length >= 1"),
    "longer than SQS waits": ("sqs: {queue: v, wait_time: 21}", "sqs.wait_time: expected int <= 20"),
    "mode as YAML's octal number": (SQS + "log: {mode: 0640}", "log.mode: expected str, got int"),
    "no mode": (SQS + 'log: {mode: "0999"}', "log.mode: expected str matching regex '^0?[0-7]{3}$'"),
    "unknown key, deep": (SQS + "log: {rotate: {size: 1}}", "log.rotate.size: unknown key"),
    "rotation by size": (
        SQS + "log: {rotate: {max_bytes: 0}}",
        "log.rotate.max_bytes: expected int >= 1",
    ),
    "rotation by another time": (
        SQS + "log: {rotate: {every: year}}",
        "log.rotate.every: expected day or hour, got 'year'",
    ),
    "compression": (
        SQS + "log: {rotate: {compress: bzip2}}",
        "log.rotate.compress: expected gzip or none, got 'bzip2'",
    ),
}


@pytest.mark.parametrize(("text", "expected"), STORAGE_MISTAKES.values(), ids=STORAGE_MISTAKES.keys())
def test_a_mistake_in_the_storage_file(file: Path, text: str, expected: str) -> None:
    assert complaint(load_storage, file, text) == f"{file}: {expected}"


def test_rotation_is_by_size_by_time_or_not_at_all(file: Path) -> None:
    file.write_text(SQS + "log: {rotate: {max_bytes: null, every: null, compress: none}}")
    assert load_storage(file, {}).log.rotate == Rotate()
    file.write_text(SQS + "log: {rotate: {max_bytes: 1000000, every: day, compress: gzip}}")
    assert load_storage(file, {}).log.rotate == Rotate(max_bytes=1_000_000, every="day", compress="gzip")


def test_a_file_that_is_not_there(file: Path) -> None:
    with pytest.raises(ConfigurationError) as raised:
        load_pixel(file, {})
    assert str(raised.value) == f"{file}: cannot be read: No such file or directory"


def test_a_file_that_is_a_directory(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError) as raised:
        load_pixel(tmp_path, {})
    assert str(raised.value) == f"{tmp_path}: cannot be read: Is a directory"


def test_a_file_that_is_not_utf_8(file: Path) -> None:
    file.write_bytes(b"http: {host: \xe9}")
    with pytest.raises(ConfigurationError) as raised:
        load_pixel(file, {})
    assert str(raised.value) == f"{file}: expected UTF-8 text"


def test_control_characters_are_told_in_one_line(file: Path) -> None:
    assert complaint(load_pixel, file, SNS + "\x1b[2J").startswith(f"{file}: expected YAML: unacceptable character")


def test_the_environment_overrides_the_file(file: Path) -> None:
    config = pixel(
        file,
        SNS + "http: {port: 80, host: 127.0.0.1}\nprivacy:\n",
        TRACKER_HTTP__PORT="9000",
        TRACKER_WORKERS="4",
        TRACKER_PRIVACY__HONOR="[gpc]",
        TRACKER_SNS__REGION="eu-central-1",
        TRACKER_SHUTDOWN__DRAIN_DELAY="5",
    )
    assert (config.http.port, config.http.host, config.workers) == (9000, "127.0.0.1", 4)
    assert config.privacy.honor == ["gpc"]
    assert (config.sns.topic_arn, config.sns.region) == (ARN, "eu-central-1")
    assert config.shutdown.drain_delay == 5


def test_the_environment_alone_will_do(file: Path) -> None:
    assert pixel(file, "", TRACKER_SNS__TOPIC_ARN=ARN).sns.topic_arn == ARN


def test_the_environment_reaches_a_section_in_a_section(file: Path) -> None:
    file.write_text(SQS)
    assert load_storage(file, {"TRACKER_LOG__ROTATE__COMPRESS": "none"}).log.rotate.compress == "none"


def test_an_override_of_one_section_leaves_its_yaml_alias_alone(file: Path) -> None:
    config = pixel(file, SNS + "http: &listener {port: 1}\nadmin: *listener", TRACKER_HTTP__PORT="5")
    assert (config.http.port, config.admin.port) == (5, 1)


def test_names_that_are_not_ours_are_left_alone(file: Path) -> None:
    environ = {"TRACKER_HOME": "/", "TRACKER_REQUIRE_TOOLS": "1", "OTHER_HTTP__PORT": "x", "tracker_http__port": "x"}
    assert pixel(file, **environ) == pixel(file)


def test_sections_of_the_other_service_are_left_alone(file: Path) -> None:
    assert pixel(file, TRACKER_SQS__QUEUE="[", TRACKER_LOG__PATH="1") == pixel(file)
    file.write_text(SQS)
    assert load_storage(file, {"TRACKER_HTTP__PORT": "x", "TRACKER_WORKERS": "x"}) == load_storage(file, {})


ENVIRONMENT_MISTAKES = {
    "wrong type": ("TRACKER_HTTP__PORT", "x", "http.port: expected int, got str"),
    "out of range": ("TRACKER_WORKERS", "0", "workers: expected int >= 1"),
    "empty": ("TRACKER_HTTP__PORT", "", "http.port: expected int, got null"),
    "wrong in a list": ("TRACKER_PRIVACY__HONOR", "[x]", "privacy.honor[0]: expected dnt or gpc, got 'x'"),
    "host bits": (
        "TRACKER_HTTP__TRUSTED_PROXIES",
        "[10.0.0.1/8]",
        "http.trusted_proxies[0]: expected an IP address or a network in CIDR form (10.0.0.1/8 has host bits set)",
    ),
    "no YAML": ("TRACKER_PRIVACY__HONOR", "[", "line 1 expected YAML: expected the node content, but found "),
    "unknown key": ("TRACKER_HTTP__PROT", "1", "http.prot: unknown key"),
    "unknown section": ("TRACKER_HTPP__PORT", "1", "htpp: unknown key"),
    "a key below a value": ("TRACKER_ADMIN__PORT__X", "1", "admin.port.x: port is no mapping"),
    "a key below a default": ("TRACKER_HTTP__PORT__X", "1", "http.port: expected int, got object"),
}


@pytest.mark.parametrize(("name", "value", "expected"), ENVIRONMENT_MISTAKES.values(), ids=ENVIRONMENT_MISTAKES.keys())
def test_a_mistake_in_the_environment_names_the_variable(file: Path, name: str, value: str, expected: str) -> None:
    said = complaint(load_pixel, file, SNS + "admin: {port: 8081}", {"TRACKER_HTTP__HOST": "127.0.0.1", name: value})
    assert said.startswith(f"environment {name}: {expected}")


def test_a_mistake_in_the_file_is_not_blamed_on_the_environment(file: Path) -> None:
    said = complaint(load_pixel, file, SNS + "http: {port: x}", {"TRACKER_HTTP__HOST": "127.0.0.1"})
    assert said == f"{file}: http.port: expected int, got str"
    said = complaint(load_pixel, file, "", {"TRACKER_SNS__REGION": "eu-central-1"})
    assert said == f"{file}: sns.topic_arn: expected a value, it is required"
