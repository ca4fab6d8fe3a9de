"""For each test a topic, queues and configurations of its own, on the one local broker of the test process."""

import argparse
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from aiohttp import ClientSession, web

from tests.ports import free_port
from tests.system.processes import Broker, Config, merged, write_config
from tracker.local.provision import local_client
from tracker.operations.doctor import examine
from tracker.operations.findings import Finding, Report
from tracker.operations.provision import Names, Provisioned, provision

REGION = "eu-west-1"


@dataclass(frozen=True, kw_only=True)
class Bench:
    """What a doctor looks at: configurations in `folder`, and what `made` names at the broker."""

    folder: Path
    endpoint: str
    names: Names
    made: Provisioned
    sns: Any
    sqs: Any

    @property
    def dead_letter_queue(self) -> str:
        return self.made.dead_letter_queue_url.rpartition("/")[2]

    def pixel_config(self, override: Config | None = None) -> Path:
        base: Config = {
            "http": {"host": "127.0.0.1", "port": free_port()},
            "admin": {"port": free_port()},
            "outbox": {"dir": str(self.folder / "outbox")},
            "sns": {"topic_arn": self.made.topic_arn, "endpoint_url": self.endpoint},
        }
        return write_config(self.folder / "pixel.yaml", merged(base, override or {}))

    def storage_config(self, override: Config | None = None) -> Path:
        base: Config = {
            "sqs": {"queue": self.names.queue, "region": REGION, "endpoint_url": self.endpoint, "wait_time": 1},
            "admin": {"port": free_port()},
            "log": {"path": str(self.folder / "visits.log")},
        }
        return write_config(self.folder / "storage.yaml", merged(base, override or {}))

    async def doctor(
        self, *, pixel: Path | None = None, storage: Path | None = None, canary: bool = False
    ) -> list[Finding]:
        """What is found; a canary is followed for a second."""
        options = argparse.Namespace(pixel=pixel, storage=storage, no_canary=not canary, url=None, within=1.0)
        report = Report()
        await examine(options, {}, report)
        return report.findings


@pytest.fixture
async def bench(broker: Broker, tmp_path: Path) -> AsyncIterator[Bench]:
    mark = uuid4().hex[:12]
    names = Names(topic=f"tracking-{mark}", queue=f"visits-{mark}", dead_letter_queue=f"visits-dlq-{mark}")
    async with (
        local_client("sns", broker.endpoint, REGION) as sns,
        local_client("sqs", broker.endpoint, REGION) as sqs,
    ):
        made = await provision(sns, sqs, names)
        yield Bench(folder=tmp_path, endpoint=broker.endpoint, names=names, made=made, sns=sns, sqs=sqs)


Intervene = Callable[[str], web.Response | None]


@asynccontextmanager
async def proxy(
    behind: str, *, intervene: Intervene = lambda action: None, date: str | None = None
) -> AsyncIterator[str]:
    """An AWS between doctor and broker that answers some actions itself, and may have a clock of its own."""

    async def handle(request: web.Request) -> web.Response:
        body = await request.read()
        target = request.headers.get("X-Amz-Target", "").rpartition(".")[2]
        action = target or dict(pair.split("=", 1) for pair in body.decode().split("&"))["Action"]
        headers = {"Date": date} if date else {}
        if (answer := intervene(action)) is not None:
            answer.headers.update(headers)
            return answer
        keep = {name: value for name, value in request.headers.items() if name.lower() != "content-length"}
        async with session.post(behind, data=body, headers=keep) as reply:
            kind = {"Content-Type": reply.headers.get("Content-Type", "text/xml")}
            return web.Response(status=reply.status, body=await reply.read(), headers={**kind, **headers})

    app = web.Application()
    app.router.add_post("/{path:.*}", handle)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    port = free_port()
    async with ClientSession() as session:
        await web.TCPSite(runner, "127.0.0.1", port).start()
        try:
            yield f"http://127.0.0.1:{port}"
        finally:
            await runner.cleanup()
