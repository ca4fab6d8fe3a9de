"""`make run`: the whole system from one command, with the same processes as in production.

1. All ports must be free. The demo page, which runs in this process, takes its port first: from then on a second
   `make run` finds out who has the ports.
2. The broker is started, then storage, the pixel and, if there is one, the archive, once the broker is ready. Each is a
   child process in a session of its own, so only this process receives Ctrl-C. Each ends when this process is killed
   (`guarded`).
3. A part that ends by itself stops everything. Its last lines are shown again, at the end.
4. Ctrl-C stops the parts in the order in which a visit passes them. The pixel publishes what it has. Storage appends
   what is in the queue. The archive ends after storage, which closes logs. The broker ends last, because the queue and
   the bucket are in its memory.
"""

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import aiohttp
from botocore.exceptions import BotoCoreError

from tracker.errors import TrackerError
from tracker.files import make_directory
from tracker.local import broker
from tracker.local.announcement import announcement
from tracker.local.child import Child
from tracker.local.demo import RUN_PATH, Demo
from tracker.local.local_archive import remove_markers
from tracker.local.plan import Plan
from tracker.local.ports import PortInUse, check_free
from tracker.local.provision import local_client
from tracker.operations.provision import QUEUE
from tracker.start import SIGNALS

READY_SECONDS = 60.0  # within which each part must be ready
DRAIN_SECONDS = 10.0  # within which storage must have emptied the queue
KILL_SECONDS = 5.0  # after its own shutdown.timeout a service is killed
PORT_STEP = 1000  # between two systems on one machine, as it is proposed


class PartFailed(TrackerError):
    """A part ended by itself, or did not become ready."""


class Runner:
    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._stop = asyncio.Event()
        self._broker: Child | None = None
        self._storage: Child | None = None
        self._pixel: Child | None = None
        self._archive: Child | None = None
        self._demo = Demo(
            host=broker.HOST,
            port=plan.demo_port,
            pixel_url=plan.pixel_url,
            page_parameter=plan.pixel.http.page_parameter,
            pixel_admin_url=plan.pixel_admin_url,
            storage_admin_url=plan.storage_admin_url,
            archive_admin_url=plan.archive_admin_url,
            log_path=Path(plan.storage.log.path),
        )

    async def run(self) -> int:
        """Run until Ctrl-C; returns the exit status. Raises PortInUse."""
        loop = asyncio.get_running_loop()
        for number in SIGNALS:
            loop.add_signal_handler(number, self._on_signal)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)  # blocked since `start.prepare_service`
        await self._take_ports()
        status = 0
        try:
            if await self._start():
                say(announcement(self._plan))
                await self._until(_for_ever())
        except (PartFailed, OSError) as error:
            say(f"error: {error}\nstopping everything")
            status = 1
        finally:
            clean = await self._stop_all()
        return status if clean else 1

    async def _take_ports(self) -> None:
        """Raises PortInUse, with the ports, with the system that has them, and with a command that chooses others."""
        try:
            check_free(self._plan.ports())
            await self._demo.start()
        except (PortInUse, OSError) as error:
            await self._demo.stop()
            raise PortInUse(f"{error}\n{await self._other_run()}") from error

    async def _other_run(self) -> str:
        beside = f'make run ARGS="--port-offset {self._plan.offset + PORT_STEP}"'
        with contextlib.suppress(aiohttp.ClientError, TimeoutError, ValueError, TypeError, KeyError):
            timeout = aiohttp.ClientTimeout(total=2)
            async with (
                aiohttp.ClientSession(timeout=timeout, raise_for_status=True) as session,
                session.get(self._plan.demo_url + RUN_PATH) as answer,
            ):
                other = await answer.json()
                return (
                    f"`make run` is running already: in {other['folder']}, process {other['pid']}, demo page "
                    f"{self._plan.demo_url}. Stop it with Ctrl-C there, or start another one beside it, with ports and "
                    f"a folder of its own: {beside}"
                )
        return f"all ports can be chosen by one option, together with another folder for the data: {beside}"

    def _on_signal(self) -> None:
        if self._stop.is_set():
            for child in self._children():
                child.kill()
            say("killed")
            os._exit(130)
        self._stop.set()
        archive = "archive, " if self._archive is not None else ""
        say(f"stopping: pixel, storage once the queue is empty, {archive}broker (press Ctrl-C again to end at once)")

    async def _start(self) -> bool:
        """Start the parts, each once the parts that it needs are ready; False if Ctrl-C was pressed before the end."""
        plan, options = self._plan, self._plan.options
        for folder in plan.folders:
            make_directory(folder, 0o750)
        if plan.bucket:
            remove_markers(Path(plan.storage.log.path))
        bucket = ["--bucket", plan.bucket] if plan.bucket else []
        self._broker = await Child.start(
            "broker", "tracker.local", "broker", "--port", str(plan.broker_port), *bucket, environ=plan.pixel_environ
        )
        if not await self._until(self._wait_ready(self._broker)):
            return False
        self._storage = await Child.start(
            "storage", "tracker.storage", "--config", str(options.storage_config), environ=plan.storage_environ
        )
        self._pixel = await Child.start(
            "pixel", "tracker.pixel", "--config", str(options.pixel_config), environ=plan.pixel_environ
        )
        if plan.bucket:
            self._archive = await Child.start(
                *("archive", "tracker.cli", "archive", "--config", str(options.storage_config)),
                *("--follow", "--admin", plan.archive_admin),
                environ=plan.storage_environ,
            )
        return await self._until(self._wait_services())

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
                    raise PartFailed(await child.how_it_ended())
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

    async def _wait_services(self) -> None:
        await self._wait_answer("storage", f"{self._plan.storage_admin_url}/readyz")
        await self._wait_answer("pixel", f"{self._plan.pixel_admin_url}/readyz")
        if self._archive is not None:  # its first pass may take long: it archives every closed log of earlier runs
            await self._wait_answer("archive", f"{self._plan.archive_admin_url}/healthz")

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

    async def _stop_all(self) -> bool:
        """Stop all parts in the order in which a visit passes them; returns whether each stopped cleanly."""
        clean = True
        if self._pixel is not None:
            clean &= await self._pixel.stop(self._plan.pixel.shutdown.timeout + KILL_SECONDS)
        if self._storage is not None:
            if self._storage.running and self._broker is not None and self._broker.running:
                clean &= await self._drain()
            clean &= await self._storage.stop(self._plan.storage.shutdown.timeout + KILL_SECONDS)
        if self._archive is not None:
            clean &= await self._archive.stop(self._plan.storage.shutdown.timeout + KILL_SECONDS)
            with contextlib.suppress(OSError):  # the next run removes what is left
                remove_markers(Path(self._plan.storage.log.path))
        await self._demo.stop()
        if self._broker is not None and self._broker.ready.is_set():
            clean &= await self._broker.stop(KILL_SECONDS)
        elif self._broker is not None:  # it imports moto, which takes seconds on a busy machine, and holds nothing yet
            self._broker.kill()
            await self._broker.ended
        if clean:
            say("stopped")
        return clean

    async def _drain(self) -> bool:
        """Wait until storage has deleted all messages from the queue; returns whether it has in time."""
        left = "an unknown number of"
        try:
            async with (
                asyncio.timeout(DRAIN_SECONDS),
                local_client("sqs", self._plan.endpoint, broker.REGION) as sqs,
            ):
                url = (await sqs.get_queue_url(QueueName=QUEUE))["QueueUrl"]
                names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
                while left != "0":
                    answer = await sqs.get_queue_attributes(QueueUrl=url, AttributeNames=names)
                    left = str(sum(int(answer["Attributes"][name]) for name in names))
                    await asyncio.sleep(0.1)
        except (TimeoutError, BotoCoreError):  # the broker may end meanwhile
            say(f"error: {left} messages are still in the queue; they are lost when the local broker ends")
            return False
        return True

    def _children(self) -> list[Child]:
        return [child for child in (self._broker, self._storage, self._pixel, self._archive) if child is not None]


def run(plan: Plan) -> int:
    return asyncio.run(Runner(plan).run())


async def _for_ever() -> None:
    await asyncio.Event().wait()


def say(text: str) -> None:
    print(text, flush=True)
