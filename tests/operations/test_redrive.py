"""The redrive: everything comes back as it was, nothing is lost on the way, and storage makes lines of it once."""

import asyncio

import pytest

from tests.system.processes import Service
from tracker import cli
from tracker.core.message import pack
from tracker.core.visit import encode_line
from tracker.errors import TrackerError
from tracker.operations.provision import provision
from tracker.operations.redrive import redrive

from .conftest import REGION, Bench, proxy

JOURNAL = "0123456789abcdef" * 2


async def bury(bench: Bench, body: str, **attributes: str) -> None:
    """Put a message into the dead-letter queue."""
    typed = {name: {"DataType": "String", "StringValue": value} for name, value in attributes.items()}
    url = bench.made.dead_letter_queue_url
    await bench.sqs.send_message(QueueUrl=url, MessageBody=body, MessageAttributes=typed)


async def waiting(bench: Bench, url: str) -> int:
    names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
    answer = await bench.sqs.get_queue_attributes(QueueUrl=url, AttributeNames=names)
    return sum(int(value) for value in answer["Attributes"].values())


async def test_what_the_dead_letter_queue_held_becomes_lines_once(bench: Bench) -> None:
    lines = [encode_line("2026-11-24T10:00:00.000000+00:00", f"https://a/{n}", None, "192.0.2.1") for n in range(25)]
    start = 0
    for line in lines:
        message = pack(JOURNAL, start, line, compress=False)
        await bury(bench, message.body, **message.attributes)
        start += len(line)
    arguments = ["redrive", "--region", REGION, "--endpoint-url", bench.endpoint, "--queue", bench.names.queue]
    arguments += ["--dead-letter-queue", bench.dead_letter_queue]
    assert await asyncio.to_thread(cli.main, [*arguments, "--most", "3"]) == 0
    assert await waiting(bench, bench.made.queue_url) == 3
    assert await asyncio.to_thread(cli.main, arguments) == 0
    assert await waiting(bench, bench.made.dead_letter_queue_url) == 0

    storage = Service("tracker.storage", bench.storage_config(), bench.folder, None, 0, 0)
    log = bench.folder / "visits.log"
    try:
        storage.wait_alive(lambda: log.exists() and log.read_text().count("\n") >= 25, "25 lines")
    finally:
        storage.destroy()
    assert {line.split("|")[1] for line in log.read_text().splitlines()} == {f"https://a/{n}" for n in range(25)}
    assert log.read_text().count("\n") == 25


async def test_what_the_queue_does_not_take_stays_where_it_is(bench: Bench) -> None:
    await bury(bench, "a visit", Type="Visit")

    class Refusing:
        """The queue, full of reasons."""

        async def send_message_batch(self, **call: object) -> dict[str, object]:
            return {"Failed": [{"Id": "0", "Code": "InternalError", "SenderFault": False}]}

        def __getattr__(self, name: str) -> object:
            return getattr(bench.sqs, name)

    with pytest.raises(TrackerError, match="1 messages stay in the dead-letter queue: InternalError"):
        await redrive(Refusing(), source=bench.made.dead_letter_queue_url, target=bench.made.queue_url)
    assert await waiting(bench, bench.made.dead_letter_queue_url) == 1
    assert await waiting(bench, bench.made.queue_url) == 0


async def test_attributes_of_every_kind_are_kept(bench: Bench) -> None:
    typed = {
        "Type": {"DataType": "String", "StringValue": "Visit"},
        "Size": {"DataType": "Number", "StringValue": "7"},
        "Raw": {"DataType": "Binary", "BinaryValue": b"\x00\xff"},
    }
    url = bench.made.dead_letter_queue_url
    await bench.sqs.send_message(QueueUrl=url, MessageBody="body", MessageAttributes=typed)
    assert await redrive(bench.sqs, source=url, target=bench.made.queue_url) == 1
    answer = await bench.sqs.receive_message(QueueUrl=bench.made.queue_url, MessageAttributeNames=["All"])
    [message] = answer["Messages"]
    assert message["Body"] == "body"
    assert message["MessageAttributes"] == typed


async def test_a_queue_that_is_not_there_is_named(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["redrive", "--region", REGION, "--endpoint-url", bench.endpoint, "--dead-letter-queue", "nowhere"]
    assert await asyncio.to_thread(cli.main, arguments) == 3
    assert "--dead-letter-queue" in capsys.readouterr().err


async def test_a_redrive_that_aws_forbids_says_so(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    from aiohttp import web

    def forbid(action: str) -> web.Response | None:
        if action != "ReceiveMessage":
            return None
        return web.json_response({"__type": "AccessDeniedException", "message": "No."}, status=403)

    async with proxy(bench.endpoint, intervene=forbid) as endpoint:
        arguments = ["redrive", "--region", REGION, "--endpoint-url", endpoint, "--queue", bench.names.queue]
        arguments += ["--dead-letter-queue", bench.dead_letter_queue]
        assert await asyncio.to_thread(cli.main, arguments) == 3
    assert "AccessDenied" in capsys.readouterr().err


async def test_the_queues_of_several_storages_are_redriven_each_from_its_own_dead_letters(bench: Bench) -> None:
    shards = [await provision(bench.sns, bench.sqs, names) for names in bench.names.shards(2)]
    configs = []
    for shard, (made, names) in enumerate(zip(shards, bench.names.shards(2), strict=True)):
        file = bench.storage_config({"sqs": {"queue": names.queue}})
        configs.append(file.rename(file.with_name(f"storage-{shard}.yaml")))
        for _ in range(shard + 1):
            await bench.sqs.send_message(QueueUrl=made.dead_letter_queue_url, MessageBody="a visit")
    arguments = ["redrive", "--config", *map(str, configs)]
    assert await asyncio.to_thread(cli.main, [*arguments, "--most", "2"]) == 0
    assert [await waiting(bench, made.queue_url) for made in shards] == [1, 1]
    assert await asyncio.to_thread(cli.main, arguments) == 0
    assert [await waiting(bench, made.queue_url) for made in shards] == [1, 2]
    assert [await waiting(bench, made.dead_letter_queue_url) for made in shards] == [0, 0]


async def test_messages_that_somebody_has_received_are_said_to_be_left(
    bench: Bench, capsys: pytest.CaptureFixture[str]
) -> None:
    await bench.sqs.send_message(QueueUrl=bench.made.dead_letter_queue_url, MessageBody="a visit")
    await bench.sqs.receive_message(QueueUrl=bench.made.dead_letter_queue_url, VisibilityTimeout=600)
    assert await asyncio.to_thread(cli.main, ["redrive", "--config", str(bench.storage_config())]) == 0
    assert "0 messages moved" in (said := capsys.readouterr().out)
    assert "about 1 more are in flight" in said


async def test_a_queue_that_fails_does_not_keep_the_others_from_being_redriven(
    bench: Bench, capsys: pytest.CaptureFixture[str]
) -> None:
    await bench.sqs.send_message(QueueUrl=bench.made.dead_letter_queue_url, MessageBody="a visit")
    lost = bench.storage_config({"sqs": {"queue": "nowhere"}})
    lost = lost.rename(lost.with_name("lost.yaml"))
    arguments = ["redrive", "--config", str(lost), str(bench.storage_config())]
    assert await asyncio.to_thread(cli.main, arguments) == 3
    said = capsys.readouterr()
    assert "nowhere: --config: the queue nowhere does not exist" in said.err
    assert "1 messages moved" in said.out
    assert await waiting(bench, bench.made.queue_url) == 1


def test_a_configuration_and_a_queue_are_one_too_many() -> None:
    assert cli.main(["redrive", "--config", "storage.yaml", "--queue", "visits"]) == 2


def test_two_queues_of_different_regions_are_refused_before_anything_is_asked(
    capsys: pytest.CaptureFixture[str],
) -> None:
    queue, dead = (f"arn:aws:sqs:{region}:111122223333:visits" for region in ("eu-west-1", "us-east-1"))
    assert cli.main(["redrive", "--queue", queue, "--dead-letter-queue", dead]) == 2
    assert "expected a queue in the queue's Region" in capsys.readouterr().err
