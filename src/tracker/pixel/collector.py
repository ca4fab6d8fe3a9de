"""The collector: makes the journal line of a visit from the headers of a request, or discards the visit.

The fast path and the fallback both call it with the headers they have read, so both make the same line. In order:

1. If the request has a privacy signal that `privacy.honor` names, the visit is discarded as `privacy`.
2. The client's IP address is found. If there is none, the visit is discarded as `no_address`.
3. If the client exceeds its rate limit, the visit is discarded as `rate_limited`.
4. The address is truncated if `privacy.ip` says so. Nothing after this step knows the full address.
5. The headers are made valid text and cut to their maximum length.
"""

import time
from collections.abc import Sequence

from tracker.config import PixelConfig
from tracker.core.client_ip import ClientIp, truncate_ip
from tracker.core.rate_limit import RateLimit
from tracker.core.visit import MAX_HEADER_CHARS, cut_header, encode_line, header_text, visited_at_text
from tracker.pixel.recorder import Recorder

_SIGNALS = {"gpc": "Sec-GPC", "dnt": "DNT"}


class Collector:
    """Makes lines. `signals` and `ip_header` are the names of the headers whose values it needs."""

    def __init__(self, *, config: PixelConfig, recorder: Recorder) -> None:
        self.signals = [_SIGNALS[name] for name in dict.fromkeys(config.privacy.honor)]
        self.ip_header = config.http.client_ip_header
        self._recorder = recorder
        self._client_ip = ClientIp(config.http.trusted_proxies, config.http.client_ip_header)
        self._truncate = config.privacy.ip == "truncated"
        self._rate_limit = RateLimit(config.http.rate_limit) if config.http.rate_limit is not None else None

    def line(
        self,
        *,
        peer: str | None,
        signals: Sequence[str | None],
        ip_lines: Sequence[str],
        referrer: str | None,
        user_agent: str | None,
    ) -> bytes | None:
        """The visit's journal line, with its newline; None if the visit is discarded, which is counted here."""
        if "1" in signals:
            self._recorder.discard("privacy")
            return None
        if ip_lines and not self._client_ip.needs_header(peer):
            self._recorder.count_untrusted_header()
        ip = self._client_ip.resolve(peer, ip_lines)
        if ip is None:
            self._recorder.discard("no_address")
            return None
        if self._rate_limit is not None and not self._rate_limit.allows(ip, time.monotonic()):
            self._recorder.discard("rate_limited")
            return None
        if self._truncate:
            ip = truncate_ip(ip)
        return encode_line(visited_at_text(time.time_ns() // 1000), self._cut(referrer), self._cut(user_agent), ip)

    def _cut(self, value: str | None) -> str | None:
        if not value:
            return None
        if len(value) <= MAX_HEADER_CHARS and value.isascii():  # nearly all; this saves two calls
            return value
        text = header_text(value)
        if len(text) > MAX_HEADER_CHARS:
            self._recorder.count_cut_header()
        return cut_header(text)
