"""Visits made of arbitrary bytes, decoded as aiohttp decodes headers."""

import json
from datetime import UTC, datetime

from hypothesis import strategies as st

from tracker.core.ip_address import canonical_ip
from tracker.core.log_line import format_line
from tracker.core.visit import Visit, encode_line, header_text

_hostile_text = st.text(
    st.sampled_from('|\\xn\t\x00\x1b\x7f\x85\u2028\u202e\ufffe"null5C{},é€😀') | st.characters(codec="utf-8")
)

# Any bytes: raw, ISO-8859-1, and UTF-8 with the characters that have a meaning in our formats.
header_bytes = (
    st.binary(max_size=200) | _hostile_text.map(str.encode) | st.sampled_from([b"null", b"", b"\\x6Eull", b"\\"])
)

headers = header_bytes.map(lambda raw: header_text(raw.decode("utf-8", "surrogateescape")) or None)

ips = st.ip_addresses().map(str).map(canonical_ip).filter(lambda ip: ip is not None).map(str)

times = st.datetimes(min_value=datetime(1, 1, 1), max_value=datetime(9999, 12, 31), timezones=st.just(UTC))

visits = st.builds(Visit, times, st.none() | headers, st.none() | headers, ips)


def _written(
    visit: Visit, when: str, ip: str, missing: set[str], ascii_only: bool, separators: tuple[str, str], around: str
) -> bytes:
    keys = {"Referer": visit.referrer, "UserAgent": visit.user_agent, "IpAddress": ip, "VisitedAt": when}
    kept = {name: value for name, value in keys.items() if name not in missing}
    return (around + json.dumps(kept, ensure_ascii=ascii_only, separators=separators) + around).encode()


_times_written = times.map(lambda time: time.isoformat(timespec="microseconds")) | st.sampled_from(
    [
        "2023-12-10T22:22:43.7936205+00:00",
        "2023-12-10T22:22:43Z",
        "2023-12-11T00:22:43.500000+02:00",
        "2023-12-10 22:22:43.793620+00:00",
        "2023-W50-1T22:22:43.793620+00:00",
    ]
)
_no_times = st.sampled_from(["2023-02-29T22:22:43.793620+00:00", "2023-12-10T22:22:43.79362\u0660+00:00", "2023-12-10"])
_ips_written = ips | st.sampled_from(["::FFFF:192.0.2.1", "2001:DB8::0", "fe80::1%eth0"])
_no_ips = st.sampled_from(["192.0.2.01", "192.0.2.256", "192.0.2.1 ", "192.0.2.1\n", "x", ""])
_missing = st.sets(st.sampled_from(["Referer", "UserAgent"]))
_separators = st.sampled_from([(",", ":"), (" , ", " :\r")])
_around = st.sampled_from(["", "", " ", "\r", "\t"])

# Journal lines without their newline: as our pixel writes them, and as others may.
visit_lines = st.builds(_written, visits, _times_written, _ips_written, _missing, st.booleans(), _separators, _around)

# Lines that are not visits; most differ from a visit in one detail.
odd_lines = (
    st.builds(_written, visits, _no_times, _ips_written, _missing, st.booleans(), _separators, _around)
    | st.builds(_written, visits, _times_written, _no_ips, _missing, st.booleans(), _separators, _around)
    | st.sampled_from([b"", b"{}", b"null", b"{} {}", b'{"Referer":"\xff"}', b'{"Referer":"\x1b"}', b'{"Referer":'])
)

_plain_text = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E, exclude_characters='"|\\'), min_size=1)
_plain_texts = _plain_text.filter(lambda text: text != "null")
_our_times = times.map(lambda time: time.isoformat(timespec="microseconds"))

# The fields of lines that need no escaping, as `encode_line` takes them: time, referrer, user agent, IP.
plain_lines = st.tuples(_our_times, _plain_texts, _plain_texts, ips)

_KEYS = (b'"Referer":', b'"UserAgent":', b'"IpAddress":', b'"VisitedAt":')
_inserted = st.sampled_from(
    [
        *(
            b'"',
            b"\\",
            b"|",
            b"null",
            b"\x00",
            b"\x1f",
            b"\x7f",
            b"\x80",
            b"\xc3\xa9",
            b"\xff",
            b" ",
            b"\t",
            b"\r",
            b"\v",
            b",",
        ),
        *(b"{", b"}", b":", b"0", b"9", b".", b"-", b"+", b"Z", b"a", b"T", b"\\u0041", b"\\ud800", b"\\n", b'\\"'),
        *(b'"x":1,', b'"x":NaN,', b'"x":-Infinity,', b'"x":1e999,', b'"x":[{"Referer":"y"}],', b"1" * 400, b"//"),
        *(key + value for key in _KEYS for value in (b'"x",', b"null,", b"1,", b'"192.0.2.1",')),
    ]
)
_SHAPES = (
    b'{"Referer":%b,"UserAgent":%b,"IpAddress":"%b","VisitedAt":"%b"}',
    b'{"Referer":"https://a.example/?q=1","UserAgent":%b%b,"IpAddress":"%b","VisitedAt":"%b"}',
    b'{"UserAgent":%b,"Referer":%b,"IpAddress":"%b","VisitedAt":"%b"}',
    b'{"Referer":%b,"UserAgent":%b,"IpAddress":"%b","VisitedAt":"%b","x":{}}',
)
_texts_written = st.sampled_from(
    [b"null", b'""', b'"null"', b'"nullx"', b'"x"', b'"https://a.example/x|y"', b"7", b"x"]
)
_lines_before_a_change = st.builds(
    lambda shape, referrer, agent, ip, time: shape % (referrer, agent, ip.encode(), time.encode()),
    *(st.sampled_from(_SHAPES), _texts_written, _texts_written, _ips_written | _no_ips, _times_written | _no_times),
)


def _change(line: bytes, changes: list[tuple[int, int, bytes]]) -> bytes:
    for at, removed, inserted in changes:
        begin = at % (len(line) + 1)
        line = line[:begin] + inserted + line[begin + removed :]
    return line.replace(b"\n", b"")


# Lines as our pixel writes them, or nearly so, with a few changes anywhere.
changed_lines = st.builds(
    _change,
    _lines_before_a_change | plain_lines.map(lambda fields: encode_line(*fields)),
    st.lists(st.tuples(st.integers(0, 400), st.integers(0, 3), _inserted | st.binary(max_size=2)), max_size=2),
)

# Lines of a visit log, with their newlines: as our storage writes them, as others may, and malformed ones.
log_lines = st.one_of(
    st.binary(max_size=60).map(lambda raw: raw.replace(b"\n", b"") + b"\n"),
    st.tuples(
        st.sampled_from(
            [b"2026-11-23T07:09:24.932706+00:00", b"2024-02-29T00:00:00.0000001Z", b"2026-02-29T00:00:00Z"]
        ),
        st.binary(max_size=12),
        st.sampled_from([b"", b"null", b"C:\\x", b"\\xC3\\xA9", b"\\xC3", b"\\xE9", b"\\x6Eull", b"\\x41", b"caf\xe9"]),
        st.sampled_from(
            [b"192.0.2.1", b"192.0.2.256", b"192.0.2.01", b"2001:DB8::1", b"::ffff:192.0.2.1", b"", b"1::2\r"]
        ),
    ).map(lambda columns: b"|".join(columns).replace(b"\n", b"") + b"\n"),
    visits.map(format_line),
)
