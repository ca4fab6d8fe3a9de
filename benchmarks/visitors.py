"""The requests that the benchmarks send: what browsers and a mail proxy send for `<img src=".../track">`.

A mix is a list of requests. `make bench` has four:

- `four headers`: one request, repeated. Earlier benchmarks sent only this one; it is kept to compare with them.
- `Chrome`: 4,000 different requests with the thirteen headers that Chrome sends.
- `mixed`: 4,000 different requests of browsers and of Gmail's image proxy, in the proportions of `SHARES`.
- `nothing repeats`: those of Chrome with a cookie, a query and an `X-Forwarded-For`, as a trusted proxy sends them. The
  load generator replaces `NUMBER` in a request by a number that it uses once, and `ADDRESS` by an address made of it.

Names, order and values of the headers are what the browsers send over HTTP/1.1. From version 133 on, Chrome sends a
fourteenth one, `Sec-Fetch-Storage-Access`, if page and pixel are of different sites.
"""

import random
from collections.abc import Callable, Mapping
from typing import TypeVar

DIFFERENT = 4_000  # requests of a mix
NUMBER, ADDRESS = "\x01", "\x02"

# Weights are in percent.
CHROME_VERSIONS = {131: 55, 130: 20, 129: 10, 128: 8, 126: 4, 122: 3}
CHROME_PLATFORMS = {
    ("Windows NT 10.0; Win64; x64", "Windows", ""): 45,
    ("Linux; Android 10; K", "Android", " Mobile"): 40,
    ("Macintosh; Intel Mac OS X 10_15_7", "macOS", ""): 12,
    ("X11; Linux x86_64", "Linux", ""): 3,
}
FIREFOX_PLATFORMS = {"Windows NT 10.0; Win64; x64": 70, "X11; Linux x86_64": 20, "Macintosh; Intel Mac OS X 10.15": 10}
SAFARI_PLATFORMS = {
    ("iPhone; CPU iPhone OS 18_1 like Mac OS X", "Mobile/15E148 Safari/604.1"): 75,
    ("Macintosh; Intel Mac OS X 10_15_7", "Safari/605.1.15"): 25,
}
LANGUAGES = {
    "en-US,en;q=0.9": 45,
    "en-GB,en-US;q=0.9,en;q=0.8": 12,
    "de-DE,de;q=0.9,en-US;q=0.8,en;q=0.7": 12,
    "fr-FR,fr;q=0.9,en-US;q=0.8,en;q=0.7": 9,
    "es-ES,es;q=0.9": 8,
    "pt-BR,pt;q=0.9,en-US;q=0.8,en;q=0.7": 6,
    "ja,en-US;q=0.9,en;q=0.8": 5,
    "pl-PL,pl;q=0.9,en-US;q=0.8,en;q=0.7": 3,
}
SITES = {"www.example.com": 50, "blog.example.org": 20, "shop.example.net": 20, "docs.example.com:8443": 10}
CAMPAIGNS = {"": 70, "?utm_source=newsletter": 20, "?utm_source=search&utm_medium=cpc&utm_campaign=autumn-2026": 10}
GMAIL = "Mozilla/5.0 (Windows NT 5.1; rv:11.0) Gecko Firefox/11.0 (via ggpht.com GoogleImageProxy)"
IMAGES = "image/avif,image/webp,image/apng,image/svg+xml,image/*,*/*;q=0.8"  # what Chrome accepts

T = TypeVar("T")
Headers = dict[str, str]


def requests(mix: str, *, host: str, path: str = "/track") -> list[bytes]:
    """The requests of a mix, in the order in which they are sent. They are the same each time."""
    chance, make = random.Random(mix), MIXES[mix]
    made = (make(chance) for _ in range(1 if mix == "four headers" else DIFFERENT))
    return [_request(path + query, {"Host": host} | headers) for query, headers in made]


def _request(target: str, headers: Headers) -> bytes:
    lines = [f"GET {target} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items()), "", ""]
    return "\r\n".join(lines).encode()


def _one(chance: random.Random, weights: Mapping[T, int]) -> T:
    return chance.choices(list(weights), list(weights.values()))[0]


def _page(chance: random.Random) -> str:
    return f"https://{_one(chance, SITES)}/articles/2026/{chance.randrange(100_000)}{_one(chance, CAMPAIGNS)}"


def _four_headers(chance: random.Random) -> tuple[str, Headers]:
    agent = "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/131.0.0.0 Safari/537.36"
    page = "https://www.example.com/articles/2026/11/42?utm_source=newsletter"
    return "", {"User-Agent": agent, "Referer": page, "Accept": IMAGES}


def _chrome(chance: random.Random) -> tuple[str, Headers]:
    version, (system, platform, mobile) = _one(chance, CHROME_VERSIONS), _one(chance, CHROME_PLATFORMS)
    return "", {
        "Connection": "keep-alive",
        "sec-ch-ua-platform": f'"{platform}"',
        "User-Agent": f"Mozilla/5.0 ({system}) AppleWebKit/537.36 (KHTML, like Gecko) "
        f"Chrome/{version}.0.0.0{mobile} Safari/537.36",
        "sec-ch-ua": f'"Google Chrome";v="{version}", "Chromium";v="{version}", "Not_A Brand";v="24"',
        "sec-ch-ua-mobile": f"?{int(bool(mobile))}",
        "Accept": IMAGES,
        "Sec-Fetch-Site": "cross-site",
        "Sec-Fetch-Mode": "no-cors",
        "Sec-Fetch-Dest": "image",
        "Referer": _page(chance),
        "Accept-Encoding": "gzip, deflate, br, zstd",
        "Accept-Language": _one(chance, LANGUAGES),
    }


def _firefox(chance: random.Random) -> tuple[str, Headers]:
    version = chance.choice((128, 131, 132))
    return "", {
        "User-Agent": f"Mozilla/5.0 ({_one(chance, FIREFOX_PLATFORMS)}; rv:{version}.0) "
        f"Gecko/20100101 Firefox/{version}.0",
        "Accept": "image/avif,image/webp,image/png,image/svg+xml,image/*;q=0.8,*/*;q=0.5",
        "Accept-Language": _one(chance, LANGUAGES).replace("q=0.9", "q=0.5"),
        "Accept-Encoding": "gzip, deflate, br, zstd",
        "Connection": "keep-alive",
        "Referer": _page(chance),
        "Sec-Fetch-Dest": "image",
        "Sec-Fetch-Mode": "no-cors",
        "Sec-Fetch-Site": "cross-site",
        "Priority": "u=5, i",
    }


def _safari(chance: random.Random) -> tuple[str, Headers]:
    (system, product), version = _one(chance, SAFARI_PLATFORMS), chance.choice(("17.6", "18.0", "18.1"))
    return "", {
        "Sec-Fetch-Dest": "image",
        "User-Agent": f"Mozilla/5.0 ({system}) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/{version} {product}",
        "Accept": "image/webp,image/avif,image/jxl,image/heic,image/heic-sequence,video/*;q=0.8,image/png,"
        "image/svg+xml,image/*;q=0.8,*/*;q=0.5",
        "Referer": _page(chance),
        "Sec-Fetch-Site": "cross-site",
        "Sec-Fetch-Mode": "no-cors",
        "Accept-Language": _one(chance, LANGUAGES),
        "Priority": "u=5, i",
        "Accept-Encoding": "gzip, deflate, br",
        "Connection": "keep-alive",
    }


def _mail_proxy(chance: random.Random) -> tuple[str, Headers]:
    query = f"?page=newsletter/2026-11/{chance.randrange(20)}&reader={chance.getrandbits(40):x}"
    return query, {"Connection": "keep-alive", "User-Agent": GMAIL, "Accept-Encoding": "gzip, deflate, br"}


SHARES = {_chrome: 70, _safari: 18, _mail_proxy: 8, _firefox: 4}


def _mixed(chance: random.Random) -> tuple[str, Headers]:
    return _one(chance, SHARES)(chance)


def _nothing_repeats(chance: random.Random) -> tuple[str, Headers]:
    headers = _chrome(chance)[1]
    cookie = f"_ga=GA1.1.{NUMBER}.1732600000; session={chance.getrandbits(64):x}{NUMBER}"
    return f"?n={NUMBER}", headers | {"Cookie": cookie, "X-Forwarded-For": ADDRESS}


MIXES: dict[str, Callable[[random.Random], tuple[str, Headers]]] = {
    "four headers": _four_headers,
    "Chrome": _chrome,
    "mixed": _mixed,
    "nothing repeats": _nothing_repeats,
}
