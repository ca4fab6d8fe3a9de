"""The configuration of both services: every section and key, with its type and default. See docs/configuration.md."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Literal, TypeVar

import msgspec

from tracker.config_reader import Section, read_config
from tracker.core.client_ip import ClientIp
from tracker.errors import ConfigurationError


def _form(pattern: str, description: str) -> msgspec.Meta:
    """Text that matches `pattern` from its first to its last character; `description` is for the error message."""
    return msgspec.Meta(pattern=rf"\A(?:{pattern})\Z", description=description)


Port = Annotated[int, msgspec.Meta(ge=1, le=65535)]
Bytes = Annotated[int, msgspec.Meta(ge=1, le=(1 << 63) - 1)]  # a file on Linux cannot be longer
Seconds = Annotated[float, msgspec.Meta(ge=0, le=86_400)]
Url = Annotated[str, _form(r"https?://[A-Za-z0-9._:\[\]-]+(/[!-~]*)?", "an http or https URL without credentials")]
# The control characters include those of Unicode: C1, line separator and paragraph separator.
Text = Annotated[
    str,
    _form(r"[^\x00-\x1f\x7f-\x9f\u2028\u2029]+", "text of at least one character, without control characters"),
]
Host = Annotated[str, _form(r"\*|[A-Za-z0-9._:%-]+", '"*", an IP address or a host name')]


class Http(Section, frozen=True):
    host: Host = "*"
    port: Port = 8080
    path: Annotated[str, _form(r"/[A-Za-z0-9._~/-]*", "a path such as /track, of letters, digits and . _ ~ / -")] = (
        "/track"
    )
    trusted_proxies: list[str] = msgspec.field(default_factory=list)
    client_ip_header: Annotated[str, _form(r"[A-Za-z0-9-]+", "the name of a header")] = "X-Forwarded-For"
    keepalive_timeout: Annotated[float, msgspec.Meta(gt=0, le=86_400)] = 75.0
    rate_limit: Annotated[float, msgspec.Meta(gt=0, le=1_000_000)] | None = None

    def mistakes(self) -> Iterator[tuple[str, str, str]]:
        for index, network in enumerate(self.trusted_proxies):
            try:
                ClientIp([network], self.client_ip_header)
            except ConfigurationError as error:
                yield "trusted_proxies", f"[{index}]", str(error)


class Admin(Section, frozen=True):
    host: Host = "127.0.0.1"
    port: Port = 8081


class StorageAdmin(Section, frozen=True):
    host: Host = "127.0.0.1"
    port: Port = 8082


class Privacy(Section, frozen=True):
    ip: Literal["full", "truncated"] = "full"
    honor: list[Literal["gpc", "dnt"]] = msgspec.field(default_factory=list)


class OutboxConfig(Section, frozen=True):
    dir: Text = "var/outbox"
    max_bytes: Bytes = 1_073_741_824
    segment_bytes: Bytes = 16_777_216
    fsync_interval: Annotated[float, msgspec.Meta(gt=0, le=3_600)] = 1.0


class SnsConfig(Section, frozen=True):
    topic_arn: Annotated[
        str,
        _form(
            r"arn:aws[a-z-]*:sns:[a-z0-9-]+:[0-9]{12}:[A-Za-z0-9_-]{1,256}",
            "the ARN of an SNS topic that is no FIFO topic, arn:aws:sns:REGION:ACCOUNT:NAME",
        ),
    ]
    region: Text | None = None
    endpoint_url: Url | None = None
    linger: Annotated[float, msgspec.Meta(gt=0, le=60)] = 0.2
    format: Literal["packed", "plain", "single"] = "packed"


class PixelShutdown(Section, frozen=True):
    drain_delay: Seconds = 0.0
    timeout: Annotated[float, msgspec.Meta(gt=0, le=86_400)] = 25.0


class StorageShutdown(Section, frozen=True):
    timeout: Annotated[float, msgspec.Meta(gt=0, le=86_400)] = 25.0


class Logging(Section, frozen=True):
    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["text", "json"] = "text"


class SqsConfig(Section, frozen=True):
    queue: Text
    region: Text | None = None
    endpoint_url: Url | None = None
    receivers: Annotated[int, msgspec.Meta(ge=1, le=64)] = 2
    wait_time: Annotated[int, msgspec.Meta(ge=0, le=20)] = 10
    visibility_timeout: Annotated[int, msgspec.Meta(ge=10, le=43_200)] = 30


class Rotate(Section, frozen=True):
    max_bytes: Bytes | None = None
    every: Literal["hour", "day"] | None = None
    compress: Literal["none", "gzip"] = "none"


class LogConfig(Section, frozen=True):
    path: Text = "var/visits.log"
    mode: Annotated[str, _form(r"0?[0-7]{3}", 'permissions as octal digits in quotes, such as "0640"')] = "0640"
    rotate: Rotate = Rotate()


class ArchiveConfig(Section, frozen=True):
    url: (
        Annotated[
            str,
            _form(
                r"s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/[A-Za-z0-9!_.*'()=/-]*)?",
                "the URL of a bucket of S3 and a prefix, s3://BUCKET/PREFIX",
            ),
        ]
        | None
    ) = None
    region: Text | None = None
    endpoint_url: Url | None = None
    keep_local: Annotated[float, msgspec.Meta(ge=0, le=1e10)] | None = None


class PixelConfig(Section, frozen=True):
    sns: SnsConfig
    http: Http = Http()
    admin: Admin = Admin()
    workers: Annotated[int, msgspec.Meta(ge=1, le=256)] | Literal["auto"] = 1
    privacy: Privacy = Privacy()
    outbox: OutboxConfig = OutboxConfig()
    shutdown: PixelShutdown = PixelShutdown()
    logging: Logging = Logging()

    def mistakes(self) -> Iterator[tuple[str, str, str]]:
        if self.admin.port == self.http.port and _share_addresses(self.admin.host, self.http.host):
            yield "admin.port", "", f"expected another port than http.port, got {self.admin.port} for both"


class StorageConfig(Section, frozen=True):
    sqs: SqsConfig
    log: LogConfig = LogConfig()
    archive: ArchiveConfig = ArchiveConfig()
    admin: StorageAdmin = StorageAdmin()
    shutdown: StorageShutdown = StorageShutdown()
    logging: Logging = Logging()


def _share_addresses(host: str, other: str) -> bool:
    """Whether two listeners with these hosts have an address in common. Names are compared as text, not looked up."""
    if host == other or "*" in (host, other):
        return True
    is_ipv6 = ":" in host, ":" in other
    return ("0.0.0.0" in (host, other) and not any(is_ipv6)) or ("::" in (host, other) and all(is_ipv6))


Config = TypeVar("Config", PixelConfig, StorageConfig)


def load_pixel(path: Path, environ: Mapping[str, str]) -> PixelConfig:
    """The pixel's configuration from `path`, overridden by `TRACKER_…` of `environ`."""
    return read_config(PixelConfig, path, environ, others=StorageConfig.__struct_fields__)


def load_storage(path: Path, environ: Mapping[str, str]) -> StorageConfig:
    """The storage's configuration from `path`, overridden by `TRACKER_…` of `environ`."""
    return read_config(StorageConfig, path, environ, others=PixelConfig.__struct_fields__)
