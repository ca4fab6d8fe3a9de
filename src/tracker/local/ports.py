"""Whether the ports a command is about to use are free, asked before anything starts."""

import errno
import socket
from collections.abc import Sequence
from typing import NamedTuple

from tracker.errors import TrackerError


class PortInUse(TrackerError):
    """Something else listens there already."""


class Wanted(NamedTuple):
    host: str
    port: int
    by: str
    set_by: str  # where the user would choose another


def check_free(wanted: Sequence[Wanted]) -> None:
    """Raises PortInUse, naming every port that is taken, what wants it, and where to choose another."""
    problems = [f"port {w.port} on {w.host} {why}; {w.by} wants it ({w.set_by})" for w in wanted if (why := _taken(w))]
    problems += [
        f"{w.by} and {other.by} both want port {w.port} ({w.set_by}; {other.set_by})"
        for i, w in enumerate(wanted)
        for other in wanted[:i]
        if w.port == other.port
    ]
    if problems:
        raise PortInUse("\n".join(problems))


def _taken(wanted: Wanted) -> str | None:
    family = socket.AF_INET6 if ":" in wanted.host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        # As servers do: connections of an earlier run that linger in TIME_WAIT take no port away.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((wanted.host, wanted.port))
        except OSError as error:
            return "is in use" if error.errno == errno.EADDRINUSE else f"cannot be had: {error.strerror}"
    return None
