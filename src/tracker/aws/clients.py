"""Clients of SNS and SQS: how they are made, and where their credentials come from.

Making a client and renewing its credentials may start a program, ask another machine or read files that are broken:

1. A client is made when it is needed for the first time, and not before. If that fails, the next try reads all
   settings anew.
2. Credentials are asked for before each call. The error names the credential provider that failed or did not answer.
3. Both together have a deadline. A program that a provider started does not outlive it (`credential_helper`).
4. What is not an answer of SNS or SQS is an error. An answer has a largest size, also one with credentials (`http`).
"""

import asyncio
import ipaddress
import logging
import os
import ssl
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from aiobotocore.config import AioConfig
from aiobotocore.session import AioSession, get_session
from botocore.exceptions import NoCredentialsError, NoRegionError

import tracker.aws.credential_helper  # noqa: F401  # it replaces aiobotocore's provider
from tracker.aws.http import HttpSession, ReceivingSession, refuse_foreign_reply
from tracker.errors import AwsUnreachable

CREDENTIAL_SECONDS = 10.0
"""For making the clients, and for renewing credentials, each time."""
MAX_ERROR_TEXT = 500
"""Characters of another program's error text that are repeated in ours."""

_TOKEN_FILES = ("AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE")
"""Variables that name a file; `web_identity_token_file` of a profile is the third such setting."""
_PROVIDERS = {"custom-process": "credential_process"}  # botocore's name for it: the name of the setting
_PLACEHOLDERS = {"aws_access_key_id": "local", "aws_secret_access_key": "local"}


class ClientSettings(NamedTuple):
    """How one client waits: at most `read_seconds` for the next bytes of a reply, on at most `connections` at once.

    `receives` means that replies may bring messages, so that they may be long.
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
            raise AwsUnreachable(f"{self._step}{error_text(error)}") from error
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
            # An endpoint on this machine needs no role, and the metadata service may be slow to answer.
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
                            http_session_cls=ReceivingSession if each.receives else HttpSession,
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
        """Raise an error for a setting that names a pipe or a device instead of a file, and for an unusable CA bundle.

        botocore opens the files of tokens on the event loop, where opening a pipe would stop everything for ever. Its
        error for a missing or broken CA bundle does not name the file.
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
    if path.exists() and not path.is_file():  # a missing file is reported by the provider, if that is asked at all
        raise ValueError("expected a file, this is a pipe, a device or a directory")


def _load_certificates(bundle: Path) -> None:
    if not bundle.is_file():  # opening a pipe would not end
        raise FileNotFoundError("expected a file of certificates; check AWS_CA_BUNDLE and ca_bundle")
    ssl.create_default_context(cafile=bundle)


def error_text(error: BaseException) -> str:
    """One line for the operator: what happened and, for the usual errors, what to do."""
    if isinstance(error, NoCredentialsError):
        return "no AWS credentials found: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, a profile or a role"
    if isinstance(error, NoRegionError):
        return "no AWS region found: set the region in the configuration, with --region, or AWS_REGION"
    if isinstance(error, TimeoutError):
        return "no reply in time: check the endpoint and the network"
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:MAX_ERROR_TEXT]


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
            http_session_cls=HttpSession,
        )
    )
    for service in ("sns", "sqs"):
        session.register(f"before-parse.{service}", refuse_foreign_reply)
    return session


class _NamedProvider:
    """A credential provider that reports when it is asked, so that the error can name one that does not answer."""

    def __init__(self, provider: Any, clients: Clients) -> None:
        self.METHOD = provider.METHOD
        self.CANONICAL_NAME = provider.CANONICAL_NAME
        self._provider = provider
        self._clients = clients

    async def load(self) -> Any:
        self._clients.step(self.METHOD)
        return await self._provider.load()


def _in_one_line(record: logging.LogRecord) -> bool:
    """aiobotocore logs a failed refresh with its traceback. The reason is enough."""
    if record.exc_info and record.exc_info[1] is not None:
        record.msg, record.args = f"{record.getMessage()} {error_text(record.exc_info[1])}", ()
        record.exc_info = None
    return True


logging.getLogger("aiobotocore.credentials").addFilter(_in_one_line)


def _is_loopback(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
