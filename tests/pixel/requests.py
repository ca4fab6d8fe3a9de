"""Requests that visitors may send: plain ones, plain ones with one deviation each, and fragments."""

import os
from itertools import product

SOAK = os.environ.get("TRACKER_SOAK") == "1"

LINES = [
    b"GET /track?1700000000 HTTP/1.1",
    b"Host: pixel.example",
    b"sec-ch-ua-mobile: ?0",
    b"User-Agent: Mozilla/5.0 (X11; Linux x86_64)",
    b"Referer: https://a.example/\"\\|'",
    b"X-Forwarded-For: 203.0.113.9, 10.1.1.1",
    b'Forwarded: for="[2001:db8::1]:443", for=10.1.1.1',
]
METHODS = [
    *b"GET HEAD POST PUT DELETE OPTIONS CONNECT TRACE PRI SOURCE get Get GE GETT GET\t \x00 \xff".split(b" "),
    *[b" GET", b"", b"\r\nGET", b"\nGET", b"\r\n\r\nGET"],
]
TARGETS = [
    *b"/track /track? /track?? /track?a=b&c[]=%7Cd|e /track#f /track?a#b /%74rack /tr%61ck?x /track%3F //track".split(),
    *b"/track/ /TRACK / /other * track pixel.example:80 http://pixel.example/track?x http:///track HTTP://u:p@h/track".split(),
    b"/track?\xc3\xa9",
    b"/track?\xff",
    b"/track?t=\xdcber&\xfcmlaut",
    b"/track?#\xc3\xa9#?\xe9",
    b"/track?%zz%&&==#a#b",
    b"/tr\xc3\xa9ck",
    b"/track\xff?a",
    b"http://pixel.example/track?\xc3\xa9",
    b"/track?" + bytes(sorted({*range(256)} - {*b" \r\n"})),
    b"/track?\"<>\\^`{}'",
    b"/track?a b",
    b"/track?\x00",
    b"/track?\x7f",
    b"/track?\t",
    b"",
]
VERSIONS = [
    *b"HTTP/1.1 HTTP/1.0 HTTP/0.9 HTTP/1.2 HTTP/2.0 http/1.1 HTTP/11 HTTP/1.1x ICE/1.0".split(),
    b"",
    b"HTTP/1.1 ",
]
# Names that mean something to a server, and others.
MEANT = [
    *b"Referer User-Agent Accept Cookie X-Forwarded-For Forwarded Sec-GPC DNT Connection Host Content-Length".split(),
    *b"Transfer-Encoding Expect Upgrade referer USER-AGENT host connection CONTENT-LENGTH Content-Encoding".split(),
]
NAMES = [
    *MEANT,
    *b"Content-Type Proxy-Connection Keep-Alive TE Trailer HTTP2-Settings Sec-WebSocket-Key1 ETag Max-Forwards".split(),
    *b"Server Upgrade-Insecure-Requests x_y X|Y X-\xe9 X\x00 Accept-Encoding Sec-WebSocket-Version sec-gpc dnt".split(),
    *b"x-forwarded-for Date Location Content- content-location Content-Range Server-Timing sec-fetch-mode".split(),
    *[b"Referer ", b" Referer", b"\tReferer", b"", b"User-Agent\t"],
]
VALUES = [
    *b"0 1 5 +5 -1 0x5 keep-alive Keep-Alive close chunked Chunked identity upgrade websocket h2c 100-continue".split(),
    *b"https://a.example/ Mozilla/5.0 203.0.113.9 for=192.0.2.43 unknown _hidden gzip null a|b".split(),
    *b"\x7f \xc3\xa9 \xff\xfe".split(b" "),
    *[b"", b" ", b"  x", b"x  ", b"\tx", b"x\t", b"x\ty", b"a\x00b", b"a\x1b[31mb", b"a\rb", b"a\nb", b"a\r", b"1, 1"],
    *[
        b"keep-alive, close",
        b"upgrade, keep-alive",
        b"gzip, chunked",
        b"a\r\n b",
        b"a\r\n\tb",
        b"a\r\nX: b",
        b'"\\',
        b"5\x0b",
    ],
]
SEPARATORS = [b": ", b":", b":  ", b" : ", b":\t", b"=", b" ", b"::", b":\r\n "]
LINE_ENDS = [b"\r\n", b"\n", b"\r", b"\r\r\n", b"\n\r\n", b"\r\n\r\n", b"\x00\r\n", b" \r\n", b"\t\r\n", b""]
BODIES = [
    b"",
    b"hello",
    b"5\r\nhello\r\n0\r\n\r\n",
    b"0\r\n\r\n",
    b"\r\n",
    b"\n",
    b"\x00",
    b"G",
    b"\x16\x03\x01\x02\x00",
]


def whole(lines: list[bytes]) -> bytes:
    return b"".join(line + b"\r\n" for line in [*lines, b""])


PLAIN = whole(LINES)

PLAIN_VARIANTS = [
    PLAIN,
    whole(LINES[:2]),
    whole([b"GET /track HTTP/1.1", b"host: a", b"user-agent: b", b"REFERER: c", b"connection: Keep-Alive".lower()]),
    whole([*LINES, b"Connection: keep-alive", b"Accept: */*", b"Cookie: a=b; c=d"]),
    whole([*LINES, b"Sec-GPC: 1"]),
    whole([*LINES, b"DNT: 1"]),
    whole([*LINES, b"DNT: 0", b"Sec-GPC: 0"]),
    whole([*LINES[:3], b"User-Agent: " + b"u" * 2048, b"Referer: " + b"r" * 2049]),
]

NAMING_PAGES = [
    whole([b"GET " + target + b" HTTP/1.1", *LINES[1:4], *referer])
    for referer in ([], [b"Referer: https://u:p@b.example/c?d#e"], [b"Referer: /c?d"], [b"Referer: data:,x"])
    for target in (
        *b"/track?page=a%2Fb+c&u=1 /track?u=1&page=second&page= /track?page=&page=b /track?page".split(),
        *b"/track?p%61ge=a /track?page=a#page=b /track?&&&=&page=x&".split(),
        *b"/track?page=%zz%&p=https%3A%2F%2Fa.example%2Fx%3Fy&page=c /track?a?page=b&amp;page=c;page=d".split(),
        *b"/track?page=a%00%0d%0a%7C%22%5C%1B[31m%F0%9F%98%80 /track?page=%FC%e9 /track?page=%C3".split(),
        *b"/track#f?page=x http://a/track?page=absolute /%74rack?page=encoded".split(),
        *[b"/track?page=\xc3\xa9", b"/track?page=\xe9&p=\xff", b"/track?p\xe9=a&p=a\x7fb", b"/track?page=a\tb"],
        *[b"/track?page=" + b"n" * 2_049, b"/track?page=" + b"%41" * 2_049, b"/track?page=" + b"n" * 8_200],
    )
]

ODD = [
    *(whole([b" ".join(words), *LINES[1:]]) for words in product(METHODS, [b"/track"], [b"HTTP/1.1"])),
    *(whole([b" ".join(words), *LINES[1:]]) for words in product([b"GET"], TARGETS, VERSIONS)),
    *(whole([b" ".join(words), *LINES[1:]]) for words in product([b"POST", b"CONNECT"], TARGETS, VERSIONS[:1])),
    *(
        whole([LINES[0], b"Host: a", name + b": " + value])
        for name in NAMES
        for value in (VALUES if name in MEANT or SOAK else VALUES[::4])
    ),
    *(whole([LINES[0], b"Host: a", name + b": 1", LINES[3], name + b": 1"]) for name in NAMES),
    *(whole([*LINES, name + b": 1"]) for name in NAMES),
    *(whole([LINES[0], b"Host: a", name + sep + b"1"]) for name, sep in product(NAMES, SEPARATORS)),
    *(whole(LINES[:at] + LINES[at + 1 :]) for at in range(len(LINES))),
    *(whole([*LINES[: at + 1], *LINES[at:]]) for at in range(len(LINES))),
    *(whole(LINES[:at])[:-2] + end + whole(LINES[at:]) for at in range(1, len(LINES)) for end in LINE_ENDS),
    *(PLAIN[:-4] + end for end in LINE_ENDS),
    *(PLAIN + body for body in BODIES),
    *(whole([*LINES, f"Content-Length: {len(body)}".encode()]) + body for body in [*BODIES, PLAIN]),
    *(whole([*LINES, b"Transfer-Encoding: chunked"]) + body for body in [*BODIES, b"a0\r\n" + PLAIN]),
    *(whole([*LINES, b"Content-Length: 5", b"Transfer-Encoding: chunked"]) + body for body in BODIES),
    *(
        whole([b"POST /track HTTP/1.1", b"Host: a", b"Expect: 100-continue", b"Content-Length: 5"]) + body
        for body in BODIES
    ),
    *(
        whole([b"POST /track HTTP/1.1", b"Host: a", b"Content-Encoding: " + coding, b"Content-Length: 5"]) + b"hello"
        for coding in (b"gzip", b"deflate", b"br", b"zstd", b"gzip, gzip", b"x-none", b"")
    ),
    *(whole([*LINES, b"Content-Encoding: " + coding, b"Content-Length: 5"]) + b"hello" for coding in (b"gzip", b"br")),
    *(whole([*LINES, f"Content-Length: {size}".encode()]) for size in (65_536, 65_537, 2**64 - 1, 2**64)),
    *(whole([*LINES, b"Connection: Upgrade", b"Upgrade: " + name]) for name in (b"h2c", b"websocket", b"x")),
    *(
        whole([*LINES[:2], first + b": one", second + b": two"])
        for name in (b"User-Agent", b"Referer")
        for first, second in product((name, name.lower(), name.upper()), repeat=2)
    ),
    *(whole([*LINES[:2], *[b"A: b"] * count]) for count in (62, 63, 64, 126, 127, 128, 129)),
    *(whole([b"GET /track?" + b"q" * count + b" HTTP/1.1", LINES[1]]) for count in range(8168, 8174)),
    *(whole([*LINES[:2], b"Referer: " + b"r" * count]) for count in [*range(8100, 8192, 7), *range(16_500, 16_506)]),
    *(whole([*LINES[:2], b"R" * count + b": r"]) for count in range(8186, 8192)),
    *(whole([*LINES[:2], *[b"Cookie: " + b"c" * 8_000] * count]) for count in (1, 3, 4, 5)),
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    b"\r\n",
    b"GET /track\r\n",
    b"GET /track HTTP/1.1\r\n\r\n",
    b"GET /track HTTP/1.1\n\n",
    b"GET /track HTTP/1.0\r\n\r\n",
    b"GET /track HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
]
