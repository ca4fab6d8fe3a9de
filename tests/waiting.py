"""Waiting in tests: for a condition, never for a time."""

import asyncio
from collections.abc import Awaitable, Callable


async def until(condition: Callable[[], object], seconds: float = 10.0) -> None:
    """Return as soon as `condition` holds, also one that is awaited. Raises TimeoutError after `seconds`."""
    async with asyncio.timeout(seconds):
        while True:
            holds = condition()
            if isinstance(holds, Awaitable):
                holds = await holds
            if holds:
                return
            await asyncio.sleep(0.005)
