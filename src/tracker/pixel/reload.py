"""A reload: on SIGHUP the configuration file is read again and put in force. No connection is refused or reset.

1. The file is read and checked. Some keys cannot be changed by a reload (`FIXED`).
2. The workers are replaced (`tracker.pixel.worker_pool.WorkerPool.reload`). The first new one tests the configuration.
3. The pool now returns the new configuration. Publisher, outbox monitor and shutdown read it from the pool each time.

If a step fails, the reason is logged and the old configuration stays in force.
"""

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import msgspec

from tracker import telemetry
from tracker.config import PixelConfig
from tracker.errors import ConfigurationError, TrackerError
from tracker.logs import Structure, setup_logging
from tracker.pixel.worker_pool import WorkerPool

log = logging.getLogger(__name__)

FIXED = ("http.host", "http.port", "admin.host", "admin.port", "outbox.dir")  # only a restart can change these


async def reload_on(hangup: asyncio.Event, load: Callable[[], PixelConfig], workers: WorkerPool) -> None:
    """Reload each time `hangup` is set, until cancelled. A failed reload is logged, and the next one is awaited.

    `load` reads and validates the configuration file; it runs in a thread.
    """
    while True:
        await hangup.wait()
        hangup.clear()
        try:
            config = await asyncio.to_thread(load)
            check_reload(workers.config, config)
            log.info(
                "reload_started config=%s; The workers are replaced one after the other.",
                Structure(msgspec.to_builtins(config)),
            )
            await workers.reload(config)
            setup_logging(config.logging.level, config.logging.format)
        except TrackerError as error:
            telemetry.RELOADS.labels("refused").inc()
            log.error(
                "reload_refused error=%s; The old configuration stays in force. Correct the file and reload again.",
                error,
            )
        except Exception:
            telemetry.RELOADS.labels("refused").inc()
            log.exception("reload_failed; This is a bug: report it. The workers go on, some perhaps reloaded.")
        else:
            telemetry.RELOADS.labels("applied").inc()
            log.info("reload_applied workers=%d; The new configuration is in force.", workers.answering)


def check_reload(old: PixelConfig, new: PixelConfig) -> None:
    """Raise ConfigurationError, which names all of them, if keys differ that only a restart can change."""
    changed = [key for key in FIXED if _value(old, key) != _value(new, key)]
    if changed:
        differences = "; ".join(f"{key}: expected {_value(old, key)}, got {_value(new, key)}" for key in changed)
        raise ConfigurationError(f"{differences}; only a restart can change this, not a reload")


def _value(config: PixelConfig, key: str) -> Any:
    value: Any = config
    for name in key.split("."):
        value = getattr(value, name)
    return value
