"""Reports to systemd that a service is ready or stops, and sends the heartbeat that systemd's watchdog expects.

The protocol is sd_notify(3). Without NOTIFY_SOCKET (in a shell, in a container, on macOS) nothing is sent. The event
loop sends each heartbeat after the caller's `alive` has returned. If the loop hangs, or `alive` does not return, no
heartbeat is sent, and systemd restarts the service.
"""

import asyncio
import contextlib
import os
import socket
from collections.abc import Awaitable, Callable, Mapping

SHARE = 1 / 3  # a heartbeat is sent each time this share of the watchdog's time has passed


class Manager:
    """The service manager that started this process, if there is one. No method raises an error."""

    def __init__(self, environ: Mapping[str, str] | None = None) -> None:
        environ = os.environ if environ is None else environ
        address = environ.get("NOTIFY_SOCKET", "")
        self._address = "\0" + address[1:] if address.startswith("@") else address
        microseconds = environ.get("WATCHDOG_USEC", "")
        for_us = environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        self._watchdog_seconds = int(microseconds) / 1e6 if microseconds.isdecimal() and for_us else 0.0

    def ready(self) -> None:
        """Report that the service is running. systemd then starts the units that are ordered after it."""
        self._send("READY=1")

    def stopping(self) -> None:
        self._send("STOPPING=1")

    async def heartbeat(self, alive: Callable[[], Awaitable[object]]) -> None:
        """Await `alive`, then report to the watchdog, again and again. The watchdog's time runs while `alive` waits."""
        if not self._address or not self._watchdog_seconds:
            return
        while True:
            await alive()
            self._send("WATCHDOG=1", timeout=0.0)  # if this one is lost, the next one reports the same
            await asyncio.sleep(self._watchdog_seconds * SHARE)

    def _send(self, state: str, timeout: float = 1.0) -> None:
        """Send `state`. If the service manager does not read at once, wait at most `timeout` seconds for it."""
        if not self._address:
            return
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
            notify.settimeout(timeout)
            notify.sendto(state.encode(), self._address)
