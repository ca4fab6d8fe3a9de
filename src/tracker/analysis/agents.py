"""What a user agent is: a person's browser, a proxy that fetches images for people, a mail scanner, or a bot.

1. Our own rules (`tracker.analysis.agent_rules`) know browsers that the list of bots takes for bots, and the proxies
   and scanners of mails.
2. The list of crawler-user-agents knows bots by name.
3. Our own rules know what is in no list and calls itself a bot, or names a contact or a task.
4. The list of uap-core (ua-parser) names browsers and systems, and what it calls a spider is a bot.
5. What names no browser, no system and no device is a program, hence a bot.

A bot of steps 3 and 5 has its reason in the place of its purpose. All patterns are matched by the same engine in linear
time, once for each distinct user agent. A client can send any user agent: a bot that sends a browser's is counted as
a person.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache

import crawleruseragents
import ua_parser
from ua_parser import Domain, matchers, regex

from tracker.analysis.agent_rules import AFTER_THE_LIST, BEFORE_THE_LIST, DEVICES, NO_BROWSER, Kind, Rule

_MAX_NAME = 60  # characters
# The model of an Android device and its build are the words of a manufacturer, not the name of the program.
_MODEL = re.compile(r"(?<=Android )([\d.]+);[^()]*")
_OWN_NAME = re.compile(r"(?:^Mozilla/[\d.]+ )?(?:\((?:\w+; )*compatible; )?([^\s/;,()]+(?: [A-Z][^\s/;,()]*)*)")


@dataclass(frozen=True, slots=True)
class Agent:
    kind: Kind
    name: str
    """The browser, the proxy, the scanner or the bot."""
    system: str
    device: str
    """desktop, phone, tablet, television or other. For a bot its purpose (search engine, AI crawler, ...); for a bot
    that is in no list, what shows that it is one."""


def classify(user_agent: str | None) -> Agent:
    if not user_agent:
        return Agent("bot", "no user agent", "", "other")
    words = _MODEL.sub(r"\1", user_agent) if "Android" in user_agent else user_agent
    found = _rule_matcher()(words, Domain.USER_AGENT).user_agent
    rule = _rules()[int(found.major or 0)] if found is not None else None
    if found is not None and rule is not None and rule.kind != "person":
        name = found.family if rule not in AFTER_THE_LIST else _own_name(user_agent)
        return Agent(rule.kind, rule.name or _short(name), "", rule.purpose)
    named, run_by = ua_parser.parse_user_agent(user_agent), ua_parser.parse_os(user_agent)
    browser = named.family[:_MAX_NAME] if named else ""
    system = run_by.family if run_by else ""
    device = _device_matcher()(user_agent, Domain.USER_AGENT).user_agent
    if rule is None and not (browser and system):
        model = ua_parser.parse_device(user_agent)
        if model is not None and model.brand == "Spider":
            return Agent("bot", browser or _short(_own_name(user_agent)), "", "other")
        if not browser and not system and model is None and device is None:
            return Agent("bot", _short(_own_name(user_agent)), "", NO_BROWSER)
    return Agent("person", browser or "other", system or "other", device.family if device else "other")


@cache
def _rules() -> tuple[Rule, ...]:
    listed = (
        Rule("bot", entry["pattern"], None, _purpose(entry.get("tags") or ["other"]))
        for entry in crawleruseragents.CRAWLER_USER_AGENTS_DATA
    )
    return (*BEFORE_THE_LIST, *listed, *AFTER_THE_LIST)


@cache
def _rule_matcher() -> regex.Resolver:
    """In a result, `family` is the text that matched and `major` the index of the rule."""
    return _resolver((f"({rule.pattern})", "$1", str(number)) for number, rule in enumerate(_rules()))


@cache
def _device_matcher() -> regex.Resolver:
    """In a result, `family` is the kind of the device."""
    return _resolver((pattern, device, None) for device, pattern in DEVICES)


def _resolver(patterns: Iterable[tuple[str, str, str | None]]) -> regex.Resolver:
    return regex.Resolver(([matchers.UserAgentMatcher(*pattern) for pattern in patterns], [], []))


def _purpose(tags: list[str]) -> str:
    return tags[0].replace("-", " ").replace("ai ", "AI ").replace("seo", "SEO").replace("http ", "HTTP ")


def _own_name(user_agent: str) -> str:
    found = _OWN_NAME.match(user_agent)
    return found[1] if found is not None else user_agent


def _short(name: str) -> str:
    return name[:_MAX_NAME].strip(" /;:(") or "other"
