"""Named pages are read as a reference decoder reads forms, and what `privacy.referrer` removes is gone."""

import time
from urllib.parse import parse_qsl, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracker.core.log_line import format_line, parse_line
from tracker.core.page import NamedPage, reduced_page
from tracker.core.visit import cut_header, decode_line, encode_line, header_text

TIME = "2026-11-23T07:09:24.932706+00:00"


def named(query: bytes, parameter: str = "page") -> str | None:
    """The page that a request with this query names."""
    return NamedPage(parameter).find(b"GET /track?" + query + b" HTTP/1.1", len(b"GET /track"))


def expected(query: bytes, parameter: str = "page") -> str | None:
    """By Python's decoder of forms. It leaves pairs with an empty value out."""
    text = "".join(chr(byte) if byte < 0x80 else f"%{byte:02X}" for byte in query)
    pairs = parse_qsl(text, encoding="utf-8", errors="surrogateescape")
    return next((header_text(value) for name, value in pairs if name == parameter), None)


_bytes = st.sampled_from([b"page", b"p", b"age", b"=", b"&", b"+", b"%", b"%2", b"%zz", b"%70", b"%61", b"%00", b"%0a"])
_more = st.sampled_from(
    [b"%C3%A9", b"%e9", b"\xe9", b"\xc3\xa9", b";", b"amp;", b"#", b"?", b"/", b"%7C", b"%26", b"x"]
)


@given(st.lists(_bytes | _more, max_size=30).map(b"".join))
def test_a_named_page_is_the_first_value_that_is_not_empty_as_forms_are_decoded(query: bytes) -> None:
    assert named(query) == expected(query)


@pytest.mark.parametrize(
    ("query", "page"),
    [
        (b"page=newsletter%2F2026-11%2Ftop&u=7", "newsletter/2026-11/top"),
        (b"u=7&page=a+b", "a b"),
        (b"page=&page=second", "second"),
        (b"page&page=second", "second"),
        (b"page=first&page=second", "first"),
        (b"page=", None),
        (b"page", None),
        (b"", None),
        (b"xpage=a&page2=b&Page=c&a?page=d", None),
        (b"%70a%67e=encoded", "encoded"),
        (b"u=1&amp;page=a", None),
        (b"u=1;page=a", None),
        (b"page=a;b", "a;b"),
        (b"page=a=b=c", "a=b=c"),
        (b"page=100%&x", "100%"),
        (b"page=%zz%4", "%zz%4"),
        (b"page=a%00b%0D%0Ac", "a\x00b\r\nc"),
        (b"page=%C3%BC", "ü"),
        (b"page=%FC", "ü"),
        (b"page=\xfc", "ü"),
        (b"page=%C3%BC%FC", "Ã¼ü"),
        (b"page=a#b", "a#b"),
        (b"page=https%3A%2F%2Fa.example%2F%3Fb%3Dc%26d", "https://a.example/?b=c&d"),
        (b"page=" + b"a" * 3_000, "a" * 3_000),
    ],
)
def test_named_pages(query: bytes, page: str | None) -> None:
    assert named(query) == page == expected(query)


@pytest.mark.parametrize("parameter", ["p", "page.name", "a-b_c~1", "PAGE"])
def test_a_parameter_is_taken_literally_in_its_case(parameter: str) -> None:
    encoded = "".join(f"%{ord(char):02X}" for char in parameter).encode()
    assert named(encoded + b"=a", parameter) == named(parameter.encode() + b"=a", parameter) == "a"
    assert named(parameter.swapcase().replace(".", "x").encode() + b"_=a", parameter) is None


@given(st.binary(max_size=300))
def test_any_bytes_of_a_named_page_are_one_clean_line_and_are_read_back(value: bytes) -> None:
    page = named(b"page=" + b"".join(b"%%%02x" % byte for byte in value))
    visit = decode_line(encode_line(TIME, cut_header(page), None, "192.0.2.1"))
    line = format_line(visit)
    assert line.count(b"|") == 3
    assert all(0x20 <= byte <= 0x7E for byte in line[:-1])
    assert parse_line(line) == visit
    assert (visit.referrer or "") == (header_text(value.decode("utf-8", "surrogateescape")))


URLS = [
    # page, no_query, origin
    ("https://a.example/b/c?d=e#f", "https://a.example/b/c", "https://a.example/"),
    ("https://a.example", "https://a.example", "https://a.example/"),
    ("https://a.example?q", "https://a.example", "https://a.example/"),
    ("https://a.example#f?q", "https://a.example", "https://a.example/"),
    ("http://user:pass@a.example:8080/b", "http://a.example:8080/b", "http://a.example:8080/"),
    ("http://user:p@ss@a.example/@b", "http://a.example/@b", "http://a.example/"),
    ("https://[2001:db8::1]:443/b?c", "https://[2001:db8::1]:443/b", "https://[2001:db8::1]:443/"),
    ("HTTPS://A.Example/B?C", "HTTPS://A.Example/B", "HTTPS://A.Example/"),
    ("https:\\\\u:p@a.example\\b?c", "https:\\\\a.example\\b", "https:\\\\a.example/"),
    ("https://a.example\\@b.example/c", "https://a.example\\@b.example/c", "https://a.example/"),
    ("https:u:p@a.example/b", "https:a.example/b", "https:a.example/"),
    ("https:///u@a.example/b", "https:///a.example/b", "https:///a.example/"),
    (" \n https://u:p@a.example/b?c", "https://a.example/b", "https://a.example/"),
    ("ht\ttps:/\n/u:p@a.exam\rple/b?c", "https://a.example/b", "https://a.example/"),
    ("//u:p@a.example/b?c", "//a.example/b", "//a.example/"),
    ("android-app://com.example.news/https/a.example/b?c", "android-app://com.example.news/https/a.example/b",
     "android-app://com.example.news/"),
    ("file:///home/anna/mail.html", "file:///home/anna/mail.html", "file:///"),
    ("file:/home/anna/mail.html?x", "file:/home/anna/mail.html", "file:/"),
    ("ftp:u:p@a.example/b", "ftp:a.example/b", "ftp:a.example/"),
    ("data:text/html,<b>secret</b>", "data:", "data:"),
    ("mailto:anna@a.example?subject=x", "mailto:", "mailto:"),
    ("blob:https://a.example/5c3f", "blob:", "blob:"),
    ("About:blank", "About:", "About:"),
    ("https://é.example/ü?ß", "https://é.example/ü", "https://é.example/"),
    ("https://a.example/b%3Fc?d", "https://a.example/b%3Fc", "https://a.example/"),
    ("https://a.example/\x00\n?d", "https://a.example/\x00", "https://a.example/"),
]  # fmt: skip


@pytest.mark.parametrize(("page", "no_query", "origin"), URLS)
@pytest.mark.parametrize("is_named", [True, False])
def test_what_is_kept_of_a_url(page: str, no_query: str, origin: str, is_named: bool) -> None:
    assert reduced_page(page, "no_query", is_named=is_named) == no_query
    assert reduced_page(page, "origin", is_named=is_named) == origin


@pytest.mark.parametrize(
    ("page", "kept"),
    [
        ("newsletter/2026-11/top", "newsletter/2026-11/top"),
        ("news?token=a", "news"),
        ("news#a?b", "news"),
        ("/welcome?token=a\nb", "/welcome"),
        ("campaign:spring", "campaign:spring"),
        ("anna@a.example", "anna@a.example"),
        ("?token", ""),
    ],
)
def test_a_name_stays_and_a_referer_that_is_no_url_has_no_origin(page: str, kept: str) -> None:
    assert reduced_page(page, "no_query", is_named=True) == kept
    assert reduced_page(page, "no_query", is_named=False) == kept
    assert reduced_page(page, "origin", is_named=True) == kept
    assert reduced_page(page, "origin", is_named=False) == ""


@given(st.text(st.sampled_from("ab:/@.[]1") | st.characters(codec="utf-8"), max_size=40))
def test_nothing_behind_a_host_is_kept_of_any_url(text: str) -> None:
    page = f"https://user:secret@a.example/{text}?secret#secret"
    assert "secret" not in reduced_page(page.replace("SECRET", ""), "no_query", is_named=False)
    assert reduced_page(page, "origin", is_named=False) == "https://a.example/"


_url = (
    r"(https?|ftp|android-app)://([a-z]{1,3}(:[a-z]{0,3})?@)?[a-z.]{1,9}(:[0-9]{1,3})?"
    r"(/[a-z/@:]{0,9})?(\?[a-z?/@]{0,5})?(#[a-z?/@#]{0,5})?"
)


@given(st.from_regex(_url, fullmatch=True))
def test_urls_are_reduced_as_a_parser_of_urls_divides_them(page: str) -> None:
    url = urlsplit(page)
    host = url.netloc.rpartition("@")[2]
    assert reduced_page(page, "no_query", is_named=False) == f"{url.scheme}://{host}{url.path}"
    assert reduced_page(page, "origin", is_named=False) == f"{url.scheme}://{host}/"


def test_crafted_values_take_linear_time() -> None:
    began = time.process_time()
    for piece in ("%&", "&page=", "&pag", "?", "+", "%"):
        named(b"x" + piece.encode() * 20_000)
    for piece in ("@", "@a", "/", "\\", ":", " ", "\x00", "a:", "?", "https:"):
        for start in ("", "https:", "https://", "data", "a" * 20_000):
            reduced_page(start + piece * 20_000, "no_query", is_named=False)
    assert time.process_time() - began < 10
