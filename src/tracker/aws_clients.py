"""Clients of SNS and SQS: how they are made, where their credentials come from, and which HTTP answers they accept.

`aws` is the only user. Making a client and renewing its credentials may start a program, ask another machine or read
files that are broken, so:

1. A client is made when it is needed for the first time, and not before. If that fails, the next try reads all
   settings anew.
2. Credentials are asked for before each call. The credential provider that fails or does not answer is named.
3. Both together have a deadline. A program that a provider started does not outlive it.
4. No redirect is followed and an answer has a largest size, also where credentials come from. An answer that is not
   AWS's is an error.
"""

import asyncio
import contextlib
import ipaddress
import json
import logging
import os
import signal
import ssl
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import aiobotocore.credentials
import aiohttp
import msgspec
from aiobotocore.config import AioConfig
from aiobotocore.credentials import AioProcessProvider
from aiobotocore.httpsession import AIOHTTPSession
from aiobotocore.session import AioSession, get_session
from aiobotocore.utils import AioContainerMetadataFetcher, AioIMDSFetcher, _RefCountedSessionMixin
from botocore.exceptions import NoCredentialsError, NoRegionError

from tracker.errors import AwsUnreachable

CREDENTIAL_SECONDS = 10.0
"""For making the clients, and for renewing credentials, each time."""
HELPER_SECONDS = 8.0
"""For a `credential_process`; less than the above, so that credentials which are still valid go on being used."""
KILL_SECONDS = 0.5
"""For the end of a `credential_process` that was killed."""
MAX_HELPER_BYTES = 65_536
MAX_REPLY_BYTES = 1 << 18
"""No reply of AWS is so long but one with messages. A longer one is not parsed, which takes time on the event loop."""
MAX_MESSAGES_BYTES = 32 << 20
"""Ten messages of 1 MiB are the largest reply there is; escaped in JSON they may be three times as long."""
MAX_WORDS = 500
"""Characters of another program's error text that are repeated in ours."""

_TOKEN_FILES = ("AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE")
"""Variables that name a file; `web_identity_token_file` of a profile is the third such setting."""
_PROVIDERS = {"custom-process": "credential_process"}  # botocore's name for it: the one of the setting
_PLACEHOLDERS = {"aws_access_key_id": "local", "aws_secret_access_key": "local"}


class ClientSettings(NamedTuple):
    """What one client waits for and takes.

    At most `read_seconds` for the next bytes of a reply, on at most `connections` at once. `receives` says that replies
    may bring messages, so that they may be long.
    """

    read_seconds: float
    connections: int = 10
    receives: bool = False


class Clients:
    """Clients of one service that share a botocore session, which needs as much memory as all the rest."""

    def __init__(self, service: str, region: str | None, endpoint: str | None, *settings: ClientSettings) -> None:
        self._service = service
        self._region = region
        self._endpoint = endpoint
        self._settings = settings
        self._clients: Sequence[Any] = ()
        self._credentials: Any = None  # None: placeholders
        self._stack = AsyncExitStack()
        self._making = asyncio.Lock()
        self._step = ""  # what is under way, for the error message

    async def ready(self) -> Sequence[Any]:
        """The clients, with credentials that are valid now. Raises AwsUnreachable, which names what failed."""
        try:
            async with asyncio.timeout(CREDENTIAL_SECONDS):
                async with self._making:
                    if not self._clients:
                        self._clients = await self._make()
                if self._credentials is not None:
                    await self._renew(self._credentials)
        except TimeoutError as error:
            raise AwsUnreachable(f"{self._step}no answer in time") from error
        except Exception as error:  # a provider may raise anything: it parses what other programs print
            raise AwsUnreachable(f"{self._step}{words(error)}") from error
        return self._clients

    async def close(self) -> None:
        self._clients = ()
        await self._stack.aclose()

    async def _make(self) -> Sequence[Any]:
        self._step = "AWS settings: "
        session = _session()
        # The other AWS tools know AWS_REGION, and botocore alone does not.
        region = self._region or os.environ.get("AWS_REGION") or None
        options: dict[str, Any] = {"region_name": region, "endpoint_url": self._endpoint}
        async with session.create_client(self._service, **options, **_PLACEHOLDERS) as probe:  # only resolves
            endpoint = probe.meta.endpoint_url
        await self._check_files(session)
        self._step = "credentials: "
        providers = session.get_component("credential_provider")
        if _is_loopback(endpoint):
            # Nobody's metadata service has to be asked on the way to this very machine.
            providers.remove("iam-role")
        providers.providers = [_NamedProvider(provider, self) for provider in providers.providers]
        credentials = await session.get_credentials()
        if credentials is None and not _is_loopback(endpoint):
            raise NoCredentialsError
        if credentials is None:
            options |= _PLACEHOLDERS
        else:
            await self._renew(credentials)  # some providers ask only now
        self._step = "AWS settings: "
        async with AsyncExitStack() as stack:
            clients = [
                await stack.enter_async_context(
                    session.create_client(
                        self._service,
                        **options,
                        config=AioConfig(
                            read_timeout=each.read_seconds,
                            max_pool_connections=max(10, each.connections),
                            http_session_cls=_ReceivingSession if each.receives else _HttpSession,
                        ),
                    )
                )
                for each in self._settings
            ]
            self._stack = stack.pop_all()
        self._credentials = credentials
        return clients

    def step(self, method: str) -> None:
        """Note the credential provider that is asked now, by botocore's name for it."""
        self._step = f"credentials from {_PROVIDERS.get(method, method)}: "

    async def _renew(self, credentials: Any) -> None:
        """Have the provider asked again if the credentials are about to expire."""
        self.step(credentials.method)
        keys = await credentials.get_frozen_credentials()
        if not all(key and isinstance(key, str) for key in (keys.access_key, keys.secret_key)):
            raise ValueError("expected an access key and a secret key, both text")

    async def _check_files(self, session: AioSession) -> None:
        """Refuse settings that name a pipe or a device in the place of a file, and a CA bundle that cannot be used.

        botocore opens the files of tokens on the event loop, where opening a pipe would stop everything for ever. Of a
        missing or broken CA bundle it says only that there is one, and not where.
        """
        tokens = {name: os.environ.get(name) for name in _TOKEN_FILES}
        tokens["web_identity_token_file"] = session.get_scoped_config().get("web_identity_token_file")
        for setting, path in tokens.items():
            if path:
                self._step = f"{setting} {path}: "
                await asyncio.to_thread(_refuse_pipe, Path(path))
        if bundle := session.get_config_variable("ca_bundle") or os.environ.get("REQUESTS_CA_BUNDLE"):
            self._step = f"CA bundle {bundle}: "
            await asyncio.to_thread(_load_certificates, Path(bundle))


def _refuse_pipe(path: Path) -> None:
    if path.exists() and not path.is_file():  # a missing file is the provider's to report, if it is asked at all
        raise ValueError("expected a file, this is a pipe, a device or a directory")


def _load_certificates(bundle: Path) -> None:
    if not bundle.is_file():  # opening a pipe would not end
        raise FileNotFoundError("expected a file of certificates; check AWS_CA_BUNDLE and ca_bundle")
    ssl.create_default_context(cafile=bundle)


def words(error: BaseException) -> str:
    """One line for the operator: what happened and, where it is plain, what to do."""
    if isinstance(error, NoCredentialsError):
        return "no AWS credentials found: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, a profile or a role"
    if isinstance(error, NoRegionError):
        return "no AWS region found: set the region in the configuration, with --region, or AWS_REGION"
    if isinstance(error, TimeoutError):
        return "no reply in time: check the endpoint and the network"
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:MAX_WORDS]


def _session() -> AioSession:
    session = get_session()
    # One try of one second, botocore's own setting, makes a busy metadata service look like missing credentials.
    session.set_config_variable("metadata_service_timeout", 3)
    session.set_config_variable("metadata_service_num_attempts", 3)
    # For the clients that credential providers make for themselves (STS, SSO), too.
    session.set_default_client_config(
        AioConfig(
            connect_timeout=5,
            read_timeout=CREDENTIAL_SECONDS,
            retries={"mode": "standard", "total_max_attempts": 2},
            http_session_cls=_HttpSession,
        )
    )
    for service in ("sns", "sqs"):
        session.register(f"before-parse.{service}", _refuse_foreign_reply)
    return session


class _NamedProvider:
    """A credential provider that says it is being asked, so that one that does not answer can be named."""

    def __init__(self, provider: Any, clients: Clients) -> None:
        self.METHOD = provider.METHOD
        self.CANONICAL_NAME = provider.CANONICAL_NAME
        self._provider = provider
        self._clients = clients

    async def load(self) -> Any:
        self._clients.step(self.METHOD)
        return await self._provider.load()


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


def _in_one_line(record: logging.LogRecord) -> bool:
    """aiobotocore logs a failed refresh with its traceback. The reason is enough."""
    if record.exc_info and record.exc_info[1] is not None:
        record.msg, record.args = f"{record.getMessage()} {words(record.exc_info[1])}", ()
        record.exc_info = None
    return True


logging.getLogger("aiobotocore.credentials").addFilter(_in_one_line)


class _HttpSession(AIOHTTPSession):  # type: ignore[misc]
    """aiobotocore's HTTP session, but it follows no redirect and reads no endless answer."""

    def _largest_reply(self) -> int:
        return MAX_REPLY_BYTES

    async def _get_session(self, proxy_url: str | None) -> "_Requests":
        return _Requests(await super()._get_session(proxy_url), self._largest_reply())


class _ReceivingSession(_HttpSession):
    """The same for replies with messages."""

    def _largest_reply(self) -> int:
        return MAX_MESSAGES_BYTES


class _MetadataSession(_RefCountedSessionMixin, _HttpSession):  # type: ignore[misc]
    """The same for the services that give credentials to a machine or a container. Their answers are short."""


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
    """What aiobotocore reads of aiohttp's response."""

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


def _refuse_foreign_reply(response_dict: dict[str, Any], operation_model: Any, **_: Any) -> None:
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


def _is_loopback(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
