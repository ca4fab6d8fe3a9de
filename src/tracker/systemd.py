"""What a service tells systemd: ready, stopping, and, while it is alive, a heartbeat for its watchdog (sd_notify(3)).

Everything here is a no-op where nobody listens: without NOTIFY_SOCKET, as in a shell, a container, on macOS. The
heartbeat is sent only after the caller's `alive` has answered: it says that the event loop and what it asks do turn.
"""

import asyncio
import contextlib
import os
import socket
from collections.abc import Awaitable, Callable, Mapping

SHARE = 1 / 3  # of the watchdog's time between two heartbeats


class Manager:
    """The service manager that started this process, if there is one. Raises nothing: it can only be told."""

    def __init__(self, environ: Mapping[str, str] | None = None) -> None:
        environ = os.environ if environ is None else environ
        address = environ.get("NOTIFY_SOCKET", "")
        self._address = "\0" + address[1:] if address.startswith("@") else address
        microseconds = environ.get("WATCHDOG_USEC", "")
        ours = environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        self._watchdog_seconds = int(microseconds) / 1e6 if microseconds.isdecimal() and ours else 0.0

    def ready(self) -> None:
        """The service does what it is there for; only now does systemd start what comes after it."""
        self._tell("READY=1")

    def stopping(self) -> None:
        self._tell("STOPPING=1")

    async def heartbeat(self, alive: Callable[[], Awaitable[bool]]) -> None:
        """For ever: ask `alive`, tell the watchdog. While it does not answer, or says no, systemd's clock runs."""
        if not self._address or not self._watchdog_seconds:
            return
        while True:
            if await alive():
                self._tell("WATCHDOG=1", patience=0.0)  # the next one says it as well
            await asyncio.sleep(self._watchdog_seconds * SHARE)

    def _tell(self, state: str, patience: float = 1.0) -> None:
        """`patience` in seconds, for a service manager that is slow to listen."""
        if not self._address:
            return
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
            notify.settimeout(patience)
            notify.sendto(state.encode(), self._address)
