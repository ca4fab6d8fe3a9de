"""A small log of which every number is known by hand, and the people in it."""

from pathlib import Path

CHROME = (
    b"Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/130.0.0.0 Safari/537.36"
)
FIREFOX = b"Mozilla/5.0 (X11; Linux x86_64; rv:132.0) Gecko/20100101 Firefox/132.0"
IPHONE = (
    b"Mozilla/5.0 (iPhone; CPU iPhone OS 17_5 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) "
    b"Version/17.5 Mobile/15E148 Safari/604.1"
)
GOOGLEBOT = b"Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)"
GMAIL = b"Mozilla/5.0 (Windows NT 5.1; rv:11.0) Gecko Firefox/11.0 (via ggpht.com GoogleImageProxy)"
HOSTILE_PAGE = rb"https://evil.example/\x22\x3E<script>alert(1)</script>\xE2\x80\xAE\x7C\x1B[31m"
HOSTILE_AGENT = rb"'\x22><img src=x onerror=alert(1)> printer"

# 23 November 2026 is a Monday.
LINES = [
    # Ann, Chrome on Windows, three visits on two days and two sites.
    b"2026-11-23T09:00:00.000000+00:00|https://example.com/a|" + CHROME + b"|192.0.2.1\n",
    b"2026-11-23T09:14:59.999999+00:00|https://example.com/a?from=mail|" + CHROME + b"|192.0.2.1\n",
    b"2026-11-24T09:00:00.000000+00:00|https://Other.example/|" + CHROME + b"|192.0.2.1\n",
    # Bob, Firefox on Linux, late on Monday; in Berlin it is Tuesday already.
    b"2026-11-23T23:30:00.000000+00:00|https://example.com/b|" + FIREFOX + b"|192.0.2.2\n",
    # Cem, a phone with IPv6; and Dee, who shares Ann's browser but not her address.
    b"2026-11-24T10:00:00.000000+00:00|https://example.com/a|" + IPHONE + b"|2001:db8::1\n",
    b"2026-11-24T10:20:00.000000+00:00|https://example.com/a|" + CHROME + b"|192.0.2.3\n",
    # Bots, one of which says nothing of itself; the last is a line of the .NET service.
    b"2026-11-24T11:00:00.000000+00:00|https://example.com/a|" + GOOGLEBOT + b"|198.51.100.1\n",
    b"2026-11-24T11:00:00.000001+00:00|null|null|198.51.100.2\n",
    b"2026-11-24T11:00:00.0000019+00:00|||198.51.100.3\r\n",
    # Proxies: Gmail's, and Apple's, whose user agent is two words.
    b"2026-11-24T12:00:00.000000+00:00|null|" + GMAIL + b"|198.51.100.4\n",
    b"2026-11-24T12:00:00.000000+00:00|null|Mozilla/5.0|198.51.100.5\n",
    # Our own doctor.
    b"2026-11-24T12:30:00.000000+00:00|null|tracker-doctor/0.1.0|127.0.0.1\n",
    # Eve.
    b"2026-11-24T13:00:00.000000+00:00|" + HOSTILE_PAGE + b"|" + HOSTILE_AGENT + b"|192.0.2.66\n",
]
MALFORMED = [b"\n", b"what is this\n", b"2026-11-24T13:00:00.000000+00:00|null|null|999.0.2.1\n"]
TORN = b"2026-11-24T14:00:00.000000+00:00|https://example.com/a|null|192.0.2.1"


def write_golden(folder: Path) -> Path:
    log = folder / "visits.log"
    log.write_bytes(b"".join([*LINES[:4], MALFORMED[0], *LINES[4:9], *MALFORMED[1:], *LINES[9:], TORN]))
    return log
