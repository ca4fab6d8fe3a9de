"""Which address is the client's, as tables: the peer, the header, the result."""

import ipaddress
import time

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tracker.core.client_ip import ClientIp, is_known_header
from tracker.core.ip_address import canonical_ip, truncate_ip
from tracker.errors import ConfigurationError

TRUSTED = ["10.0.0.0/8", "192.0.2.7", "fd00::/8", "::ffff:172.16.0.0/108"]
PROXY = "10.0.0.1"


@pytest.mark.parametrize(
    ("peer", "lines", "expected"),
    [
        # A peer that is not trusted is the client, whatever its header says.
        ("203.0.113.9", [], "203.0.113.9"),
        ("203.0.113.9", ["198.51.100.1"], "203.0.113.9"),
        ("2001:DB8:0::9", ["198.51.100.1"], "2001:db8::9"),
        ("::ffff:203.0.113.9", ["198.51.100.1"], "203.0.113.9"),
        ("fe80::1%eth0", ["198.51.100.1"], "fe80::1"),
        (None, ["198.51.100.1"], None),
        ("", ["198.51.100.1"], None),
        # A trusted peer names the hop before it.
        (PROXY, [], PROXY),
        (PROXY, [""], PROXY),
        (PROXY, ["198.51.100.1"], "198.51.100.1"),
        ("192.0.2.7", ["198.51.100.1"], "198.51.100.1"),
        ("192.0.2.8", ["198.51.100.1"], "192.0.2.8"),
        ("fd00::1", ["198.51.100.1"], "198.51.100.1"),
        ("fd00::1%eth0", ["198.51.100.1"], "198.51.100.1"),
        ("::ffff:10.0.0.1", ["198.51.100.1"], "198.51.100.1"),
        ("172.31.0.1", ["198.51.100.1"], "198.51.100.1"),
        ("::ffff:172.31.0.1", ["198.51.100.1"], "198.51.100.1"),
        ("172.32.0.1", ["198.51.100.1"], "172.32.0.1"),
        # It is read from the right; what the visitor wrote is on the left.
        (PROXY, ["6.6.6.6, 198.51.100.1"], "198.51.100.1"),
        (PROXY, ["6.6.6.6, 198.51.100.1, 10.0.0.2"], "198.51.100.1"),
        (PROXY, ["6.6.6.6,198.51.100.1,10.0.0.2,192.0.2.7"], "198.51.100.1"),
        (PROXY, ["10.0.0.9, 198.51.100.1"], "198.51.100.1"),
        # Several lines are one list.
        (PROXY, ["6.6.6.6", "198.51.100.1"], "198.51.100.1"),
        (PROXY, ["6.6.6.6", "198.51.100.1", "10.0.0.2"], "198.51.100.1"),
        (PROXY, ["198.51.100.1", ""], "198.51.100.1"),
        # All trusted: the leftmost.
        (PROXY, ["10.0.0.3, 10.0.0.2"], "10.0.0.3"),
        (PROXY, ["fd00::3", "10.0.0.2"], "fd00::3"),
        # Forms.
        (PROXY, ["198.51.100.1:443"], "198.51.100.1"),
        (PROXY, ["198.51.100.1:443, 10.0.0.2:80"], "198.51.100.1"),
        (PROXY, ["[2001:db8::1]:443"], "2001:db8::1"),
        (PROXY, ["[2001:db8::1]"], "2001:db8::1"),
        (PROXY, ["2001:db8::1"], "2001:db8::1"),
        (PROXY, ["2001:DB8:0:0:0:0:0:1"], "2001:db8::1"),
        (PROXY, ["fe80::1%eth0"], "fe80::1"),
        (PROXY, ["[fe80::1%eth0]:443"], "fe80::1"),
        (PROXY, ["::ffff:198.51.100.1"], "198.51.100.1"),
        (PROXY, ["[::ffff:198.51.100.1]:443"], "198.51.100.1"),
        (PROXY, ["198.51.100.1, ::ffff:10.0.0.2"], "198.51.100.1"),
        (PROXY, [" \t198.51.100.1\t "], "198.51.100.1"),
        # Empty elements are skipped.
        (PROXY, [",198.51.100.1,, ,"], "198.51.100.1"),
        (PROXY, [",,,"], PROXY),
        # An element that does not parse ends the reading at the last trusted hop.
        (PROXY, ["unknown"], PROXY),
        (PROXY, ["198.51.100.1, unknown"], PROXY),
        (PROXY, ["198.51.100.1, unknown, 10.0.0.2"], "10.0.0.2"),
        (PROXY, ["unknown, 198.51.100.1"], "198.51.100.1"),
        (PROXY, ["198.51.100.1, 10.0.0.256"], PROXY),
        (PROXY, ["198.51.100.1, 010.0.0.2"], PROXY),
        (PROXY, ["198.51.100.1, 10.0.0.2:"], PROXY),
        (PROXY, ["198.51.100.1, 10.0.0.2:x"], PROXY),
        (PROXY, ["198.51.100.1, 10.0.0.2:123456"], PROXY),
        (PROXY, ["198.51.100.1, 10.0.0.2 10.0.0.3"], PROXY),
        (PROXY, ["198.51.100.1, [10.0.0.2]"], PROXY),
        (PROXY, ["198.51.100.1, [fd00::1"], PROXY),
        (PROXY, ["198.51.100.1, [fd00::1]x"], PROXY),
        (PROXY, ["198.51.100.1, fd00::1]:80"], PROXY),
        (PROXY, ["198.51.100.1, ١٠.0.0.2"], PROXY),
        (PROXY, ["198.51.100.1, \udcff"], PROXY),
        (PROXY, ["198.51.100.1\n"], PROXY),
        (PROXY, ["167772161"], PROXY),
        (PROXY, ["10.0.0.0/8"], PROXY),
        (PROXY, ["for=198.51.100.1"], PROXY),
    ],
)
@pytest.mark.parametrize("header", ["X-Forwarded-For", "CF-Connecting-IP"])
def test_a_list_of_addresses(header: str, peer: str | None, lines: list[str], expected: str | None) -> None:
    assert ClientIp(TRUSTED, header).resolve(peer, lines) == expected


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ([], PROXY),
        (["for=198.51.100.1"], "198.51.100.1"),
        (["For=198.51.100.1"], "198.51.100.1"),
        (["FOR=198.51.100.1;Proto=https"], "198.51.100.1"),
        (["proto=https;for=198.51.100.1;by=203.0.113.43"], "198.51.100.1"),
        (['for="198.51.100.1"'], "198.51.100.1"),
        (['for="198.51.100.1:443"'], "198.51.100.1"),
        (["for=198.51.100.1:443"], "198.51.100.1"),
        (['for="198.51.100.1:_port"'], "198.51.100.1"),
        (['for="[2001:db8:cafe::17]"'], "2001:db8:cafe::17"),
        (['For="[2001:db8:cafe::17]:4711"'], "2001:db8:cafe::17"),
        (["for=[2001:db8::1]:80"], "2001:db8::1"),
        (['for="[::ffff:198.51.100.1]"'], "198.51.100.1"),
        (['for="198.51.\\100.1"'], "198.51.100.1"),
        (["for=198.51.100.1 ; proto=https ;"], "198.51.100.1"),
        (["for=198.51.100.1, for=10.0.0.2"], "198.51.100.1"),
        (["for=6.6.6.6", "for=198.51.100.1", "for=10.0.0.2"], "198.51.100.1"),
        (["for=10.0.0.3, for=10.0.0.2"], "10.0.0.3"),
        ([",for=198.51.100.1,, "], "198.51.100.1"),
        # A comma or semicolon in quotes separates nothing.
        (['for=198.51.100.1;host="a,for=6.6.6.6,b"'], "198.51.100.1"),
        (['for=198.51.100.1;host="a;for=6.6.6.6;b"'], "198.51.100.1"),
        (['for=198.51.100.1;host="a\\",for=6.6.6.6,\\"b"'], "198.51.100.1"),
        (['host="a\\\\";for=198.51.100.1'], "198.51.100.1"),
        # A quote that the visitor left open hides nothing that the proxies appended.
        (['for="evil, for=198.51.100.1'], "198.51.100.1"),
        (['for="evil', "for=198.51.100.1"], "198.51.100.1"),
        (['for="evil\\', "for=198.51.100.1"], "198.51.100.1"),
        (['for=6.6.6.6;x="', 'for="[2001:db8::1]:80", for=10.0.0.2'], "2001:db8::1"),
        # An element without a usable address ends the reading.
        (["for=unknown"], PROXY),
        (["for=_hidden, for=10.0.0.2"], "10.0.0.2"),
        (["for=198.51.100.1, for=unknown"], PROXY),
        (["for=198.51.100.1, proto=https"], PROXY),
        (["for=198.51.100.1, by=10.0.0.2"], PROXY),
        (['for=198.51.100.1, for=""'], PROXY),
        (["for=198.51.100.1, for="], PROXY),
        (["for=198.51.100.1, ;"], PROXY),
        (["for=198.51.100.1, 10.0.0.2"], PROXY),
        (["for=198.51.100.1, for = 10.0.0.2"], PROXY),
        (["for=198.51.100.1, for=10.0.0.2;for=10.0.0.3"], PROXY),
        (["for=198.51.100.1, for=10.0.0.2 x"], PROXY),
        (['for=198.51.100.1, for="10.0.0.2"x'], PROXY),
        (['for="10.0.0.2'], PROXY),
        (["for=198.51.100.1\n"], PROXY),
        (["198.51.100.1"], PROXY),
    ],
)
@pytest.mark.parametrize("header", ["Forwarded", "forwarded"])
def test_rfc_7239(header: str, lines: list[str], expected: str) -> None:
    assert ClientIp(TRUSTED, header).resolve(PROXY, lines) == expected


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ([], PROXY),
        (["198.51.100.10:46532"], "198.51.100.10"),
        (["2001:db8:f:abcd::9:9985"], "2001:db8:f:abcd::9"),
        (["2001:db8:1:2:3:4:5:6:443"], "2001:db8:1:2:3:4:5:6"),
        (["2001:DB8::1:1"], "2001:db8::1"),
        (["2001:db8:::443"], "2001:db8::"),
        (["::1:443"], "::1"),
        (["::ffff:198.51.100.10:443"], "198.51.100.10"),
        (["[2001:db8::9]:443"], "2001:db8::9"),
        ([" 198.51.100.10:46532\t"], "198.51.100.10"),
        (["6.6.6.6:1, 198.51.100.10:46532"], "198.51.100.10"),
        (["198.51.100.10:1, 10.0.0.2:2"], "198.51.100.10"),
        (["198.51.100.10:1", "fd00::2:2"], "198.51.100.10"),
        # The port is always there. An element without one is no address of this header.
        (["198.51.100.10"], PROXY),
        (["198.51.100.10:"], PROXY),
        (["198.51.100.10:x"], PROXY),
        (["198.51.100.10:123456"], PROXY),
        (["2001:db8:1:2:3:4:5:6"], PROXY),
        (["[2001:db8::9]"], PROXY),
        ([":443"], PROXY),
        (["unknown"], PROXY),
    ],
)
@pytest.mark.parametrize("header", ["CloudFront-Viewer-Address", "cloudfront-viewer-address"])
def test_cloudfronts_header_has_its_port_behind_the_last_colon(header: str, lines: list[str], expected: str) -> None:
    assert ClientIp(TRUSTED, header).resolve(PROXY, lines) == expected


@given(st.ip_addresses(), st.integers(0, 65_535))
def test_any_address_with_any_port_is_that_address_in_cloudfronts_header(address: object, port: int) -> None:
    expected = canonical_ip(str(address))
    client_ip = ClientIp([PROXY], "CloudFront-Viewer-Address")
    assert client_ip.resolve(PROXY, [f"{address}:{port}"]) == expected


@given(st.ip_addresses(), st.integers(0, 65_535))
def test_any_address_with_any_port_is_that_address_in_a_list_that_has_brackets(
    address: ipaddress.IPv4Address | ipaddress.IPv6Address, port: int
) -> None:
    text = f"[{address}]" if address.version == 6 else str(address)
    assert ClientIp([PROXY], "X-Forwarded-For").resolve(PROXY, [f"{text}:{port}"]) == canonical_ip(str(address))


def test_headers_with_unambiguous_ports_are_known() -> None:
    for name in ("X-Forwarded-For", "forwarded", "CloudFront-Viewer-Address", "CF-Connecting-IP", "X-REAL-IP"):
        assert is_known_header(name)
    assert not is_known_header("X-Viewer-Address")


APPENDED = {
    "X-Forwarded-For": "198.51.100.1",
    "Forwarded": "for=198.51.100.1",
    "CloudFront-Viewer-Address": "198.51.100.1:9",
}


@pytest.mark.parametrize(("header", "appended"), APPENDED.items())
@given(left=st.text(st.sampled_from('for=1.2"\\,;[] :x_') | st.characters()))
def test_nothing_on_the_left_hides_the_untrusted_address_a_proxy_appended(
    header: str, appended: str, left: str
) -> None:
    assert ClientIp(TRUSTED, header).resolve(PROXY, [left, appended]) == "198.51.100.1"


@pytest.mark.parametrize("header", APPENDED)
@pytest.mark.parametrize(
    "hostile",
    [
        '"',
        "\\",
        " ",
        ",",
        ";",
        "a=b;",
        'for="',
        "for=[",
        "[",
        ":",
        '"\\"',
        "10.0.0.1,",
        "for=10.0.0.1,",
        "1" * 50 + ",",
    ],
)
def test_a_hostile_header_costs_linear_time(header: str, hostile: str) -> None:
    client_ip = ClientIp(TRUSTED, header)
    text = hostile * (8190 // len(hostile))
    started = time.process_time()
    for ending in ("", "!"):
        client_ip.resolve(PROXY, [text + ending] * 4)
    assert time.process_time() - started < 0.5  # in quadratic time it would take many seconds


def test_without_trusted_proxies_the_peer_is_the_client() -> None:
    client_ip = ClientIp([], "X-Forwarded-For")
    assert client_ip.resolve("203.0.113.9", ["6.6.6.6"]) == "203.0.113.9"
    assert not client_ip.needs_header("203.0.113.9")


def test_the_header_is_needed_only_of_a_trusted_peer() -> None:
    client_ip = ClientIp(TRUSTED, "X-Forwarded-For")
    assert client_ip.needs_header(PROXY)
    assert client_ip.needs_header("::ffff:10.0.0.1")
    assert not client_ip.needs_header("203.0.113.9")
    assert not client_ip.needs_header(None)
    assert not client_ip.needs_header("")


@pytest.mark.parametrize("network", ["", "proxy.example", "10.0.0.1/8", "10.0.0.0/33", "10.0.0.256", "fe80::/129"])
def test_a_trusted_proxy_that_is_no_network_is_a_configuration_error(network: str) -> None:
    with pytest.raises(ConfigurationError, match="CIDR form"):
        ClientIp([network], "X-Forwarded-For")


@given(st.ip_addresses())
def test_a_canonical_address_is_its_own_canonical_form(address: object) -> None:
    ip = canonical_ip(str(address))
    assert ip is not None
    assert canonical_ip(ip) == ip


# `str` of an IPv6Address, and what `ipaddress` accepts as a zone, differ between releases of Python.
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("::ffff:c000:201", "192.0.2.1"),
        ("::FFFF:c000:201%eth0", "192.0.2.1"),
        ("::ffff:0.0.0.0", "0.0.0.0"),
        ("::192.0.2.1", "::c000:201"),
        ("::ffff:0:192.0.2.1", "::ffff:0:c000:201"),
        ("64:ff9b::192.0.2.1", "64:ff9b::c000:201"),
        ("1:2:3:4:5:6:192.0.2.1", "1:2:3:4:5:6:c000:201"),
        ("1:0:0:2:0:0:0:3", "1:0:0:2::3"),
        ("1:2:3:4:5:6:0:7", "1:2:3:4:5:6:0:7"),
        ("0:0:0:0:0:0:0:0", "::"),
        ("fe80::1%1", "fe80::1"),
        ("fe80::1%", None),
        ("fe80::1%a%b", None),
        ("::ffff:192.0.2.01", None),
        ("::ffff:192.0.2", None),
        ("::1/128", None),
        (" ::1", None),
    ],
)
def test_an_address_is_spelled_alike_on_every_python(text: str, expected: str | None) -> None:
    assert canonical_ip(text) == expected


@given(st.text())
def test_any_text_is_a_canonical_address_or_none(text: str) -> None:
    ip = canonical_ip(text)
    assert ip is None or canonical_ip(ip) == ip


_octets = st.sampled_from(["", "0", "00", "01", "9", "10", "99", "100", "199", "200", "249", "255", "256", "1000"])


@given(st.lists(_octets, min_size=3, max_size=5).map(".".join) | st.text("0123456789.", max_size=16))
def test_an_ipv4_address_is_what_ipaddress_takes_for_one(text: str) -> None:
    try:
        expected = str(ipaddress.IPv4Address(text))
    except ValueError:
        assert canonical_ip(text) is None
    else:
        assert canonical_ip(text) == expected == text


def test_a_text_longer_than_any_address_is_none() -> None:
    assert canonical_ip("fe80::1%" + "x" * 8000) is None


@pytest.mark.parametrize(
    ("ip", "truncated"),
    [
        ("198.51.100.201", "198.51.100.0"),
        ("10.0.0.0", "10.0.0.0"),
        ("2001:db8:1234:5678:9abc::1", "2001:db8:1234::"),
        ("::1", "::"),
    ],
)
def test_a_truncated_address_keeps_24_or_48_bits(ip: str, truncated: str) -> None:
    assert truncate_ip(ip) == truncated


@pytest.mark.parametrize("header", ["X-Forwarded-For", "Forwarded"])
def test_only_the_right_end_of_a_header_of_megabytes_is_read(header: str) -> None:
    element = "for=198.51.100.7" if header == "Forwarded" else "198.51.100.7"
    flood = [",".join(["10.0.0.2"] * 900) if header != "Forwarded" else "for=10.0.0.2," * 600] * 128
    resolve = ClientIp(["10.0.0.0/8"], header).resolve
    assert resolve("10.0.0.1", [*flood, element]) == "198.51.100.7"
    assert resolve("10.0.0.1", [element, *flood]) == "10.0.0.2"  # the cut element is not read as another address


_addresses = st.ip_addresses() | st.sampled_from(
    ["0.0.0.0", "255.255.255.255", "10.0.0.0", "10.255.255.255", "::"]
).map(ipaddress.ip_address)
_networks = st.builds(
    lambda address, bits: f"{address}/{min(bits, address.max_prefixlen)}", _addresses, st.integers(0, 128)
)


@given(st.lists(_networks, max_size=4), _addresses)
@example(["::ffff:0:0/96"], ipaddress.IPv4Address("0.0.0.0"))
def test_a_trusted_peer_is_one_in_a_trusted_network(networks: list[str], address: ipaddress.IPv4Address) -> None:
    parsed = [ipaddress.ip_network(network, strict=False) for network in networks]
    trusting = ClientIp([str(network) for network in parsed], "X-Forwarded-For")
    canonical = ipaddress.ip_address(canonical_ip(str(address)) or "")
    # A network within ::ffff:0:0/96 is one of IPv4 addresses.
    mapped = ipaddress.ip_address(f"::ffff:{canonical}") if canonical.version == 4 else canonical
    wanted = any(canonical in network or (network.prefixlen >= 96 and mapped in network) for network in parsed)
    assert trusting.needs_header(str(address)) == wanted
