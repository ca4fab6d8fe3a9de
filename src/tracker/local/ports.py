"""The check, before anything starts, that all ports of a command are free."""

from collections.abc import Sequence
from typing import NamedTuple

from tracker.errors import ConfigurationError, HeldByAnother, TrackerError
from tracker.listening import listen


class PortInUse(TrackerError):
    """A port is not free, or two parts need the same one."""


class Needed(NamedTuple):
    host: str
    port: int
    by: str  # the part that listens on it
    setting: str  # the option or the configuration key by which the user chooses another one


def check_free(ports: Sequence[Needed]) -> None:
    """Raises PortInUse with every port that is in use, the part that needs it, and how to choose another one."""
    problems = [
        f"port {one.port} on {one.host} {why}; {one.by} needs it: free it, or choose another one ({one.setting})"
        for one in ports
        if (why := _problem(one))
    ]
    problems += [
        f"{one.by} and {other.by} both need port {one.port}: choose another one ({one.setting}; {other.setting})"
        for i, one in enumerate(ports)
        for other in ports[:i]
        if one.port == other.port
    ]
    if problems:
        raise PortInUse("\n".join(problems))


def _problem(port: Needed) -> str | None:
    try:
        listen(port.by, port.host, port.port, backlog=1).close()
    except HeldByAnother:
        return "is in use"
    except ConfigurationError as error:
        return f"cannot be used: {error.__cause__}"
    return None
