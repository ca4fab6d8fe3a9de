"""The simplest pixel, to compare with: an aiohttp Application that publishes each hit to SNS in the background.

The comparison is fair: it has uvloop, one long-lived client and an ordinary Response. Start it by
`python -m benchmarks.naive PORT ENDPOINT`.
"""

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from datetime import UTC, datetime

import uvloop
from aiobotocore.session import get_session
from aiohttp import web

TOPIC = "arn:aws:sns:us-east-1:000000000000:tracking"
GIF = bytes.fromhex("47494638396101000100800000000000ffffff21f90401000000002c00000000010001000002024401003b")


def application(endpoint: str) -> web.Application:
    publishing: set[asyncio.Task[None]] = set()
    app = web.Application()
    sns = web.AppKey("sns", object)

    async def client(app: web.Application) -> AsyncIterator[None]:
        async with get_session().create_client(
            "sns",
            region_name="us-east-1",
            endpoint_url=endpoint,
            aws_access_key_id="local",
            aws_secret_access_key="local",
        ) as made:
            app[sns] = made
            yield

    async def publish(message: str) -> None:
        attributes = {"Type": {"DataType": "String", "StringValue": "Visit"}}
        await app[sns].publish(TopicArn=TOPIC, Message=message, MessageAttributes=attributes)  # type: ignore[attr-defined]

    async def track(request: web.Request) -> web.Response:
        visit = {
            "Referer": request.headers.get("Referer"),
            "UserAgent": request.headers.get("User-Agent"),
            "IpAddress": request.remote,
            "VisitedAt": datetime.now(UTC).isoformat(),
        }
        task = asyncio.create_task(publish(json.dumps(visit)))
        publishing.add(task)
        task.add_done_callback(publishing.discard)
        return web.Response(body=GIF, content_type="image/gif", headers={"Cache-Control": "no-store"})

    app.cleanup_ctx.append(client)
    app.router.add_get("/track", track)
    return app


if __name__ == "__main__":
    uvloop.install()
    web.run_app(application(sys.argv[2]), host="127.0.0.1", port=int(sys.argv[1]), access_log=None, print=None)
