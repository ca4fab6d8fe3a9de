"""Visits as strangers make them: from arbitrary bytes, by the way a header takes through aiohttp."""

from datetime import UTC, datetime

from hypothesis import strategies as st

from tracker.core.client_ip import canonical_ip
from tracker.core.visit import Visit, header_text

_hostile_text = st.text(
    st.sampled_from('|\\xn\t\x00\x1b\x7f\x85\u2028\u202e\ufffe"null5C{},é€😀') | st.characters(codec="utf-8")
)

# Bytes of every kind: raw, ISO-8859-1, and UTF-8 with the characters that have a meaning in one of our formats.
header_bytes = (
    st.binary(max_size=200) | _hostile_text.map(str.encode) | st.sampled_from([b"null", b"", b"\\x6Eull", b"\\"])
)

headers = header_bytes.map(lambda raw: header_text(raw.decode("utf-8", "surrogateescape")) or None)

ips = st.ip_addresses().map(str).map(canonical_ip).filter(lambda ip: ip is not None).map(str)

times = st.datetimes(min_value=datetime(1, 1, 1), max_value=datetime(9999, 12, 31), timezones=st.just(UTC))

visits = st.builds(Visit, times, st.none() | headers, st.none() | headers, ips)
