"""Who is behind a user agent."""

from collections import Counter
from pathlib import Path

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
        ("'\"><img src=x> printer", "other", "other", "other"),
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
        (
            "Mozilla/5.0 (compatible; NeverHeardOf-Spider/1.0; +https://example.com/)",
            "NeverHeardOf-Spider",
            "not listed; it names a contact",
        ),
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


def test_the_bots_of_the_list_are_known_by_their_own_examples() -> None:
    listed = [example for entry in crawleruseragents.CRAWLER_USER_AGENTS_DATA for example in entry["instances"]]
    assert len(listed) > 1000
    known = [example for example in listed if classify(example).kind != "person"]
    assert len(known) / len(listed) > 0.99


def test_a_long_user_agent_is_classified_at_once_and_its_name_is_short() -> None:
    assert classify("Mozilla/5.0 (Windows " + "a1 (;" * 400 + ")").kind == "person"
    assert len(classify("x" * 2000 + "bot/1.0 (+http://example.com/bot)").name) <= 60


@pytest.mark.parametrize(
    ("user_agent", "browser"),
    [
        (ANDROID.replace("10; K", "15; RMX3946 Build/AP3A.240617.008; wv").format("Mobile "), "Chrome Mobile WebView"),
        (ANDROID.replace("10; K", "4.4.2; ViewSonic V500 Build/KVT49L").format("Mobile "), "Chrome Mobile"),
        (ANDROID.replace("10; K", "4.2.2; HTC Butterfly Build/JDQ39").format("Mobile "), "Chrome Mobile"),
        (ANDROID.replace("10; K", "8.1.0; Fever_Plus_J").format("Mobile "), "Chrome Mobile"),
        (ANDROID.replace("10; K", "8.0.0; Expanse").format("Mobile "), "Chrome Mobile"),
        (ANDROID.replace("10; K", "9; CUBOT X19").format("Mobile "), "Chrome Mobile"),
        (ANDROID.format("Mobile ") + " SogouMSE,SogouMobileBrowser/5.24.6", "Chrome Mobile"),
        (ANDROID.format("Mobile ") + " Viber/11.9.5.8", "Chrome Mobile"),
        ("Mozilla/5.0 (Windows NT 6.1; WOW64; Trident/7.0; Banca Caboto s.p.a.; rv:11.0) like Gecko", "IE"),
    ],
)
def test_the_names_of_phones_builds_and_browsers_make_no_bot(user_agent: str, browser: str) -> None:
    found = classify(user_agent)
    assert (found.kind, found.name) == ("person", browser)


@pytest.mark.parametrize(
    ("user_agent", "name"),
    [
        ("Barracuda Sentinel (EE)", "Barracuda"),
        (CHROME.decode() + " ProofPoint-URL-Defense", "Proofpoint"),
        ("Mimecast-URL-Protect/1.0", "Mimecast"),
        ("Mozilla/5.0 (compatible; Microsoft Defender; +https://example.com)", "Microsoft Defender"),
        ("Kaspersky Lab CFR link resolver cfradmins@kaspersky.com", "Kaspersky"),
        (
            ANDROID.format("Mobile ") + " (compatible; Google-Safety; +http://www.google.com/bot.html)",
            "Google Safe Browsing",
        ),
    ],
)
def test_scanners_of_mails_that_give_their_name_are_no_ordinary_bots(user_agent: str, name: str) -> None:
    assert classify(user_agent) == Agent("scanner", name, "", "")


@pytest.mark.parametrize(
    ("user_agent", "reason"),
    [
        ("Mozilla/5.0 (compatible; Tarmot/1.1; +http://tarmot.example/)", "not listed; it names a contact"),
        ("WebAuthn Study (Contact: mb@example.org)", "not listed; it names a contact"),
        (CHROME.decode() + " SomethingBot/3.1", "not listed; it calls itself a bot"),
        ("ShopChecker/1.0", "not listed; it names a task"),
        ("PritTorrent/1.0", "not listed; it names no browser, no system and no device"),
        ("{{.custom_user_agent}}", "not listed; it names no browser, no system and no device"),
    ],
)
def test_a_bot_that_no_list_has_says_why_it_is_called_one(user_agent: str, reason: str) -> None:
    found = classify(user_agent)
    assert (found.kind, found.device) == ("bot", reason)


@pytest.mark.parametrize(
    ("device", "user_agent"),
    [
        ("television", "Opera/9.80 (Linux armv7l; HbbTV/1.1.1 (; Sony; KDL42W805A; PKG3.105EUA; 2013;); ) Presto/2.12"),
        ("television", ANDROID.replace("10; K", "9; 32LH7011T Build/PPR2.180905.006").format("")),
        ("television", ANDROID.replace("10; K", "5.1.1; AFTS Build/LMY47O").format("")),
        ("television", "VIZIO V585-H1 ViziOS/1.4 WatchFree/24.06 FancyPlayer/1.1.30-qa"),
        (
            "desktop",
            "Mozilla/5.0 (compatible; Konqueror/4.3; Linux) KHTML/4.3.4 (like Gecko) Red Hat Enterprise Linux/4.3",
        ),
        ("desktop", "Mozilla/4.04 [en] (X11; I; IRIX 5.3 IP22)"),
        ("desktop", ANDROID.replace("10; K", "9; ASUS Chromebook Flip C101PA").format("")),
        ("tablet", ANDROID.replace("10; K", "14; Tab A11 Pro").format("Mobile ")),
        ("tablet", ANDROID.replace("10; K", "9; SM-T590").format("Mobile ")),
        ("phone", "Dalvik/2.1.0 (Linux; U; Android 14; Pixel 8 Pro Build/UD1A.230803.041)"),
        ("phone", "SAGEM-myV-55/2.0 Profile/MIDP-2.0 Configuration/CLDC-1.0 UP.Browser/6.2.2.6.d.3.100 (GUI) MMP/1.0"),
        ("other", "Mozilla/5.0 (PlayStation 5 3.11) AppleWebKit/605.1.15 (KHTML, like Gecko)"),
    ],
)
def test_a_device_is_known_by_its_words(device: str, user_agent: str) -> None:
    found = classify(user_agent)
    assert (found.kind, found.device) == ("person", device)


def test_most_user_agents_of_public_collections_are_named_rightly() -> None:
    """A sample; benchmarks/agent_corpora.py reads the whole collections."""
    lines = Path(__file__).with_name("agents_sample.tsv").read_text(encoding="ascii").splitlines()
    whole, right = Counter[str](), Counter[str]()
    for _, kind, device, user_agent in (line.split("\t") for line in lines if not line.startswith("#")):
        found = classify(user_agent)
        whole.update([kind, device])
        right[kind] += (found.kind == "person") == (kind == "person")
        right[device] += found.kind == "person" and found.device == device
    least = {"person": 0.95, "bot": 0.9, "desktop": 0.9, "phone": 0.85, "tablet": 0.85, "television": 0.9}
    assert {name: right[name] / whole[name] for name, share in least.items() if right[name] < share * whole[name]} == {}
