"""The configuration of both services: every section and key, with its type and default. See docs/configuration.md."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Literal, TypeVar

import msgspec

from tracker.config_reader import AwsSettings, Section, read_config
from tracker.core.client_ip import ClientIp
from tracker.core.queue_address import QueueAddress, parse_queue
from tracker.core.units import DURATION, SIZE
from tracker.errors import ConfigurationError


def _form(pattern: str, description: str) -> msgspec.Meta:
    """Text that matches `pattern` from its first to its last character; `description` is for the error message."""
    return msgspec.Meta(pattern=rf"\A(?:{pattern})\Z", description=description)


# These keys also take text with a unit: see `tracker.core.units`.
_SIZE = msgspec.Meta(extra={"quantity": SIZE}, description=SIZE.expectation)
_DURATION = msgspec.Meta(extra={"quantity": DURATION}, description=DURATION.expectation)

Port = Annotated[int, msgspec.Meta(ge=1, le=65535)]
Bytes = Annotated[int, msgspec.Meta(ge=1, le=(1 << 63) - 1), _SIZE]  # a file on Linux cannot be longer
Seconds = Annotated[float, msgspec.Meta(ge=0, le=86_400), _DURATION]
PositiveSeconds = Annotated[float, msgspec.Meta(gt=0, le=86_400), _DURATION]
Url = Annotated[str, _form(r"https?://[A-Za-z0-9._:\[\]-]+(/[!-~]*)?", "an http or https URL without credentials")]
# The control characters include those of Unicode: C1, line separator and paragraph separator.
Text = Annotated[
    str,
    _form(r"[^\x00-\x1f\x7f-\x9f\u2028\u2029]+", "text of at least one character, without control characters"),
]
KEEP_EXPECTATION = 'a number of files such as 30, or an age such as "30d"'
Age = Annotated[str, msgspec.Meta(description=KEEP_EXPECTATION)]  # kept as text: a number is a number of files
Host = Annotated[str, _form(r"\*|[A-Za-z0-9._:%-]+", '"*", an IP address or a host name')]


class Http(Section, frozen=True):
    host: Host = "*"
    port: Port = 8080
    path: Annotated[str, _form(r"/[A-Za-z0-9._~/-]*", "a path such as /track, of letters, digits and . _ ~ / -")] = (
        "/track"
    )
    page_parameter: (
        Annotated[
            str, _form(r"[A-Za-z0-9._~-]{1,64}", "the name of a parameter: at most 64 letters, digits and . _ ~ -")
        ]
        | None
    ) = None
    trusted_proxies: list[str] = msgspec.field(default_factory=list)
    client_ip_header: Annotated[str, _form(r"[A-Za-z0-9-]+", "the name of a header")] = "X-Forwarded-For"
    keepalive_timeout: PositiveSeconds = 75.0
    rate_limit: Annotated[float, msgspec.Meta(gt=0, le=1_000_000)] | None = None

    def mistakes(self, aws: AwsSettings | None) -> Iterator[tuple[str, str, str]]:
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
    referrer: Literal["full", "no_query", "origin"] = "full"
    honor: list[Literal["gpc", "dnt"]] = msgspec.field(default_factory=list)


class OutboxConfig(Section, frozen=True):
    dir: Text = "var/outbox"
    max_bytes: Bytes = 1_073_741_824
    segment_bytes: Bytes = 16_777_216
    fsync_interval: Annotated[float, msgspec.Meta(gt=0, le=3_600), _DURATION] = 1.0


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
    linger: Annotated[float, msgspec.Meta(gt=0, le=60), _DURATION] = 0.2
    format: Literal["packed", "plain", "single"] = "packed"


class PixelShutdown(Section, frozen=True):
    drain_delay: Seconds = 0.0
    timeout: PositiveSeconds = 25.0


class StorageShutdown(Section, frozen=True):
    timeout: PositiveSeconds = 25.0


class Logging(Section, frozen=True):
    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["text", "json"] = "text"


class SqsConfig(Section, frozen=True):
    queue: Text
    region: Text | None = None  # `client_region` and `client_endpoint` also use what the queue's URL or ARN says
    endpoint_url: Url | None = None
    receivers: Annotated[int, msgspec.Meta(ge=1, le=64)] = 2
    wait_time: Annotated[int, msgspec.Meta(ge=0, le=20), _DURATION] = 10
    visibility_timeout: Annotated[int, msgspec.Meta(ge=10, le=43_200), _DURATION] = 30

    @property
    def address(self) -> QueueAddress:
        return parse_queue(self.queue)

    @property
    def client_region(self) -> str | None:
        """The Region to call; None if the settings of the AWS tools decide."""
        return self.region or self.address.region

    @property
    def client_endpoint(self) -> str | None:
        """The endpoint to call; None if the settings of the AWS tools decide."""
        return self.endpoint_url or self.address.endpoint

    def mistakes(self, aws: AwsSettings | None) -> Iterator[tuple[str, str, str]]:
        try:
            region = self.client_region
        except ConfigurationError as error:
            yield "queue", "", str(error)
            return
        if aws is not None and not aws.has_region and region is None:
            yield (
                "region",
                "",
                "expected an AWS Region, found none: set sqs.region, or give sqs.queue as an ARN or a URL of AWS, "
                "or set AWS_REGION (or AWS_DEFAULT_REGION, or `region` of the AWS profile)",
            )


class Rotate(Section, frozen=True):
    max_bytes: Bytes | None = None
    every: Literal["hour", "day"] | None = None
    compress: Literal["none", "gzip"] = "none"
    keep: Annotated[int, msgspec.Meta(ge=1, le=1_000_000, description=KEEP_EXPECTATION)] | Age | None = None

    @property
    def keep_seconds(self) -> float | None:
        """The age at which a closed log is removed; None if `keep` is a number of files, or null."""
        return float(DURATION.parse(self.keep)) if isinstance(self.keep, str) else None

    def mistakes(self, aws: AwsSettings | None) -> Iterator[tuple[str, str, str]]:
        try:
            if self.keep_seconds == 0:
                yield "keep", "", f"expected more than no time, got {self.keep!r}"
        except ConfigurationError:
            yield "keep", "", f"expected {KEEP_EXPECTATION}, got {self.keep!r}"


class LogConfig(Section, frozen=True):
    path: Text = "var/visits.log"
    mode: Annotated[str, _form(r"0?[0-7]{3}", 'permissions as octal digits in quotes, such as "0640"')] = "0640"
    rotate: Rotate = Rotate()


class ArchiveConfig(Section, frozen=True):
    url: (
        Annotated[
            str,
            _form(
                # An object's name is the prefix, 25 characters and the name of a file, and S3 takes 1,024 characters.
                r"(?=.{8,700}$)s3://(?=[^/]{3,63}(?:/|$))(?![0-9]+(?:\.[0-9]+){3}(?:/|$))[a-z0-9]+(?:(?:\.|-+)[a-z0-9]+)*"
                r"(?:/(?!\.{1,2}(?:/|$))[A-Za-z0-9!_.*'()=-]+)*/?",
                "the URL of a bucket of S3 and a prefix, s3://BUCKET/PREFIX; the prefix has letters, digits and "
                "!_.*'()=- between its slashes, and at most 600 characters; an access point is given by its alias",
            ),
        ]
        | None
    ) = None
    region: Text | None = None
    endpoint_url: Url | None = None
    keep_local: Annotated[float, msgspec.Meta(ge=0, le=1e10), _DURATION] | None = None

    def mistakes(self, aws: AwsSettings | None) -> Iterator[tuple[str, str, str]]:
        if self.keep_local is not None and self.url is None:
            yield "keep_local", "", "expected archive.url too: without an archive nothing is ever archived"


class PixelConfig(Section, frozen=True):
    sns: SnsConfig
    http: Http = Http()
    admin: Admin = Admin()
    workers: Annotated[int, msgspec.Meta(ge=1, le=256)] | Literal["auto"] = 1
    privacy: Privacy = Privacy()
    outbox: OutboxConfig = OutboxConfig()
    shutdown: PixelShutdown = PixelShutdown()
    logging: Logging = Logging()

    def mistakes(self, aws: AwsSettings | None) -> Iterator[tuple[str, str, str]]:
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


def load_pixel(path: Path, environ: Mapping[str, str], aws: AwsSettings | None = None) -> PixelConfig:
    """The pixel's configuration from `path`, overridden by `TRACKER_…` of `environ`.

    With `aws`, the mistakes of these settings are reported too.
    """
    return read_config(PixelConfig, path, environ, others=StorageConfig.__struct_fields__, aws=aws)


def load_storage(path: Path, environ: Mapping[str, str], aws: AwsSettings | None = None) -> StorageConfig:
    """The storage's configuration from `path`, overridden by `TRACKER_…` of `environ`.

    With `aws`, the mistakes of these settings are reported too, and a missing Region.
    """
    return read_config(StorageConfig, path, environ, others=PixelConfig.__struct_fields__, aws=aws)
