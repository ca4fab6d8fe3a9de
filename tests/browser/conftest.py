"""A headless Chromium, and the whole system for it to visit."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service

from tests.local.running import System
from tests.ports import free_port

CHROMIUM = "/usr/bin/chromium"
CHROMEDRIVER = "/usr/bin/chromedriver"


@contextmanager
def chromium(profile: Path) -> Iterator[webdriver.Chrome]:
    # Both named, so that selenium neither looks for nor downloads one of its own.
    for name in (CHROMIUM, CHROMEDRIVER):
        if shutil.which(name) is None:
            pytest.skip(f"needs {name}")
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in (
        "--headless=new",
        "--no-sandbox",  # needs privileges that a container does not give
        "--disable-gpu",
        "--disable-quic",
        "--disable-dev-shm-usage",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--window-size=1280,1000",
        f"--user-data-dir={profile}",
    ):
        options.add_argument(argument)
    driver = webdriver.Chrome(options=options, service=Service(CHROMEDRIVER))
    driver.set_page_load_timeout(20)
    try:
        yield driver
    finally:
        driver.quit()


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[webdriver.Chrome]:
    with chromium(tmp_path / "chromium") as driver:
        yield driver


@pytest.fixture(scope="module")
def shared_browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    with chromium(tmp_path_factory.mktemp("chromium")) as driver:
        yield driver


@pytest.fixture
def tab(shared_browser: webdriver.Chrome) -> Iterator[webdriver.Chrome]:
    """A new tab of a browser that the tests of a file share: a browser takes seconds to start."""
    shared_browser.get_log("browser")  # type: ignore[no-untyped-call]  # without the messages of earlier tests
    first = shared_browser.current_window_handle
    shared_browser.switch_to.new_window("tab")
    yield shared_browser
    shared_browser.close()
    shared_browser.switch_to.window(first)


@pytest.fixture(scope="module")
def shared_system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """A system for all tests of a file: each looks at its own visits only."""
    pytest.importorskip("moto", reason="the local broker is moto")
    made = System(tmp_path_factory.mktemp("system"), [free_port() for _ in range(6)])
    made.start()
    yield made
    made.destroy()
