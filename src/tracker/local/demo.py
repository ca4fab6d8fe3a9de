"""The demo page: it embeds the pixel, and shows the lines of the visit log as they are appended.

It shows every line once and in order, also after a lost connection. The lines are Server-Sent Events. The id of an
event is the inode of the file and the offset behind the line. A browser that connects again sends the last id that it
received.
"""

import asyncio
import html
import json
import os
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from urllib.parse import quote_plus

from aiohttp import web
from yarl import URL

from tracker.errors import TrackerError
from tracker.local.demo_report import LiveReport

RECENT_BYTES = 4096  # of the log, shown when the page is opened
POLL_SECONDS = 0.1  # between two reads of the log
CHUNK = 65_536
FIRST_PAGE = "  countPage();\n"  # the last line of the app's script
RUN_PATH = "run"  # says which run this page belongs to, for a second `make run` that finds the port in use
REPLACED = "replaced"  # an event id that belongs to no file: the next file is shown from its start


def embed_snippet(pixel_url: str) -> str:
    """The HTML tag for a page. Without its referrerpolicy, browsers send only the origin of the page as referrer."""
    source = html.escape(pixel_url)
    return f'<img src="{source}" alt="" width="1" height="1" referrerpolicy="no-referrer-when-downgrade">'


def newsletter_snippet(pixel_url: str, parameter: str) -> str:
    """The HTML tag for a mail. `parameter` is `http.page_parameter`; a mail program fills in ``{{random}}``."""
    source = html.escape(f"{pixel_url}?{quote_plus(parameter)}=newsletter%2F2026-11&u={{{{random}}}}")
    return f'<img src="{source}" alt="" width="1" height="1">'


def app_snippet(pixel_url: str) -> str:
    """The script for a single-page app, which calls `countPage` whenever it has changed the address."""
    return f"""<script>
  function countPage() {{
    fetch({json.dumps(pixel_url)}, {{
      mode: "no-cors", keepalive: true, referrerPolicy: "no-referrer-when-downgrade",
    }});
  }}
{FIRST_PAGE}</script>"""


class Demo:
    """`page_parameter` is `http.page_parameter` of the pixel; if it is None, the page shows nothing of named pages.

    It shows nothing of an archive if `archive_admin_url` is None.
    """

    def __init__(
        self,
        *,
        host: str,
        port: int,
        pixel_url: str,
        page_parameter: str | None,
        pixel_admin_url: str,
        storage_admin_url: str,
        archive_admin_url: str | None,
        log_path: Path,
    ) -> None:
        self._host = host
        self._port = port
        self._log_path = log_path
        self._report = LiveReport(log_path)
        newsletter = newsletter_snippet(pixel_url, page_parameter) if page_parameter else ""
        admin_urls = (pixel_admin_url, storage_admin_url, archive_admin_url or "")
        self._page = _render(pixel_url, newsletter, admin_urls, log_path)
        # With this policy the browser loads nothing from other sites.
        pixel = URL(pixel_url).origin()
        self._policy = (
            f"default-src 'none'; img-src data: {pixel}; connect-src 'self' {pixel}; "
            "script-src 'unsafe-inline'; style-src 'unsafe-inline'"
        )
        self._runner: web.AppRunner | None = None

    async def start(self) -> None:
        app = web.Application()
        app.router.add_get("/", self._show)
        app.router.add_get("/app/{page}", self._show)  # the pages of the single-page app
        app.router.add_get("/lines", self._lines)
        app.router.add_get("/report", self._show_report)
        app.router.add_get(f"/{RUN_PATH}", self._show_run)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.2)
        await self._runner.setup()
        await web.TCPSite(self._runner, self._host, self._port).start()

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    async def _show(self, _request: web.Request) -> web.Response:
        return web.Response(
            text=self._page,
            content_type="text/html",
            headers={"Cache-Control": "no-store", "Content-Security-Policy": self._policy},
        )

    async def _show_report(self, _request: web.Request) -> web.Response:
        headers = {"Cache-Control": "no-store"}
        try:
            return web.Response(text=await self._report.page(), content_type="text/html", headers=headers)
        except TrackerError as error:
            return web.Response(status=503, text=f"{error}\n", headers=headers)

    async def _show_run(self, _request: web.Request) -> web.Response:
        return web.json_response({"folder": os.getcwd(), "pid": os.getpid()})

    async def _lines(self, request: web.Request) -> web.StreamResponse:
        """The log's lines as Server-Sent Events."""
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "Cache-Control": "no-store"})
        await response.prepare(request)
        await response.write(b"retry: 500\n\n")
        tail = Tail(self._log_path, request.headers.get("Last-Event-ID", ""))
        try:
            while request.transport is not None and not request.transport.is_closing():
                events = await asyncio.to_thread(tail.read)
                if events:
                    # This waits for a slow browser. Meanwhile the lines are in the file and not in memory.
                    await response.write("".join(events).encode())
                else:
                    await asyncio.sleep(POLL_SECONDS)
        except ConnectionResetError:
            pass  # the page was closed
        finally:
            tail.close()
        return response


class Tail:
    """Reads the new whole lines of a growing file. The file may be missing at first, or be replaced by another one."""

    def __init__(self, path: Path, after: str) -> None:
        self._path = path
        self._after = after  # the id of the last event that the browser received, or ""
        self._file: int | None = None
        self._start = 0  # where the next line starts
        self._rest = b""  # the start of a line whose newline is not written yet
        self._first = True

    def read(self) -> list[str]:
        """Events for the lines that were appended since the last call, at most a chunk of them."""
        if self._file is None and not self._open():
            return []
        assert self._file is not None
        data = self._next()
        if not data and self._replaced():
            data = self._next()  # what was appended before the file was replaced
            if not data:
                self.close()
                self._after = REPLACED
        return list(self._events(data)) if data else []

    def close(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _next(self) -> bytes:
        assert self._file is not None
        return os.pread(self._file, CHUNK, self._start + len(self._rest))

    def _open(self) -> bool:
        try:
            self._file = os.open(self._path, os.O_RDONLY)
        except FileNotFoundError:
            self._first = False  # a file that appears later is new: show all of it
            return False
        status = os.fstat(self._file)
        self._rest = b""
        self._start = 0
        inode, _, offset = self._after.partition("-")
        if inode == str(status.st_ino) and offset.isdecimal() and int(offset) <= status.st_size:
            self._start = int(offset)
        elif self._first and not self._after:
            # The page was opened while the log existed already: show its last lines.
            self._start = self._recent(status.st_size)
        self._first = False
        return True

    def _recent(self, size: int) -> int:
        """The offset of the first whole line in the last RECENT_BYTES."""
        assert self._file is not None
        begin = max(0, size - RECENT_BYTES)
        if begin == 0:
            return 0
        newline = os.pread(self._file, RECENT_BYTES, begin).find(b"\n")
        return begin + newline + 1

    def _replaced(self) -> bool:
        """Whether the path now names another file, or this one was cut short."""
        assert self._file is not None
        opened = os.fstat(self._file)
        try:
            named = self._path.stat()
        except FileNotFoundError:
            return True
        if (named.st_dev, named.st_ino) != (opened.st_dev, opened.st_ino):
            return True
        return opened.st_size < self._start + len(self._rest)

    def _events(self, data: bytes) -> Iterator[str]:
        assert self._file is not None
        inode = os.fstat(self._file).st_ino
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            self._start += len(line) + 1
            self._after = f"{inode}-{self._start}"
            # As JSON, because a character of the line could otherwise end the event.
            yield f"id: {self._after}\ndata: {json.dumps(line.decode('ascii', 'backslashreplace'))}\n\n"


def _render(pixel_url: str, newsletter: str, admin_urls: tuple[str, str, str], log_path: Path) -> str:
    """`admin_urls` are those of pixel, storage and archive; the last is empty if there is no archive."""
    pixel_admin, storage_admin, archive_admin = map(html.escape, admin_urls)
    snippet = embed_snippet(pixel_url)
    app = app_snippet(pixel_url)
    page = resources.files(__package__).joinpath("demo.html").read_text(encoding="utf-8")
    for name, value in {
        "pixel": snippet,
        "snippet": html.escape(snippet, quote=False),
        "newsletter": html.escape(newsletter, quote=False),
        "newsletter_hidden": "" if newsletter else "hidden",
        "app": html.escape(app, quote=False),
        "count_page": app.replace(FIRST_PAGE, ""),  # the tag has counted the first page
        "pixel_url": html.escape(pixel_url),
        "pixel_admin": pixel_admin,
        "storage_admin": storage_admin,
        "archive_admin": archive_admin,
        "archive_hidden": "" if archive_admin else "hidden",
        "log_path": html.escape(str(log_path)),
    }.items():
        page = page.replace("{{" + name + "}}", value)
    return page
