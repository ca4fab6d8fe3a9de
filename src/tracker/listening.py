"""Listening sockets: what a configured `host` means, and which error is raised when the address cannot be used.

Both services open their listeners here, so that `http.host` and `admin.host` mean the same everywhere:

- `*`: every address of this host, IPv4 and IPv6, on one socket. On a host without IPv6 it means every IPv4 address.
- `0.0.0.0`: every IPv4 address, no IPv6 address. `::`: every IPv6 address, no IPv4 address.
- another address: this address alone.
- a name: one address of the name, the first IPv4 address if it has one, otherwise the first IPv6 address.

One socket, and not one for each address, because workers inherit a single descriptor. On a socket for both versions
the system reports an IPv4 peer as `::ffff:a.b.c.d`; `tracker.core.ip_address` turns that into `a.b.c.d`.
"""

import errno
import socket

from tracker.errors import ConfigurationError, HeldByAnother, TrackerError
from tracker.files import reason

EVERY_ADDRESS = "*"

# Errors of bind() or socket() on a host where IPv6 is compiled in but switched off.
_NO_IPV6 = {errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT}

# Errors whose cause is not the configuration and may be over at the next start.
_TEMPORARY = {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS, socket.EAI_AGAIN}


def listen(section: str, host: str, port: int, backlog: int) -> socket.socket:
    """A listening TCP socket at `host` and `port`; `section` is the section of the configuration that names them.

    `backlog` is how many connections the system completes before the service accepts them. Blocks while a name is
    looked up. Raises HeldByAnother when another socket has the address, TrackerError for an error that may be over at
    the next start (no descriptor, no memory, no answer from the name server), otherwise ConfigurationError.
    """
    try:
        return _listen_everywhere(port, backlog) if host == EVERY_ADDRESS else _listen_at(host, port, backlog)
    except UnicodeError as error:  # a part of the name is empty or too long
        raise ConfigurationError(f"{section}.host: expected a host name, got {host!r}: {error}") from error
    except OSError as error:
        at = f"cannot listen on {f'[{host}]' if ':' in host else host}:{port}: {reason(error)}"
        if error.errno == errno.EADDRINUSE:
            raise HeldByAnother(f"{section}.port: expected a free port, {at}") from error
        if error.errno in _TEMPORARY:
            raise TrackerError(at) from error
        if error.errno in (errno.EACCES, errno.EPERM):
            raise ConfigurationError(f"{section}.port: expected a port that this user may listen on, {at}") from error
        raise ConfigurationError(f'{section}.host: expected "*", an address or a name of this host, {at}') from error


def _listen_everywhere(port: int, backlog: int) -> socket.socket:
    if socket.has_dualstack_ipv6():
        try:
            return socket.create_server(("", port), family=socket.AF_INET6, backlog=backlog, dualstack_ipv6=True)
        except OSError as error:
            if error.errno not in _NO_IPV6:
                raise
    return socket.create_server(("", port), family=socket.AF_INET, backlog=backlog)


def _listen_at(host: str, port: int, backlog: int) -> socket.socket:
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    ipv4_first = sorted(found, key=lambda entry: entry[0] != socket.AF_INET)  # the sort is stable
    family, _, _, _, address = ipv4_first[0]
    return socket.create_server(address, family=family, backlog=backlog)  # an IPv6 socket accepts no IPv4 connections
