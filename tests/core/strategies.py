"""Visits made of arbitrary bytes, decoded as aiohttp decodes headers."""

import json
from datetime import UTC, datetime

from hypothesis import strategies as st

from tracker.core.client_ip import canonical_ip
from tracker.core.visit import Visit, header_text

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
