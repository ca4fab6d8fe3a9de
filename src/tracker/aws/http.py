"""The HTTP client below botocore. It checks each reply:

1. A redirect is not followed.
2. The size of a reply is limited.
3. The reply must come from SNS or SQS. botocore parses many other replies, such as a proxy's page with status 200, as
   a reply without content, which often means success. A message would count as published, or a queue as empty.

Importing this module also replaces the sessions by which aiobotocore asks metadata services for credentials. Rules 1
and 2 apply to them.
"""

import json
from typing import Any

import aiohttp
import msgspec
from aiobotocore.httpsession import AIOHTTPSession
from aiobotocore.utils import AioContainerMetadataFetcher, AioIMDSFetcher, _RefCountedSessionMixin

MAX_REPLY_BYTES = 1 << 18
"""The limit of a reply without messages. AWS sends no longer one; parsing a longer one would block the event loop."""
MAX_MESSAGES_BYTES = 32 << 20
"""The limit of a reply with messages. SQS sends at most ten of 1 MiB; JSON may make them three times as long."""


class HttpSession(AIOHTTPSession):  # type: ignore[misc]
    """aiobotocore's HTTP session, but it does not follow redirects, and it limits the size of a reply."""

    def _largest_reply(self) -> int:
        return MAX_REPLY_BYTES

    async def _get_session(self, proxy_url: str | None) -> "_Requests":
        return _Requests(await super()._get_session(proxy_url), self._largest_reply())


class ReceivingSession(HttpSession):
    """The same, for replies with messages."""

    def _largest_reply(self) -> int:
        return MAX_MESSAGES_BYTES


class _MetadataSession(_RefCountedSessionMixin, HttpSession):  # type: ignore[misc]
    """The same, for the metadata services that provide credentials to a host or a container."""


AioIMDSFetcher._ref_counted_session_cls = _MetadataSession
AioContainerMetadataFetcher._ref_counted_session_cls = _MetadataSession


class _Requests:
    """The one method of aiohttp's session that aiobotocore calls."""

    def __init__(self, session: aiohttp.ClientSession, largest: int) -> None:
        self._session = session
        self._largest = largest

    async def request(self, method: str, **options: Any) -> "_Response":
        return _Response(await self._session.request(method, allow_redirects=False, **options), self._largest)


class _Response:
    """The part of aiohttp's response that aiobotocore reads."""

    def __init__(self, response: aiohttp.ClientResponse, largest: int) -> None:
        self.url = response.url
        self.status = response.status
        self.raw_headers = response.raw_headers
        self.content = response.content  # of an object of S3: it is streamed, so its size is not limited
        self._response = response
        self._largest = largest

    async def read(self) -> bytes:
        body = bytearray()
        try:
            async for chunk in self._response.content.iter_any():
                body += chunk
                if len(body) > self._largest:
                    raise ValueError(f"the reply is longer than {self._largest} bytes")
        except BaseException:
            self._response.close()
            raise
        return bytes(body)

    def close(self) -> None:
        self._response.close()


class ForeignReply(Exception):
    """The reply did not come from SNS or SQS: another program or a proxy answers at the endpoint."""


def refuse_foreign_reply(response_dict: dict[str, Any], operation_model: Any, **_: Any) -> None:
    """Raise ForeignReply for a reply that SNS and SQS do not send; botocore may take it for a success.

    SNS and SQS answer with status 200, or 400 and above. A body in XML has a root element with the operation's name. A
    body in JSON is an object that is empty or has a member of the operation's reply.
    """
    status, body = response_dict["status_code"], response_dict["body"]
    if status >= 400:
        return  # botocore raises an error for it
    _refuse_redirect(response_dict)
    if status != 200:
        raise ForeignReply(f"SNS and SQS do not answer with status {status}: check endpoint_url and proxies")
    if operation_model.service_model.resolved_protocol == "query":
        sound = f"<{operation_model.name}Response".encode() in body[:1000]
    elif not body:
        sound = operation_model.output_shape is None
    else:
        members = operation_model.output_shape.members if operation_model.output_shape else {}
        names = _member_names(body)
        sound = names is not None and (not names or not names.isdisjoint(members))
    if not sound:
        raise ForeignReply("the reply is not from SNS or SQS: check endpoint_url, and that no proxy answers instead")


def refuse_foreign_redirect(response_dict: dict[str, Any], **_: Any) -> None:
    """Raise ForeignReply for a redirect without the Region of the bucket, which S3 sends and where botocore then asks.

    For any other redirect botocore asks for the Region, again and again if that is redirected, too.
    """
    if "x-amz-bucket-region" not in response_dict["headers"]:
        _refuse_redirect(response_dict)


def _refuse_redirect(response_dict: dict[str, Any]) -> None:
    status = response_dict["status_code"]
    if 300 <= status < 400:
        target = response_dict["headers"].get("location")
        raise ForeignReply(f"status {status}, a redirect to {target!r}, is not followed: check endpoint_url")


def _member_names(body: bytes) -> set[str] | None:
    """The names of the members of a JSON object; None for anything else."""
    try:
        return set(msgspec.json.decode(body, type=dict[str, msgspec.Raw]))
    except (msgspec.MsgspecError, UnicodeError):
        pass
    try:  # botocore's parser is slower and accepts more. Half a surrogate pair in one message must not fail the others
        reply = json.loads(body)
    except (ValueError, RecursionError):
        return None
    return set(reply) if isinstance(reply, dict) else None
