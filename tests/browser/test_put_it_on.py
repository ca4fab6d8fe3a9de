"""The pieces of docs/put-it-on.md in a real browser, as a reader copies them, and what is counted."""

import html
import re
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import pytest
from selenium import webdriver

from tests.local.running import System
from tests.system.lone_pixel import Pixel
from tests.system.wire import wait_for
from tracker import cli

from .pages import serving
from .reader import PAGE, PIXEL, Reader, pieces

FAR_BELOW = '<div style="height: 20000px"></div>'


def test_every_row_of_the_page_names_its_source() -> None:
    tables = re.findall(r"^\|.*\| known from \|\n\|---\|---\|---\|\n((?:\|.*\n)+)", PAGE, re.MULTILINE)
    assert len(tables) == len(re.findall("^## ", PAGE, re.MULTILINE))
    for row in "".join(tables).splitlines():
        source = row.rpartition(" | ")[2]
        assert re.search(r"^(Chromium|no request) \||\]\(\S+\)", source), row


@pytest.fixture
def reader(shared_system: System, tab: webdriver.Chrome) -> Iterator[Reader]:
    with serving() as site:
        yield Reader(shared_system, site, tab)


# A site


def test_each_opening_of_a_page_is_a_visit_of_its_whole_address(reader: Reader) -> None:
    page = reader.site.put("/articles/42", reader.piece("A site"))
    for address in (f"{page}?lang=de", f"{page}#part", page):
        reader.browser.get("about:blank")
        reader.browser.get(address)
    reader.browser.refresh()
    assert reader.pages() == [f"{page}?lang=de", page, page, page]


def test_without_a_referrerpolicy_the_site_alone_is_counted(reader: Reader) -> None:
    reader.open(reader.piece("A site", unlike=(' referrerpolicy="no-referrer-when-downgrade"', "")))
    assert reader.pages() == [f"{reader.site.origin}/"]


@pytest.mark.parametrize("meta", ["", '<meta name="referrer" content="no-referrer">'])
def test_the_attribute_of_the_tag_wins_over_the_policy_of_the_page(reader: Reader, meta: str) -> None:
    headers = {} if meta else {"Referrer-Policy": "no-referrer"}
    page = reader.open(meta + reader.piece("A site"), headers)
    assert reader.pages() == [page]


def test_two_tags_on_a_page_are_one_visit(reader: Reader) -> None:
    page = reader.open(reader.piece("A site") * 2)
    assert reader.pages() == [page]


def test_a_background_of_a_style_sheet_counts_the_site(reader: Reader) -> None:
    reader.open(f'<style>p {{ background: url("{reader.pixel}?u=1") }}</style>')
    assert reader.pages() == [f"{reader.site.origin}/"]


def test_a_page_that_is_fetched_in_advance_is_counted_when_it_is_opened(reader: Reader) -> None:
    page = reader.site.put("/next", reader.piece("A site"), {"Cache-Control": "max-age=60"})
    reader.open('<link rel="prefetch" href="/next">')
    wait_for(
        lambda: reader.browser.execute_script("return performance.getEntriesByName(arguments[0]).length", page),
        "the page is prefetched",
    )
    assert reader.pages() == []
    reader.browser.get(page)
    assert reader.pages() == [page]


def test_a_redirect_to_the_pixel_is_counted(reader: Reader) -> None:
    reader.site.put("/moved", "", {"Location": reader.pixel}, status=302)
    page = reader.open(reader.piece("A site", unlike=(PIXEL, f"{reader.site.origin}/moved")))
    assert reader.pages() == [page]


# A single-page app


@pytest.mark.parametrize("piece", [0, 1], ids=["fetch", "image"])
def test_three_pages_of_an_app_are_three_visits(reader: Reader, piece: int) -> None:
    first = reader.open(reader.piece("A single-page app", piece))
    for number, path in enumerate(("/prices", "/about"), start=2):
        reader.wait_for_visits(number - 1)
        reader.run(f"history.pushState(null, '', '{path}'); countPage()")
    assert reader.pages() == [first, f"{reader.site.origin}/prices", f"{reader.site.origin}/about"]


@pytest.mark.parametrize("change", ["pushState", "replaceState"])
def test_a_new_address_alone_is_not_counted(reader: Reader, change: str) -> None:
    first = reader.open(reader.piece("A single-page app"))
    reader.run(f"history.{change}(null, '', '/prices')")
    assert reader.pages() == [first]


def test_the_same_image_again_is_not_counted(reader: Reader) -> None:
    first = reader.open(reader.piece("A site"))
    reader.run("history.pushState(null, '', '/prices'); document.body.append(document.images[0].cloneNode())")
    assert reader.pages() == [first]


def test_back_within_an_app_is_counted_if_it_says_so(reader: Reader) -> None:
    first = reader.open(reader.piece("A single-page app"))
    reader.run("history.pushState(null, '', '/prices'); history.back()")
    wait_for(lambda: reader.browser.current_url == first, "the first page again")
    assert reader.pages() == [first]

    reader.browser.get(first)
    reader.run("addEventListener('popstate', countPage); history.pushState(null, '', '/prices'); history.back()")
    reader.wait_for_visits(2)
    assert reader.pages() == [first, first]


def test_a_visit_that_is_counted_while_the_page_is_left_arrives(reader: Reader) -> None:
    leave = "<script>addEventListener('pagehide', countPage)</script>"
    first = reader.open(reader.piece("A single-page app") + leave)
    reader.browser.get("about:blank")
    reader.wait_for_visits(2)
    assert reader.pages() == [first, first]


@pytest.mark.parametrize(("piece", "shown"), [(0, ["", ""]), (1, ["", ""]), (2, ["#/prices", "#/about"])])
def test_routes_behind_a_hash_are_counted_by_name(reader: Reader, piece: int, shown: list[str]) -> None:
    page = reader.site.put("/app", reader.piece("A single-page app", piece))
    reader.browser.get(f"{page}#/prices")
    reader.wait_for_visits(1)
    reader.run("history.pushState(null, '', '#/about'); countPage()")
    assert reader.pages() == [page + end for end in shown]


def test_a_beacon_is_not_counted(reader: Reader) -> None:
    page = reader.open(reader.piece("A site"))
    assert reader.browser.execute_script("return navigator.sendBeacon(arguments[0])", reader.pixel)
    assert reader.pages() == [page]


# Prepared pages, and back and forward


@pytest.mark.parametrize("counts", [False, True])
def test_back_from_the_cache_is_counted_with_the_piece_for_it(reader: Reader, counts: bool) -> None:
    shown = "<script>addEventListener('pageshow', e => { window.restored = e.persisted })</script>"
    piece = reader.piece("Prepared pages, and back and forward", 1) if counts else ""
    page = reader.open(reader.piece("A single-page app") + piece + shown)
    reader.open("Another page")
    reader.browser.back()
    wait_for(lambda: reader.browser.execute_script("return window.restored"), "the page comes from the cache")
    assert reader.pages() == [page, page] if counts else [page]


def prerender(reader: Reader, content: str) -> str:
    """Let the browser prepare a page with a script, and return the address. A click on the link opens it."""
    page = reader.site.put("/next", content)
    reader.open("""<script type="speculationrules">
        {"prerender": [{"source": "list", "urls": ["/next"], "eagerness": "immediate"}]}
        </script><a href="/next">The next page</a>""")
    return page


def test_a_prerendered_page_is_counted_before_it_is_opened(reader: Reader) -> None:
    page = prerender(reader, reader.piece("A site"))
    reader.wait_for_visits(1)
    assert reader.pages() == [page]


def test_a_prerendered_page_with_the_piece_for_it_is_counted_when_it_is_opened(reader: Reader) -> None:
    define = reader.piece("A single-page app", unlike=("  countPage();\n", ""))
    seen = f'<img src="{reader.pixel}?page=prerendered">'  # shows that the browser has prepared the page
    page = prerender(reader, define + reader.piece("Prepared pages, and back and forward", 0) + seen)
    reader.wait_for_visits(1)
    reader.run("document.querySelector('a').click()")
    reader.wait_for_visits(2)
    assert reader.browser.execute_script("return performance.getEntriesByType('navigation')[0].activationStart") > 0
    assert reader.pages() == ["prerendered", page]


# Lazy images, and pages without scripts


@pytest.mark.parametrize("scripts", [False, True])
def test_a_page_is_counted_once_with_and_without_scripts(reader: Reader, scripts: bool) -> None:
    if not scripts:
        reader.browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    page = reader.open(reader.piece("A single-page app") + reader.piece("Lazy images, and pages without scripts"))
    assert reader.pages() == [page]


def test_a_lazy_image_is_counted_when_it_is_near(reader: Reader) -> None:
    page = reader.open(FAR_BELOW + reader.piece("A site", unlike=("<img", '<img loading="lazy"')))
    assert reader.pages() == []
    reader.browser.get(page)
    reader.run("scrollTo(0, document.body.scrollHeight)")
    reader.wait_for_visits(1)
    reader.run("scrollTo(0, 0); scrollTo(0, document.body.scrollHeight)")
    assert reader.pages() == [page]


def test_an_image_far_below_is_counted_at_once(reader: Reader) -> None:
    page = reader.open(FAR_BELOW + reader.piece("A site"))
    assert reader.pages() == [page]


# A page with a Content-Security-Policy


def test_the_policy_of_the_piece_lets_image_and_fetch_through(reader: Reader) -> None:
    name, _, policy = reader.piece("A page with a Content-Security-Policy").strip().partition(": ")
    page = reader.open(reader.piece("A site"), {name: policy})
    assert reader.pages() == [page]
    policy += "; script-src 'unsafe-inline'"
    page = reader.open(reader.piece("A single-page app"), {name: policy})
    assert reader.pages() == [page]


@pytest.mark.parametrize("policy", ["img-src 'self'", "default-src 'self'"])
def test_a_policy_of_others_only_blocks_the_pixel(reader: Reader, policy: str) -> None:
    reader.open(reader.piece("A site"), {"Content-Security-Policy": policy})
    said = [entry["message"] for entry in reader.browser.get_log("browser")]  # type: ignore[no-untyped-call]
    assert any("Content Security Policy" in message for message in said)
    assert reader.pages() == []


def test_fetch_needs_a_policy_of_its_own(reader: Reader) -> None:
    policy = f"default-src 'self'; script-src 'unsafe-inline'; img-src {reader.pixel_origin}"
    page = reader.open(reader.piece("A single-page app", 0), {"Content-Security-Policy": policy})
    assert reader.pages() == []
    page = reader.open(reader.piece("A single-page app", 1), {"Content-Security-Policy": policy})
    assert reader.pages() == [page]


@pytest.mark.parametrize("piece", [("A site", 0), ("A single-page app", 0), ("A single-page app", 1)])
def test_an_isolated_page_is_counted(reader: Reader, piece: tuple[str, int]) -> None:
    isolated = {"Cross-Origin-Embedder-Policy": "require-corp", "Cross-Origin-Opener-Policy": "same-origin"}
    page = reader.open(reader.piece(*piece), isolated)
    assert reader.browser.execute_script("return crossOriginIsolated")
    assert reader.pages() == [page]


# In a frame


def test_the_page_of_a_frame_is_the_document_in_it(reader: Reader) -> None:
    inside = reader.site.put("/inside", reader.piece("A site"))
    reader.open('<iframe src="/inside"></iframe>')
    assert reader.pages() == [inside]


def test_the_page_of_a_frame_with_srcdoc_is_the_one_around_it(reader: Reader) -> None:
    page = reader.open(f'<iframe srcdoc="{html.escape(reader.piece("A site"))}"></iframe>')
    assert reader.pages() == [page]


@pytest.mark.parametrize("source", ["src", "srcdoc"])
def test_a_sandboxed_frame_has_no_page_but_the_one_it_names(reader: Reader, source: str) -> None:
    def frame(content: str) -> str:
        reader.site.put("/inside", content)
        document = f'srcdoc="{html.escape(content)}"' if source == "srcdoc" else 'src="/inside"'
        return f"<iframe sandbox {document}></iframe>"

    reader.open(frame(reader.piece("A site")))
    assert reader.pages() == ["null"]
    reader.open(frame(reader.piece("A site", unlike=(PIXEL, f"{PIXEL}?page=widget%2Fprices"))))
    assert reader.pages() == ["widget/prices"]


def test_a_sandboxed_frame_with_its_origin_has_its_page(reader: Reader) -> None:
    inside = reader.site.put("/inside", reader.piece("A site"))
    reader.open('<iframe sandbox="allow-same-origin" src="/inside"></iframe>')
    assert reader.pages() == [inside]


def test_a_lazy_frame_far_below_is_not_counted(reader: Reader) -> None:
    inside = reader.site.put("/inside", reader.piece("A site"))
    page = reader.open(f'{FAR_BELOW}<iframe loading="lazy" src="/inside"></iframe>')
    assert reader.pages() == []
    reader.browser.get(page)
    reader.run("scrollTo(0, document.body.scrollHeight)")
    reader.wait_for_visits(1)
    assert reader.pages() == [inside]


# Mails, feeds, READMEs


def newsletter(reader: Reader, issue: str, recipient: str) -> str:
    return reader.piece("A newsletter", unlike=("2026-11", issue)).replace("{{random}}", recipient)


def test_two_newsletters_are_two_pages(reader: Reader, tmp_path: Path) -> None:
    for issue in ("2026-11", "2026-12"):
        mail = tmp_path / f"{issue}.html"  # as a mail program shows it: it has no address that could be a referrer
        mail.write_text(newsletter(reader, issue, recipient="a1"))
        for _ in range(2):
            reader.browser.get("about:blank")
            reader.browser.get(mail.as_uri())
    names = [f"newsletter/{issue}" for issue in ("2026-11", "2026-11", "2026-12", "2026-12")]
    assert reader.pages() == names


def test_the_name_of_a_newsletter_wins_over_the_page_that_shows_it(reader: Reader) -> None:
    reader.open('<meta name="referrer" content="unsafe-url">' + newsletter(reader, "2026-11", "a1"))
    assert reader.pages() == ["newsletter/2026-11"]


def test_the_report_tells_who_opened_a_newsletter(
    reader: Reader, shared_system: System, capsys: pytest.CaptureFixture[str]
) -> None:
    [source] = re.findall(r'src="([^"]*)"', newsletter(reader, "2027-01", "a1"))
    services = {
        "Gmail": "Mozilla/5.0 (Windows NT 5.1; rv:11.0) Gecko Firefox/11.0 (via ggpht.com GoogleImageProxy)",
        "Yahoo Mail": "YahooMailProxy; https://help.yahoo.com/kb/yahoo-mail-proxy-SLN28749.html",
        "Apple Mail": "Mozilla/5.0",
        "GitHub (Camo)": "github-camo (876de43e)",
    }
    for agent in services.values():
        request = urllib.request.Request(html.unescape(source), headers={"User-Agent": agent})
        urllib.request.urlopen(request, timeout=5).close()
    assert reader.pages() == ["newsletter/2027-01"] * len(services)
    assert cli.main(["report", str(shared_system.log), "--page", "newsletter/2027-01"]) == 0
    report = capsys.readouterr().out
    for service in services:
        assert re.search(rf"{re.escape(service)}.* 1\b", report), report


def test_an_entry_of_a_feed_is_counted_where_it_is_shown(reader: Reader) -> None:
    entry = ElementTree.fromstring(reader.piece("A feed")).text
    assert entry is not None
    assert not {"width", "height"} & set(re.findall(r"\w+", entry))  # readers remove images by them
    reader.open(entry)
    assert reader.pages() == ["feed/a-new-pixel"]


def test_a_readme_is_counted_where_it_is_shown(reader: Reader) -> None:
    found = re.fullmatch(r"!\[(.*)\]\((.*)\)\n", reader.piece("A README"))
    assert found is not None
    reader.open(f'<img alt="{found[1]}" src="{found[2]}">')
    assert reader.pages() == ["readme/my-project"]


# Ad blockers, consent


def test_a_blocked_address_is_not_counted_and_another_path_is(reader: Reader, tmp_path: Path) -> None:
    path = re.findall(r"path: (\S+)", pieces("Ad blockers")[0])[0]
    reader.browser.execute_cdp_cmd("Network.enable", {})
    reader.browser.execute_cdp_cmd("Network.setBlockedURLs", {"urls": ["*/track?u=*"]})
    piece = reader.piece("A single-page app", 1)
    reader.open(piece)
    assert reader.pages() == []
    with Pixel(tmp_path, path=path) as other:
        other.wait_ready()
        page = reader.open(piece.replace(reader.pixel, f"http://127.0.0.1:{other.port}{path}"))
        wait_for(lambda: f'"Referer":"{page}"' in other.recorded(), "the visit at the other path")


def test_nothing_is_counted_before_the_visitor_agrees(reader: Reader) -> None:
    piece = reader.piece("A single-page app", unlike=("  countPage();\n", ""))
    page = reader.open(piece + '<button onclick="countPage()">I agree</button>')
    assert reader.pages() == []
    reader.browser.get(page)
    reader.run("document.querySelector('button').click()")
    reader.wait_for_visits(1)
    assert reader.pages() == [page]
