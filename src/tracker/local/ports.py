"""The check, before anything starts, that all ports of a command are free."""

from collections.abc import Sequence
from typing import NamedTuple

from tracker.errors import ConfigurationError, HeldByAnother, TrackerError
from tracker.listening import listen


class PortInUse(TrackerError):
    """A port is not free, or two parts want the same one."""


class Wanted(NamedTuple):
    host: str
    port: int
    by: str
    set_by: str  # where the user can choose another one


def check_free(wanted: Sequence[Wanted]) -> None:
    """Raises PortInUse with every port that is in use, what wants it, and where to choose another one."""
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
    try:
        listen(wanted.by, wanted.host, wanted.port, backlog=1).close()
    except HeldByAnother:
        return "is in use"
    except ConfigurationError as error:
        return f"cannot be had: {error.__cause__}"
    return None
