"""What one `make run` consists of: the configurations of its services, its ports, its folders and its addresses.

With `--port-offset N` all ports are N higher, and outbox and visit log are in a folder of their own. So several systems
can run beside each other from one clone.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tracker.archive import require_extra
from tracker.aws import bucket_and_prefix
from tracker.config import load_pixel, load_storage
from tracker.errors import UsageError
from tracker.local import broker, local_archive
from tracker.local.ports import Needed
from tracker.operations.service_checks import address

HIGHEST_PORT = 65_535


@dataclass(frozen=True, kw_only=True)
class Options:
    pixel_config: Path
    storage_config: Path
    broker_port: int
    demo_port: int
    archive_port: int
    archive: bool
    port_offset: int


class Plan:
    """Raises ConfigurationError for a mistake in a configuration, UsageError for a port that cannot be, and TrackerError
    when the packages of the archive are missing."""

    def __init__(self, options: Options, environ: Mapping[str, str]) -> None:
        self.options = options
        self.offset = options.port_offset
        self.broker_port = options.broker_port + self.offset
        self.demo_port = options.demo_port + self.offset
        self.archive_port = options.archive_port + self.offset
        endpoints = dict.fromkeys(("TRACKER_SNS__ENDPOINT_URL", "TRACKER_SQS__ENDPOINT_URL"), self.endpoint)
        self.pixel_environ = self.storage_environ = {**environ, **endpoints}
        self.pixel = load_pixel(options.pixel_config, self.pixel_environ)
        self.storage = load_storage(options.storage_config, self.storage_environ)
        archive = local_archive.settings(self.storage, asked=options.archive, endpoint=self.endpoint)
        if archive:
            require_extra()
            self.storage_environ = {**self.storage_environ, **archive}
            self.storage = load_storage(options.storage_config, self.storage_environ)
        if self.offset:
            self._move()

    def _move(self) -> None:
        """Other ports and another folder, as overrides in the environments of the services."""
        services = (self.pixel.http.port, self.pixel.admin.port, self.storage.admin.port)
        own = (self.broker_port, self.demo_port, *([self.archive_port] if self.bucket else []))
        highest = max(*own, *(port + self.offset for port in services))
        if highest > HIGHEST_PORT:
            raise UsageError(f"--port-offset {self.offset} gives port {highest}; the highest port is {HIGHEST_PORT}")
        self.pixel_environ = {
            **self.pixel_environ,
            "TRACKER_HTTP__PORT": str(self.pixel.http.port + self.offset),
            "TRACKER_ADMIN__PORT": str(self.pixel.admin.port + self.offset),
            "TRACKER_OUTBOX__DIR": self._moved(self.pixel.outbox.dir),
        }
        self.storage_environ = {
            **self.storage_environ,
            "TRACKER_ADMIN__PORT": str(self.storage.admin.port + self.offset),
            "TRACKER_LOG__PATH": self._moved(self.storage.log.path),
        }
        self.pixel = load_pixel(self.options.pixel_config, self.pixel_environ)
        self.storage = load_storage(self.options.storage_config, self.storage_environ)

    def _moved(self, path: str) -> str:
        return str(Path(path).parent / f"offset-{self.offset}" / Path(path).name)

    def ports(self) -> list[Needed]:
        options, pixel, storage = self.options, self.pixel, self.storage
        needed = [
            Needed(broker.HOST, self.broker_port, "the local broker", "--broker-port"),
            Needed(pixel.http.host, pixel.http.port, "the pixel", f"http.port in {options.pixel_config}"),
            Needed(pixel.admin.host, pixel.admin.port, "the pixel's health", f"admin.port in {options.pixel_config}"),
            Needed(
                storage.admin.host, storage.admin.port, "storage's health", f"admin.port in {options.storage_config}"
            ),
            Needed(broker.HOST, self.demo_port, "the demo page", "--demo-port"),
        ]
        if self.bucket:
            needed.append(Needed(broker.HOST, self.archive_port, "the archive's health", "--archive-port"))
        return needed

    @property
    def folders(self) -> list[Path]:
        return [Path(self.pixel.outbox.dir), Path(self.storage.log.path).parent]

    @property
    def bucket(self) -> str | None:
        """The bucket of the archive; None when there is no archive."""
        return bucket_and_prefix(self.storage.archive)[0] if self.storage.archive.url is not None else None

    @property
    def archive_admin(self) -> str:
        return f"{broker.HOST}:{self.archive_port}"

    @property
    def archive_admin_url(self) -> str | None:
        return f"http://{self.archive_admin}" if self.bucket else None

    @property
    def endpoint(self) -> str:
        return broker.endpoint(self.broker_port)

    @property
    def demo_url(self) -> str:
        return f"http://{broker.HOST}:{self.demo_port}/"

    @property
    def pixel_url(self) -> str:
        return address(self.pixel.http.host, self.pixel.http.port) + self.pixel.http.path

    @property
    def pixel_admin_url(self) -> str:
        return address(self.pixel.admin.host, self.pixel.admin.port)

    @property
    def storage_admin_url(self) -> str:
        return address(self.storage.admin.host, self.storage.admin.port)
