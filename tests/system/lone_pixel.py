"""A pixel with nothing behind it: what it recorded stays where it can be read."""

from pathlib import Path

from tests.ports import free_port

from .broker import REGION
from .processes import Service, write_config
from .wire import LOOPBACK


class Pixel(Service):
    """A pixel nobody drains, so its outbox tells what it recorded."""

    def __init__(self, home: Path, **http: object) -> None:
        port, admin_port, nobody = free_port(), free_port(), free_port()
        self.outbox = home / "outbox"
        config = {
            "http": {"host": LOOPBACK, "port": port, **http},
            "admin": {"host": LOOPBACK, "port": admin_port},
            "outbox": {"dir": str(self.outbox)},
            "sns": {
                "topic_arn": f"arn:aws:sns:{REGION}:000000000000:tracking",
                "endpoint_url": f"http://{LOOPBACK}:{nobody}",
            },
        }
        path = write_config(home / "pixel.yaml", config)
        super().__init__("tracker.pixel", path, home, None, port, admin_port)

    def recorded(self) -> str:
        return "".join(path.read_text() for path in sorted(self.outbox.glob("*/*")) if path.name[:20].isdigit())

    def visits_after(self, mark: str) -> list[str]:
        return self.recorded().partition(mark)[2].splitlines()[1:]
