"""The HTTP below botocore: no redirect is followed, an answer has a largest size, and it must be one of SNS or SQS.

botocore reads many foreign answers, such as a proxy's page with status 200, as a reply without content. That often
means success: a message would be taken for published, or a queue for empty.

Importing this module also replaces the sessions by which aiobotocore asks metadata services for credentials.
"""

import json
from typing import Any

import aiohttp
import msgspec
from aiobotocore.httpsession import AIOHTTPSession
from aiobotocore.utils import AioContainerMetadataFetcher, AioIMDSFetcher, _RefCountedSessionMixin

MAX_REPLY_BYTES = 1 << 18
"""No reply of AWS without messages is longer. A longer one is not parsed, because that takes time on the event loop."""
MAX_MESSAGES_BYTES = 32 << 20
"""Ten messages of 1 MiB are the largest reply there is; escaped in JSON they may be three times as long."""


class HttpSession(AIOHTTPSession):  # type: ignore[misc]
    """aiobotocore's HTTP session, but it follows no redirect and reads no endless answer."""

    def _largest_reply(self) -> int:
        return MAX_REPLY_BYTES

    async def _get_session(self, proxy_url: str | None) -> "_Requests":
        return _Requests(await super()._get_session(proxy_url), self._largest_reply())


class ReceivingSession(HttpSession):
    """The same for replies with messages."""

    def _largest_reply(self) -> int:
        return MAX_MESSAGES_BYTES


class _MetadataSession(_RefCountedSessionMixin, HttpSession):  # type: ignore[misc]
    """The same for the services that give credentials to a machine or a container."""


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


class ForeignReply(Exception):
    """The answer is none of SNS or SQS: something else listens at the endpoint, or a proxy answers in its place."""


def refuse_foreign_reply(response_dict: dict[str, Any], operation_model: Any, **_: Any) -> None:
    """Raise ForeignReply for what botocore would read as a reply without content, which often means success.

    SNS and SQS answer 200, or 400 and more. A 200 in XML has the operation's root element. One in JSON is an object
    that is empty or has a member of the operation's.
    """
    status, body = response_dict["status_code"], response_dict["body"]
    if status >= 400:
        return  # an error, which botocore looks at
    if 300 <= status < 400:
        target = response_dict["headers"].get("location")
        raise ForeignReply(f"status {status}, a redirect to {target!r}, is not followed: check endpoint_url")
    if status != 200:
        raise ForeignReply(f"status {status} is none that SNS or SQS answers with: check endpoint_url and proxies")
    if operation_model.service_model.resolved_protocol == "query":
        sound = f"<{operation_model.name}Response".encode() in body[:1000]
    elif not body:
        sound = operation_model.output_shape is None
    else:
        members = operation_model.output_shape.members if operation_model.output_shape else {}
        names = _member_names(body)
        sound = names is not None and (not names or not names.isdisjoint(members))
    if not sound:
        raise ForeignReply("the answer is not one of SNS or SQS: check endpoint_url, and that no proxy answers for it")


def _member_names(body: bytes) -> set[str] | None:
    """The names of the members of a JSON object; None for anything else."""
    try:
        return set(msgspec.json.decode(body, type=dict[str, msgspec.Raw]))
    except (msgspec.MsgspecError, UnicodeError):
        pass
    try:  # botocore's parser, which is slower and takes more: half a surrogate pair in one message fails no other one
        reply = json.loads(body)
    except (ValueError, RecursionError):
        return None
    return set(reply) if isinstance(reply, dict) else None
