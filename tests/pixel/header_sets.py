"""Requests for the pixel as browsers, mail proxies and load balancers send them, each of another visitor.

`python -m tests.pixel.header_sets` prints how many of them the fast path knows without matching the whole request.
"""

import random
from collections.abc import Callable
from typing import NamedTuple

from tests.pixel.requests import whole
from tracker.pixel.fast_path import FastPath


class Browser(NamedTuple):
    """`share` is in percent of all visits. `{version}`, `{language}`, `{page}` and `{cookie}` are filled in."""

    name: str
    share: int
    headers: str


_CHROME = """Connection: keep-alive
sec-ch-ua-platform: "{platform}"
User-Agent: Mozilla/5.0 ({system}) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/{version}.0.0.0 {safari}
sec-ch-ua: "Chromium";v="{version}", "{brand}";v="{version}", "Not?A_Brand";v="99"
sec-ch-ua-mobile: {mobile}
Accept: image/avif,image/webp,image/apng,image/svg+xml,image/*,*/*;q=0.8
Sec-Fetch-Site: {site}
Sec-Fetch-Mode: no-cors
Sec-Fetch-Dest: image
Referer: {page}
Accept-Encoding: gzip, deflate, br, zstd
Accept-Language: {language};q=0.9,en-US;q=0.8,en;q=0.7"""


def _chrome(platform: str, system: str, mobile: str = "?0", brand: str = "Google Chrome", safari: str = "") -> str:
    fixed = {
        "platform": platform,
        "system": system,
        "mobile": mobile,
        "brand": brand,
        "safari": safari or ("Mobile Safari/537.36" if mobile == "?1" else "Safari/537.36"),
        "site": "cross-site",
    }
    text = _CHROME
    for key, value in fixed.items():
        text = text.replace(f"{{{key}}}", value)
    return text


_SAFARI = """Accept: image/webp,image/avif,image/jxl,image/heic,image/heic-sequence,video/*;q=0.8,image/png,*/*;q=0.5
Connection: keep-alive
Sec-Fetch-Site: cross-site
Sec-Fetch-Mode: no-cors
Sec-Fetch-Dest: image
User-Agent: Mozilla/5.0 (SYSTEM) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/{version}
Referer: {page}
Accept-Language: {language};q=0.9
Accept-Encoding: gzip, deflate, br
Priority: u=5, i"""

BROWSERS = [
    Browser("Chrome, Android", 33, _chrome("Android", "Linux; Android 10; K", "?1")),
    Browser("Chrome, Windows", 18, _chrome("Windows", "Windows NT 10.0; Win64; x64")),
    Browser("Chrome, macOS", 4, _chrome("macOS", "Macintosh; Intel Mac OS X 10_15_7")),
    Browser(
        "Edge",
        5,
        _chrome(
            "Windows",
            "Windows NT 10.0; Win64; x64",
            brand="Microsoft Edge",
            safari="Safari/537.36 Edg/{version}.0.0.0",
        ),
    ),
    Browser("Safari, iOS", 17, _SAFARI.replace("SYSTEM", "iPhone; CPU iPhone OS 18_{version} like Mac OS X")),
    Browser("Safari, macOS", 5, _SAFARI.replace("SYSTEM", "Macintosh; Intel Mac OS X 10_15_7")),
    Browser(
        "Firefox",
        4,
        """User-Agent: Mozilla/5.0 (Windows NT 10.0; Win64; x64; rv:{version}.0) Gecko/20100101 Firefox/{version}.0
Accept: image/avif,image/webp,image/png,image/svg+xml,image/*;q=0.8,*/*;q=0.5
Accept-Language: {language};q=0.8,en-US;q=0.5,en;q=0.3
Accept-Encoding: gzip, deflate, br, zstd
Connection: keep-alive
Referer: {page}
Sec-Fetch-Dest: image
Sec-Fetch-Mode: no-cors
Sec-Fetch-Site: cross-site
Priority: u=5, i""",
    ),
    Browser(
        "Gmail's proxy",
        8,
        """Connection: keep-alive
User-Agent: Mozilla/5.0 (Windows NT 5.1; rv:11.0) Gecko Firefox/11.0 (via ggpht.com GoogleImageProxy)
Accept-Encoding: gzip, deflate, br""",
    ),
    Browser(
        "Yahoo's proxy",
        2,
        """Connection: keep-alive
User-Agent: YahooMailProxy; https://help.yahoo.com/kb/yahoo-mail-proxy-SLN28749.html
Accept: */*
Accept-Encoding: gzip""",
    ),
    Browser(
        "Apple's proxy",
        3,
        """User-Agent: Mozilla/5.0
Accept: */*
Accept-Language: {language}
Accept-Encoding: gzip, deflate, br
Connection: keep-alive""",
    ),
    Browser(
        "GitHub's Camo",
        1,
        """User-Agent: github-camo (876de43e)
Accept: image/png,image/svg+xml,image/*
Accept-Encoding: gzip
Via: github-camo (876de43e)""",
    ),
]


def _direct(headers: list[str], address: str, chance: random.Random) -> list[str]:
    return ["Host: pixel.example", *headers]


def _nginx(headers: list[str], address: str, chance: random.Random) -> list[str]:
    kept = [header for header in headers if not header.startswith("Connection")]
    return [f"X-Forwarded-For: {address}", f"X-Real-IP: {address}", "Host: pixel.example", *kept]


def _aws(headers: list[str], address: str, chance: random.Random) -> list[str]:
    kept = [header for header in headers if not header.startswith("Connection")]
    lower = [f"{name.lower()}: {value}" for name, _, value in (header.partition(": ") for header in kept)]
    return [
        f"X-Forwarded-For: {address}",
        "X-Forwarded-Proto: https",
        "X-Forwarded-Port: 443",
        "Host: pixel.example",
        f"X-Amzn-Trace-Id: Root=1-{chance.getrandbits(32):08x}-{chance.getrandbits(96):024x}",
        *lower,
    ]


def _cloudflare(headers: list[str], address: str, chance: random.Random) -> list[str]:
    country = chance.choices(["DE", "US", "FR", "IN", "BR", "GB"], [6, 5, 3, 2, 1, 1])[0]
    return [
        "Host: pixel.example",
        f"CF-RAY: {chance.getrandbits(64):016x}-FRA",
        f"X-Forwarded-For: {address}",
        "X-Forwarded-Proto: https",
        *headers,
        f"CF-IPCountry: {country}",
        f"CF-Connecting-IP: {address}",
        'CF-Visitor: {"scheme":"https"}',
        "cdn-loop: cloudflare; loops=1",
    ]


FRONTS: dict[str, Callable[[list[str], str, random.Random], list[str]]] = {
    "no proxy": _direct,
    "nginx": _nginx,
    "AWS load balancer": _aws,
    "Cloudflare": _cloudflare,
}

_LANGUAGES = "en-US de-DE fr-FR es-ES pt-BR it-IT nl-NL pl-PL en-GB tr-TR ja-JP ru-RU sv-SE cs-CZ da-DK fi-FI"
LANGUAGES = _LANGUAGES.split()


def visit(front: str, chance: random.Random, *, cookie: float = 0.5) -> bytes:
    """The request of one visit. `cookie` is the share of visitors who have a cookie of the pixel's site."""
    browser = chance.choices(BROWSERS, [browser.share for browser in BROWSERS])[0]
    version = 142 - min(int(chance.expovariate(0.7)), 30)  # most have one of the last few
    language = LANGUAGES[min(int(chance.expovariate(0.4)), len(LANGUAGES) - 1)]
    page = f"https://www.example.com/articles/{chance.randrange(100_000)}?utm_source=newsletter"
    headers = browser.headers.replace("{version}", str(version)).replace("{language}", language)
    lines = headers.replace("{page}", page).split("\n")
    if "Referer" in headers and chance.random() < 0.1:  # a page with the policy no-referrer
        lines = [line for line in lines if not line.startswith("Referer")]
    if "Referer" in headers and chance.random() < cookie:
        lines.append(f"Cookie: _ga=GA1.1.{chance.getrandbits(30)}; session={chance.getrandbits(128):032x}")
    address = ".".join(str(chance.randrange(1, 255)) for _ in range(4))
    lines = FRONTS[front](lines, address, chance)
    return whole([f"GET /track?{chance.getrandbits(40)} HTTP/1.1".encode(), *map(str.encode, lines)])


class _CountingPattern:
    def __init__(self, pattern: object) -> None:
        self.pattern = pattern
        self.matched = 0

    def match(self, text: str, at: int) -> object:
        self.matched += 1
        return self.pattern.match(text, at)  # type: ignore[attr-defined]


def share_known(front: str, *, visits: int, seed: int) -> float:
    """The share of `visits` that the fast path knows, after as many others."""
    chance = random.Random(seed)
    fast_path = FastPath("/track", ["Referer", "User-Agent", "X-Forwarded-For"])
    counting = _CountingPattern(fast_path.pattern)
    fast_path.pattern = counting  # type: ignore[assignment]
    for _ in range(visits):
        assert fast_path.find(visit(front, chance))
    before = counting.matched
    for _ in range(visits):
        assert fast_path.find(visit(front, chance))
    return 1 - (counting.matched - before) / visits


if __name__ == "__main__":
    for name in FRONTS:
        shares = ", ".join(
            f"{share_known(name, visits=count, seed=1):.0%} after {count:,}" for count in (1_000, 20_000)
        )
        print(f"{name}: {shares} visits")
