"""An IP address as text: its one canonical form, and its network for `privacy.ip: truncated`."""

import ipaddress
import re
from functools import lru_cache

_MAX_ADDRESS_CHARS = 64  # the longest IPv6 text has 45, a zone may follow; the cache must hold no longer text

_OCTET = r"(?:25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])"
IPV4 = rf"{_OCTET}\.{_OCTET}\.{_OCTET}\.{_OCTET}"
"""A pattern for dotted decimal without leading zeros, the only form that `ipaddress` reads and writes."""

is_ipv4 = re.compile(IPV4).fullmatch


def canonical_ip(text: str) -> str | None:
    """The address in its canonical form; None when `text` is not an address.

    The zone of an IPv6 address is removed. An IPv4 address that is written as IPv6 (::ffff:192.0.2.1) becomes IPv4.
    """
    return _canonical_ip(text) if len(text) <= _MAX_ADDRESS_CHARS else None


@lru_cache(maxsize=16384)
def _canonical_ip(text: str) -> str | None:
    if is_ipv4(text):
        return text
    try:
        address = ipaddress.IPv6Address(text)
    except ValueError:
        return None
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(ipaddress.IPv6Address(int(address)))  # the number has no zone


@lru_cache(maxsize=16384)
def truncate_ip(ip: str) -> str:
    """The network of a canonical address: /24 of an IPv4 address, /48 of an IPv6 address. The other bits are zero."""
    if ":" not in ip:
        return ip.rpartition(".")[0] + ".0"
    return str(ipaddress.IPv6Address(int(ipaddress.IPv6Address(ip)) >> 80 << 80))
