"""Whether the ports a command is about to use are free, asked before anything starts."""

from collections.abc import Sequence
from typing import NamedTuple

from tracker.errors import ConfigurationError, HeldByAnother, TrackerError
from tracker.listening import listen


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
    try:
        listen(wanted.by, wanted.host, wanted.port, backlog=1).close()
    except HeldByAnother:
        return "is in use"
    except ConfigurationError as error:
        return f"cannot be had: {error.__cause__}"
    return None
