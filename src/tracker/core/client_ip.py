"""The client's IP address: which one address is recorded for a visit.

1. A peer that is not a trusted proxy is the client. Its headers are ignored.
2. A trusted proxy names the client in one configured header. All lines of this header are read as one list.
3. The list is read from the right, because each proxy appends its peer's address at the right end. Trusted addresses
   are skipped. The first address that is not trusted is the client.
4. Reading stops at an element that is not an address. The trusted address that was read last is recorded. The elements
   further to the left are not used, because the visitor may have written them.
5. If all addresses are trusted, the leftmost is recorded.

The time for one header grows linearly with its length, whatever it contains.
"""

import ipaddress
import re
from collections.abc import Iterator, Sequence
from functools import lru_cache

from tracker.core.ip_address import canonical_ip, is_ipv4
from tracker.errors import ConfigurationError

# A numeric port, or an obfuscated one (RFC 7239, 6.3).
_PORT = re.compile(r"[0-9]{1,5}|_[A-Za-z0-9._-]{1,64}")

# A pair of a Forwarded element, up to its semicolon (RFC 7239, 4). A value without quotes may hold the colons and
# brackets of an address. The RFC forbids this, but many proxies write it.
# The matching time is linear: after each repetition the next character alone decides how the match continues, so
# there is nothing to try again. Possessive quantifiers follow single characters only, as analysis/plain.py explains.
_PAIR = re.compile(
    r"""[ \t]*+
        (?: ([!\#$%&'*+.^_`|~0-9A-Za-z-]++) = (?: "([^"\\]*+(?:\\.[^"\\]*+)*)" | ([^\s;,"]++) ) )?
        [ \t]*+ (?: ; | \Z )""",
    re.VERBOSE | re.DOTALL,
)
_QUOTED_PAIR = re.compile(r"\\(.)", re.DOTALL)

_V4_MAPPED = ipaddress.IPv6Network("::ffff:0:0/96")

MAX_ADDRESS_HEADER_CHARS = 8_190
"""How many characters of the header are read, all its lines together. These are the last ones; others are ignored."""

_VIEWER_ADDRESS = "cloudfront-viewer-address"

# The proxies that write these headers write no port, or put an IPv6 address with a port in brackets.
_UNAMBIGUOUS = {
    *("x-forwarded-for", "forwarded", "x-real-ip", "x-client-ip", "true-client-ip", "x-envoy-external-address"),
    *("cf-connecting-ip", "cf-connecting-ipv6", "fastly-client-ip", "fly-client-ip", "x-azure-clientip"),
}


def is_known_header(name: str) -> bool:
    """Whether every IPv6 address in this header is known to have one meaning only.

    An IPv6 address with a port but without brackets usually looks like another valid address: 2001:db8::9:443 may be
    the address 2001:db8::9 with the port 443, or an address that ends in 443. A reader cannot decide which.
    """
    return name.lower() in {_VIEWER_ADDRESS, *_UNAMBIGUOUS}


class ClientIp:
    """Finds the client's address, with the trusted proxies and the header of one configuration.

    `trusted` are addresses and CIDR networks. `header` is the one header that these proxies write. It is read in one of
    three ways:

    - ``Forwarded`` (RFC 7239);
    - ``CloudFront-Viewer-Address``: a port always follows the last colon, and an IPv6 address has no brackets;
    - any other header is read as a list, as ``X-Forwarded-For`` is; a single address is a list of one. A port may
      follow an IPv4 address, or an IPv6 address in brackets. An IPv6 text without brackets is an address without port.

    Raises ConfigurationError.
    """

    def __init__(self, trusted: Sequence[str], header: str) -> None:
        networks = [_network(text) for text in trusted]
        # The trusted networks of each version of IP, as first and last number: `ipaddress` takes four times as long.
        self._ranges = {
            version: [(int(net[0]), int(net[-1])) for net in networks if net.version == version] for version in (4, 6)
        }
        kinds = {"forwarded": _forwarded_addresses, _VIEWER_ADDRESS: _viewer_addresses}
        self._elements = kinds.get(header.lower(), _listed_addresses)
        self._is_trusted = lru_cache(maxsize=16384)(self._in_networks)

    def needs_header(self, peer: str | None) -> bool:
        """Whether `resolve` reads the header of a request from this peer."""
        ip = canonical_ip(peer) if peer is not None else None
        return ip is not None and self._is_trusted(ip)

    def resolve(self, peer: str | None, header_lines: Sequence[str]) -> str | None:
        """The client's address, given the peer of the connection and all lines of the header. None without a peer."""
        client = canonical_ip(peer) if peer is not None else None
        if client is None or not self._is_trusted(client):
            return client
        return self.behind(client, ",".join(header_lines))

    def behind(self, proxy: str, header: str) -> str:
        """The client's address in a request of a trusted proxy, whose address is canonical. `header` is all its lines.

        The lines are joined with commas.
        """
        if self._elements is _listed_addresses and is_ipv4(header):
            return header  # the steps below would return it, too, whether it is trusted or not
        if len(header) > MAX_ADDRESS_HEADER_CHARS:  # the proxies append at the right end; only the left end is cut off
            header = header[-MAX_ADDRESS_HEADER_CHARS:].partition(",")[2]
        client = proxy
        for ip in self._elements(header):
            if ip is None:  # not an address: nobody knows who wrote the elements to the left of it
                return client
            if not self._is_trusted(ip):
                return ip
            client = ip
        return client

    def _in_networks(self, ip: str) -> bool:
        version = 6 if ":" in ip else 4
        number = int(ipaddress.IPv6Address(ip)) if version == 6 else _ipv4_number(ip)
        return any(first <= number <= last for first, last in self._ranges[version])


def _ipv4_number(ip: str) -> int:
    a, b, c, d = map(int, ip.split("."))
    return a << 24 | b << 16 | c << 8 | d


def _network(text: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    try:
        network = ipaddress.ip_network(text)
    except ValueError as error:
        raise ConfigurationError(f"expected an IP address or a network in CIDR form ({error})") from error
    if isinstance(network, ipaddress.IPv6Network) and network.subnet_of(_V4_MAPPED):
        # Canonical addresses are never mapped, so no address would ever be in a mapped network.
        mapped = network.network_address.ipv4_mapped
        return ipaddress.IPv4Network(f"{mapped}/{network.prefixlen - 96}")
    return network


def _listed_addresses(header: str) -> Iterator[str | None]:
    """The addresses of a list from the right, None for a text that is not one. RFC 9110, 5.6.1: skip empty elements."""
    for part in _parts_from_right(header):
        element = part.strip(" \t")
        if element:
            yield _node_address(element)


def _viewer_addresses(header: str) -> Iterator[str | None]:
    """The elements of CloudFront's header from the right, None for one that is not an address with a port."""
    for part in _parts_from_right(header):
        element = part.strip(" \t")
        if element:
            host, colon, port = element.rpartition(":")
            if host.startswith("[") and host.endswith("]"):
                host = host[1:-1]
            yield canonical_ip(host) if _is_port(colon + port) else None


def _forwarded_addresses(header: str) -> Iterator[str | None]:
    """The ``for`` addresses of an RFC 7239 header from the right, None for an element without a usable one.

    A comma inside quotes does not separate elements. Parts are joined from the right until the number of quotes is
    even. So a quote that a visitor opens on the left and never closes does not change how the proxies' elements on the
    right are read.
    """
    parts: list[str] = []
    open_quote = False
    for part in _parts_from_right(header):
        parts.append(part)
        open_quote ^= _has_odd_quotes(part)
        if not open_quote:
            element = ",".join(reversed(parts)).strip(" \t")
            parts = []
            if element:
                yield _forwarded_address(element)
    if parts:
        yield None


def _parts_from_right(header: str) -> Iterator[str]:
    # A generator: a visitor may send thousands of elements, and most of them are never read.
    end = len(header)
    while end >= 0:
        comma = header.rfind(",", 0, end)
        yield header[comma + 1 : end]
        end = comma


def _has_odd_quotes(part: str) -> bool:
    return part.replace("\\\\", "").replace('\\"', "").count('"') % 2 == 1


def _forwarded_address(element: str) -> str | None:
    node = None
    position = 0
    while position < len(element):
        pair = _PAIR.match(element, position)
        if pair is None:
            return None
        position = pair.end()
        name, quoted, plain = pair.groups()
        if name is not None and name.lower() == "for":
            if node is not None:  # a parameter may occur only once in an element
                return None
            node = _QUOTED_PAIR.sub(r"\1", quoted) if quoted is not None else plain
    return _node_address(node) if node is not None else None


def _node_address(node: str) -> str | None:
    """The address of ``ip``, ``ip:port``, ``[v6]``, ``[v6]:port`` or a bare v6; None for anything else."""
    if is_ipv4(node):  # most are, and more of them than the cache of canonical_ip holds
        return node
    if node.startswith("["):
        host, bracket, rest = node[1:].partition("]")
        if not bracket or ":" not in host or (rest and not _is_port(rest)):
            return None
        return canonical_ip(host)
    if node.count(":") == 1:
        host, _, _ = node.partition(":")
        return canonical_ip(host) if _is_port(node[len(host) :]) else None
    return canonical_ip(node)


def _is_port(rest: str) -> bool:
    return rest.startswith(":") and _PORT.fullmatch(rest, 1) is not None
