import base64
import json
import zlib
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.core.strategies import visits
from tracker.core import message
from tracker.core.log_line import format_line, format_lines
from tracker.core.message import EndMarker, Message, SingleVisit, StoredSpan, end_marker, pack, unpack
from tracker.core.visit import Visit, decode_line, encode_line
from tracker.errors import MalformedMessage

JOURNAL = "0123456789abcdef" * 2
TIME = "2026-11-23T07:09:24.932706+00:00"
LINE = encode_line(TIME, "https://a.example/", "curl/8", "192.0.2.1")


def lines_of(many: list[Visit]) -> bytes:
    return b"".join(
        encode_line(v.time.isoformat(timespec="microseconds"), v.referrer, v.user_agent, v.ip) for v in many
    )


def packed(data: bytes, **changes: str | None) -> tuple[dict[str, str], str]:
    """Attributes and body as `pack` makes them, with some replaced, or left out for None."""
    sent = pack(JOURNAL, 0, data, compress=False)
    return changed(sent.attributes, changes), sent.body


def changed(attributes: dict[str, str], changes: dict[str, str | None]) -> dict[str, str]:
    return {name: value for name, value in (attributes | changes).items() if value is not None}


def deflated(data: bytes, **changes: str | None) -> tuple[dict[str, str], bytes]:
    attributes, _ = packed(data, Encoding="zlib+base64url", **changes)
    return attributes, zlib.compress(data, 1)


def envelope(sent: Message) -> str:
    attributes = {name: {"Type": "String", "Value": value} for name, value in sent.attributes.items()}
    return json.dumps(
        {
            "Type": "Notification",
            "MessageId": "1",
            "Message": sent.body,
            "Signature": "x",
            "MessageAttributes": attributes,
        }
    )


@given(st.lists(visits, min_size=1, max_size=8), st.integers(0, 10**15 - 1), st.booleans())
def test_what_is_packed_is_unpacked(many: list[Visit], start: int, compress: bool) -> None:
    data = lines_of(many)
    sent = pack(JOURNAL, start, data, compress=compress)
    expected = StoredSpan(JOURNAL, start, data, zlib.crc32(data), b"".join(map(format_line, many)), len(many))
    assert unpack(sent.attributes, sent.body) == expected
    assert unpack({}, envelope(sent)) == expected
    assert (sent.start, sent.end, sent.visits) == (start, expected.end, len(many))


def test_many_visits_are_compressed_and_the_size_is_what_sns_counts() -> None:
    sent = pack(JOURNAL, 7, LINE * 1000, compress=True)
    assert sent.attributes["Encoding"] == "zlib+base64url"
    attributes = sum(
        len(name.encode()) + len(b"String") + len(value.encode()) for name, value in sent.attributes.items()
    )
    assert sent.size == len(sent.body.encode()) + attributes
    assert sent.size < len(LINE) * 1000 // 5
    assert set(sent.body) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_=")


@pytest.mark.parametrize("data", [LINE, LINE * 50])
def test_one_visit_or_plain_is_sent_as_readable_json(data: bytes) -> None:
    sent = pack(JOURNAL, 0, data, compress=data == LINE)
    assert sent.attributes == {
        "Type": "Visit",
        "Journal": JOURNAL,
        "Start": "0",
        "Visits": str(data.count(b"\n")),
        "Encoding": "identity",
        "Crc32": f"{zlib.crc32(data):08x}",
    }
    assert sent.body.encode() == data


@pytest.mark.parametrize("level", [0, 1, 9])
def test_a_span_of_any_length_is_inflated_whole(level: int) -> None:
    line = encode_line(TIME, None, "x" * 1_900, "192.0.2.1")
    lengths = {part * 2**15 + more for part in (1, 2, 3, 32) for more in (-1, 0, 1, 300)}
    for length in sorted(lengths):
        whole, rest = divmod(length, len(line))
        data = line * (whole - 1) + encode_line(TIME, None, "x" * (1_900 + rest), "192.0.2.1")
        assert len(data) == length
        attributes, _ = packed(data, Encoding="zlib+base64url")
        body = base64.urlsafe_b64encode(zlib.compress(data, level)).decode()
        content = unpack(attributes, body)
        assert isinstance(content, StoredSpan)
        assert content.data == data


def test_two_visits_that_do_not_shrink_stay_as_they_are() -> None:
    data = b"a\nb\n"
    assert pack(JOURNAL, 0, data, compress=True).body == "a\nb\n"


def test_what_is_not_ascii_is_no_line_of_ours() -> None:
    with pytest.raises(MalformedMessage):
        pack(JOURNAL, 0, "é\n".encode(), compress=False)


def test_an_end_marker_is_unpacked_bare_and_in_an_envelope() -> None:
    sent = end_marker(JOURNAL, 4096)
    assert sent.body == "\n"
    assert sent.attributes == {
        "Type": "Visit",
        "Journal": JOURNAL,
        "Start": "4096",
        "Visits": "0",
        "Encoding": "identity",
        "Crc32": "00000000",
        "Closed": "true",
    }
    assert unpack(sent.attributes, sent.body) == unpack({}, envelope(sent)) == EndMarker(JOURNAL, 4096)


@pytest.mark.parametrize(
    ("changes", "body"),
    [
        ({"Closed": "false"}, "\n"),
        ({"Closed": "True"}, "\n"),
        ({"Visits": "1"}, "\n"),
        ({"Visits": None}, "\n"),
        ({"Start": None}, "\n"),
        ({"Journal": None}, "\n"),
        ({"Encoding": "zlib+base64url"}, "\n"),
        ({"Encoding": None}, "\n"),
        ({"Crc32": "00000001"}, "\n"),
        ({"Crc32": None}, "\n"),
        ({}, ""),
        ({}, "\n\n"),
        ({}, LINE.decode()),
        ({"Closed": None}, "\n"),
    ],
)
def test_an_end_marker_that_says_anything_else_is_malformed(changes: dict[str, str | None], body: str) -> None:
    with pytest.raises(MalformedMessage):
        unpack(changed(end_marker(JOURNAL, 4096).attributes, changes), body)


@pytest.mark.parametrize(
    "changes",
    [
        {"Journal": None},
        {"Journal": ""},
        {"Journal": JOURNAL.upper()},
        {"Journal": JOURNAL + "0"},
        {"Journal": JOURNAL + "\n"},
        {"Journal": "../" + JOURNAL[3:]},
        {"Start": None},
        {"Start": ""},
        {"Start": "-1"},
        {"Start": "+1"},
        {"Start": "1_0"},
        {"Start": " 1"},
        {"Start": "1.0"},
        {"Start": "٣"},
        {"Start": "1" * 16},
        {"Start": "\n1"},
        {"Start": "1\n"},
        {"Visits": None},
        {"Visits": "1"},
        {"Visits": "3"},
        {"Visits": "0"},
        {"Visits": "two"},
        {"Encoding": None},
        {"Encoding": "gzip"},
        {"Encoding": "Identity"},
        {"Encoding": "zlib+base64url"},
        {"Crc32": None},
        {"Crc32": "00000000"},
        {"Crc32": f"{zlib.crc32(LINE * 2):08X}"},
        {"Crc32": f"0x{zlib.crc32(LINE * 2):08x}"},
        {"Closed": "true"},
        {"Closed": ""},
        {"Journal": None, "Start": None, "Visits": None, "Encoding": None},
        {"Crc32": None, "Start": None, "Visits": None, "Encoding": None},
    ],
)
def test_with_one_of_our_attributes_all_must_be_right(changes: dict[str, str | None]) -> None:
    attributes, body = packed(LINE * 2)
    with pytest.raises(MalformedMessage):
        unpack(changed(attributes, changes), body)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        LINE[:-1],
        LINE + b"\n",
        LINE + LINE[:-1],
        LINE[:-1] + LINE,
        LINE.replace(b"192.0.2.1", b"unknown"),
        LINE + b"{}\n",
        LINE.replace(b",", b",\n", 1),
    ],
)
def test_a_body_that_is_not_whole_lines_of_visits_is_malformed(data: bytes) -> None:
    attributes, body = packed(data)
    with pytest.raises(MalformedMessage):
        unpack(attributes, body)
    attributes, raw = deflated(data)
    with pytest.raises(MalformedMessage):
        unpack(attributes, base64.urlsafe_b64encode(raw).decode())


@pytest.mark.parametrize("end", [10**15 - 1, 10**15])
def test_an_end_that_no_journal_can_have_is_malformed(end: int) -> None:
    message = end_marker(JOURNAL, end)
    if end < 10**15:
        assert unpack(message.attributes, message.body) == EndMarker(JOURNAL, end)
    else:
        with pytest.raises(MalformedMessage, match="at most 15 digits"):
            unpack(message.attributes, message.body)


def test_unknown_attributes_are_ignored() -> None:
    attributes, body = packed(LINE, Traceparent="00-1")
    assert unpack(attributes, body) == StoredSpan(JOURNAL, 0, LINE, zlib.crc32(LINE), *format_lines(LINE))


def sent_as(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).decode()


@pytest.mark.parametrize(
    "mangle",
    [
        lambda raw: "",
        lambda raw: sent_as(raw[:-1]),
        lambda raw: sent_as(raw[:20]),
        lambda raw: sent_as(raw + b"x"),
        lambda raw: sent_as(raw + raw),
        lambda raw: sent_as(b"\x00" + raw),
        lambda raw: sent_as(raw).rstrip("=") + "=====",
        lambda raw: "!" + sent_as(raw),
        lambda raw: sent_as(raw) + "\n",
        lambda raw: "é" + sent_as(raw),
        lambda raw: "\ud800",
    ],
)
def test_a_body_that_does_not_inflate_cleanly_is_malformed(mangle: Callable[[bytes], str]) -> None:
    attributes, raw = deflated(LINE * 20)
    with pytest.raises(MalformedMessage):
        unpack(attributes, mangle(raw))


def test_a_body_may_inflate_to_the_limit_and_not_beyond(monkeypatch: pytest.MonkeyPatch) -> None:
    data = LINE * 1000
    attributes, raw = deflated(data)
    monkeypatch.setattr(message, "MAX_INFLATED_BYTES", len(data))
    assert unpack(attributes, sent_as(raw)) == StoredSpan(JOURNAL, 0, data, zlib.crc32(data), *format_lines(data))
    monkeypatch.setattr(message, "MAX_INFLATED_BYTES", len(data) - 1)
    with pytest.raises(MalformedMessage, match="more than"):
        unpack(attributes, sent_as(raw))


def test_a_body_of_lone_surrogates_is_malformed() -> None:
    attributes, _ = packed(LINE)
    for given_attributes in (attributes, {}):
        with pytest.raises(MalformedMessage):
            unpack(given_attributes, "\ud800")


LEGACY = '{"Referer":null,"UserAgent":"","IpAddress":"10.0.0.1","VisitedAt":"2023-12-11T10:06:40.5064909+00:00"}'


@pytest.mark.parametrize("attributes", [{}, {"Type": "Visit"}, {"journal": "x"}])
def test_a_body_without_our_attributes_is_a_visit_of_the_legacy_pixel(attributes: dict[str, str]) -> None:
    assert unpack(attributes, LEGACY) == SingleVisit(decode_line(LEGACY))


def test_a_visit_of_the_legacy_pixel_may_have_the_keys_of_an_envelope() -> None:
    body = LEGACY.replace("{", '{"Type":5,"Message":[1],"MessageAttributes":"none",', 1)
    assert unpack({}, body) == SingleVisit(decode_line(LEGACY))


@pytest.mark.parametrize("attributes", [{}, {"MessageAttributes": None}, {"MessageAttributes": {}}])
def test_a_visit_of_the_legacy_pixel_in_an_envelope_is_read(attributes: dict[str, object]) -> None:
    body = json.dumps({"Type": "Notification", "Message": LEGACY} | attributes)
    assert unpack({}, body) == SingleVisit(decode_line(LEGACY))


@pytest.mark.parametrize(
    "body",
    [
        "",
        "hello",
        "[]",
        "{}",
        '{"x":' + "[" * 100_000 + "]" * 100_000 + "}",
        json.dumps({"Type": "Notification"}),
        json.dumps({"Type": "Notification", "Message": 5}),
        json.dumps({"Type": "SubscriptionConfirmation", "Message": LEGACY}),
        json.dumps({"Type": "Notification", "Message": LEGACY, "MessageAttributes": [1]}),
        json.dumps({"Type": "Notification", "Message": LEGACY, "MessageAttributes": {"Journal": {"Type": "String"}}}),
        json.dumps({"Type": "Notification", "Message": LEGACY, "MessageAttributes": {"Journal": {"Value": JOURNAL}}}),
        json.dumps({"Type": "Notification", "Message": json.dumps({"Type": "Notification", "Message": LEGACY})}),
    ],
)
def test_a_body_that_is_neither_visit_nor_envelope_is_malformed(body: str) -> None:
    with pytest.raises(MalformedMessage):
        unpack({}, body)


def test_a_message_that_asks_to_confirm_a_subscription_is_named_as_such() -> None:
    body = {"Type": "SubscriptionConfirmation", "Token": "2336", "Message": "You have chosen to subscribe ..."}
    with pytest.raises(MalformedMessage, match="a SubscriptionConfirmation of SNS"):
        unpack({}, json.dumps(body))


@given(
    st.dictionaries(st.sampled_from(["Journal", "Start", "Visits", "Encoding", "Crc32", "Closed"]), st.text()),
    st.text(),
)
def test_anything_in_the_queue_is_taken_or_malformed(attributes: dict[str, str], body: str) -> None:
    try:
        unpack(attributes, body)
    except MalformedMessage:
        pass
