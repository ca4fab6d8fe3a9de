"""A `credential_process`: the program that the AWS settings name for credentials, with bounds on time and output.

aiobotocore would leave the program running when the wait for it is cancelled. Importing this module puts the provider
below in the place of aiobotocore's.
"""

import asyncio
import contextlib
import os
import signal
from typing import Any

import aiobotocore.credentials
from aiobotocore.credentials import AioProcessProvider

HELPER_SECONDS = 8.0
"""Less than `clients.CREDENTIAL_SECONDS`, so that credentials which are still valid can be used after a timeout."""
KILL_SECONDS = 0.5
"""For the end of a program that was killed."""
MAX_HELPER_BYTES = 65_536


class _Helper:
    """A running `credential_process`, as `AioProcessProvider` uses it. It is killed when nobody waits for it."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    @classmethod
    async def start(cls, *command: str, **options: Any) -> "_Helper":
        """Start the program in a session of its own, without standard input: there is nobody to answer a question."""
        if not command:
            raise ValueError("expected a command, it is empty")
        return cls(
            await asyncio.create_subprocess_exec(
                *command, **options, stdin=asyncio.subprocess.DEVNULL, start_new_session=True
            )
        )

    @property
    def returncode(self) -> int | None:
        return self._process.returncode

    async def communicate(self) -> tuple[bytes, bytes]:
        """What it prints, until its end. Raises ValueError when that is too much or takes too long."""
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
        """End the program and what it started; a program that ended by itself may leave something running."""
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
    """aiobotocore's, which would leave the program running when the wait for it is cancelled."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options, popen=_Helper.start)


# Several places in that module make process providers, for a profile and for the source of an assumed role.
aiobotocore.credentials.AioProcessProvider = _ProcessProvider
