"""`make run`: the whole system from one command, with the same processes as in production.

1. The broker is started, then storage and the pixel, each once the ones before it are ready. Each is a child process in
   a session of its own, so only this process receives Ctrl-C. The demo page runs in this process.
2. A part that ends by itself stops everything.
3. Ctrl-C stops the parts in the order in which a visit passes them. The pixel publishes what it has. Storage appends
   what is in the queue. The broker ends last, because the queue is in its memory.
"""

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from tracker.config import PixelConfig, StorageConfig, load_pixel, load_storage
from tracker.errors import TrackerError
from tracker.files import make_directory
from tracker.local import broker
from tracker.local.child import Child
from tracker.local.demo import Demo, embed_snippet
from tracker.local.ports import Needed, check_free
from tracker.local.provision import local_client
from tracker.operations.provision import QUEUE
from tracker.operations.service_checks import address

READY_SECONDS = 60.0  # within which each part must be ready
DRAIN_SECONDS = 10.0  # within which storage must have emptied the queue
KILL_SECONDS = 5.0  # after its own shutdown.timeout a service is killed


class PartFailed(TrackerError):
    """A part ended by itself, or did not become ready."""


@dataclass(frozen=True, kw_only=True)
class Options:
    pixel_config: Path
    storage_config: Path
    broker_port: int
    demo_port: int


class Runner:
    def __init__(self, options: Options, environ: Mapping[str, str]) -> None:
        self._options = options
        self._pixel_config: PixelConfig = load_pixel(options.pixel_config, environ)
        self._storage_config: StorageConfig = load_storage(options.storage_config, environ)
        self._environ = _local_only(environ, broker.endpoint(options.broker_port))
        self._stop = asyncio.Event()
        self._broker: Child | None = None
        self._storage: Child | None = None
        self._pixel: Child | None = None
        self._demo: Demo | None = None

    async def run(self) -> int:
        """Run until Ctrl-C; returns the exit status."""
        check_free(self._ports())
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, self._on_signal)
        status = 0
        try:
            if await self._start():
                self._announce()
                await self._until(_for_ever())
        except PartFailed as error:
            say(f"error: {error}\nstopping everything")
            status = 1
        finally:
            clean = await self._stop_all()
        return status if clean else 1

    def _ports(self) -> list[Needed]:
        options, pixel, storage = self._options, self._pixel_config, self._storage_config
        return [
            Needed(broker.HOST, options.broker_port, "the local broker", "--broker-port"),
            Needed(pixel.http.host, pixel.http.port, "the pixel", f"http.port in {options.pixel_config}"),
            Needed(pixel.admin.host, pixel.admin.port, "the pixel's health", f"admin.port in {options.pixel_config}"),
            Needed(
                storage.admin.host, storage.admin.port, "storage's health", f"admin.port in {options.storage_config}"
            ),
            Needed(broker.HOST, options.demo_port, "the demo page", "--demo-port"),
        ]

    def _on_signal(self) -> None:
        if self._stop.is_set():
            for child in self._children():
                child.kill()
            say("killed")
            os._exit(130)
        self._stop.set()
        say("stopping: pixel, storage once the queue is empty, broker (press Ctrl-C again to end at once)")

    async def _start(self) -> bool:
        """Start the parts, each once the parts that it needs are ready; False if Ctrl-C was pressed before the end."""
        options = self._options
        self._make_folders()
        # The standard input of the broker closes when this process ends, even by SIGKILL. Then the broker ends too.
        self._broker = await Child.start(
            "broker",
            *("tracker.local", "broker", "--port", str(options.broker_port), "--until-stdin-closes"),
            environ=self._environ,
            stdin=asyncio.subprocess.PIPE,
        )
        if not await self._until(self._wait_ready(self._broker)):
            return False
        self._storage = await Child.start(
            "storage",
            *("tracker.storage", "--config", str(options.storage_config)),
            environ=self._environ,
            stdin=asyncio.subprocess.DEVNULL,
        )
        self._pixel = await Child.start(
            "pixel",
            *("tracker.pixel", "--config", str(options.pixel_config)),
            environ=self._environ,
            stdin=asyncio.subprocess.DEVNULL,
        )
        if not await self._until(self._wait_answer("storage", f"{self._storage_admin_url}/readyz")):
            return False
        if not await self._until(self._wait_answer("pixel", f"{self._pixel_admin_url}/readyz")):
            return False
        await self._start_demo()
        return True

    async def _start_demo(self) -> None:
        options = self._options
        demo = Demo(
            host=broker.HOST,
            port=options.demo_port,
            pixel_url=self._pixel_url,
            pixel_admin_url=self._pixel_admin_url,
            storage_admin_url=self._storage_admin_url,
            log_path=Path(self._storage_config.log.path),
        )
        try:
            await demo.start()
        except OSError as error:
            raise PartFailed(f"the demo page cannot listen on port {options.demo_port}: {error.strerror}") from error
        self._demo = demo

    def _make_folders(self) -> None:
        for folder in (Path(self._pixel_config.outbox.dir), Path(self._storage_config.log.path).parent):
            make_directory(folder, 0o750)

    async def _until(self, event: Coroutine[Any, Any, None]) -> bool:
        """Wait for `event`; False if Ctrl-C was pressed first. Raises PartFailed when a part ends before that."""
        waiting = asyncio.create_task(event)
        stop = asyncio.create_task(self._stop.wait())
        try:
            await asyncio.wait(
                [waiting, stop, *(child.ended for child in self._children())], return_when=asyncio.FIRST_COMPLETED
            )
            if self._stop.is_set():
                return False
            for child in self._children():
                if not child.running:
                    raise PartFailed(f"{child.name} {child.how_it_ended}")
            await waiting
            return True
        finally:
            waiting.cancel()
            stop.cancel()

    async def _wait_ready(self, child: Child) -> None:
        try:
            async with asyncio.timeout(READY_SECONDS):
                await child.ready.wait()
        except TimeoutError:
            raise PartFailed(f"{child.name} did not become ready within {READY_SECONDS:.0f} s") from None

    async def _wait_answer(self, name: str, url: str) -> None:
        give_up = time.monotonic() + READY_SECONDS
        reason = "it does not answer"
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=2)) as session:
            while time.monotonic() < give_up:
                with contextlib.suppress(aiohttp.ClientError, TimeoutError):
                    async with session.get(url) as answer:
                        if answer.status == 200:
                            return
                        reason = f"{url} answers {answer.status}: {(await answer.text())[:500]}"
                await asyncio.sleep(0.05)
        raise PartFailed(f"{name} did not become ready within {READY_SECONDS:.0f} s: {reason}")

    def _announce(self) -> None:
        log, outbox = self._storage_config.log.path, self._pixel_config.outbox.dir
        say(
            f"""
  demo page    http://{broker.HOST}:{self._options.demo_port}/
  pixel        {self._pixel_url}
  visit log    {log}    (tail -f {log})
  outbox       {outbox}
  health       {self._pixel_admin_url}/readyz    {self._storage_admin_url}/readyz
  metrics      {self._pixel_admin_url}/metrics    {self._storage_admin_url}/metrics
  SNS and SQS  {broker.endpoint(self._options.broker_port)}

  put it on a page:
  {embed_snippet(self._pixel_url)}

  Ctrl-C stops everything.
"""
        )

    async def _stop_all(self) -> bool:
        """Stop all parts in the order in which a visit passes them; returns whether each stopped cleanly."""
        clean = True
        if self._pixel is not None:
            clean &= await self._pixel.stop(self._pixel_config.shutdown.timeout + KILL_SECONDS)
        if self._storage is not None:
            if self._storage.running and self._broker is not None and self._broker.running:
                clean &= await self._drain()
            clean &= await self._storage.stop(self._storage_config.shutdown.timeout + KILL_SECONDS)
        if self._demo is not None:
            await self._demo.stop()
        if self._broker is not None:
            clean &= await self._broker.stop(KILL_SECONDS)
        if clean:
            say("stopped")
        return clean

    async def _drain(self) -> bool:
        """Wait until storage has deleted all messages from the queue; returns whether it has in time."""
        left = "an unknown number of"
        try:
            async with (
                asyncio.timeout(DRAIN_SECONDS),
                local_client("sqs", broker.endpoint(self._options.broker_port), broker.REGION) as sqs,
            ):
                url = (await sqs.get_queue_url(QueueName=QUEUE))["QueueUrl"]
                names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
                while left != "0":
                    answer = await sqs.get_queue_attributes(QueueUrl=url, AttributeNames=names)
                    left = str(sum(int(answer["Attributes"][name]) for name in names))
                    await asyncio.sleep(0.1)
        except TimeoutError:
            say(f"error: {left} messages are still in the queue; they are lost when the local broker ends")
            return False
        return True

    def _children(self) -> list[Child]:
        return [child for child in (self._broker, self._storage, self._pixel) if child is not None]

    @property
    def _pixel_url(self) -> str:
        http = self._pixel_config.http
        return address(http.host, http.port) + http.path

    @property
    def _pixel_admin_url(self) -> str:
        return address(self._pixel_config.admin.host, self._pixel_config.admin.port)

    @property
    def _storage_admin_url(self) -> str:
        return address(self._storage_config.admin.host, self._storage_config.admin.port)


def run(options: Options) -> int:
    return asyncio.run(Runner(options, os.environ).run())


async def _for_ever() -> None:
    await asyncio.Event().wait()


def say(text: str) -> None:
    print(text, flush=True)


def _local_only(environ: Mapping[str, str], endpoint_url: str) -> dict[str, str]:
    """The environment of the children, with the local broker as endpoint and without the user's own AWS settings."""
    kept = {name: value for name, value in environ.items() if not name.startswith("AWS_")}
    return {
        **kept,
        "AWS_ACCESS_KEY_ID": "local",
        "AWS_SECRET_ACCESS_KEY": "local",
        "AWS_REGION": broker.REGION,
        "AWS_DEFAULT_REGION": broker.REGION,
        "TRACKER_SNS__ENDPOINT_URL": endpoint_url,
        "TRACKER_SQS__ENDPOINT_URL": endpoint_url,
    }
