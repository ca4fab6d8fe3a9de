"""A real browser: what a visitor of a page leaves in the log, and what the demo page shows of it."""

import asyncio
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from selenium import webdriver
from selenium.webdriver.common.by import By

from tests.local.running import System
from tests.system.wire import wait_for
from tracker.local.demo import Demo

README = Path(__file__).parents[2] / "README.md"


def readme_snippet() -> str:
    """The tag as a reader of the README copies it."""
    found = re.search(r"<img [^>]*referrerpolicy[^>]*>", README.read_text())
    assert found is not None, "README.md shows no embed snippet"
    return found[0]


@contextmanager
def page_with(content: str) -> Iterator[str]:
    """The origin of a server whose every page is `content`."""

    class Page(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = f"<!doctype html><title>A page</title><p>Hello</p>{content}".encode()
            self.send_response(200 if self.path != "/favicon.ico" else 404)
            self.send_header("Content-Type", "text/html")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Says nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Page) as server:
        serving = threading.Thread(target=server.serve_forever)
        serving.start()
        yield f"http://localhost:{server.server_port}"
        server.shutdown()
        serving.join()


def test_a_page_of_another_origin_with_the_snippet_of_the_readme(system: System, browser: webdriver.Chrome) -> None:
    snippet = readme_snippet()
    here = re.sub(r"http://[^/\"]+/track", system.pixel_url, snippet)
    assert here != snippet
    with page_with(here) as origin:
        page = f"{origin}/articles/42?from=a%7Cletter&lang=de"
        browser.get(page)
        wait_for(lambda: len(system.lines) == 1, "one line in the log")
        agent = browser.execute_script("return navigator.userAgent")
        image = browser.execute_script(
            "const i = document.images[0]; return [i.complete, i.naturalWidth, i.naturalHeight]"
        )

    time, referrer, user_agent, ip = system.lines[0].split("|")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}\+00:00", time)
    assert referrer == page
    assert user_agent == agent
    assert "Chrome" in user_agent
    assert ip == "127.0.0.1"
    assert image == [True, 1, 1]


def test_the_demo_page_shows_its_own_visit_and_every_further_hit(system: System, browser: webdriver.Chrome) -> None:
    def rows() -> list[list[str]]:
        return browser.execute_script(  # type: ignore[no-any-return]
            "return [...document.querySelectorAll('#lines tr')].map(r => [...r.cells].map(c => c.textContent))"
        )

    browser.get(system.demo_url)
    wait_for(lambda: len(rows()) == 1, "the visit to the page appears on it")
    assert browser.find_element(By.ID, "outcome").text == "You have just been counted"
    agent = browser.execute_script("return navigator.userAgent")
    assert rows()[0][1:] == [system.demo_url, agent, "127.0.0.1"]

    for _ in range(3):
        browser.find_element(By.ID, "hit").click()
    wait_for(lambda: len(rows()) == 4, "each further hit appears")
    assert len(system.lines) == 4
    assert browser.find_element(By.ID, "state").text == "live"
    assert browser.find_element(By.ID, "snippet").text == (
        f'<img src="{system.pixel_url}" alt="" width="1" height="1" referrerpolicy="no-referrer-when-downgrade">'
    )
    errors = [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]  # type: ignore[no-untyped-call]
    assert errors == []


def test_the_demo_page_does_not_claim_a_visit_that_was_blocked(system: System, browser: webdriver.Chrome) -> None:
    browser.execute_cdp_cmd("Network.enable", {})
    browser.execute_cdp_cmd("Network.setBlockedURLs", {"urls": ["*/track*"]})  # as an ad blocker does
    browser.get(system.demo_url)
    wait_for(
        lambda: browser.find_element(By.ID, "outcome").text == "You have not been counted",
        lambda: f"the page says: {browser.find_element(By.ID, 'outcome').text}",
    )
    wait_for(lambda: browser.find_element(By.ID, "state").text == "live", "the page shows the log all the same")
    assert system.lines == []


async def test_the_demo_page_says_when_the_pixel_is_unreachable(
    free_ports: Callable[[int], list[int]], tmp_path: Path, browser: webdriver.Chrome
) -> None:
    port, closed = free_ports(2)
    demo = Demo(
        host="127.0.0.1",
        port=port,
        pixel_url=f"http://127.0.0.1:{closed}/track",
        pixel_admin_url=f"http://127.0.0.1:{closed}",
        storage_admin_url=f"http://127.0.0.1:{closed}",
        log_path=tmp_path / "visits.log",
    )
    await demo.start()
    try:
        await asyncio.to_thread(browser.get, f"http://127.0.0.1:{port}/")
        async with asyncio.timeout(10):
            while (await asyncio.to_thread(lambda: browser.find_element(By.ID, "outcome").text))[:12] != "You have not":
                await asyncio.sleep(0.05)
    finally:
        await demo.stop()
