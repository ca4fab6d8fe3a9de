"""A browser shows the report: offline, in light and dark, on a phone, and nothing of it runs."""

from pathlib import Path

from selenium import webdriver
from selenium.webdriver.common.by import By

from tests.analysis.golden import write_golden
from tracker import cli

WIDE = (1280, 900)
TABLET = (560, 900)
PHONE = (390, 844)


def background(browser: webdriver.Chrome) -> str:
    shown: str = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
    return shown


def said_by(browser: webdriver.Chrome) -> list[str]:
    """The messages of its console."""
    return [entry["message"] for entry in browser.get_log("browser")]  # type: ignore[no-untyped-call]


def overflowing(browser: webdriver.Chrome) -> list[str]:
    """What reaches beyond the right edge of the window."""
    found: list[str] = browser.execute_script(
        "return [...document.querySelectorAll('body *')].filter(e => e.getBoundingClientRect().right > innerWidth + 1)"
        ".map(e => e.outerHTML.slice(0, 80))"
    )
    return found


def badly_named(browser: webdriver.Chrome) -> list[str]:
    """The names under a chart that reach beyond it, or into the name before them."""
    found: list[str] = browser.execute_script(
        "return [...document.querySelectorAll('.ticks')].flatMap(chart => {"
        "  const edge = chart.getBoundingClientRect();"
        "  const names = [...chart.children].filter(name => getComputedStyle(name).display != 'none');"
        "  const boxes = names.map(name => name.getBoundingClientRect());"
        "  return names.filter((_, i) => boxes[i].left < (i ? boxes[i - 1].right : edge.left - 1)"
        "    || boxes[i].right > edge.right + 1).map(name => name.textContent);"
        "})"
    )
    return found


def test_the_report_is_seen_as_it_is_meant(tmp_path: Path, browser: webdriver.Chrome) -> None:
    page = tmp_path / "report.html"
    assert cli.main(["report", str(write_golden(tmp_path)), "--html", str(page)]) == 0
    browser.get(page.as_uri())

    # The policy knows the style by its hash: where it were wrong, the page would be unstyled.
    assert background(browser) == "rgb(250, 248, 245)"
    assert browser.find_element(By.CSS_SELECTOR, ".numbers dd").text == "12"
    bars = browser.find_elements(By.CSS_SELECTOR, ".plot rect.people")
    assert max(bar.size["height"] for bar in bars) > 20
    hostile = browser.find_element(By.XPATH, "//span[contains(@class, 'name') and contains(., 'evil.example')]")
    assert "<script>alert(1)</script>\\u202e|\\x1b[31m" in hostile.text

    # Nothing was refused, for there was nothing to refuse; nothing was loaded; no dialog is open.
    assert said_by(browser) == []
    assert browser.execute_script("return performance.getEntriesByType('resource').length") == 0

    browser.execute_cdp_cmd(
        "Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": "dark"}]}
    )
    assert background(browser) == "rgb(23, 21, 19)"

    for width, height in (WIDE, TABLET, PHONE):
        browser.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride",
            {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500},
        )
        assert overflowing(browser) == []
        assert badly_named(browser) == []

    printed = browser.execute_cdp_cmd("Page.printToPDF", {})
    assert len(printed["data"]) > 10_000


def test_a_script_in_the_page_would_not_run(tmp_path: Path, browser: webdriver.Chrome) -> None:
    """The second line of defence: the policy, should escaping ever be forgotten."""
    page = tmp_path / "report.html"
    assert cli.main(["report", str(write_golden(tmp_path)), "--html", str(page)]) == 0
    planted = (
        "<script>document.title = 'run'</script><img src=x onerror=\"document.title = 'run'\">"
        "<style>body { color: red }</style>"
    )
    page.write_text(page.read_text().replace("</main>", f"{planted}</main>"))
    browser.get(page.as_uri())
    assert browser.title == "Visits"
    assert browser.execute_script("return getComputedStyle(document.body).color") != "rgb(255, 0, 0)"
    assert sum("Content Security Policy" in message for message in said_by(browser)) >= 3
