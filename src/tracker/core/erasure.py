"""Which lines of a visit log belong to a person: those with one of the given addresses, user agents or pages.

A line is selected if any of the values is its own. The values are compared as they are after unescaping, and as a
whole: a part of a user agent or of a page would also select the lines of other people. An address may be a network.
"""

import ipaddress
from collections.abc import Callable, Sequence
from enum import Enum
from functools import lru_cache
from typing import TypeVar

from tracker.core.ip_address import canonical_ip
from tracker.core.log_line import unescape
from tracker.errors import MalformedMessage, UsageError

_REMEMBERED = 8_192  # how many different columns are remembered, so that a repeated one costs a look-up
_REMEMBERED_BYTES = 512  # longer columns are not remembered: memory must stay small, whatever the log holds

T = TypeVar("T")


class Key(Enum):
    """By what a line was selected."""

    IP = "ip"
    AGENT = "agent"
    PAGE = "page"


class Selection:
    """The addresses or networks, user agents and pages whose lines are selected. Raises UsageError."""

    def __init__(self, *, ips: Sequence[str] = (), agents: Sequence[str] = (), pages: Sequence[str] = ()) -> None:
        networks = [_network(text) for text in ips]
        # Single addresses are looked up, so the time for a line does not grow with their number.
        addresses = {str(each.network_address) for each in networks if each.num_addresses == 1}
        wide = [each for each in networks if each.num_addresses > 1]
        wanted_agents, wanted_pages = frozenset(agents), frozenset(pages)

        def has_ip(column: bytes) -> bool | None:
            text = canonical_ip(column.decode("iso-8859-1"))
            if text is None:
                return None
            return text in addresses or (bool(wide) and any(ipaddress.ip_address(text) in each for each in wide))

        self._has_ip = _remembering(has_ip)
        self._has_agent = _remembering(lambda column: unescape(column) in wanted_agents)
        self._has_page = _remembering(lambda column: unescape(column) in wanted_pages)

    def key_of(self, line: bytes) -> Key | None:
        """By what this line is selected; None if it is not. Raises MalformedMessage if it is no line of a visit."""
        columns = line.removesuffix(b"\n").removesuffix(b"\r").split(b"|")
        if len(columns) != 4:
            raise MalformedMessage("not a line of four columns")
        _, page, agent, ip = columns
        has_ip = self._has_ip(ip)
        if has_ip:
            return Key.IP
        if self._has_agent(agent):
            return Key.AGENT
        if self._has_page(page):
            return Key.PAGE
        if has_ip is None:
            raise MalformedMessage("the last column is not an IP address")
        return None


def _remembering(judge: Callable[[bytes], T]) -> Callable[[bytes], T]:
    remembered = lru_cache(_REMEMBERED)(judge)
    return lambda column: remembered(column) if len(column) <= _REMEMBERED_BYTES else judge(column)


def _network(text: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    try:
        # As the log has it: an IPv4 address that is mapped into IPv6 is written as IPv4.
        return ipaddress.ip_network(text if "/" in text else canonical_ip(text) or text)
    except ValueError as error:
        raise UsageError(f"--ip: expected an IP address or a network such as 203.0.113.0/24 ({error})") from error
