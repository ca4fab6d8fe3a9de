"""Makes a call of S3 again when it has failed in a way that may be over soon."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import ParamSpec, TypeVar

from tracker.errors import AwsRefused, AwsUnreachable
from tracker.lifecycle import Backoff

TRIES = 5  # of one call; after the last one its caller gives up or goes on with the next object

_PASSING = {408, 409, 429}
# A body that did not arrive whole; an upload that was completed, whose reply was lost, or that somebody has aborted.
_PASSING_CODES = {"BadDigest", "IncompleteBody", "RequestTimeout", "NoSuchUpload"}

P = ParamSpec("P")
T = TypeVar("T")


class Retries:
    """Makes one call after the other. `backoff` decides how long it waits between two tries of one."""

    def __init__(self, backoff: Backoff | None = None) -> None:
        self._backoff = backoff or Backoff()

    async def reply(self, call: Callable[P, Awaitable[T]], *args: P.args, **kwargs: P.kwargs) -> T:
        """The reply to a call. Raises the AwsRefused or AwsUnreachable of its last try, and any other error at once."""
        self._backoff.reset()
        tries = 1
        while True:
            try:
                return await call(*args, **kwargs)
            except (AwsRefused, AwsUnreachable) as error:
                if tries == TRIES or not may_be_over_soon(error):
                    raise
            tries += 1
            await asyncio.sleep(self._backoff.next())


def may_be_over_soon(error: AwsRefused | AwsUnreachable) -> bool:
    """Whether it makes sense to make the same call again."""
    if not isinstance(error, AwsRefused):
        return True
    return error.status >= 500 or error.status in _PASSING or error.code in _PASSING_CODES
