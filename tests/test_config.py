"""The configuration: what may be left out, what overrides what, and the one line an operator gets for each mistake."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tracker.config import PixelConfig, Rotate, StorageConfig, load_pixel, load_storage
from tracker.config_reader import MAX_MISTAKES
from tracker.errors import ConfigurationError
from tracker.strict_yaml import MAX_FILE_BYTES

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
    assert (config.http.host, config.http.port, config.http.path, config.workers) == ("*", 8080, "/track", 1)
    assert (config.sns.linger, config.sns.format, config.shutdown.timeout) == (0.2, "packed", 25.0)
    assert (config.outbox.max_bytes, config.outbox.segment_bytes) == (1 << 30, 1 << 24)


def test_all_but_the_queue_has_a_default(file: Path) -> None:
    file.write_text(SQS)
    config = load_storage(file, {})
    assert config.sqs.queue == "visits"
    assert (config.sqs.receivers, config.sqs.wait_time, config.sqs.visibility_timeout) == (2, 10, 30)
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
    "section of another kind": ("sns: 3", "sns: expected a mapping of keys, got int"),
    "unknown section": (SNS + "htpp: {}", "htpp: unknown key"),
    "section of the other service": (SNS + SQS, "sqs: unknown key"),
    "unknown key": (SNS + "http: {prot: 1}", "http.prot: unknown key"),
    "text for a number": (SNS + 'http: {port: "80"}', "http.port: expected int, got str"),
    "true for a number": (SNS + "http: {port: true}", "http.port: expected int, got bool"),
    "number for text": (
        SNS + "http: {host: 1}",
        'http.host: expected "*", an IP address or a host name, got int; put the value into quotes',
    ),
    "number for text that may be null": (
        SNS.replace("}", ", region: 1}"),
        "sns.region: expected text of at least one character, without control characters, got int; "
        "put the value into quotes",
    ),
    "number in a list of text": (
        SNS + "http: {trusted_proxies: [10.0.0.0/8, 1]}",
        "http.trusted_proxies[1]: expected str, got int; put the value into quotes",
    ),
    "list for text": (
        SNS + "http: {host: []}",
        'http.host: expected "*", an IP address or a host name, got array; put the value into quotes',
    ),
    "IPv6 for every address without quotes": (
        SNS + "http:\n  host: ::",
        "line 3: expected YAML: mapping values are not allowed here; "
        'a value that begins with * : % @ or `, or ends with a colon, needs quotes, as in "*" or "::1"',
    ),
    "whole number with a fraction": (SNS + "http: {port: 8080.0}", "http.port: expected int, got float"),
    "whole number with an exponent": (SNS + "workers: 1e1", "workers: expected auto or a number, got float"),
    "dotted key": (SNS + "http.port: 1", "http.port: unknown key; a section is a mapping of its keys"),
    "null": (SNS + "http: {port: null}", "http.port: expected int, got null"),
    "port too small": (SNS + "http: {port: 0}", "http.port: expected int >= 1"),
    "port too large": (SNS + "http: {port: 65536}", "http.port: expected int <= 65535"),
    "nan": (SNS + "shutdown: {timeout: .nan}", "shutdown.timeout: expected float > 0.0"),
    "infinity": (SNS + "shutdown: {timeout: .inf}", "shutdown.timeout: expected float <= 86400.0"),
    "relative path": (
        SNS + "http: {path: track}",
        "http.path: expected a path such as /track, of letters, digits and . _ ~ / -",
    ),
    "a boolean that is none": (
        SNS + "http: {port: !!bool x}",
        "expected YAML: a value does not have its tag's form: 'x'",
    ),
    "a number without digits": (
        SNS + 'http: {port: !!int ""}',
        "expected YAML: a value does not have its tag's form: string index out of range",
    ),
    "more bytes than a file can have": (
        SNS + "outbox: {max_bytes: 9223372036854775808}",
        "outbox.max_bytes: expected int <= 9223372036854775807",
    ),
    "no workers": (SNS + "workers: 0", "workers: expected int >= 1"),
    "workers by another word": (SNS + "workers: many", "workers: expected auto or a number, got 'many'"),
    "unknown word": (SNS + "privacy: {ip: half}", "privacy.ip: expected full or truncated, got 'half'"),
    "unknown word for the referrer": (
        SNS + "privacy: {referrer: none}",
        "privacy.referrer: expected full or no_query or origin, got 'none'",
    ),
    "a parameter that forms would encode": (
        SNS + 'http: {page_parameter: "a b"}',
        "http.page_parameter: expected the name of a parameter: at most 64 letters, digits and . _ ~ -",
    ),
    "a parameter without a name": (
        SNS + 'http: {page_parameter: ""}',
        "http.page_parameter: expected the name of a parameter: at most 64 letters, digits and . _ ~ -",
    ),
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
    "a key that YAML 1.1 reads as true": (SNS + "http: {on: 1}", "http.on: unknown key"),
    "a key that is true": (SNS + "http: {true: 1}", "http: every key must be text"),
    "a key that is a list": (SNS + "http: {[a]: 1}", "line 2: expected YAML: found unhashable key"),
    "a merge key": (SNS + "admin: &x {port: 1}\nhttp: {<<: *x}", "http.<<: unknown key"),
    "a number as a section": (SNS + "1: 2", "every key must be text"),
    "a list": ("- 1", "expected a mapping of sections, got list"),
    "text": ("sns", "expected a mapping of sections, got str"),
    "a key twice": (SNS + "http:\n  port: 1\n  port: 2", "line 4: expected YAML: the key 'port' is given twice"),
    "a section twice": (SNS + SNS, "line 2: expected YAML: the key 'sns' is given twice"),
    "no YAML": (SNS + "\nhttp: {port: }}", "line 3: expected YAML: expected <block end>, but found '}'"),
    "an alias to nothing": (SNS + "http: *x", "line 2: expected YAML: found undefined alias 'x'"),
    "a date": (SNS + "workers: 2020-12-31", "workers: expected auto or a number, got '2020-12-31'"),
    "a number of YAML 1.1 to the base 60": (SNS + "http: {port: 22:22}", "http.port: expected int, got str"),
    "a number of YAML 1.1 with underscores": (SNS + "http: {port: 8_080}", "http.port: expected int, got str"),
    "a number of YAML 1.1 to the base 8": (SNS + "http: {port: 010}", "http.port: expected int, got str"),
    "a number to the base 16": (SNS + "http: {port: 0x1F90}", "http.port: expected int, got str"),
    "IPv6 in a list without quotes": (
        SNS + "http: {trusted_proxies: [10.0.0.0/8, ::1]}",
        "line 2: expected YAML: expected the node content, but found ':'; "
        'a value that begins with * : % @ or `, or ends with a colon, needs quotes, as in "*" or "::1"',
    ),
    "every address without quotes": (
        SNS + "http:\n  host: *\n",
        "line 3: expected YAML: expected alphabetic or numeric character, but found '\\n'; "
        'a value that begins with * : % @ or `, or ends with a colon, needs quotes, as in "*" or "::1"',
    ),
    "a tab before a key": (
        SNS + "http:\n\tport: 1",
        "line 3: expected YAML: found character '\\t' that cannot start any token",
    ),
}


@pytest.mark.parametrize(("text", "expected"), PIXEL_MISTAKES.values(), ids=PIXEL_MISTAKES.keys())
def test_a_mistake_in_the_pixel_file(file: Path, text: str, expected: str) -> None:
    assert complaint(load_pixel, file, text) == f"{file}: {expected}"


@pytest.mark.parametrize(
    "arn", ["tracking", "arn:aws:sqs:us-east-1:000000000000:tracking", ARN + ".fifo", ARN + ":sub"]
)
def test_a_topic_that_is_no_arn_of_a_topic(file: Path, arn: str) -> None:
    assert complaint(load_pixel, file, f'sns: {{topic_arn: "{arn}"}}').startswith(
        f"{file}: sns.topic_arn: expected the ARN of an SNS topic that is no FIFO topic"
    )


STORAGE_MISTAKES = {
    "nothing at all": ("", "sqs.queue: expected a value, it is required"),
    "no queue": ("sqs: {receivers: 1}", "sqs.queue: expected a value, it is required"),
    "empty queue": (
        'sqs: {queue: ""}',
        "sqs.queue: expected text of at least one character, without control characters",
    ),
    "longer than SQS waits": ("sqs: {queue: v, wait_time: 21}", "sqs.wait_time: expected int <= 20"),
    "mode as a number": (
        SQS + "log: {mode: 640}",
        'log.mode: expected permissions as octal digits in quotes, such as "0640", got int; put the value into quotes',
    ),
    "no mode": (
        SQS + 'log: {mode: "0999"}',
        'log.mode: expected permissions as octal digits in quotes, such as "0640"',
    ),
    "no, without quotes": (SQS + "log: {rotate: {every: no}}", "log.rotate.every: expected day or hour, got 'no'"),
    "false for a word": (
        SQS + "log: {rotate: {every: false}}",
        "log.rotate.every: expected day or hour, got bool; put the value into quotes",
    ),
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


UNITS: list[tuple[str, float]] = [
    *(("1B", 1), ("100MB", 100 * 10**6), ("100 MB", 100 * 10**6), ("1kB", 1000), ("1KB", 1000), ("2TB", 2 * 10**12)),
    *(("1GiB", 1 << 30), ("1gib", 1 << 30), ("1.5GiB", 3 << 29), (".5KiB", 512), ("3.KiB", 3072), ("1TiB", 1 << 40)),
    ("0.001kB", 1),
]


@pytest.mark.parametrize(("text", "count"), UNITS)
def test_a_size_may_have_a_unit(file: Path, text: str, count: int) -> None:
    assert pixel(file, SNS + f"outbox: {{max_bytes: {text}}}").outbox.max_bytes == count
    assert pixel(file, SNS, TRACKER_OUTBOX__SEGMENT_BYTES=text).outbox.segment_bytes == count
    file.write_text(SQS)
    assert load_storage(file, {"TRACKER_LOG__ROTATE__MAX_BYTES": text}).log.rotate.max_bytes == count


@pytest.mark.parametrize(
    ("text", "seconds"), [("500ms", 0.5), ("30s", 30), ("5m", 300), ("1h", 3600), ("0.5d", 43_200), ("1 h", 3600)]
)
def test_a_duration_may_have_a_unit(file: Path, text: str, seconds: float) -> None:
    config = pixel(file, SNS + f"http: {{keepalive_timeout: {text}}}\nshutdown: {{timeout: {text}}}")
    assert (config.http.keepalive_timeout, config.shutdown.timeout) == (seconds, seconds)
    assert pixel(file, SNS, TRACKER_SHUTDOWN__DRAIN_DELAY=text).shutdown.drain_delay == seconds


def test_whole_seconds_may_have_a_unit_too(file: Path) -> None:
    file.write_text("sqs: {queue: visits, wait_time: 2000ms, visibility_timeout: 0.5m}\nshutdown: {timeout: 1m}")
    config = load_storage(file, {})
    assert (config.sqs.wait_time, config.sqs.visibility_timeout, config.shutdown.timeout) == (2, 30, 60)
    assert isinstance(config.sqs.wait_time, int)


A_SIZE = "expected a number of bytes, or one with a unit (B, kB, MB, GB, TB, KiB, MiB, GiB, TiB) such as 100MB or 1GiB"
A_DURATION = "expected a number of seconds, or one with a unit (ms, s, m, h, d) such as 30s or 7d"


@pytest.mark.parametrize(
    "bad", ["100M", "1G", "1 GiBs", "-1MB", "MB", "1e3kB", "1,5GB", "100mbit", "1  MB", "٣MB", "1_0B"]
)
def test_a_size_in_no_known_form_is_named_with_what_was_expected(file: Path, bad: str) -> None:
    said = complaint(load_pixel, file, SNS + f'outbox: {{max_bytes: "{bad}"}}')
    assert said.startswith(f"{file}: outbox.max_bytes: {A_SIZE}, got ")


@pytest.mark.parametrize("bad", ["5M", "7D", "-1s", "s", "1h30m", "5 min", "30", "", "1w", "1s ", "9" * 31 + "s"])
def test_a_duration_in_no_known_form_is_named_with_what_was_expected(file: Path, bad: str) -> None:
    said = complaint(load_pixel, file, SNS, {"TRACKER_SHUTDOWN__TIMEOUT": f'"{bad}"'})
    assert said.startswith(f"environment TRACKER_SHUTDOWN__TIMEOUT: shutdown.timeout: {A_DURATION}, got ")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("sqs: {queue: v, wait_time: 1m}", "sqs.wait_time: expected int <= 20 seconds, got '1m'"),
        ("sqs: {queue: v, wait_time: 1500ms}", "sqs.wait_time: expected a whole number of seconds, got '1500ms'"),
        (SQS + "shutdown: {timeout: 2d}", "shutdown.timeout: expected float <= 86400.0 seconds, got '2d'"),
        (SQS + "shutdown: {timeout: []}", f"shutdown.timeout: {A_DURATION}, got array"),
        (SQS + "shutdown: {timeout: 0s}", "shutdown.timeout: expected float > 0.0 seconds, got '0s'"),
        (SQS + "log: {rotate: {max_bytes: 1.0001kB}}", "log.rotate.max_bytes: expected a whole number of bytes"),
        (SQS + "log: {rotate: {max_bytes: 9TB, keep: 0}}", "log.rotate.keep: expected int >= 1"),
        (SQS + "log: {rotate: {keep: 0d}}", "log.rotate.keep: expected more than no time, got '0d'"),
        (SQS + "log: {rotate: {keep: 1.5}}", "log.rotate.keep: expected a number of files such as 30, or an age"),
        (SQS + 'log: {rotate: {keep: "30"}}', "log.rotate.keep: expected a number of files such as 30, or an age"),
        (SQS + "log: {rotate: {keep: 2 years}}", "log.rotate.keep: expected a number of files such as 30, or an age"),
        (SQS + "archive: {url: https://b/x}", "archive.url: expected the URL of a bucket of S3 and a prefix, s3://"),
        *(
            (
                SQS + f"archive: {{url: 's3://{url}'}}",
                "archive.url: expected the URL of a bucket of S3 and a prefix, s3://",
            )
            for url in (
                *(
                    "B_/x",
                    "a..b/x",
                    "a.-b/x",
                    "192.168.0.1/x",
                    "ab/x",
                    "a" * 64,
                    "-ab/x",
                    "ab-/x",
                    "logs/a b",
                    "logs/ü",
                ),
                *("logs//x", "logs/x//", "logs/../x", "logs/x/..", "logs/./x", "logs/x?y", "logs/" + "a" * 700),
                "arn:aws:s3:eu-west-1:123456789012:accesspoint/my-ap/x",
            )
        ),
        (SQS + "archive: {keep_local: 7d}", "archive.keep_local: expected archive.url too"),
        (SQS + "archive: {url: s3://logs, keep_local: 7 days}", f"archive.keep_local: {A_DURATION}, got '7 days'"),
    ],
)
def test_a_size_or_a_duration_that_does_not_fit_its_key(file: Path, text: str, expected: str) -> None:
    assert complaint(load_storage, file, text).startswith(f"{file}: {expected}")


def test_closed_logs_are_kept_by_number_or_by_age_and_an_archive_has_a_url(file: Path) -> None:
    file.write_text(SQS + "log: {rotate: {keep: 30}}\narchive: {url: s3://my.logs/visits/2026, keep_local: 7d}")
    config = load_storage(file, {})
    assert (config.log.rotate.keep, config.log.rotate.keep_seconds) == (30, None)
    assert (config.archive.url, config.archive.keep_local) == ("s3://my.logs/visits/2026", 7 * 86_400)
    assert load_storage(file, {"TRACKER_LOG__ROTATE__KEEP": "1.5d"}).log.rotate.keep_seconds == 1.5 * 86_400


def test_a_file_that_is_not_there(file: Path) -> None:
    with pytest.raises(ConfigurationError) as raised:
        load_pixel(file, {})
    assert str(raised.value) == f"{file}: cannot be read: No such file or directory"


def test_a_file_that_is_not_utf_8(file: Path) -> None:
    file.write_bytes(b"http: {host: \xe9}")
    with pytest.raises(ConfigurationError) as raised:
        load_pixel(file, {})
    assert str(raised.value) == f"{file}: expected UTF-8 text"


def test_a_file_that_is_a_directory_a_device_or_a_pipe_without_a_writer_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path, why in (
        (tmp_path, "Is a directory"),
        (tmp_path / "pipe", "expected a file, got something else"),
        (Path("/dev/zero"), "expected a file, got something else"),
        (Path("/dev/null"), "expected a file, got something else"),
    ):
        with pytest.raises(ConfigurationError) as raised:
            load_pixel(path, {})
        assert str(raised.value) == f"{path}: cannot be read: {why}"


def test_a_file_is_read_up_to_its_bound(file: Path) -> None:
    comment = "#" * 78 + "\n"
    text = SNS + comment * ((MAX_FILE_BYTES - len(SNS)) // len(comment))
    assert pixel(file, text) == pixel(file)
    assert complaint(load_pixel, file, text + comment) == f"{file}: expected at most 1048576 bytes"


def test_a_file_may_begin_with_a_byte_order_mark(file: Path) -> None:
    assert pixel(file, "\ufeff" + SNS) == pixel(file)


BOMB = "a: &a [x]\n" + "".join(f"b{n}: &{chr(98 + n)} [{','.join([f'*{chr(97 + n)}'] * 9)}]\n" for n in range(20))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[" * 1_000, "expected YAML that is not nested so deeply"),
        ("{a: " * 5_000, "expected YAML that is not nested so deeply"),
        (SNS + "workers: " + "[" * 1_000 + "]" * 1_000, "expected YAML that is not nested so deeply"),
        (SNS + "http: {port: " + "[" * 100 + "]" * 100 + "}", "http.port: expected int, got array"),
        (SNS + BOMB, "a: unknown key"),
        (SNS + BOMB + "http: {trusted_proxies: *t}", "a: unknown key"),
        (SNS + "http: &x {port: *x}", "http.port: expected int, got object"),
        (SNS + "http: {trusted_proxies: &x [*x]}", "http.trusted_proxies[0]: expected str, got array"),
        (SNS + "http: {port: " + "9" * 5_000 + "}", "expected YAML: Exceeds the limit"),
    ],
    ids=["list", "mapping", "value", "shallow", "aliases", "aliases in a value", "itself", "list in itself", "digits"],
)
def test_yaml_made_to_exhaust_the_reader_is_a_mistake_like_others(file: Path, text: str, expected: str) -> None:
    file.write_text(text)
    with pytest.raises(ConfigurationError) as raised:
        load_pixel(file, {})
    first = str(raised.value).splitlines()[0]
    assert first.startswith(f"{file}: {expected}")
    assert len(str(raised.value)) < 10_000
    with pytest.raises(ConfigurationError):
        load_pixel(file, {"TRACKER_PRIVACY__HONOR": text.removeprefix(SNS)})


def test_merged_mappings_are_not_expanded(file: Path) -> None:
    levels = "".join(f"m{n}: &m{n} {{!!merge <<: [{', '.join([f'*m{n - 1}'] * 9)}]}}\n" for n in range(1, 30))
    assert "merge" in complaint(load_pixel, file, f"m0: &m0 {{x: 1}}\n{levels}")


def test_many_keys_are_compared_in_little_time(file: Path) -> None:
    file.write_text("".join(f"k{n}:\n" for n in range(5_000)))
    with pytest.raises(ConfigurationError) as raised:
        load_pixel(file, {})
    lines = str(raised.value).splitlines()
    assert lines[0] == f"{file}: k0: unknown key"
    assert len(lines) == MAX_MISTAKES + 1
    assert lines[-1].startswith(f"{file}: and 4,981 more mistakes")


def test_control_characters_are_told_in_one_line(file: Path) -> None:
    assert complaint(load_pixel, file, SNS + "\x1b[2J").startswith(f"{file}: expected YAML: unacceptable character")


CONTROL = ["\\0", "\\x1b[2J", "\\n", "\\r", "\\x7f", "\\x85", "\\u2028"]


@pytest.mark.parametrize("control", CONTROL)
@pytest.mark.parametrize(
    ("load", "text", "key"),
    [
        (load_pixel, SNS + 'http: {host: "localhost%s"}', "http.host"),
        (load_pixel, SNS + 'http: {path: "/track%s"}', "http.path"),
        (load_pixel, SNS + 'http: {page_parameter: "page%s"}', "http.page_parameter"),
        (load_pixel, SNS + 'http: {client_ip_header: "X-Real-IP%s"}', "http.client_ip_header"),
        (load_pixel, SNS + 'http: {trusted_proxies: ["10.0.0.1%s"]}', "http.trusted_proxies[0]"),
        (load_pixel, SNS + 'http: {trusted_proxies: ["::/64%s"]}', "http.trusted_proxies[0]"),
        (load_pixel, SNS + 'admin: {host: "127.0.0.1%s"}', "admin.host"),
        (load_pixel, SNS + 'outbox: {dir: "var%s"}', "outbox.dir"),
        (load_pixel, f'sns: {{topic_arn: "{ARN}%s"}}', "sns.topic_arn"),
        (load_pixel, SNS.replace("}", ', region: "us-east-1%s"}'), "sns.region"),
        (load_pixel, SNS.replace("}", ', endpoint_url: "http://127.0.0.1/%s"}'), "sns.endpoint_url"),
        (load_pixel, SNS.replace("}", ', endpoint_url: "http://127.0.0.1:1%s"}'), "sns.endpoint_url"),
        (load_pixel, SNS.replace("}", ', format: "packed%s"}'), "sns.format"),
        (load_storage, 'sqs: {queue: "visits%s"}', "sqs.queue"),
        (load_storage, SQS + 'log: {path: "visits.log%s"}', "log.path"),
        (load_storage, SQS + 'log: {mode: "0640%s"}', "log.mode"),
    ],
)
def test_no_text_holds_a_control_character_and_no_message_shows_one(
    file: Path, load: Load, text: str, key: str, control: str
) -> None:
    said = complaint(load, file, text % control)
    assert said.startswith(f"{file}: {key}: expected ")
    assert said.isprintable()


@pytest.mark.parametrize("text", ['outbox: {dir: "\\ud800"}', 'logging: {level: "\\udfff"}', '"\\ud800": 1'])
def test_text_that_cannot_be_encoded_is_refused(file: Path, text: str) -> None:
    assert (
        complaint(load_pixel, file, SNS + text) == f"{file}: line 2: expected YAML: text with half of a surrogate pair"
    )


def test_a_key_that_moves_the_cursor_is_shown_escaped(file: Path) -> None:
    assert complaint(load_pixel, file, SNS + '"\\x1b[2J\\nadmin": 1') == rf"{file}: \x1b[2J\nadmin: unknown key"


def test_long_values_and_keys_are_cut_in_messages(file: Path) -> None:
    for text in (f"workers: {'x' * 90_000}", f"{'x' * 1_000}: 1", f"http: {{trusted_proxies: [{'x' * 90_000}]}}"):
        assert len(complaint(load_pixel, file, SNS + text)) < len(str(file)) + 500


def test_plain_scalars_are_read_as_yaml_1_2_does(file: Path) -> None:
    file.write_text(SQS + "log: {mode: 0640, path: no}\nshutdown: {timeout: 1e1}")
    config = load_storage(file, {})
    assert (config.log.mode, config.log.path, config.shutdown.timeout) == ("0640", "no", 10.0)
    assert pixel(file, SNS + "http: {rate_limit: ~, host: on, keepalive_timeout: .5}").http.rate_limit is None
    file.write_text("sqs: {queue: 2020-01-01, receivers: +3}")
    assert load_storage(file, {}).sqs.queue == "2020-01-01"


def test_all_mistakes_are_told_at_once_each_with_its_source(file: Path) -> None:
    file.write_text("http: {port: 0, prot: 1, trusted_proxies: [x]}\nworkers: many\nsns: {format: zip}\nadmin: 3")
    environ = {"TRACKER_ADMIN__PORT": "x", "TRACKER_LOGGING__LEVEL": "loud", "TRACKER_OUTBOX__DIR": "["}
    with pytest.raises(ConfigurationError) as raised:
        load_pixel(file, environ)
    assert [line.partition(": expected ")[0] for line in str(raised.value).splitlines()] == [
        f"{file}: sns.topic_arn",
        f"{file}: sns.format",
        f"{file}: http.prot: unknown key",
        f"{file}: http.port",
        f"{file}: admin",
        f"{file}: workers",
        "environment TRACKER_OUTBOX__DIR: line 1",
        "environment TRACKER_LOGGING__LEVEL: logging.level",
    ]


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
    "no YAML": ("TRACKER_PRIVACY__HONOR", "[", "line 1: expected YAML: expected the node content, but found "),
    "unknown key": ("TRACKER_HTTP__PROT", "1", "http.prot: unknown key"),
    "unknown section": ("TRACKER_HTPP__PORT", "1", "htpp.port: unknown key"),
    "a key below a value": ("TRACKER_ADMIN__PORT__X", "1", "admin.port.x: unknown key"),
    "a key below a default": ("TRACKER_HTTP__PORT__X", "1", "http.port.x: unknown key"),
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


@pytest.mark.parametrize(
    ("text", "environ", "source", "key"),
    [
        # Both say something of the section or the key; only one of them is wrong.
        ("http: {port: x}", {"TRACKER_HTTP__PORT": "80", "TRACKER_HTTP__HOST": "1"}, "TRACKER_HTTP__HOST", "http.host"),
        ("http: {x: 1}", {"TRACKER_HTTP__PORT": "80"}, None, "http.x"),
        ("http: 3", {"TRACKER_HTTP__PORT": "80"}, None, "http"),
        ("http: [1]", {"TRACKER_HTTP__PORT": "80"}, None, "http"),
        ("http.port: 1", {"TRACKER_HTTP__PORT": "80"}, None, "http.port"),
        ("http: {port: {y: 1}}", {"TRACKER_HTTP__HOST": "::1"}, None, "http.port"),
        ("http: {trusted_proxies: [x]}", {"TRACKER_HTTP__PATH": "/t"}, None, "http.trusted_proxies[0]"),
        ("privacy: {honor: [x]}", {"TRACKER_PRIVACY__IP": "full"}, None, "privacy.honor[0]"),
        ("privacy: {honor: [x]}", {"TRACKER_PRIVACY__HONOR": "[gpc, y]"}, "TRACKER_PRIVACY__HONOR", "privacy.honor[1]"),
        ("", {"TRACKER_WORKERS__X": "1"}, "TRACKER_WORKERS__X", "workers.x"),
        ("", {"TRACKER_HTTP__": "1"}, "TRACKER_HTTP__", "http."),
    ],
)
def test_a_mistake_is_blamed_on_its_source_and_on_no_other(
    file: Path, text: str, environ: dict[str, str], source: str | None, key: str
) -> None:
    said = complaint(load_pixel, file, SNS + text, environ)
    assert said.startswith(f"{f'environment {source}' if source else file}: {key}: ")


def test_a_section_from_the_environment_is_blamed_for_its_own_keys_alone(file: Path) -> None:
    environ = {"TRACKER_LOG__ROTATE": "{every: year, compress: none}", "TRACKER_LOG__ROTATE__COMPRESS": "zip"}
    file.write_text(SQS)
    with pytest.raises(ConfigurationError) as raised:
        load_storage(file, environ)
    assert str(raised.value).splitlines() == [
        "environment TRACKER_LOG__ROTATE: log.rotate.every: expected day or hour, got 'year'",
        "environment TRACKER_LOG__ROTATE__COMPRESS: log.rotate.compress: expected gzip or none, got 'zip'",
    ]


@pytest.mark.parametrize(
    ("http", "admin", "shared"),
    [
        ("*", "127.0.0.1", True),
        ("192.0.2.1", "*", True),
        ("127.0.0.1", "127.0.0.1", True),
        ("0.0.0.0", "127.0.0.1", True),
        ("::1", "::", True),
        ("192.0.2.1", "127.0.0.1", False),
        ("0.0.0.0", "::1", False),
        ("::", "127.0.0.1", False),
    ],
)
def test_two_listeners_of_one_pixel_never_wait_for_each_others_port(
    file: Path, http: str, admin: str, shared: bool
) -> None:
    text = SNS + f'http: {{host: "{http}", port: 9000}}\nadmin: {{host: "{admin}"}}'
    port = {"TRACKER_ADMIN__PORT": "9000"}
    if shared:
        said = complaint(load_pixel, file, text, port)
        expected = "admin.port: expected another port than http.port, got 9000 for both"
        assert said == f"environment TRACKER_ADMIN__PORT: {expected}"
    else:
        assert pixel(file, text, **port).admin.port == 9000
