"""Checks of the client's address: whether the visitors' addresses are recorded, and not those of a proxy."""

from collections.abc import Iterator

from tracker.config import Http
from tracker.core.client_ip import is_known_header
from tracker.operations.findings import Finding, fault, ok, warning

UNTRUSTED_SHARE = 0.5  # of the visits: a few visitors forge such headers; many such headers come from a proxy
UNNAMED_SHARE = 0.5  # of the visits: health checks of a balancer name no client either
FEW_UNNAMED = 100  # visits; canaries that went to the pixel directly are among them


def judge_client_ip(config: Http, *, visits: float, untrusted: float, unnamed: float) -> Iterator[Finding]:
    """Whether the proxies in front are trusted, name the clients, and write addresses in one way only.

    Of the `visits` since the pixel's start, `untrusted` had a header that was ignored, because their peer is no trusted
    proxy. `unnamed` came through a trusted proxy that named no client.
    """
    header = config.client_ip_header
    if untrusted > visits * UNTRUSTED_SHARE:
        yield fault(
            "client IP",
            f"{untrusted:.0f} of {visits:.0f} visits came with {header} from peers that are not trusted",
            why="a proxy in front is not in http.trusted_proxies, so its address is logged instead of the visitor's",
            fix="add the proxy's addresses to http.trusted_proxies (docs/deployment.md has the ranges)",
        )
    elif unnamed > max(visits * UNNAMED_SHARE, FEW_UNNAMED):
        yield warning(
            "client IP",
            f"{unnamed:.0f} of {visits:.0f} visits came through a trusted proxy that named no client in {header}",
            why="the proxy's address is logged instead of the visitor's; these visitors' addresses are lost",
            fix=f"let the proxy set {header} (docs/deployment.md has the line and a test). If these are health checks "
            "of a balancer, they are logged as visits: let it check /readyz of the admin listener",
        )
    elif visits and config.trusted_proxies:
        yield ok("client IP", "no sign of a proxy that is not trusted or names no client")
    elif visits:
        yield ok("client IP", f"no sign of a proxy that is not trusted; one that sends no {header} cannot be seen")
    if config.trusted_proxies and not is_known_header(header):
        yield warning(
            "client IP",
            f"it is not known how {header} writes an IPv6 address with a port",
            why="without brackets the port would be read as the end of the address: 2001:db8::9:443 is a valid address",
            fix="look at the header of an IPv6 visitor: it must have no port, or brackets as in [2001:db8::9]:443; "
            "else have the proxy write X-Forwarded-For",
        )
