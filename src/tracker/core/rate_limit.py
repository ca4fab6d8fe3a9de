"""The rate limit: how many visits of one client are recorded in a second.

Each client has a token bucket, stored as one number (GCRA, the generic cell rate algorithm). The caller passes the
current time. At most MAX_CLIENTS clients are kept in memory. When there are more, clients with a full bucket are
removed first, then those that came first. A removed client that comes back begins with a full bucket, so a few visits
too many may be recorded. A client that does not exceed the rate is never limited.
"""

import ipaddress
from functools import lru_cache

MAX_CLIENTS = 65_536
BURST_SECONDS = 10.0
"""The size of a bucket: after a pause, a client may send at once as many visits as the rate allows in this time."""


class RateLimit:
    """Allows each client `per_second` visits on average, and those of BURST_SECONDS (at least one visit) at once."""

    def __init__(self, per_second: float, *, max_clients: int = MAX_CLIENTS) -> None:
        self._interval = 1.0 / per_second
        self._tolerance = max(0.0, BURST_SECONDS - self._interval)
        self._max_clients = max_clients
        # For each client the time at which its bucket will be full again, in the order in which the clients came.
        self._full_at: dict[str, float] = {}

    def allows(self, ip: str, now: float) -> bool:
        """Whether a visit of this canonical address may be recorded now; `now` is in seconds and never goes back."""
        client = client_of(ip)
        full_at = self._full_at.get(client)
        if full_at is None:
            self._remove_clients(now)
            full_at = now
        elif full_at - now > self._tolerance:
            return False
        self._full_at[client] = max(full_at, now) + self._interval
        return True

    def __len__(self) -> int:
        return len(self._full_at)

    def _remove_clients(self, now: float) -> None:
        if len(self._full_at) < self._max_clients:
            return
        self._full_at = {client: full_at for client, full_at in self._full_at.items() if full_at > now}
        # The line above looks at every client, which takes long. It must not run again soon: remove at least a quarter.
        excess = len(self._full_at) - self._max_clients * 3 // 4
        for client in list(self._full_at)[: max(0, excess)]:
            del self._full_at[client]


@lru_cache(maxsize=16384)
def client_of(ip: str) -> str:
    """What counts as one client: an IPv4 address, or the /64 network of an IPv6 address, which one subscriber has."""
    if ":" not in ip:
        return ip
    return str(ipaddress.IPv6Address(int(ipaddress.IPv6Address(ip)) >> 64 << 64))
