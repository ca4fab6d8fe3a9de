"""Objects that are put in parts: three parts and more go through sockets, to our fake of S3 and to moto."""

import asyncio
import itertools
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from aiohttp import web

from tests.archive.between import Call, Meddle, between, error
from tests.archive.closed import close, incompressible, numbers
from tests.fake_aws.s3 import BUCKET, FakeS3
from tests.ports import free_port
from tests.seam.method import LONG
from tracker.archive.archiver import Archiver, Pass
from tracker.aws import bucket as bucket_module
from tracker.aws import open_bucket
from tracker.config import ArchiveConfig
from tracker.lifecycle import Backoff
from tracker.local.provision import local_client
from tracker.visit_log_files import archived_directory

PART = 10_000  # of our fake; S3 and moto refuse parts of less than 5 MiB, but for the last
LINES = 1_000
CALLS = ["HeadObject", "CreateMultipartUpload", *["UploadPart"] * 4, "CompleteMultipartUpload", "HeadObject"]


@pytest.fixture
def log(tmp_path: Path) -> Path:
    log = tmp_path / "visits.log"
    close(log, b"".join(map(incompressible, range(LINES))))
    return log


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeS3]:
    monkeypatch.setattr(bucket_module, "PART_BYTES", PART)
    with FakeS3() as fake:
        yield fake


async def archive(log: Path, url: str) -> Pass:
    config = ArchiveConfig(url=f"s3://{BUCKET}/a", endpoint_url=url, region="us-east-1")
    async with open_bucket(config) as bucket:
        return await Archiver(log, bucket, config, Backoff(0.0, 0.0)).run_once()


async def meddled(log: Path, upstream: str, meddle: Meddle) -> Pass:
    async with between(upstream, meddle) as url:
        return await archive(log, url)


def assert_whole(s3: FakeS3) -> None:
    assert numbers(s3.objects) == list(range(LINES))
    assert len(s3.objects) == 1


def begin_again(log: Path, s3: FakeS3) -> None:
    """Nothing is archived."""
    s3.objects.clear()
    s3.uploads.clear()
    shutil.rmtree(archived_directory(log))


async def test_an_object_of_several_parts_is_whole(log: Path, s3: FakeS3) -> None:
    assert await archive(log, s3.url) == Pass(archived=1)
    assert s3.calls == CALLS
    assert_whole(s3)
    assert s3.uploads == {}


@pytest.mark.slow
async def test_whichever_call_fails_the_object_is_stored_once_and_no_upload_is_left(log: Path, s3: FakeS3) -> None:
    at, how, made = 0, "", 0

    async def meddle(call: Call) -> web.StreamResponse:
        nonlocal made
        made += 1
        if made != at:
            return await call.forward()
        if how == "200 with an error":
            return error(200 if call.request.method != "HEAD" else 500, "InternalError")
        if how == "lost reply":
            await call.forward()
        assert call.request.transport is not None
        call.request.transport.abort()
        return web.Response()

    config = ArchiveConfig(url=f"s3://{BUCKET}/a", region="us-east-1")
    async with between(s3.url, meddle) as url, open_bucket(msgspec.structs.replace(config, endpoint_url=url)) as bucket:
        for how in ("lost reply", "200 with an error", "cut")[: 3 if LONG else 2]:
            for at in range(1, len(CALLS) + 1) if LONG else (2, 4, 7, 8):
                made = 0
                assert await Archiver(log, bucket, config, Backoff(0.0, 0.0)).run_once() == Pass(archived=1), (how, at)
                assert_whole(s3)
                # A creation whose reply was lost leaves an upload without parts, which nobody knows.
                assert [upload for upload in s3.uploads.values() if upload.bodies] == [], (how, at)
                begin_again(log, s3)


async def test_a_completion_that_answers_200_with_an_error_is_a_failure(log: Path, s3: FakeS3) -> None:
    async def meddle(call: Call) -> web.StreamResponse:
        return error(200, "InternalError") if call.action == "CompleteMultipartUpload" else await call.forward()

    done = await meddled(log, s3.url, meddle)
    assert (done.archived, done.waiting, s3.objects, s3.uploads) == (0, 1, {}, {})
    assert "InternalError" in done.problems[0]


@pytest.mark.parametrize("action", ["UploadPart", "CompleteMultipartUpload"])
async def test_an_upload_that_somebody_has_aborted_is_begun_again(log: Path, s3: FakeS3, action: str) -> None:
    async def meddle(call: Call) -> web.StreamResponse:
        if call.action == action and s3.calls.count("CreateMultipartUpload") == 1:
            s3.uploads.clear()
        return await call.forward()

    assert (await meddled(log, s3.url, meddle)) == Pass(archived=1)
    assert_whole(s3)


async def test_an_object_that_appears_before_the_completion_is_compared(log: Path, s3: FakeS3) -> None:
    """Another machine with the same log was faster: 412."""
    assert await archive(log, s3.url) == Pass(archived=1)
    first = dict(s3.objects)
    begin_again(log, s3)

    async def meddle(call: Call) -> web.StreamResponse:
        if call.action == "CompleteMultipartUpload":
            s3.objects.update(first)
        return await call.forward()

    assert await meddled(log, s3.url, meddle) == Pass(archived=1)
    assert (s3.objects, s3.uploads) == (first, {})


async def test_a_part_that_arrives_damaged_is_refused_by_its_checksum_and_sent_again(log: Path, s3: FakeS3) -> None:
    damaged: list[str] = []

    async def meddle(call: Call) -> web.StreamResponse:
        if call.action == "UploadPart" and not damaged:
            sent = call.request.headers["x-amz-checksum-crc32"]
            damaged.append(sent)
            return error(400, "BadDigest")  # as S3 answers when the body has another CRC-32 than it says
        return await call.forward()

    assert await meddled(log, s3.url, meddle) == Pass(archived=1)
    assert damaged
    assert_whole(s3)


async def test_an_upload_that_cannot_be_aborted_is_named(
    log: Path, s3: FakeS3, caplog: pytest.LogCaptureFixture
) -> None:
    async def meddle(call: Call) -> web.StreamResponse:
        refused = call.action in ("CompleteMultipartUpload", "AbortMultipartUpload")
        return error(403, "AccessDenied") if refused else await call.forward()

    assert (await meddled(log, s3.url, meddle)).archived == 0
    [upload] = s3.uploads
    assert (
        f"upload_left key=a/date=2026-11-24/visits.log.20261124T130000.000000Z.parquet upload={upload} " in caplog.text
    )


KILLED = """
import asyncio, sys
from pathlib import Path
from tests.archive.test_parts import PART, archive
from tracker.aws import bucket
bucket.PART_BYTES = PART
asyncio.run(archive(Path(sys.argv[1]), sys.argv[2]))
"""


@pytest.mark.slow
async def test_whichever_call_is_the_last_of_the_process_the_next_one_stores_the_object_once(
    log: Path, s3: FakeS3
) -> None:
    """Before the call is made, and after it was performed."""
    every = itertools.product(range(1, len(CALLS) + 1), (False, True))
    for at, performed in every if LONG else [(4, False)]:
        assert await _killed_at(log, s3, at, performed) == -signal.SIGKILL
        assert len(s3.uploads) <= 1  # what a rule of the bucket removes later
        assert await archive(log, s3.url) == Pass(archived=1)
        assert_whole(s3)
        begin_again(log, s3)


async def _killed_at(log: Path, s3: FakeS3, at: int, performed: bool) -> int | None:
    """The end of a process that is killed at call number `at`."""
    made = 0

    async def meddle(call: Call) -> web.StreamResponse:
        nonlocal made
        made += 1
        if made == at:
            if performed:
                await call.forward()
            process.kill()
        return await call.forward() if made < at else error(500, "InternalError")

    async with between(s3.url, meddle) as url:
        process = await asyncio.create_subprocess_exec(sys.executable, "-c", KILLED, str(log), url)
        return await process.wait()


MEASURED = """
import asyncio, re, sys
from pathlib import Path
from tracker.aws import open_bucket
from tracker.config import ArchiveConfig

def peak():
    return int(re.search(r"VmHWM:\\s+([0-9]+)", Path("/proc/self/status").read_text())[1])

async def main():
    async with open_bucket(ArchiveConfig(url="s3://archive", endpoint_url=sys.argv[1], region="eu-west-1")) as bucket:
        await bucket.digest("key")
        before = peak()
        await bucket.put("key", Path(sys.argv[2]), "digest")
        print(peak() - before)

asyncio.run(main())
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="/proc shows the largest resident size")
def test_an_upload_takes_the_memory_of_its_parts_and_not_of_the_object(tmp_path: Path) -> None:
    file = tmp_path / "object"
    with file.open("wb") as sparse:
        sparse.truncate(160 << 20)
    with FakeS3() as fake:
        command = [sys.executable, "-c", MEASURED, fake.url, str(file)]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        assert len(fake.objects["key"].body) == 160 << 20
    assert int(done.stdout) < 80 << 10  # KiB: a part is held while the next one is read, and in the socket's buffers


@pytest.mark.slow
async def test_moto_takes_parts_of_the_smallest_size_that_s3_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bucket_module, "PART_BYTES", 5 << 20)
    server = pytest.importorskip("moto.server").ThreadedMotoServer(
        ip_address="127.0.0.1", port=free_port(), verbose=False
    )
    file = tmp_path / "object"
    file.write_bytes(os.urandom(11 << 20))
    server.start()
    try:
        url = f"http://127.0.0.1:{server.get_host_and_port()[1]}"
        config = ArchiveConfig(url=f"s3://{BUCKET}", endpoint_url=url, region="us-east-1")
        async with local_client("s3", url, "us-east-1") as client, open_bucket(config) as bucket:
            await client.create_bucket(Bucket=BUCKET)
            await bucket.put("key", file, "digest")
            assert await bucket.digest("key") == "digest"
            reply = await client.get_object(Bucket=BUCKET, Key="key")
            assert await reply["Body"].read() == file.read_bytes()
            await bucket.put("key", file, "another")  # which exists: no error, and no change
            assert await bucket.digest("key") == "digest"
            assert "Uploads" not in await client.list_multipart_uploads(Bucket=BUCKET)
    finally:
        server.stop()
