"""The demo page shows the snippet, and every line of the log once, whatever happens to file and connection."""

import asyncio
import html
import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import parse_qsl

import aiohttp
import pytest

from tracker import extras
from tracker.extras import how_to_install
from tracker.local import demo_report
from tracker.local.demo import Demo, Tail, app_snippet, embed_snippet, newsletter_snippet
from tracker.local.demo_report import LiveReport

LINE = "2026-11-23T07:09:24.932706+00:00|http://127.0.0.1:8000/|Mozilla/5.0|127.0.0.1"


@asynccontextmanager
async def demo_at(
    port: int, log: Path, page_parameter: str | None = "page", archive: str | None = None
) -> AsyncIterator[aiohttp.ClientSession]:
    demo = Demo(
        host="127.0.0.1",
        port=port,
        pixel_url="http://127.0.0.1:8080/track",
        page_parameter=page_parameter,
        pixel_admin_url="http://127.0.0.1:8081",
        storage_admin_url="http://127.0.0.1:8082",
        archive_admin_url=archive,
        log_path=log,
    )
    await demo.start()
    try:
        async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as session:
            yield session
    finally:
        await demo.stop()


async def events(response: aiohttp.ClientResponse, count: int) -> tuple[list[str], str]:
    """The next `count` events' lines, and the last id."""
    lines: list[str] = []
    last = ""
    async with asyncio.timeout(5):
        while len(lines) < count:
            field, _, value = (await response.content.readline()).decode().rstrip().partition(": ")
            if field == "id":
                last = value
            elif field == "data":
                lines.append(json.loads(value))
    return lines, last


def read(tail: Tail) -> list[str]:
    """What a tail shows now; several reads, as a replaced file takes some to notice."""
    shown = []
    for _ in range(5):
        for event in tail.read():
            shown.append(json.loads(event.split("data: ")[1]))
    return shown


async def test_the_page_embeds_the_pixel_and_shows_the_same_snippet(free_port: int, tmp_path: Path) -> None:
    async with demo_at(free_port, tmp_path / "visits.log") as session, session.get("/") as response:
        page = await response.text()
        assert response.status == 200
        policy = response.headers["Content-Security-Policy"]
    snippet = embed_snippet("http://127.0.0.1:8080/track")
    assert snippet == (
        '<img src="http://127.0.0.1:8080/track" alt="" width="1" height="1"'
        ' referrerpolicy="no-referrer-when-downgrade">'
    )
    assert f"\n{snippet}\n" in page
    assert html.escape(snippet, quote=False) in page
    assert re.findall(r"\{\{\w+", page) == ["{{random"] * 2  # for the mail program, and where the page fills it in
    for link in ("8081/readyz", "8081/metrics", "8082/readyz", "8082/metrics"):
        assert f'href="http://127.0.0.1:{link}"' in page
    assert "default-src 'none'" in policy
    assert "img-src data: http://127.0.0.1:8080; connect-src 'self' http://127.0.0.1:8080;" in policy
    assert set(re.findall(r'(?:src|href)="(https?://[^/"]+)', page)) == {
        f"http://127.0.0.1:{port}" for port in (8080, 8081, 8082)
    }


@pytest.mark.parametrize("archive", ["http://127.0.0.1:8083", None])
async def test_the_page_links_the_archives_health_if_there_is_an_archive(
    free_port: int, tmp_path: Path, archive: str | None
) -> None:
    async with demo_at(free_port, tmp_path / "visits.log", archive=archive) as session, session.get("/") as response:
        page = await response.text()
    assert ("<div hidden>Archive:" in page) == (archive is None)
    assert ('<a href="http://127.0.0.1:8083/readyz">' in page) == (archive is not None)


@pytest.mark.parametrize("parameter", ["page", "p&q", None])
async def test_the_page_shows_named_pages_if_the_pixel_has_them(
    free_port: int, tmp_path: Path, parameter: str | None
) -> None:
    async with demo_at(free_port, tmp_path / "visits.log", parameter) as session, session.get("/app/x") as response:
        assert response.status == 200
        page = await response.text()
    assert html.escape(app_snippet("http://127.0.0.1:8080/track"), quote=False) in page
    if parameter is None:
        assert "<section hidden>" in page
    else:
        assert "<section hidden>" not in page
        snippet = newsletter_snippet("http://127.0.0.1:8080/track", parameter)
        assert html.escape(snippet, quote=False) in page
        source = html.unescape(snippet.split('"')[1])
        assert dict(parse_qsl(source.partition("?")[2])) == {parameter: "newsletter/2026-11", "u": "{{random}}"}


async def test_the_page_links_a_report_of_the_log_as_it_is_now(
    free_port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo_report, "CACHE_SECONDS", 0.0)
    log = tmp_path / "visits.log"
    async with demo_at(free_port, log) as session:

        async def report() -> str:
            async with session.get("/report") as response:
                assert response.status == 200
                assert response.headers["Cache-Control"] == "no-store"
                return await response.text()

        async with session.get("/") as response:
            assert '<a href="/report">' in await response.text()
        page = await report()
        assert "No visit." in page
        assert '<meta http-equiv="refresh"' in page
        (tmp_path / "visits.log.20261123T000000.000000Z").write_text(f"{LINE}\n")
        log.write_text(f"{LINE.replace(':8000/', ':8000/now')}\n")
        page = await report()
        assert "http://127.0.0.1:8000/now" in page
        assert "2 lines read" in page


async def test_without_the_extra_the_report_says_what_to_install(
    free_port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(extras, "find_spec", lambda _name: None)
    async with demo_at(free_port, tmp_path / "visits.log") as session, session.get("/report") as response:
        assert response.status == 503
        assert how_to_install("analysis") in await response.text()


async def test_reports_are_made_one_at_a_time_and_handed_out_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo_report, "CACHE_SECONDS", 3600.0)
    report = LiveReport(tmp_path / "visits.log")
    first = await asyncio.gather(report.page(), report.page())
    (tmp_path / "visits.log").write_text(f"{LINE}\n")
    assert {*first, await report.page()} == {first[0]}


async def test_lines_come_as_they_are_written_and_none_is_lost_over_a_new_connection(
    free_port: int, tmp_path: Path
) -> None:
    log = tmp_path / "visits.log"
    async with demo_at(free_port, log) as session:
        async with session.get("/lines") as response:
            log.write_text(f"{LINE}\nhalf")  # the file appears only now
            assert (await events(response, 1))[0] == [LINE]
            with log.open("a") as file:
                file.write(" a line\n")
            lines, last = await events(response, 1)
            assert lines == ["half a line"]
        with log.open("a") as file:
            file.write("".join(f"{number}\n" for number in range(20_000)))  # more than a chunk
        async with session.get("/lines", headers={"Last-Event-ID": last}) as response:
            assert (await events(response, 20_000))[0] == [str(number) for number in range(20_000)]


def test_a_new_reader_sees_the_recent_lines(tmp_path: Path) -> None:
    log = tmp_path / "visits.log"
    log.write_text("".join(f"{number:099}\n" for number in range(1000)))
    assert [int(line) for line in read(Tail(log, ""))] == list(range(960, 1000))


def test_a_replaced_a_removed_and_a_cut_file_are_followed(tmp_path: Path) -> None:
    log = tmp_path / "visits.log"
    log.write_text("1\n")
    tail = Tail(log, "")
    assert read(tail) == ["1"]
    with log.open("a") as file:
        file.write("2\n")
    log.rename(tmp_path / "visits.log.1")
    log.write_text("3\n4\n")
    assert read(tail) == ["2", "3", "4"]
    log.unlink()
    assert read(tail) == []
    log.write_text("5\n6\n")
    assert read(tail) == ["5", "6"]
    log.write_text("7\n")
    assert read(tail) == ["7"]
    tail.close()


def test_what_a_stranger_put_in_the_file_cannot_end_an_event(tmp_path: Path) -> None:
    log = tmp_path / "visits.log"
    log.write_bytes(b"a\rdata: forged\r\rb\xff\n")
    [event] = Tail(log, "").read()
    assert event.count("\n") == 3
    assert "\r" not in event
