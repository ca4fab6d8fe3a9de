"""A real browser: what a visitor of a page leaves in the log, and what the demo page shows of it."""

import asyncio
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By

from tests.local.running import System
from tests.system.wire import wait_for
from tests.waiting import until
from tracker.local.demo import Demo

from .pages import serving


class Visited:
    """The system that the tests of this file share, and the lines of a test behind the `before` lines of others."""

    def __init__(self, system: System) -> None:
        self.pixel_url, self.demo_url, self._system = system.pixel_url, system.demo_url, system
        self.before = len(system.lines)

    @property
    def lines(self) -> list[str]:
        return self._system.lines[self.before :]


@pytest.fixture
def system(shared_system: System) -> Visited:
    return Visited(shared_system)


README = Path(__file__).parents[2] / "README.md"


def readme_snippet() -> str:
    """The tag as a reader of the README copies it."""
    found = re.search(r"<img [^>]*referrerpolicy[^>]*>", README.read_text())
    assert found is not None, "README.md shows no embed snippet"
    return found[0]


def test_a_page_of_another_origin_with_the_snippet_of_the_readme(system: Visited, tab: webdriver.Chrome) -> None:
    snippet = readme_snippet()
    here = re.sub(r"http://[^/\"]+/track", system.pixel_url, snippet)
    assert here != snippet
    with serving() as site:
        page = site.put("/articles/42", here) + "?from=a%7Cletter&lang=de"
        tab.get(page)
        wait_for(lambda: len(system.lines) == 1, "one line in the log")
        agent = tab.execute_script("return navigator.userAgent")
        image = tab.execute_script("const i = document.images[0]; return [i.complete, i.naturalWidth, i.naturalHeight]")

    time, referrer, user_agent, ip = system.lines[0].split("|")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}\+00:00", time)
    assert referrer == page
    assert user_agent == agent
    assert "Chrome" in user_agent
    assert ip == "127.0.0.1"
    assert image == [True, 1, 1]


def test_the_demo_page_shows_its_own_visit_and_every_further_hit(system: Visited, tab: webdriver.Chrome) -> None:
    def rows() -> list[list[str]]:
        """The rows of the page, the newest first, without those of earlier tests."""
        shown: list[list[str]] = tab.execute_script(
            "return [...document.querySelectorAll('#lines tr')].map(r => [...r.cells].map(c => c.textContent))"
        )
        return shown[: max(0, len(shown) - system.before)]

    tab.get(system.demo_url)
    wait_for(lambda: len(rows()) == 1, "the visit to the page appears on it")
    assert tab.find_element(By.ID, "outcome").text == "You have just been counted"
    agent = tab.execute_script("return navigator.userAgent")
    assert rows()[0][1:] == [system.demo_url, agent, "127.0.0.1"]

    for _ in range(3):
        tab.find_element(By.ID, "hit").click()
    wait_for(lambda: len(rows()) == 4, "each further hit appears")
    assert len(system.lines) == 4
    assert tab.find_element(By.ID, "state").text == "live"
    assert tab.find_element(By.ID, "snippet").text == (
        f'<img src="{system.pixel_url}" alt="" width="1" height="1" referrerpolicy="no-referrer-when-downgrade">'
    )
    errors = [entry for entry in tab.get_log("browser") if entry["level"] == "SEVERE"]  # type: ignore[no-untyped-call]
    assert errors == []


def test_the_demo_page_shows_named_pages_and_a_single_page_app(system: Visited, tab: webdriver.Chrome) -> None:
    def pages() -> list[str]:
        return [line.split("|")[1] for line in system.lines]

    tab.get(system.demo_url)
    expected = [system.demo_url]
    for selector, page in (
        ("[data-issue='2026-11']", "newsletter/2026-11"),
        ("[data-issue='2026-12']", "newsletter/2026-12"),
        ("[href='/app/prices']", f"{system.demo_url}app/prices"),
        ("[href='/app/about']", f"{system.demo_url}app/about"),
    ):
        wait_for(lambda: pages() == expected, lambda: f"the pages are {expected}, and not {pages()}")
        tab.find_element(By.CSS_SELECTOR, selector).click()
        expected.append(page)
    wait_for(lambda: pages() == expected, lambda: f"the pages are {expected}, and not {pages()}")

    tab.refresh()  # a page of the app can be opened, too
    assert tab.find_element(By.ID, "newsletter").text.startswith("<img ")
    wait_for(lambda: pages() == [*expected, expected[-1]], "the page of the app was opened")
    assert [entry for entry in tab.get_log("browser") if entry["level"] == "SEVERE"] == []  # type: ignore[no-untyped-call]

    tab.get(f"{system.demo_url}report")
    report = tab.find_element(By.TAG_NAME, "body").text
    for page in expected:
        assert page in report


def test_the_demo_page_does_not_claim_a_visit_that_was_blocked(system: Visited, tab: webdriver.Chrome) -> None:
    tab.execute_cdp_cmd("Network.enable", {})
    tab.execute_cdp_cmd("Network.setBlockedURLs", {"urls": ["*/track*"]})  # as an ad blocker does
    tab.get(system.demo_url)
    wait_for(
        lambda: tab.find_element(By.ID, "outcome").text == "You have not been counted",
        lambda: f"the page says: {tab.find_element(By.ID, 'outcome').text}",
    )
    wait_for(lambda: tab.find_element(By.ID, "state").text == "live", "the page shows the log all the same")
    assert system.lines == []


def says_that_nothing_was_counted(tab: webdriver.Chrome) -> bool:
    return tab.find_element(By.ID, "outcome").text.startswith("You have not")


async def test_the_demo_page_says_when_the_pixel_is_unreachable(
    free_ports: Callable[[int], list[int]], tmp_path: Path, tab: webdriver.Chrome
) -> None:
    port, closed = free_ports(2)
    demo = Demo(
        host="127.0.0.1",
        port=port,
        pixel_url=f"http://127.0.0.1:{closed}/track",
        page_parameter="page",
        pixel_admin_url=f"http://127.0.0.1:{closed}",
        storage_admin_url=f"http://127.0.0.1:{closed}",
        archive_admin_url=None,
        log_path=tmp_path / "visits.log",
    )
    await demo.start()
    try:
        await asyncio.to_thread(tab.get, f"http://127.0.0.1:{port}/")
        await until(lambda: asyncio.to_thread(says_that_nothing_was_counted, tab))
    finally:
        await demo.stop()
