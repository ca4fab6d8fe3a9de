"""Clients of SNS and SQS: how they are made, and where their credentials come from.

Making a client and renewing its credentials may start a program, call another host or read damaged files. Each of
these can fail or never end. Therefore:

1. A client is made when it is needed for the first time, and not before. If that fails, the next try reads all
   settings again.
2. Before each call the credentials are renewed if they are about to expire. The error names the credential provider
   that failed or did not answer.
3. Steps 1 and 2 share one deadline. A program that a provider started is killed at the deadline (`credential_helper`).
4. A reply that does not come from SNS or SQS is an error. The size of each reply is limited, also of those with
   credentials (`http`).
"""

import asyncio
import ipaddress
import logging
import os
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from aiobotocore.config import AioConfig
from aiobotocore.session import AioSession, get_session
from botocore.exceptions import NoCredentialsError

import tracker.aws.credential_helper  # noqa: F401  # it replaces aiobotocore's provider
from tracker.aws.data_files import DataFiles
from tracker.aws.form import write_form
from tracker.aws.http import HttpSession, ReceivingSession, refuse_foreign_redirect, refuse_foreign_reply
from tracker.aws.settings import error_text, find_ca_bundle, load_certificates
from tracker.cpus import let_others_run
from tracker.errors import AwsUnreachable

CREDENTIAL_SECONDS = 10.0
"""The deadline for one `Clients.ready`, which makes the clients and renews their credentials."""

_TOKEN_FILES = ("AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE")
"""Variables that name a file; `web_identity_token_file` of a profile is the third such setting."""
_PROVIDERS = {"custom-process": "credential_process"}  # botocore's name of a provider: the setting that names it
_PLACEHOLDERS = {"aws_access_key_id": "local", "aws_secret_access_key": "local"}


class ClientSettings(NamedTuple):
    """The limits of one client.

    It waits at most `read_seconds` for the next bytes of a reply, and opens at most `connections` connections, or ten
    if that is more. `receives` says that replies may contain messages, so longer replies are read.
    """

    read_seconds: float
    connections: int = 10
    receives: bool = False


class Clients:
    """Clients of one service. They share one botocore session, because a session needs much memory."""

    def __init__(self, service: str, region: str | None, endpoint: str | None, *settings: ClientSettings) -> None:
        self._service = service
        self._region = region
        self._endpoint = endpoint
        self._settings = settings
        self._clients: Sequence[Any] = ()
        self._credentials: Any = None  # None while placeholders are used
        self._stack = AsyncExitStack()
        self._making = asyncio.Lock()
        self._step = ""  # what is being done now, for the error message

    async def ready(self) -> Sequence[Any]:
        """The clients, with credentials that are valid now. Raises AwsUnreachable, which names the step that failed."""
        try:
            async with asyncio.timeout(CREDENTIAL_SECONDS):
                async with self._making:
                    if not self._clients:
                        self._clients = await self._make()
                if self._credentials is not None:
                    await self._renew(self._credentials)
        except TimeoutError as error:
            raise AwsUnreachable(f"{self._step}no answer in time") from error
        except Exception as error:  # a provider may raise any error: it parses the output of other programs
            raise AwsUnreachable(f"{self._step}{error_text(error)}") from error
        return self._clients

    async def aclose(self) -> None:
        self._clients = ()
        await self._stack.aclose()

    async def _make(self) -> Sequence[Any]:
        self._step = "AWS settings: "
        session = _session()
        # All other AWS tools read AWS_REGION; botocore does not.
        region = self._region or os.environ.get("AWS_REGION") or None
        options: dict[str, Any] = {"region_name": region, "endpoint_url": self._endpoint}
        async with session.create_client(self._service, **options, **_PLACEHOLDERS) as probe:  # it makes no call
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
            await self._renew(credentials)  # some providers call AWS only now
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
                            # Servers other than AWS have no host name for each bucket.
                            s3={"addressing_style": "auto" if ".amazonaws." in endpoint else "path"},
                        ),
                    )
                )
                for each in self._settings
            ]
            self._stack = stack.pop_all()
        self._credentials = credentials
        return clients

    def step(self, method: str) -> None:
        """Note which credential provider is called now. `method` is botocore's name for it."""
        self._step = f"credentials from {_PROVIDERS.get(method, method)}: "

    async def _renew(self, credentials: Any) -> None:
        """Renew the credentials if they are about to expire. Raises ValueError when they are incomplete."""
        self.step(credentials.method)
        keys = await credentials.get_frozen_credentials()
        if not all(key and isinstance(key, str) for key in (keys.access_key, keys.secret_key)):
            raise ValueError("expected an access key and a secret key, both text")

    async def _check_files(self, session: AioSession) -> None:
        """Raise an error for a setting that names a pipe or a device instead of a file, and for an unusable CA bundle.

        botocore opens token files on the event loop. Opening a pipe there would block the whole process for ever.
        botocore's error for a missing or damaged CA bundle does not name the file.
        """
        tokens = {name: os.environ.get(name) for name in _TOKEN_FILES}
        tokens["web_identity_token_file"] = session.get_scoped_config().get("web_identity_token_file")
        for setting, path in tokens.items():
            if path:
                self._step = f"{setting} {path}: "
                await asyncio.to_thread(_refuse_pipe, Path(path))
        if found := find_ca_bundle(session):
            setting, bundle = found
            self._step = f"{setting}: CA bundle {bundle}: "
            await asyncio.to_thread(load_certificates, Path(bundle))


def _refuse_pipe(path: Path) -> None:
    if path.exists() and not path.is_file():  # the provider itself reports a missing file, if it is called at all
        raise ValueError("expected a file, this is a pipe, a device or a directory")


def _session() -> AioSession:
    session = get_session()
    session.get_component("data_loader").file_loader = DataFiles()
    # By default botocore tries once, for one second. A busy metadata service would then look like missing credentials.
    session.set_config_variable("metadata_service_timeout", 3)
    session.set_config_variable("metadata_service_num_attempts", 3)
    # These settings also apply to the clients that credential providers make for themselves (STS, SSO).
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
    session.register("before-parse.s3", refuse_foreign_redirect)
    session.register("before-call.sns", write_form)
    # A request to SNS takes a millisecond of CPU time: to make it, to sign it, to send it.
    for step in ("before-call.sns", "before-send.sns"):
        session.register(step, lambda **_: let_others_run())
    return session


class _NamedProvider:
    """A credential provider that reports when it is called, so that an error can name one that does not answer."""

    def __init__(self, provider: Any, clients: Clients) -> None:
        self.METHOD = provider.METHOD
        self.CANONICAL_NAME = provider.CANONICAL_NAME
        self._provider = provider
        self._clients = clients

    async def load(self) -> Any:
        self._clients.step(self.METHOD)
        return await self._provider.load()


def _drop_traceback(record: logging.LogRecord) -> bool:
    """aiobotocore logs a failed renewal of credentials with a traceback. Log the reason instead, in one line."""
    if record.exc_info and record.exc_info[1] is not None:
        record.msg, record.args = f"{record.getMessage()} {error_text(record.exc_info[1])}", ()
        record.exc_info = None
    return True


logging.getLogger("aiobotocore.credentials").addFilter(_drop_traceback)


def _is_loopback(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
