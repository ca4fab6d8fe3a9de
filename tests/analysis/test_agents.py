"""Who is behind a user agent."""

import crawleruseragents
import pytest

from tests.analysis.golden import CHROME, FIREFOX, GMAIL, GOOGLEBOT, IPHONE
from tracker.analysis.agents import Agent, classify

ANDROID = "Mozilla/5.0 (Linux; Android 10; K) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/130.0.0.0 {}Safari/537.36"


@pytest.mark.parametrize(
    ("user_agent", "browser", "system", "device"),
    [
        (CHROME.decode(), "Chrome", "Windows", "desktop"),
        (CHROME.decode() + " Edg/130.0.0.0", "Edge", "Windows", "desktop"),
        (FIREFOX.decode(), "Firefox", "Linux", "desktop"),
        (IPHONE.decode(), "Mobile Safari", "iOS", "phone"),
        (IPHONE.decode().replace("iPhone; CPU iPhone OS", "iPad; CPU OS"), "Mobile Safari", "iOS", "tablet"),
        (ANDROID.format("Mobile "), "Chrome Mobile", "Android", "phone"),
        (ANDROID.format(""), "Chrome", "Android", "tablet"),
        (
            "Mozilla/5.0 (SMART-TV; Linux; Tizen 6.0) AppleWebKit/537.36 (KHTML, like Gecko) SamsungBrowser/3.2 "
            "TV Safari/537.36",
            "Samsung Internet",
            "Tizen",
            "television",
        ),
        ("'\"><img src=x>", "other", "other", "other"),
    ],
)
def test_people_have_a_browser_a_system_and_a_device(user_agent: str, browser: str, system: str, device: str) -> None:
    assert classify(user_agent) == Agent("person", browser, system, device)


@pytest.mark.parametrize(
    ("user_agent", "name", "purpose"),
    [
        (GOOGLEBOT.decode(), "Googlebot", "search engine"),
        (
            "Mozilla/5.0 AppleWebKit/537.36 (KHTML, like Gecko; compatible; GPTBot/1.2; +https://x)",
            "GPTBot",
            "AI crawler",
        ),
        ("curl/8.5.0", "curl", "HTTP library"),
        (CHROME.decode().replace(" Chrome/", " HeadlessChrome/"), "HeadlessChrome", "browser automation"),
        ("Mozilla/5.0 (compatible; NeverHeardOf-Spider/1.0; +https://example.com/)", "NeverHeardOf-Spider", "other"),
        ("", "no user agent", "other"),
        (None, "no user agent", "other"),
    ],
)
def test_bots_have_a_name_and_a_purpose(user_agent: str | None, name: str, purpose: str) -> None:
    assert classify(user_agent) == Agent("bot", name, "", purpose)


@pytest.mark.parametrize(
    ("user_agent", "name"),
    [
        (GMAIL.decode(), "Gmail (Google image proxy)"),
        ("YahooMailProxy; https://help.yahoo.com/kb/yahoo-mail-proxy-SLN28749.html", "Yahoo Mail"),
        ("Mozilla/5.0", "Apple Mail (Privacy Protection)"),
        ("github-camo (876de43e)", "GitHub (Camo)"),
    ],
)
def test_proxies_that_fetch_for_people_are_neither(user_agent: str, name: str) -> None:
    assert classify(user_agent) == Agent("proxy", name, "", "")


def test_every_bot_of_the_list_is_told_by_its_own_examples() -> None:
    listed = [example for entry in crawleruseragents.CRAWLER_USER_AGENTS_DATA for example in entry["instances"]]
    assert len(listed) > 1000
    people = [example for example in listed[::7] if classify(example).kind == "person"]
    assert people == []


def test_a_long_user_agent_is_classified_at_once_and_its_name_is_short() -> None:
    assert classify("Mozilla/5.0 (" + "a1 (;" * 400 + ")").kind == "person"
    assert len(classify("x" * 2000 + "bot/1.0 (+http://example.com/bot)").name) <= 60
