"""What S3 may answer, and what stands between it and the archiver: each error is named, and no log is lost or stuck."""

import asyncio
import shutil
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from aiohttp import web

from tests.archive.between import Call, Meddle, between, error
from tests.archive.closed import close, line, numbers
from tests.fake_aws.s3 import BUCKET, FakeS3
from tracker.archive.archiver import Archiver, Pass
from tracker.aws import bucket as bucket_module
from tracker.aws import open_bucket
from tracker.config import ArchiveConfig
from tracker.lifecycle import Backoff
from tracker.visit_log_files import archived_directory


@dataclass
class Site:
    """An archiver whose calls go through `meddle`. One client makes them all, because a client takes long to make."""

    log: Path
    s3: FakeS3
    meddle: Meddle = Call.forward
    made: list[str] = field(default_factory=list)
    archiver: Archiver | None = None

    async def archive(self) -> Pass:
        self.made.clear()
        assert self.archiver is not None
        return await self.archiver.run_once()

    async def answer(self, call: Call) -> web.StreamResponse:
        self.made.append(call.action)
        return await self.meddle(call)

    def begin_again(self) -> None:
        """Nothing is archived."""
        self.s3.objects.clear()
        shutil.rmtree(archived_directory(self.log))


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    """With two closed logs, of the visits 13 and 14."""
    log = tmp_path / "visits.log"
    for hour in (13, 14):
        close(log, line(hour), hour)
    with FakeS3() as s3:
        made = Site(log, s3)
        async with between(s3.url, made.answer) as url:
            config = ArchiveConfig(url=f"s3://{BUCKET}/a", endpoint_url=url, region="eu-west-1")
            async with open_bucket(config) as bucket:
                made.archiver = Archiver(log, bucket, config, Backoff(0.0, 0.0))
                yield made


# Of every call, or of puts alone: status, code.
OF_ALL_OBJECTS = [
    ("", 400, "ExpiredToken"),
    ("", 403, "InvalidAccessKeyId"),
    ("", 403, "SignatureDoesNotMatch"),
    ("", 403, "RequestTimeTooSkewed"),
    ("", 403, "AccessDenied"),  # also of a bucket where the requester pays
    ("Put", 403, "AccessDenied"),
    ("Put", 400, "KMS.DisabledException"),
    ("Put", 404, "NoSuchBucket"),
    ("Put", 400, "ExpiredToken"),
]


async def test_a_refusal_that_concerns_all_objects_is_named_and_ends_the_pass(site: Site) -> None:
    for of, status, code in OF_ALL_OBJECTS:

        async def meddle(call: Call, of: str = of, status: int = status, code: str = code) -> web.StreamResponse:
            return error(status, code) if of in call.action else await call.forward()

        site.meddle = meddle
        done = await site.archive()
        assert (done.archived, done.waiting, site.s3.objects) == (0, 2, {})
        assert [code in problem for problem in done.problems] == [True], (of, code)
        assert len(site.made) <= 3, (of, code)
    site.meddle = Call.forward
    assert await site.archive() == Pass(archived=2)
    assert site.made == ["HeadObject", "PutObject", "HeadObject"] * 2


async def test_a_reading_that_is_denied_is_named_though_the_reply_has_no_reason(site: Site) -> None:
    async def meddle(call: Call) -> web.StreamResponse:
        return error(403, "AccessDenied") if call.action == "HeadObject" else await call.forward()

    site.meddle = meddle
    done = await site.archive()
    assert (done.archived, done.waiting) == (0, 2)
    assert "s3:GetObject is denied for a/date=2026-11-24/visits.log.20261124T1" in done.problems[0]


async def test_a_refusal_of_one_object_holds_up_no_other(site: Site) -> None:
    """Such as an object of a stranger with this name that only his key can decrypt."""
    for of in ("Put", "Head"):

        async def meddle(call: Call, of: str = of) -> web.StreamResponse:
            if of in call.action and "T13" in call.request.path:
                return error(400, "InvalidRequest")
            return await call.forward() if call.action != "ListObjectsV2" else web.Response(text="<ListBucketResult/>")

        site.meddle = meddle
        done = await site.archive()
        assert (done.archived, done.waiting, numbers(site.s3.objects)) == (1, 1, [14])
        site.begin_again()


async def test_a_body_that_arrives_damaged_is_sent_again(site: Site) -> None:
    for code in ("BadDigest", "IncompleteBody", "RequestTimeout"):
        left = [3]

        async def meddle(call: Call, code: str = code, left: list[int] = left) -> web.StreamResponse:
            if call.action == "PutObject" and left[0]:
                left[0] -= 1
                return error(400, code)
            return await call.forward()

        site.meddle = meddle
        assert await site.archive() == Pass(archived=2)
        assert numbers(site.s3.objects) == [13, 14]
        site.begin_again()


async def test_a_bucket_of_another_region_is_found_there(site: Site) -> None:
    async def meddle(call: Call) -> web.StreamResponse:
        if "/us-east-2/s3/" in call.request.headers["Authorization"]:
            return await call.forward()
        reply = error(301, "PermanentRedirect")
        reply.headers["x-amz-bucket-region"] = "us-east-2"
        return reply

    site.meddle = meddle
    assert await site.archive() == Pass(archived=2)


async def test_a_redirect_to_another_host_is_not_followed(site: Site) -> None:
    async def meddle(call: Call) -> web.StreamResponse:
        return web.Response(status=307, headers={"Location": "http://127.0.0.1:9/"})

    site.meddle = meddle
    done = await site.archive()
    assert (done.archived, done.waiting) == (0, 2)
    assert "status 307, a redirect to 'http://127.0.0.1:9/', is not followed" in done.problems[0]


async def test_a_reply_that_trickles_in_is_given_up_in_time(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bucket_module, "BODY_SECONDS", 0.1)

    async def meddle(call: Call) -> web.StreamResponse:
        if call.action != "PutObject":
            return await call.forward()
        reply = web.StreamResponse(headers={"Content-Length": "1000000", "ETag": '"e"'})
        await reply.prepare(call.request)
        while True:
            await reply.write(b" ")
            await asyncio.sleep(0.01)

    site.meddle = meddle
    done = await site.archive()
    assert (done.archived, done.waiting) == (0, 2)
    assert "no reply in time" in done.problems[0]
