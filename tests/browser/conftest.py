"""A headless Chromium, and the whole system for it to visit."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service

from tests.local.running import System

CHROMIUM = "/usr/bin/chromium"
CHROMEDRIVER = "/usr/bin/chromedriver"


@pytest.fixture
def system(tmp_path: Path, free_ports: Callable[[int], list[int]]) -> Iterator[System]:
    pytest.importorskip("moto", reason="the local broker is moto")
    folder = tmp_path / "system"
    folder.mkdir()
    made = System(folder, free_ports(5))
    made.start()
    yield made
    made.destroy()


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[webdriver.Chrome]:
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
        f"--user-data-dir={tmp_path / 'chromium'}",
    ):
        options.add_argument(argument)
    driver = webdriver.Chrome(options=options, service=Service(CHROMEDRIVER))
    driver.set_page_load_timeout(20)
    yield driver
    driver.quit()
