"""Somebody who opens pages with the pieces of docs/put-it-on.md, and what is counted of that."""

import itertools
import re
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from selenium import webdriver

from tests.local.running import System
from tests.system.wire import wait_for

from .pages import Site

PAGE = (Path(__file__).parents[2] / "docs/put-it-on.md").read_text(encoding="utf-8")
PIXEL = "https://pixel.example.com/track"
_numbers = itertools.count()


def pieces(heading: str) -> list[str]:
    """The code below a heading of the page."""
    section = PAGE.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    found = re.findall(r"^```\w+\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)
    assert found, f"no code below {heading}"
    return found


class Reader:
    def __init__(self, system: System, site: Site, browser: webdriver.Chrome) -> None:
        self.site, self.browser, self._system = site, browser, system
        self._seen = len(system.lines)

    def piece(self, heading: str, number: int = 0, *, unlike: tuple[str, str] = ("", "")) -> str:
        """A piece of the page, with the address of the system's pixel."""
        text = pieces(heading)[number]
        assert unlike[0] in text
        return text.replace(*unlike).replace(PIXEL, self.pixel).replace(PIXEL.rpartition("/")[0], self.pixel_origin)

    @property
    def pixel(self) -> str:
        return self._system.pixel_url

    @property
    def pixel_origin(self) -> str:
        return self.pixel.rpartition("/")[0]

    def open(self, content: str, headers: Mapping[str, str] = MappingProxyType({})) -> str:
        """Make a page and open it. Returns its address."""
        address = self.site.put(f"/page/{next(_numbers)}", content, headers)
        self.browser.get(address)
        return address

    def run(self, script: str) -> None:
        self.browser.execute_script(script)

    def wait_for_visits(self, count: int) -> None:
        wait_for(lambda: len(self._system.lines) >= self._seen + count, f"{count} visits")

    def pages(self) -> list[str]:
        """The pages of the visits since the last call.

        A visit that is made now is stored behind all visits that the browser has sent before.
        """
        name = f"mark/{next(_numbers)}"
        self.open(f'<img src="{self.pixel}?page={name}">')
        wait_for(lambda: any(line.split("|")[1] == name for line in self._system.lines), "the mark")
        pages = [line.split("|")[1] for line in self._system.lines[self._seen :]]
        end = pages.index(name)
        self._seen += end + 1
        return pages[:end]
