"""A hit becomes a line: what a visitor sends, and exactly what of it the visit log holds. On moto, as `make run` is."""

import json
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest

from tests.ports import free_port

from .stack import FakeStack, Stack
from .wire import Connection, Load, get

CHROME = "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/120.0.0.0 Safari/537.36"


@pytest.fixture
def stack(make_stack: Callable[..., Stack]) -> Stack:
    return make_stack()


def test_a_hit_becomes_a_line_and_no_header_can_forge_a_column_or_another_line(stack: Stack) -> None:
    pixel = stack.start_pixel({"http": {"trusted_proxies": ["10.0.0.0/8"]}})  # the visitor is none of them
    storage = stack.start_storage()
    before = datetime.now(UTC)
    visit = [("Referer", "https://a.example/page?x=1#y"), ("User-Agent", CHROME), ("X-Forwarded-For", "203.0.113.7")]
    assert get(pixel.port, headers=visit).is_gif
    after = datetime.now(UTC)
    ((time, *rest),) = stack.wait_lines(1)
    assert rest == ["https://a.example/page?x=1#y", CHROME, "127.0.0.1"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}\+00:00", time)
    assert before - timedelta(milliseconds=1) <= datetime.fromisoformat(time) <= after
    assert stack.log_text() == "|".join([time, *rest]) + "\n"
    with Connection(pixel.port) as connection:
        for headers, _, _ in ODD_HEADERS:
            assert connection.get(headers=headers).is_gif
    stack.wait_lines(1 + len(ODD_HEADERS))
    stack.wait_queue()
    pixel.stop()
    storage.stop()
    rows = [row[1:] for row in stack.lines()[1:]]
    assert rows == [[referrer, agent, "127.0.0.1"] for _, referrer, agent in ODD_HEADERS]


ODD_HEADERS: list[tuple[list[tuple[str, str | bytes]], str, str]] = [
    ([], "null", "null"),
    ([("Referer", ""), ("User-Agent", "")], "null", "null"),
    ([("Referer", "null"), ("User-Agent", "null")], r"\x6Eull", r"\x6Eull"),
    (
        [("Referer", "https://a.example/|1.2.3.4"), ("User-Agent", "a\\b|c")],
        r"https://a.example/\x7C1.2.3.4",
        r"a\x5Cb\x7Cc",
    ),
    ([("Referer", "https://a.example/é"), ("User-Agent", b"caf\xe9")], r"https://a.example/\xC3\xA9", r"caf\xC3\xA9"),
    (
        [("User-Agent", "tab\there, \u0085, \u2028, \u202e")],
        "null",
        r"tab\x09here, \xC2\x85, \xE2\x80\xA8, \xE2\x80\xAE",
    ),
    (
        [("Referer", "https://a.example/" + "r" * 3000), ("User-Agent", "u" * 2049)],
        "https://a.example/" + "r" * 2030,
        "u" * 2048,
    ),
    ([("User-Agent", "\U0001f600")], "null", r"\xF0\x9F\x98\x80"),
]


def test_every_format_arrives_end_to_end(fake_stack: FakeStack) -> None:
    stack = fake_stack  # it can hold SNS, for much to wait at once
    stack.start_storage()
    port = free_port()
    journals: set[str] = set()
    with Load(port) as load:
        for format in ("single", "plain", "packed"):
            pixel = stack.start_pixel({"http": {"port": port}, "sns": {"format": format}})
            stack.sns.hold()
            load.wait_answered(150)
            stack.sns.up()
            load.wait_answered(150)
            pixel.stop()
            published = [message for message in stack.published() if message["Journal"] not in journals]
            journals |= {message["Journal"] for message in published}
            assert any(message["Encoding"] != "identity" for message in published) == (format == "packed")
            assert any(int(message["Visits"]) > 1 for message in published) == (format != "single")
    stack.assert_exactly_once(load)


LEGACY_BODY = json.dumps(
    {
        "Referer": "https://localhost:7058/swagger/index.html",
        "UserAgent": None,
        "IpAddress": "192.168.1.1",
        "VisitedAt": "2023-12-10T22:22:43.7936205+00:00",
    }
)
LEGACY_LINE = "2023-12-10T22:22:43.793620+00:00|https://localhost:7058/swagger/index.html|null|192.168.1.1\n"


def test_a_body_of_the_legacy_pixel_becomes_a_line_with_an_sns_envelope_or_without(stack: Stack) -> None:
    stack.start_storage()
    stack.aws.send(stack.queue_url, LEGACY_BODY, Type="Visit")
    stack.wait_lines(1)
    stack.aws.send(stack.queue_url, LEGACY_BODY)
    stack.wait_lines(2)
    envelope = {
        "Type": "Notification",
        "MessageId": "3b5a1f30-2b6c-5d34-9e8c-41b9f0a3ff11",
        "TopicArn": stack.topic_arn,
        "Message": LEGACY_BODY,
        "Timestamp": "2023-12-10T22:22:44.000Z",
        "MessageAttributes": {"Type": {"Type": "String", "Value": "Visit"}},
    }
    stack.aws.send(stack.queue_url, json.dumps(envelope))
    stack.wait_lines(3)
    stack.wait_queue()
    assert stack.log_text() == 3 * LEGACY_LINE


def test_a_subscription_without_raw_delivery_is_understood(make_stack: Callable[..., Stack]) -> None:
    stack = make_stack(raw=False)
    pixel = stack.start_pixel()
    stack.start_storage()
    with Load(pixel.port) as load:
        load.wait_answered(200)
    stack.assert_exactly_once(load)


NAMED: list[tuple[str, list[tuple[str, str | bytes]], str]] = [
    ("/track?page=newsletter%2F2026-11&u=17", [], "newsletter/2026-11"),
    ("/track?u=17&page=newsletter+top", [("Referer", "https://reader.example/")], "newsletter top"),
    ("/track?page=&u=17", [("Referer", "https://a.example/b?c")], "https://a.example/b?c"),
    (
        "/track?page=a%00%0D%0A%7C6.6.6.6%22%5C%1B[31m%E2%80%AE",
        [],
        r'a\x00\x0D\x0A\x7C6.6.6.6"\x5C\x1B[31m\xE2\x80\xAE',
    ),
    ("/track?page=null", [], r"\x6Eull"),
    ("/track?page=%FC&page=%C3%BC", [], r"\xC3\xBC"),
    ("/track?page=" + "%C3%BC" * 1_000 + "n" * 1_500, [], r"\xC3\xBC" * 1_000 + "n" * 1_048),
]


def test_two_newsletters_are_two_pages_and_no_name_can_forge_a_column_or_a_line(stack: Stack) -> None:
    pixel = stack.start_pixel({"http": {"page_parameter": "page"}})
    stack.start_storage()
    with Connection(pixel.port) as connection:
        for odd in ([], [("Content-Length", "0")]):  # the second goes to the fallback
            for target, headers, _ in NAMED:
                assert connection.get(target, [*headers, *odd]).is_gif
    rows = stack.wait_lines(2 * len(NAMED))
    assert [row[1] for row in rows] == 2 * [page for _, _, page in NAMED]


def test_pages_are_reduced_and_addresses_truncated_before_the_outbox(fake_stack: FakeStack) -> None:
    stack = fake_stack  # it can hold SNS, for the outbox to be looked at
    http = {"page_parameter": "page", "trusted_proxies": ["127.0.0.0/8"]}
    pixel = stack.start_pixel({"http": http, "privacy": {"ip": "truncated", "referrer": "no_query"}})
    stack.sns.hold()
    with Connection(pixel.port) as connection:
        for odd in ([], [("Content-Length", "0")]):
            referred = [("Referer", "https://u:secret@a.example/b?secret"), ("X-Forwarded-For", "203.0.113.77")]
            assert connection.get(headers=[*referred, *odd]).is_gif
            named = "/track?page=https%3A%2F%2Fa.example%2Fc%3Fsecret&u=secret"
            assert connection.get(named, [("X-Forwarded-For", "2001:db8:1:2:3::4"), *odd]).is_gif
            client = ("X-Forwarded-For", "::ffff:198.51.100.9")
            assert connection.get("/track?page=news%23secret", [client, *odd]).is_gif
    kept = 2 * [
        ("https://a.example/b", "203.0.113.0"),
        ("https://a.example/c", "2001:db8:1::"),
        ("news", "198.51.100.0"),
    ]
    assert [(visit["Referer"], visit["IpAddress"]) for visit in stack.recorded()] == kept
    stack.sns.up()
    stack.start_storage()
    assert [(row[1], row[3]) for row in stack.wait_lines(6)] == kept
    assert "secret" not in stack.log_text()


def test_privacy_signals_are_honored(stack: Stack) -> None:
    pixel = stack.start_pixel({"privacy": {"honor": ["gpc", "dnt"]}})
    stack.start_storage()
    signals: list[tuple[str, str | bytes]] = [("Sec-GPC", "1"), ("DNT", "1"), ("Sec-GPC", "0"), ("DNT", "0")]
    with Connection(pixel.port) as connection:
        for name, value in signals:
            referrer = f"https://{name}/{value!s}"
            assert connection.get(headers=[("Referer", referrer), (name, value)]).is_gif
    stack.wait_lines(2)
    assert list(stack.referrers()) == ["https://Sec-GPC/0", "https://DNT/0"]
    pixel.wait_metric("tracker_pixel_visits_discarded", 2, 'reason="privacy"')


FORWARDED: list[tuple[list[tuple[str, str | bytes]], str]] = [
    ([], "127.0.0.1"),
    ([("X-Forwarded-For", "203.0.113.7")], "203.0.113.7"),
    ([("X-Forwarded-For", "6.6.6.6, 203.0.113.7, 10.1.2.3")], "203.0.113.7"),
    ([("X-Forwarded-For", "6.6.6.6"), ("X-Forwarded-For", "203.0.113.7, 10.1.2.3")], "203.0.113.7"),
    ([("X-Forwarded-For", "203.0.113.7:4711")], "203.0.113.7"),
    ([("X-Forwarded-For", "[2001:db8::7]:4711")], "2001:db8::7"),
    ([("X-Forwarded-For", "::ffff:203.0.113.7")], "203.0.113.7"),
    ([("X-Forwarded-For", "10.9.9.9, 10.1.2.3")], "10.9.9.9"),
    ([("X-Forwarded-For", "203.0.113.7, nonsense, 10.1.2.3")], "10.1.2.3"),
]


def test_a_trusted_proxy_decides_the_address(stack: Stack) -> None:
    pixel = stack.start_pixel({"http": {"trusted_proxies": ["127.0.0.1", "10.0.0.0/8"]}})
    with Connection(pixel.port) as connection:
        for headers, _ in FORWARDED:
            assert connection.get(headers=headers).is_gif
    stack.start_storage()
    assert [row[3] for row in stack.wait_lines(len(FORWARDED))] == [address for _, address in FORWARDED]
