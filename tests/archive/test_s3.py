"""The archive over HTTP: our fake of S3 with its faults, and moto's S3, with the real client and the real command."""

import asyncio
import gzip
import random
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from tests.archive.closed import NOON, close, line, malformed, numbers
from tests.fake_aws.faults import AFTER, BEFORE, pairs
from tests.fake_aws.s3 import BUCKET, FakeS3
from tests.launched import Launched
from tests.ports import free_port
from tests.seam.method import LONG, SEED
from tests.system.processes import write_config
from tests.waiting import until
from tracker.archive.archiver import Archiver, Pass
from tracker.aws import bucket as bucket_module
from tracker.aws import open_bucket
from tracker.cli import main
from tracker.config import ArchiveConfig
from tracker.errors import AwsUnreachable
from tracker.lifecycle import Backoff
from tracker.local.provision import local_client
from tracker.visit_log_files import archived_marker, compressed_path

CALLS = ["HeadObject", "PutObject", "CreateMultipartUpload", "UploadPart", "CompleteMultipartUpload"]


@pytest.fixture
def s3() -> Iterator[FakeS3]:
    with FakeS3() as fake:
        yield fake


def config(log: Path, s3: FakeS3) -> Path:
    sections: dict[str, Any] = {
        "sqs": {"queue": "visits"},
        "log": {"path": str(log)},
        "archive": {"url": f"s3://{BUCKET}/a", "endpoint_url": s3.url, "region": "eu-west-1"},
    }
    return write_config(log.parent.parent / "storage.yaml", sections)


async def archive(log: Path, url: str, prefix: str = "a") -> Pass:
    settings = ArchiveConfig(url=f"s3://{BUCKET}/{prefix}", endpoint_url=url, region="eu-west-1")
    async with open_bucket(settings) as bucket:
        return await Archiver(log, bucket, settings, Backoff(0.0, 0.0)).run_once()


async def test_a_small_object_is_put_in_one_call_and_seen_to_be_there(log: Path, s3: FakeS3) -> None:
    close(log, line(1) + b"odd\n")
    assert await archive(log, s3.url) == Pass(archived=1)
    assert s3.calls == ["HeadObject", "PutObject", "HeadObject"] * 2
    assert numbers(s3.objects) == [1]
    assert malformed(s3.objects) == [b"2 odd\n"]


async def test_odd_names_arrive_as_they_are(log: Path, s3: FakeS3) -> None:
    closed = close(log.with_name("visits & Besuche, täglich.log"), line(1))
    assert await archive(log.with_name("visits & Besuche, täglich.log"), s3.url, "a..b/.c/(e)*!'=1") == Pass(archived=1)
    assert list(s3.objects) == [f"a..b/.c/(e)*!'=1/date=2026-11-24/{closed.name}.parquet"]


@pytest.mark.slow
@pytest.mark.parametrize(("action", "kind"), pairs(CALLS, every=LONG))
async def test_an_object_is_stored_once_whichever_call_fails_and_however(
    log: Path, s3: FakeS3, action: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if "Put" not in action:
        monkeypatch.setattr(bucket_module, "PART_BYTES", 400)
    lines = [line(number) for number in range(20)]
    closed = close(log, b"".join(lines))
    s3.faults.inject(kind, action, times=3)  # more often than botocore tries
    assert await archive(log, s3.url) == Pass(archived=1)
    assert s3.faults.injected[kind]
    assert numbers(s3.objects) == list(range(20))
    assert archived_marker(log, closed).exists()
    assert list(s3.objects) == [f"a/date=2026-11-24/{closed.name}.parquet"]


async def test_an_upload_in_parts_that_fails_is_aborted(log: Path, s3: FakeS3, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bucket_module, "PART_BYTES", 400)
    close(log, line(1))
    s3.faults.inject("error", "UploadPart")
    done = await archive(log, s3.url)
    assert (done.archived, done.waiting) == (0, 1)
    assert (s3.uploads, s3.objects) == ({}, {})
    s3.faults.clear()
    assert await archive(log, s3.url) == Pass(archived=1)
    assert s3.uploads == {}


async def test_two_that_upload_the_same_object_in_parts_make_one(
    log: Path, s3: FakeS3, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bucket_module, "PART_BYTES", 400)
    copy = log.parent / "copy of the machine" / log.name
    copy.parent.mkdir()
    for each in (log, copy):
        close(each, b"".join(map(line, range(20))))
    done = await asyncio.gather(archive(log, s3.url), archive(copy, s3.url))
    assert list(done) == [Pass(archived=1), Pass(archived=1)]
    assert numbers(s3.objects) == list(range(20))


async def test_refused_credentials_are_reported_at_once_and_used_again_in_the_next_pass(log: Path, s3: FakeS3) -> None:
    close(log, line(1))
    s3.refuse = 403, "ExpiredToken"
    done = await archive(log, s3.url)
    assert (done.archived, done.waiting) == (0, 1)
    s3.refuse = None
    assert await archive(log, s3.url) == Pass(archived=1)


async def test_an_answer_that_is_not_from_s3_stores_nothing(log: Path) -> None:
    """A portal on the way answers everything with 200."""
    close(log, line(1))

    async def answer(request: web.Request) -> web.Response:
        return web.Response(text="<html>Welcome</html>", content_type="text/html")

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    port = free_port()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    try:
        done = await archive(log, f"http://127.0.0.1:{port}")
        assert (done.archived, done.waiting) == (0, 1)
    finally:
        await runner.cleanup()


async def test_a_missing_bucket_and_a_closed_port_are_errors_of_the_right_kind() -> None:
    nowhere = ArchiveConfig(url=f"s3://{BUCKET}", endpoint_url=f"http://127.0.0.1:{free_port()}", region="eu-west-1")
    async with open_bucket(nowhere) as bucket:
        with pytest.raises(AwsUnreachable):
            await bucket.digest("key")


def test_the_command_says_by_its_status_what_it_found(
    log: Path, s3: FakeS3, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["archive", "--config", str(config(log, s3))]
    closed = close(log, line(1))
    assert main(command) == 0
    assert "1 closed logs archived, 0 waiting" in capsys.readouterr().err
    archived_marker(log, closed).unlink()
    closed.write_bytes(line(2))
    assert main(command) == 1
    s3.refuse = 403, "AccessDenied"
    assert main(command) == 3
    assert main([*command, "--admin", "127.0.0.1:8083"]) == 2
    with pytest.raises(SystemExit, match="2"):
        main([*command, "--follow", "--admin", "nowhere"])
    monkeypatch.setenv("TRACKER_ARCHIVE__URL", "null")
    assert main(command) == 78


@pytest.mark.slow
async def test_following_archives_what_is_closed_and_shows_it(log: Path, s3: FakeS3) -> None:
    port = free_port()
    close(log, line(1))
    with follow(log, s3, port) as running:
        marker = archived_marker(log, close(log, line(1)))
        await until(marker.exists, 60)
        async with aiohttp.ClientSession() as session:
            async with session.get(f"http://127.0.0.1:{port}/metrics") as answer:
                assert "tracker_archive_logs_archived_total 1.0" in await answer.text()
            async with session.get(f"http://127.0.0.1:{port}/readyz") as answer:
                assert answer.status in (200, 503)  # 503 until the end of the first pass
        running.signal(signal.SIGTERM)
        assert running.wait(20) == 0


def follow(log: Path, s3: FakeS3, port: int) -> Launched:
    """The command, in a process."""
    command = [sys.executable, "-m", "tracker.cli", "archive", "--config", str(config(log, s3)), "--follow"]
    return Launched(
        [*command, "--admin", f"127.0.0.1:{port}"],
        output_file=log.parent.parent / "archive.txt",
        home=log.parent.parent,
    )


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(SEED, SEED + (50 if LONG else 1)))
async def test_a_siege_of_kills_while_logs_close_and_are_compressed(log: Path, s3: FakeS3, seed: int) -> None:
    """Kills, faults of S3 and compressions at random times; afterwards every line is in exactly one place."""
    chance = random.Random(seed)
    log.write_bytes(line(0))
    for kind in (*BEFORE, *AFTER):
        s3.faults.inject(kind, chance=0.1)
    number, hour = 1, 0
    for _ in range(6 if LONG else 4):
        with follow(log, s3, free_port()) as running:
            for _ in range(chance.randrange(1, 3)):
                count = chance.randrange(1, 3_000)
                closed = close(log, b"".join(line(each) for each in range(number, number + count)), hour)
                number, hour = number + count, hour + 1
                await asyncio.sleep(chance.uniform(0, 2))
                if chance.random() < 0.5:
                    packed = compressed_path(closed)
                    packed.write_bytes(gzip.compress(closed.read_bytes()))
                    closed.unlink()
            await asyncio.sleep(chance.uniform(0, 1))
            running.signal(signal.SIGKILL)
            running.wait(20)
    s3.faults.clear()
    done = await archive(log, s3.url)
    assert (done.problems, done.waiting) == ([], 0)
    assert numbers(s3.objects) == list(range(1, number)), f"TRACKER_SEED={seed}"


@pytest.mark.slow
async def test_moto_keeps_the_archive_as_well(log: Path) -> None:
    """What the local broker of `make run` does: an object that exists is not replaced."""
    server = pytest.importorskip("moto.server").ThreadedMotoServer(
        ip_address="127.0.0.1", port=free_port(), verbose=False
    )
    server.start()
    try:
        url = f"http://127.0.0.1:{server.get_host_and_port()[1]}"
        async with local_client("s3", url, "us-east-1") as client:
            await client.create_bucket(Bucket=BUCKET)
            closed = close(log, b"".join(line(number, NOON) for number in range(10)))
            assert await archive(log, url) == Pass(archived=1)
            archived_marker(log, closed).unlink()
            assert await archive(log, url) == Pass(archived=1)
            closed.write_bytes(line(1))
            archived_marker(log, closed).unlink()
            assert (await archive(log, url)).conflicts == 1
    finally:
        server.stop()
