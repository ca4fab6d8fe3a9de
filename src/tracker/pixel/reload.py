"""A reload: on SIGHUP the configuration is read anew and put to work, without a connection refused or reset.

It is checked first, and tried by one new worker. What fails there is said, and the configuration from before goes on.
"""

import asyncio
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import msgspec

from tracker import telemetry
from tracker.config import PixelConfig
from tracker.errors import ConfigurationError, TrackerError
from tracker.logs import Structure, setup_logging
from tracker.pixel.supervisor import Supervisor
from tracker.pixel.watch import Watch

if TYPE_CHECKING:
    from tracker.pixel.publisher import Publisher

log = logging.getLogger("tracker.pixel.reload")

FIXED = ("http.host", "http.port", "admin.host", "admin.port", "outbox.dir")  # for a restart alone to change


class Reloader:
    """Hands a new configuration to all that hold one; `config` is the one at work, `load` reads it anew."""

    def __init__(
        self,
        *,
        config: PixelConfig,
        load: Callable[[], PixelConfig],
        supervisor: Supervisor,
        publisher: "Publisher",
        watch: Watch,
    ) -> None:
        self.config = config
        self._load = load
        self._supervisor = supervisor
        self._publisher = publisher
        self._watch = watch

    async def run(self, hangup: asyncio.Event) -> None:
        """Reload each time `hangup` is set, one reload after the other; nothing that goes wrong ends it."""
        while True:
            await hangup.wait()
            hangup.clear()
            try:
                await self._reload()
            except TrackerError as error:
                telemetry.RELOADS.labels("refused").inc()
                log.error("reload_refused error=%s; the configuration from before goes on", error)
            except Exception:
                telemetry.RELOADS.labels("refused").inc()
                log.exception("reload_died the workers go on")
            else:
                telemetry.RELOADS.labels("applied").inc()
                log.info("reloaded workers=%d", self._supervisor.answering)

    async def _reload(self) -> None:
        config = await asyncio.to_thread(self._load)
        check_reload(self.config, config)
        log.info("reloading config=%s", Structure(msgspec.to_builtins(config)))
        await self._supervisor.reload(config)
        self.config = config
        setup_logging(config.logging.level, config.logging.format)
        self._publisher.reconfigure(config.sns)
        self._watch.max_bytes = config.outbox.max_bytes


def check_reload(old: PixelConfig, new: PixelConfig) -> None:
    """Raises ConfigurationError, naming every such key, when `new` differs where only a restart can follow."""
    changed = [key for key in FIXED if _at(old, key) != _at(new, key)]
    if changed:
        told = "; ".join(f"{key}: expected {_at(old, key)}, got {_at(new, key)}" for key in changed)
        raise ConfigurationError(f"{told}: a reload cannot change this, only a restart")


def _at(config: PixelConfig, key: str) -> Any:
    value: Any = config
    for name in key.split("."):
        value = getattr(value, name)
    return value
