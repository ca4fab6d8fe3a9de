"""How often one client may be recorded: a bucket for each, as one number (GCRA, the generic cell rate algorithm).

Pure: the caller says what time it is. Memory is bounded: at most MAX_CLIENTS are known; when more come, those whose
bucket is full again are forgotten first, then those that were first seen, which lets a few visits more of theirs pass
and never stops a client that keeps to the rate.
"""

import ipaddress
from functools import lru_cache

MAX_CLIENTS = 65_536
BURST_SECONDS = 10.0
"""A client that was quiet may send so many seconds' worth at once: a page with ten pixels is no attack."""


class RateLimit:
    """Lets `per_second` visits of a client through on average, and BURST_SECONDS of them (at least one) at once."""

    def __init__(self, per_second: float, *, max_clients: int = MAX_CLIENTS) -> None:
        self._interval = 1.0 / per_second
        self._tolerance = max(0.0, BURST_SECONDS - self._interval)
        self._max_clients = max_clients
        # For each client the time at which its bucket is full again; in the order in which the clients came.
        self._full_at: dict[str, float] = {}

    def allows(self, ip: str, now: float) -> bool:
        """Whether a visit of this canonical address may be recorded now; `now` is in seconds and never goes back."""
        client = client_of(ip)
        full_at = self._full_at.get(client)
        if full_at is None:
            self._make_room(now)
            full_at = now
        elif full_at - now > self._tolerance:
            return False
        self._full_at[client] = max(full_at, now) + self._interval
        return True

    def __len__(self) -> int:
        return len(self._full_at)

    def _make_room(self, now: float) -> None:
        if len(self._full_at) < self._max_clients:
            return
        self._full_at = {client: full_at for client, full_at in self._full_at.items() if full_at > now}
        # A sweep costs as much as there are clients: after one that freed little, free enough for many newcomers.
        excess = len(self._full_at) - self._max_clients * 3 // 4
        for client in list(self._full_at)[: max(0, excess)]:
            del self._full_at[client]


@lru_cache(maxsize=16384)
def client_of(ip: str) -> str:
    """Who counts as one client: an IPv4 address; of IPv6 the /64, for one subscriber has all of it to choose from."""
    if ":" not in ip:
        return ip
    return str(ipaddress.IPv6Address(int(ipaddress.IPv6Address(ip)) >> 64 << 64))
