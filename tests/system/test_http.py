"""The public port byte for byte, with nothing reachable behind it: an answer depends on its request alone."""

import struct
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from itertools import count

import pytest

from .lone_pixel import Pixel
from .wire import Connection, Reply, get, request, wait_for

_numbers = count()


@pytest.fixture(scope="module")
def pixel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pixel]:
    service = Pixel(tmp_path_factory.mktemp("http"))
    try:
        service.wait_ready()
        yield service
    finally:
        service.destroy()


@pytest.fixture
def mark(pixel: Pixel) -> str:
    """A visit to look behind in the outbox."""
    referrer = f"https://mark.example/{next(_numbers)}/"
    assert get(pixel.port, headers=[("Referer", referrer)]).is_gif
    return referrer


def without_date(reply: Reply) -> list[tuple[str, str]]:
    return [(name, value) for name, value in reply.headers if name != "Date"]


def test_get_answers_a_transparent_pixel(pixel: Pixel) -> None:
    reply = get(pixel.port)
    assert reply.status_line == "HTTP/1.1 200 OK"
    assert reply.header("Content-Type") == "image/gif"
    assert reply.body.startswith(b"GIF89a")
    assert reply.body.endswith(b";")
    assert len(reply.body) <= 43
    assert struct.unpack_from("<HH", reply.body, 6) == (1, 1)
    assert reply.body[reply.body.index(b"\x21\xf9\x04") + 3] & 1, "the GIF's only colour is not marked transparent"


def test_headers_defeat_every_cache(pixel: Pixel) -> None:
    reply = get(pixel.port)
    directives = {directive.strip() for directive in reply.header("Cache-Control").split(",")}
    assert {"no-cache", "no-store"} <= directives
    expires = reply.header("Expires")
    assert expires == "0" or parsedate_to_datetime(expires) < datetime.now(UTC)
    assert not reply.get_all("ETag")
    assert not reply.get_all("Last-Modified")


def test_pages_of_any_origin_may_show_it(pixel: Pixel) -> None:
    reply = get(pixel.port)
    assert reply.header("Cross-Origin-Resource-Policy") == "cross-origin"
    assert reply.header("Access-Control-Allow-Origin") == "*"


def test_it_tells_the_time_and_nothing_of_itself(pixel: Pixel) -> None:
    reply = get(pixel.port)
    date = parsedate_to_datetime(reply.header("Date"))
    assert abs(datetime.now(UTC) - date) < timedelta(minutes=1)
    assert not reply.get_all("Server")
    assert not reply.get_all("Set-Cookie")


def test_the_clock_of_the_date_header_runs(pixel: Pixel) -> None:
    first = get(pixel.port).header("Date")
    wait_for(lambda: get(pixel.port).header("Date") != first, "another Date")


def test_head_answers_the_same_without_a_body_and_counts_nothing(pixel: Pixel, mark: str) -> None:
    with Connection(pixel.port) as connection:
        head = connection.get(method="HEAD", headers=[("Referer", "https://head.example/")])
        full = connection.get(headers=[("Referer", "https://get.example/")])
    assert head.status_line == full.status_line
    assert without_date(head) == without_date(full)
    assert full.is_gif
    (visit,) = pixel.visits_after(mark)
    assert "https://get.example/" in visit


@pytest.mark.parametrize(
    "target", ["/", "/tracker", "/track/", "/trac", "/track.gif", "/healthz", "/readyz", "/metrics", "/favicon.ico"]
)
def test_other_paths_are_not_found(pixel: Pixel, mark: str, target: str) -> None:
    reply = get(pixel.port, target)
    assert reply.status == 404
    assert not reply.get_all("Server")
    assert pixel.visits_after(mark) == []


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"])
def test_other_methods_are_not_allowed(pixel: Pixel, mark: str, method: str) -> None:
    with Connection(pixel.port) as connection:
        reply = connection.get(method=method, headers=[("Content-Length", "0")])
    assert reply.status == 405
    assert {method.strip() for method in reply.header("Allow").split(",")} == {"GET", "HEAD"}
    assert not reply.get_all("Server")
    assert pixel.visits_after(mark) == []


def test_a_posted_body_is_never_taken_for_a_request(pixel: Pixel, mark: str) -> None:
    smuggled = request(headers=[("Referer", "https://smuggled.example/")])
    with Connection(pixel.port) as connection:
        connection.send(request(method="POST", headers=[("Content-Length", str(len(smuggled)))]) + smuggled)
        assert connection.read_reply().status == 405
    assert get(pixel.port).is_gif
    assert "smuggled" not in "".join(pixel.visits_after(mark))


def test_a_get_with_a_body_is_one_visit(pixel: Pixel, mark: str) -> None:
    smuggled = request(headers=[("Referer", "https://smuggled.example/")])
    with Connection(pixel.port) as connection:
        connection.send(request(headers=[("Content-Length", str(len(smuggled)))]) + smuggled)
        assert connection.read_reply().is_gif
        assert connection.get(headers=[("Referer", "https://next.example/")]).is_gif
    first, second = pixel.visits_after(mark)
    assert "smuggled" not in first
    assert "https://next.example/" in second


@pytest.mark.parametrize(
    "target",
    [
        "/track?",
        "/track?1700000000",
        "/track?a=b&c=d",
        "/track?%00%ff=%zz&&==",
        "/track?/../etc|<>\"'",
        "/track?" + "q" * 4000,
    ],
)
def test_any_query_string_is_accepted(pixel: Pixel, target: str) -> None:
    assert get(pixel.port, target).is_gif


@pytest.mark.parametrize("query", ["Über".encode(), "Über".encode("latin-1"), b"a#b#c", bytes(range(0x21, 0x100))])
def test_raw_bytes_in_a_query_are_accepted(pixel: Pixel, mark: str, query: bytes) -> None:
    with Connection(pixel.port) as connection:
        connection.send(b"GET /track?" + query + b" HTTP/1.1\r\nHost: a\r\nReferer: https://raw.example/\r\n\r\n")
        assert connection.read_reply().is_gif
        assert connection.get().is_gif
    assert "https://raw.example/" in pixel.visits_after(mark)[0]


@pytest.mark.parametrize(
    ("parts", "visits"),
    [
        ([request()], 1),
        ([b"GET /track HTTP/1.0\r\n\r\n"], 1),
        ([request(headers=[("Connection", "close")])], 1),
        ([request(headers=[("User-Agent", "ü")])], 1),
        ([request(headers=[("Content-Length", "0")])], 1),
        ([request()[:30], request()[30:]], 1),
        ([request() * 3 + request(headers=[("Content-Length", "0")]) * 30], 33),
        ([request(headers=[("Transfer-Encoding", "chunked")]) + b"0\r\n\r\n"], 1),
    ],
    ids=["plain", "1.0", "close", "non-ASCII", "Content-Length: 0", "two writes", "pipelined", "chunked"],
)
def test_a_half_closed_visitor_is_answered(pixel: Pixel, mark: str, parts: list[bytes], visits: int) -> None:
    with Connection(pixel.port) as connection:
        for part in parts:
            connection.send(part)
        connection.end()
        for _ in range(visits):
            assert connection.read_reply().is_gif
        assert connection.closed_by_server()
    assert len(pixel.visits_after(mark)) == visits


def test_a_half_closed_connection_with_an_unfinished_request_ends_at_once(pixel: Pixel) -> None:
    with Connection(pixel.port) as connection:
        connection.send(request()[:-1])
        connection.end()
        assert connection.closed_by_server()


@pytest.mark.parametrize("coding", ["gzip", "br", "zstd", "gzip, gzip", "x-unknown"])
def test_a_body_that_does_not_decode_changes_nothing(pixel: Pixel, coding: str) -> None:
    headers = [("Content-Encoding", coding), ("Content-Length", "6")]
    with Connection(pixel.port) as connection:
        for method in ("GET", "POST", "HEAD", "GET"):
            connection.send(request(method=method, headers=headers) + b"abcdef")
            assert connection.read_reply(body=method != "HEAD").status == (405 if method == "POST" else 200)
        assert connection.get().is_gif
    assert "Traceback" not in pixel.output


@pytest.mark.parametrize("framing", [("Content-Length", "800000"), ("Transfer-Encoding", "chunked")])
def test_a_long_body_does_not_cost_its_sender_the_answer(pixel: Pixel, framing: tuple[str, str]) -> None:
    with Connection(pixel.port) as connection:
        connection.send(request(headers=[framing]))
        for _ in range(8):
            connection.send(b"c" * 100_000)
        reply = connection.read_reply()
        assert reply.is_gif
        assert reply.header("Connection") == "close"
        assert connection.closed_by_server()


def test_refused_requests_are_counted_by_status(pixel: Pixel) -> None:
    name = "tracker_pixel_requests_refused"
    before = pixel.metric(name)
    assert get(pixel.port, "/nothing").status == 404
    with Connection(pixel.port) as connection:
        assert connection.get(method="POST").status == 405
        connection.send(request(headers=[("Cookie", "c" * 17_000)]))
        assert connection.read_reply().status == 431
    pixel.wait_metric(name, before + 3)
    assert pixel.metric(name) == before + 3
    assert pixel.metric(name, 'status="431"') >= 1


def test_an_absolute_target_is_accepted(pixel: Pixel) -> None:
    assert get(pixel.port, "http://pixel.example/track?x").is_gif


def test_a_connection_is_kept_alive(pixel: Pixel) -> None:
    with Connection(pixel.port) as connection:
        replies = [connection.get() for _ in range(20)]
        assert all(reply.is_gif for reply in replies)
        assert connection.get("/other").status == 404
        assert connection.get().is_gif


def test_connection_close_is_obeyed(pixel: Pixel) -> None:
    with Connection(pixel.port) as connection:
        reply = connection.get(headers=[("Connection", "close")])
        assert reply.is_gif
        assert connection.closed_by_server()


def test_pipelined_requests_are_answered_in_order(pixel: Pixel, mark: str) -> None:
    targets = ["/track", "/other", "/track?2", "/track", "/other", "/track"]
    with Connection(pixel.port) as connection:
        referrers = [("Referer", f"https://pipe.example/{n}") for n in range(len(targets))]
        connection.send(b"".join(request(t, [r]) for t, r in zip(targets, referrers, strict=True)))
        replies = [connection.read_reply() for _ in targets]
    assert [reply.status for reply in replies] == [200, 404, 200, 200, 404, 200]
    visits = pixel.visits_after(mark)
    assert [visit.split("pipe.example/")[1][0] for visit in visits] == ["0", "2", "3", "5"]


def test_a_burst_of_pipelined_requests_is_answered_in_full(pixel: Pixel) -> None:
    with Connection(pixel.port) as connection:
        small = b"GET /track HTTP/1.1\r\nHost: a\r\n\r\n"
        connection.send(small * 2_000)
        assert all(connection.read_reply().is_gif for _ in range(2_000))


def test_a_request_may_come_in_pieces(pixel: Pixel) -> None:
    with Connection(pixel.port) as connection:
        for byte in request(headers=[("Referer", "https://slow.example/")]):
            connection.send(bytes([byte]))
        assert connection.read_reply().is_gif
        assert connection.get().is_gif


def test_http_1_0_is_answered_and_closed(pixel: Pixel) -> None:
    with Connection(pixel.port) as connection:
        connection.send(b"GET /track HTTP/1.0\r\n\r\n")
        assert connection.read_reply().is_gif
        assert connection.closed_by_server()


def test_http_1_0_may_ask_to_keep_the_connection(pixel: Pixel) -> None:
    with Connection(pixel.port) as connection:
        for _ in range(2):
            connection.send(request(version="HTTP/1.0", headers=[("Connection", "keep-alive")]))
            reply = connection.read_reply()
            assert reply.is_gif
            assert reply.header("Connection").lower() == "keep-alive"


@pytest.mark.parametrize(
    "garbage",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
        b"GET\r\n\r\n",
        request(headers=[("User-Agent", b"a\x1b[31mb")]),
        request(headers=[("Referer", b"a\x00b")]),
        request(headers=[("Referer", "r" * 70_000)]),
        request(headers=[("Content-Length", "5"), ("Transfer-Encoding", "chunked")]),
    ],
    ids=["tls", "short", "escape", "nul", "long", "two-lengths"],
)
def test_what_is_no_http_is_refused_and_forgotten(pixel: Pixel, mark: str, garbage: bytes) -> None:
    with Connection(pixel.port) as connection:
        try:
            connection.send(garbage)
            reply = connection.read_reply()
        except ConnectionError:
            pass
        else:
            assert reply.status in (400, 431)
            assert not reply.get_all("Server")
            assert connection.closed_by_server()
    assert pixel.visits_after(mark) == []
    assert get(pixel.port).is_gif


def test_the_admin_listener_answers(pixel: Pixel) -> None:
    assert pixel.admin("/healthz").status == 200
    assert pixel.admin("/readyz").status == 200
    metrics = pixel.admin("/metrics")
    assert metrics.status == 200
    assert metrics.header("Content-Type").startswith("text/plain")
    assert pixel.admin("/track").status == 404
