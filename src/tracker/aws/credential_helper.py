"""A `credential_process`: a program of the AWS settings that prints credentials. Its time and output are limited.

aiobotocore would leave the program running when the wait for it is cancelled. Importing this module replaces
aiobotocore's provider by the one below:

1. It starts the program in a session of its own, without standard input.
2. It reads at most MAX_HELPER_BYTES from each of standard output and standard error, for at most HELPER_SECONDS.
3. If either limit is exceeded, or the wait is cancelled, it kills the program and everything that the program started.
"""

import asyncio
import contextlib
import os
import signal
from typing import Any

import aiobotocore.credentials
from aiobotocore.credentials import AioProcessProvider

HELPER_SECONDS = 8.0
"""The longest run of the program. It is less than `clients.CREDENTIAL_SECONDS`: after a timeout, credentials that are
still valid can be used."""
KILL_SECONDS = 0.5
"""How long to wait for the end of a program that was killed."""
MAX_HELPER_BYTES = 65_536


class _Helper:
    """A running `credential_process`, as `AioProcessProvider` uses it. Cancelling the wait kills it."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    @classmethod
    async def start(cls, *command: str, **options: Any) -> "_Helper":
        """Start the program in its own session, without standard input, because nobody can answer its questions."""
        if not command:
            raise ValueError("expected a command, found an empty text")
        return cls(
            await asyncio.create_subprocess_exec(
                *command, **options, stdin=asyncio.subprocess.DEVNULL, start_new_session=True
            )
        )

    @property
    def returncode(self) -> int | None:
        return self._process.returncode

    async def communicate(self) -> tuple[bytes, bytes]:
        """The program's output and errors, after its end. Raises ValueError when they are too long or take too long."""
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        try:
            async with asyncio.timeout(HELPER_SECONDS):
                output = await asyncio.gather(_all_of(self._process.stdout), _all_of(self._process.stderr))
                await self._process.wait()
        except TimeoutError:
            await self._kill()
            raise ValueError(f"the program did not end within {HELPER_SECONDS:g} seconds") from None
        except BaseException:
            await self._kill()
            raise
        return output

    async def _kill(self) -> None:
        """Kill the program and the processes that it started. These may still run when the program itself has ended."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        # A pipe that is not read any more would stay open: asyncio closes it when it has read to its end.
        self._process._transport.close()  # type: ignore[attr-defined]
        with contextlib.suppress(TimeoutError):  # a process that waits for a disk ends later
            async with asyncio.timeout(KILL_SECONDS):
                await self._process.wait()


async def _all_of(stream: asyncio.StreamReader) -> bytes:
    try:
        await stream.readexactly(MAX_HELPER_BYTES)
    except asyncio.IncompleteReadError as end:
        return end.partial
    raise ValueError(f"the program printed more than {MAX_HELPER_BYTES} bytes")


class _ProcessProvider(AioProcessProvider):  # type: ignore[misc]
    """aiobotocore's provider, but it starts the program by `_Helper`."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options, popen=_Helper.start)


# Several functions of that module make this provider: for a profile, and for the source profile of an assumed role.
aiobotocore.credentials.AioProcessProvider = _ProcessProvider
