"""The collector: makes a visit's journal line from the headers of a request, or discards the visit.

The fast path and the fallback both call it with the headers they have read, so both make the same line. The time of the
visit follows when the line is recorded. In order:

1. If the request has a privacy signal that `privacy.honor` names, the visit is discarded as `privacy`.
2. The client's IP address is found. If there is none, the visit is discarded as `no_address`.
3. If the client exceeds its rate limit, the visit is discarded as `rate_limited`.
4. The address is truncated if `privacy.ip` says so. Nothing after this step knows the full address.
5. The page is the Referer, or the page that the query names in `http.page_parameter`. If `privacy.referrer` says so,
   parts of it are removed. Nothing after this step knows them.
6. Page and user agent are made valid text and cut to their maximum length.
"""

import time

import msgspec

from tracker.config import PixelConfig
from tracker.core.client_ip import ClientIp
from tracker.core.ip_address import truncate_ip
from tracker.core.page import NamedPage, reduced_page
from tracker.core.rate_limit import RateLimit
from tracker.core.visit import MAX_HEADER_CHARS, JournalLine, cut_header, header_text
from tracker.pixel.known_requests import Fields
from tracker.pixel.recorder import Recorder

_SIGNALS = {"gpc": "Sec-GPC", "dnt": "DNT"}
_SHORT = MAX_HEADER_CHARS // 4  # `header_text` makes at most four characters of one


class Peer(msgspec.Struct, frozen=True):
    """The other end of a connection."""

    ip: str | None
    """Its canonical address."""
    is_proxy: bool
    """Whether it is a trusted proxy, so that a header of each request names the client."""


class Collector:
    """Makes journal lines. `wanted` are the headers whose values it needs, with `ip_header` and `signals`.

    `named_page` finds the page that a request names itself; None if none may.
    """

    def __init__(self, *, config: PixelConfig, recorder: Recorder) -> None:
        self.signals = [_SIGNALS[name] for name in dict.fromkeys(config.privacy.honor)]
        self.ip_header = config.http.client_ip_header
        self.wanted = ["Referer", "User-Agent", self.ip_header, *self.signals]
        parameter = config.http.page_parameter
        self.named_page = NamedPage(parameter) if parameter is not None else None
        self._recorder = recorder
        self._client_ip = ClientIp(config.http.trusted_proxies, config.http.client_ip_header)
        self._keep = config.privacy.referrer
        self._truncate = config.privacy.ip == "truncated"
        self._rate_limit = RateLimit(config.http.rate_limit) if config.http.rate_limit is not None else None

    def peer(self, address: str | None) -> Peer:
        """What the collector needs to know of a connection's peer, whose address is None if it is not known."""
        return Peer(self._client_ip.resolve(address, ()), self._client_ip.needs_header(address))

    def journal_line(self, peer: Peer, fields: Fields) -> JournalLine | None:
        """The visit's journal line without its time; None if the visit is discarded, which is counted here.

        `fields` are what `named_page` finds in the request, and the values of the headers in the order of `wanted`.
        """
        if self.signals and "1" in fields[4:]:
            self._recorder.discard("privacy")
            return None
        named, referrer, user_agent, ip_header = fields[:4]
        ip = peer.ip
        if ip is None:
            self._recorder.discard("no_address")
            return None
        if peer.is_proxy:
            if ip_header is not None:
                ip = self._client_ip.behind(ip, ip_header)
            if ip == peer.ip:
                self._recorder.count_missing_header()
        elif ip_header is not None:
            self._recorder.count_untrusted_header()
        if self._rate_limit is not None and not self._rate_limit.allows(ip, time.monotonic()):
            self._recorder.discard("rate_limited")
            return None
        if self._truncate:
            ip = truncate_ip(ip)
        page = referrer if named is None else named
        if page and self._keep != "full":
            page = reduced_page(page, self._keep, is_named=named is not None)
        if (page and len(page) > _SHORT) or (user_agent and len(user_agent) > _SHORT):
            page, user_agent = self._cut(page), self._cut(user_agent)
        return JournalLine(page or None, user_agent or None, ip)

    def _cut(self, value: str | None) -> str | None:
        text = header_text(value) if value else ""
        if len(text) > MAX_HEADER_CHARS:
            self._recorder.count_cut_header()
        return cut_header(text)
