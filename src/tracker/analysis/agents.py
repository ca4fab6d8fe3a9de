"""What a user agent is: a person's browser, a proxy that fetches images for people, or a bot.

Browsers, systems and devices are named by uap-core's list (ua-parser), bots by crawler-user-agents. Both lists are
maintained. Both are matched by the same engine in linear time, once for each distinct user agent. A client can send any
user agent: a bot that sends a browser's is counted as a person.
"""

import re
from dataclasses import dataclass
from functools import cache
from typing import Literal

import crawleruseragents
import ua_parser
from ua_parser import Domain, matchers, regex

Kind = Literal["person", "proxy", "bot"]

# The services that fetch the images of a mail or a page for its readers, by a part of their user agent.
_PROXIES = (
    ("GoogleImageProxy", "Gmail (Google image proxy)"),
    ("YahooMailProxy", "Yahoo Mail"),
    ("github-camo", "GitHub (Camo)"),
)
_APPLE_MAIL = "Mozilla/5.0"  # Mail Privacy Protection sends exactly this

_TELEVISION = re.compile(r"\bTV\b|SmartTV|SMART-TV|AppleTV|GoogleTV|Tizen|Web0S|BRAVIA|AFT[A-Z]|Roku|CrKey")
_TABLET = re.compile(r"iPad|Tablet|Kindle|Silk/|PlayBook")
_DESKTOPS = {"Windows", "Mac OS X", "Linux", "Ubuntu", "Debian", "Fedora", "Chrome OS", "FreeBSD", "OpenBSD", "NetBSD"}


@dataclass(frozen=True, slots=True)
class Agent:
    kind: Kind
    name: str
    """The browser, the proxy or the bot."""
    system: str
    device: str
    """desktop, phone, tablet, television or other; for a bot its purpose: search engine, AI crawler, ..."""


def classify(user_agent: str | None) -> Agent:
    if not user_agent:
        return Agent("bot", "no user agent", "", "other")
    if user_agent == _APPLE_MAIL:
        return Agent("proxy", "Apple Mail (Privacy Protection)", "", "")
    for part, name in _PROXIES:
        if part in user_agent:
            return Agent("proxy", name, "", "")
    bot = _bots()(user_agent, Domain.USER_AGENT).user_agent
    parsed = ua_parser.parse(user_agent)
    browser = parsed.user_agent.family[:60] if parsed.user_agent else ""
    if bot is not None:
        return Agent("bot", bot.family[:60].strip(" /;:("), "", _purpose(int(bot.major or 0)))
    if parsed.device is not None and parsed.device.brand == "Spider":
        return Agent("bot", browser or "other", "", "other")
    system = parsed.os.family if parsed.os else ""
    return Agent("person", browser or "other", system or "other", _device(user_agent, system))


@cache
def _bots() -> regex.Resolver:
    """In a result, `family` is the text by which a bot was recognised, and `major` the index of the bot in the list."""
    listed = enumerate(crawleruseragents.CRAWLER_USER_AGENTS_DATA)
    return regex.Resolver(
        ([matchers.UserAgentMatcher(f"({entry['pattern']})", "$1", str(number)) for number, entry in listed], [], [])
    )


def _purpose(number: int) -> str:
    tags = crawleruseragents.CRAWLER_USER_AGENTS_DATA[number].get("tags") or ["other"]
    return str(tags[0]).replace("-", " ").replace("ai ", "AI ").replace("seo", "SEO").replace("http ", "HTTP ")


def _device(user_agent: str, system: str) -> str:
    if _TELEVISION.search(user_agent):
        return "television"
    if _TABLET.search(user_agent):
        return "tablet"
    if "Mobile" in user_agent or "iPhone" in user_agent or "iPod" in user_agent:
        return "phone"
    if system == "Android":
        return "tablet"  # the user agent of a phone has "Mobile"
    return "desktop" if system in _DESKTOPS else "other"
