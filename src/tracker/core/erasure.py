"""Which lines of a visit log belong to a person: those with one of the given addresses, user agents or pages.

A line is selected if any of the values is its own. The values are compared as they are after unescaping, and as a
whole: a part of a user agent or of a page would also select the lines of other people. An address may be a network.
Of a line that does not have the four columns of a visit, each column is compared with each value.
"""

import ipaddress
import re
from collections.abc import Callable, Sequence
from enum import Enum
from functools import lru_cache
from typing import TypeVar

from tracker.core.ip_address import canonical_ip
from tracker.core.log_line import escape, unescape
from tracker.errors import MalformedMessage, UsageError

_REMEMBERED = 8_192  # how many different columns are remembered, so that a repeated one costs a look-up
_REMEMBERED_ADDRESSES = 1 << 18  # of the archive, about 40 MB: an object has the same ones again and again
_REMEMBERED_BYTES = 512  # longer columns are not remembered: memory must stay small, whatever the log holds

T = TypeVar("T")

_find_addresses = re.compile(rb"[0-9A-Fa-f:.]{2,64}").findall


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
        self.addresses = frozenset(str(each.network_address) for each in networks if each.num_addresses == 1)
        wide = [each for each in networks if each.num_addresses > 1]
        self.has_networks = bool(wide)
        self.agents = frozenset(agents)
        self.pages = frozenset(pages)

        def has_ip(column: bytes) -> bool | None:
            text = canonical_ip(column.decode("iso-8859-1"))
            if text is None:
                return None
            return text in self.addresses or (bool(wide) and any(ipaddress.ip_address(text) in each for each in wide))

        self._has_ip = _remembering(has_ip)
        self._has_address = lru_cache(_REMEMBERED_ADDRESSES)(lambda text: bool(has_ip(text.encode())))
        self._has_agent = _remembering(lambda column: unescape(column) in self.agents)
        self._has_page = _remembering(lambda column: unescape(column) in self.pages)

    def has_address(self, text: str) -> bool:
        """Whether `text` is one of the addresses, or in one of the networks."""
        return self._has_address(text)

    def key_of(self, line: bytes) -> Key | None:
        """By what this line is selected; None if it is not.

        Raises MalformedMessage if it is no line of a visit, and no column of it is one of the values.
        """
        columns = line.removesuffix(b"\n").removesuffix(b"\r").split(b"|")
        if len(columns) != 4:
            return self._key_of_malformed(columns)
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

    def _key_of_malformed(self, columns: list[bytes]) -> Key:
        for key, has in ((Key.IP, self._has_ip), (Key.AGENT, self._has_agent), (Key.PAGE, self._has_page)):
            if any(map(has, columns)):
                return key
        raise MalformedMessage("not a line of four columns")

    def is_mentioned(self, line: bytes) -> bool:
        """Whether one of the values is anywhere in `line`, also as a part of something else."""
        texts = (text for value in (*self.agents, *self.pages) for text in (value, escape(value)))
        return any(map(self._has_ip, _find_addresses(line))) or any(
            text.encode("utf-8", "surrogateescape") in line for text in texts
        )


def _remembering(judge: Callable[[bytes], T]) -> Callable[[bytes], T]:
    remembered = lru_cache(_REMEMBERED)(judge)
    return lambda column: remembered(column) if len(column) <= _REMEMBERED_BYTES else judge(column)


def _network(text: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    try:
        # As the log has it: an IPv4 address that is mapped into IPv6 is written as IPv4.
        return ipaddress.ip_network(text if "/" in text else canonical_ip(text) or text)
    except ValueError as error:
        raise UsageError(f"--ip: expected an IP address or a network such as 203.0.113.0/24 ({error})") from error
