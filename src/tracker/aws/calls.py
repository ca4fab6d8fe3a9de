"""One call of AWS: its deadline, its errors, and the check that its reply is complete.

aiobotocore sets no total timeout and none for waiting for a free connection, so each call has a deadline here.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable
from contextlib import aclosing, asynccontextmanager
from typing import Annotated, Any, TypeVar

import msgspec
from botocore.exceptions import ClientError

from tracker.aws.clients import Clients, ClientSettings
from tracker.aws.settings import error_text
from tracker.errors import AwsRefused, AwsUnreachable

CALL_SECONDS = 10.0  # a call that takes longer is cancelled

T = TypeVar("T")

# The members of replies to batch calls that are read, by AWS's own names.

NonEmpty = Annotated[str, msgspec.Meta(min_length=1)]


class FailedEntry(msgspec.Struct):
    Id: str
    Code: str = ""
    Message: str = ""
    SenderFault: bool = False


class SuccessfulEntry(msgspec.Struct):
    Id: str


class BatchReply(msgspec.Struct):
    Successful: list[SuccessfulEntry] = []
    Failed: list[FailedEntry] = []


@asynccontextmanager
async def open_client(service: str, region: str | None, endpoint: str | None) -> AsyncIterator[Any]:
    """A client of one service for the operator's commands. Make its calls by `ask`.

    Raises AwsUnreachable when the client cannot be made.
    """
    settings = ClientSettings(CALL_SECONDS, receives=service == "sqs")
    async with aclosing(Clients(service, region, endpoint, settings)) as clients:
        (client,) = await clients.ready()
        yield client


async def ask(call: Awaitable[dict[str, Any]], *members: str, seconds: float | None = None) -> dict[str, Any]:
    """The reply to a call. It is cancelled after `seconds`, by default CALL_SECONDS.

    Raises AwsRefused when AWS answers with an error. Raises AwsUnreachable for every other failure, also for a reply
    in which one of `members` is missing or empty.
    """
    try:
        async with asyncio.timeout(CALL_SECONDS if seconds is None else seconds):
            reply = await call
    except ClientError as error:
        metadata = error.response.get("ResponseMetadata", {})
        raise AwsRefused(
            error_text(error),
            code=str(error.response.get("Error", {}).get("Code") or ""),  # botocore returns None for an empty code
            status=int(metadata.get("HTTPStatusCode", 500)),
            date=metadata.get("HTTPHeaders", {}).get("date"),
        ) from error
    except Exception as error:  # botocore raises KeyError and others for replies that it does not expect
        raise AwsUnreachable(error_text(error)) from error
    if missing := [member for member in members if not reply.get(member)]:
        raise incomplete_reply(f"{missing[0]} is missing")
    return reply


def read_reply(reply: dict[str, Any], kind: type[T]) -> T:
    """The reply as a `kind`. Raises AwsUnreachable when it has another form, because AWS did not send it then."""
    try:
        return msgspec.convert(reply, kind, strict=False)  # numbers come as text
    except msgspec.ValidationError as error:
        raise incomplete_reply(str(error)) from error


def incomplete_reply(what: str) -> AwsUnreachable:
    """The error for a reply that AWS does not send: another program answers at the endpoint."""
    return AwsUnreachable(f"the reply is not from AWS: {what}; check endpoint_url, and that no proxy answers instead")
