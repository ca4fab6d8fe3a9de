"""What was kept elsewhere comes back once, whatever form it has, in any order, and however often it is imported."""

import asyncio
import base64
import bz2
import gzip
import io
import json
import lzma
import os
import random
import re
import signal
import sys
import tarfile
import time
import tracemalloc
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import chain, repeat
from pathlib import Path
from typing import Any

import pytest
from backports import zstd

from tests.fake_aws import FakeAws
from tests.fake_aws.in_memory import FakeTopic
from tests.launched import Launched
from tests.pixel.journals import journal_with, line
from tests.storage.rig import delivery, logged, open_rig
from tracker import cli
from tracker.core.message import Message, StoredSpan, end_marker, pack, unpack
from tracker.errors import PublishFailed, PublishRefused, PublishThrottled, TrackerError
from tracker.lifecycle import Backoff
from tracker.operations.bring_back import bring_back
from tracker.operations.json_objects import JsonObject, json_objects
from tracker.operations.kept_messages import Kept
from tracker.operations.republishing import Import, Publisher
from tracker.pixel import outbox_files
from tracker.pixel.outbox import Outbox

from .test_guide import commands

JOURNALS = ["0a" * 16, "f1" * 16]
LEGACY = (
    '{"Referer":"https://legacy.example/","UserAgent":null,"IpAddress":"192.0.2.9",'
    '"VisitedAt":"2026-11-10T22:22:43.7936205+00:00"}'
)
FAST = Backoff(0.001, 0.002)


def messages() -> list[Message]:
    """All of two journals: packed spans, single visits, end markers."""
    found: list[Message] = []
    for number, journal in enumerate(JOURNALS):
        start = 0
        for first, count in ((0, 30), (30, 1), (31, 50)):
            data = b"".join(line(1_000 * number + each) for each in range(first, first + count))
            found.append(pack(journal, start, data, compress=True))
            start += len(data)
        found.append(end_marker(journal, start))
    return found


def sqs(message: Message, **more: object) -> dict[str, Any]:
    typed = {name: {"StringValue": text, "DataType": "String"} for name, text in message.attributes.items()}
    return {
        "MessageId": f"m-{message.journal}-{message.start}",
        "Body": message.body,
        "MessageAttributes": typed,
        **more,
    }


def sns(message: Message) -> dict[str, Any]:
    typed = {name: {"Type": "String", "Value": text} for name, text in message.attributes.items()}
    return {"Type": "Notification", "MessageId": "e", "Message": message.body, "MessageAttributes": typed}


def event(message: Message) -> dict[str, Any]:
    typed = {name: {"stringValue": text, "dataType": "String"} for name, text in message.attributes.items()}
    return {"messageId": "e", "receiptHandle": "r", "body": message.body, "messageAttributes": typed}


def in_base64(value: object) -> str:
    return base64.b64encode(json.dumps(value).encode()).decode()


def as_lines(values: list[dict[str, Any]]) -> str:
    return "".join(json.dumps(value) + "\n" for value in values)


FORMS: dict[str, Callable[[list[Message]], str]] = {
    "messages of SQS, one a line": lambda them: as_lines([sqs(each) for each in them]),
    "what `aws sqs receive-message` prints, several times": lambda them: "".join(
        json.dumps({"Messages": [sqs(each) for each in them[at : at + 3]]}, indent=4) + "\n" for at in range(0, 8, 3)
    ),
    "what boto3 returns": lambda them: json.dumps(
        {
            "Messages": [sqs(each) for each in them],
            "ResponseMetadata": {"HTTPHeaders": {"date": "x"}, "RetryAttempts": 0},
        }
    ),
    "the reply's metadata first": lambda them: json.dumps(
        {"ResponseMetadata": {"HTTPHeaders": {}}, "Messages": [sqs(each) for each in them]}
    ),
    "one long list": lambda them: json.dumps([sqs(each, Attributes={"SentTimestamp": "1"}) for each in them], indent=2),
    "envelopes of SNS, one a line": lambda them: as_lines([sns(each) for each in them]),
    "envelopes of SNS without anything between them": lambda them: "".join(json.dumps(sns(each)) for each in them),
    "envelopes in messages of SQS": lambda them: as_lines(
        [{"MessageId": "m", "Body": json.dumps(sns(each))} for each in them]
    ),
    "an event of Lambda from SQS": lambda them: json.dumps({"Records": [event(each) for each in them]}),
    "an event of Lambda from SNS": lambda them: json.dumps(
        {"Records": [{"EventSource": "aws:sns", "Sns": sns(each)} for each in them]}
    ),
    "a list of events, as a pipe of EventBridge has it": lambda them: json.dumps([event(each) for each in them]),
    "events of a bus of EventBridge": lambda them: as_lines(
        [{"detail-type": "Event from aws:sqs", "time": "2026", "detail": {"Records": [event(each)]}} for each in them]
    ),
    "CloudEvents": lambda them: as_lines([{"specversion": "1.0", "data": event(each)} for each in them]),
    "an execution of Step Functions": lambda them: json.dumps({"input": {"visits": [event(each) for each in them]}}),
    "entries of PublishBatch": lambda them: as_lines(
        [{"Id": "1", "Message": each.body, "MessageAttributes": sqs(each)["MessageAttributes"]} for each in them]
    ),
    "envelopes that somebody has parsed": lambda them: as_lines([{"MessageId": "m", "Body": sns(e)} for e in them]),
    "an event of Lambda from Kinesis": lambda them: json.dumps(
        {"Records": [{"kinesis": {"data": in_base64(sns(each)), "partitionKey": "p"}} for each in them]}
    ),
    "what Firehose could not process": lambda them: as_lines(
        [{"attemptsMade": 4, "errorCode": "x", "rawData": in_base64(sns(each))} for each in them]
    ),
    "with Windows's line ends and a mark of the byte order": lambda them: (
        "\ufeff" + as_lines([sqs(each) for each in them]).replace("\n", "\r\n")
    ),
}


COMPRESSED: dict[str, Callable[[bytes], bytes]] = {
    "plain": bytes,
    "gzip": gzip.compress,
    "xz": lzma.compress,
    "bzip2": bz2.compress,
    "zstd": zstd.compress,
}


async def imported(
    *paths: Path, topic: FakeTopic | None = None, topic_arn: str | None = None
) -> tuple[Import, list[Message]]:
    topic, done = topic or FakeTopic(), Import()
    await bring_back(paths, topic, done, topic_arn=topic_arn, backoff=FAST)
    return done, topic.accepted


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS.keys())
async def test_a_message_comes_back_as_it_was_whatever_it_was_kept_in(
    form: Callable[[list[Message]], str], tmp_path: Path
) -> None:
    (tmp_path / "kept").write_text(form(messages()))
    done, accepted = await imported(tmp_path / "kept")
    assert accepted == messages()
    assert (done.exit_status, done.found, done.published_visits, done.made) == (0, 8, 162, 0)


@pytest.mark.parametrize("compress", COMPRESSED.values(), ids=COMPRESSED.keys())
async def test_a_file_may_be_compressed(compress: Callable[[bytes], bytes], tmp_path: Path) -> None:
    data = as_lines([sqs(each) for each in messages()]).encode()
    (tmp_path / "kept").write_bytes(compress(data[:3_000]) + compress(data[3_000:]))
    assert (await imported(tmp_path / "kept"))[1] == messages()


def test_a_format_that_is_not_read_is_named_with_what_to_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kept = tmp_path / "kept"
    kept.write_text(as_lines([sqs(each) for each in messages()]))
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.write(kept)
    for mode in ("w:", "w:gz"):
        with tarfile.open(tmp_path / f"a{mode[1:]}.tar", mode) as tar:
            tar.add(kept)
    (tmp_path / "powershell.json").write_text(kept.read_text(), "utf-16")
    kept.unlink()
    assert cli.main(["import", "--dry-run", str(tmp_path)]) == 1
    ran = capsys.readouterr()
    assert "found: 0 messages" in ran.out
    said = ran.err.splitlines()
    assert [each.partition(": ")[2].split(":")[0] for each in said] == [
        "a zip archive",
        "a tar archive",
        "a tar archive",
        "text in UTF-16, as PowerShell writes it",
    ]


async def test_a_visitor_cannot_put_a_message_into_his_visit(tmp_path: Path) -> None:
    forged = json.dumps({"Body": LEGACY.replace("192.0.2.9", "198.51.100.1"), "data": in_base64(sqs(messages()[0]))})
    visit = json.dumps({**json.loads(LEGACY), "Referer": forged, "data": in_base64({"Body": LEGACY})})
    (tmp_path / "kept").write_text(
        as_lines([{"MessageId": "m", "Body": visit}, {"Type": "Notification", "Message": visit}])
    )
    _, accepted = await imported(tmp_path / "kept")
    assert [each.visits for each in accepted] == [1, 0, 1, 0]
    assert all(json.loads(each.body)["Referer"] == forged for each in accepted if each.visits)


async def test_messages_of_another_topic_are_left_to_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    here, there = (f"arn:aws:sns:eu-west-1:111122223333:{name}" for name in ("tracking", "tracking-4"))
    topics = [here, there, here, "", here, there, here, here]
    kept = [sns(each) | ({"TopicArn": topic} if topic else {}) for each, topic in zip(messages(), topics, strict=True)]
    (tmp_path / "kept").write_text(as_lines(kept))
    done, accepted = await imported(tmp_path / "kept", topic_arn=here)
    assert accepted == [each for each, topic in zip(messages(), topics, strict=True) if topic != there]
    assert (done.exit_status, done.unusable) == (1, 2)
    assert f"{tmp_path}/kept:2: of the topic {there}, whose storages" in capsys.readouterr().err
    arguments = ["import", "--dry-run", "--topic-arn", here, str(tmp_path / "kept")]
    assert await asyncio.to_thread(cli.main, arguments) == 1
    assert await asyncio.to_thread(cli.main, [*arguments, "--any-topic"]) == 0


async def test_other_attributes_are_kept_as_far_as_a_queue_takes_them(tmp_path: Path) -> None:
    message = messages()[0]
    few, many = sqs(message), sqs(message)
    few["MessageAttributes"] |= {"Trace": {"StringValue": "7", "DataType": "String"}, "Blob": {"BinaryValue": "eA=="}}
    many["MessageAttributes"] |= {f"Trace{n}": {"StringValue": "7", "DataType": "String"} for n in range(4)}
    del few["MessageAttributes"]["Type"]  # without it, the filter of the subscription would drop the message
    (tmp_path / "kept").write_text(as_lines([few, many]))
    _, accepted = await imported(tmp_path / "kept")
    assert [each.attributes for each in accepted] == [{**message.attributes, "Trace": "7"}, message.attributes]


def archive(folder: Path, chance: random.Random) -> list[Path]:
    """Everything that can be kept, each in a file of its own, the messages in any order. One outbox, with a journal."""
    shuffled = messages() * 2
    chance.shuffle(shuffled)
    forms = list(FORMS.values())
    files: list[Path] = []
    for at in range(0, len(shuffled), 4):
        files.append(folder / f"kept-{chance.random()}")
        files[-1].write_text(chance.choice(forms[:5])(shuffled[at : at + 4]))
    files.append(folder / "legacy")
    legacy = [{"MessageId": f"id-{n}", "Body": LEGACY.replace("legacy", f"legacy-{n}")} for n in range(5)]
    chance.shuffle(legacy)
    files[-1].write_text(as_lines(legacy))
    if not (outbox := folder / "outbox").exists():
        outbox.mkdir()
        journal_with(outbox, *(line(each) for each in range(5_000, 5_100)), segment_bytes=4_096).close()
        lines = [line(each) for each in range(6_000, 6_010)]
        outbox_files.refused_lines(outbox).write_bytes(b"".join(lines + lines[:1]))  # two visits may be the same
    files.append(outbox)
    chance.shuffle(files)
    return files


async def test_the_same_archive_shuffled_changes_nothing_after_the_first_time(tmp_path: Path) -> None:
    chance = random.Random(os.environ.get("TRACKER_SEED", "1"))
    log = tmp_path / "visits.log"
    stored = messages()[:2]  # before the import
    async with open_rig(log) as rig:
        await rig.write(*(delivery(each.body, each.attributes) for each in stored))
        content = b""
        for _ in range(4):
            _, accepted = await imported(*archive(tmp_path, chance))
            for at in range(0, len(accepted), 50):
                await rig.write(*(delivery(each.body, each.attributes) for each in accepted[at : at + 50]))
            assert not content or log.read_bytes() == content
            content = log.read_bytes()
        assert not rig.left
    expected = [1_000 * number + each for number in range(2) for each in range(81)]
    expected += [*range(5_000, 5_100), *range(6_000, 6_010), 6_000]
    wanted = Counter(f"https://example.org/{each}" for each in expected)
    assert Counter(logged(log)) == wanted + Counter(f"https://legacy-{n}.example/" for n in range(5))


async def test_lines_that_follow_later_in_the_same_file_are_added(tmp_path: Path) -> None:
    file, log = tmp_path / "refused.ndjson", tmp_path / "visits.log"
    async with open_rig(log) as rig:
        for count in (3, 5, 5):
            file.write_bytes(b"".join(line(each) for each in range(count)))
            done, accepted = await imported(file)
            assert done.made == count
            await rig.write(*(delivery(each.body, each.attributes) for each in accepted))
    assert logged(log) == [f"https://example.org/{each}" for each in range(5)]


async def test_many_lines_become_few_messages(tmp_path: Path) -> None:
    (tmp_path / "lines").write_bytes(b"".join(line(each) for each in range(10_000)))
    _, accepted = await imported(tmp_path / "lines")
    assert sum(each.visits for each in accepted) == 10_000
    assert len(accepted) < 20
    assert [each.start for each in accepted[1:]] == [each.end for each in accepted[:-1]]


BROKEN = {
    "cut within a text": '{"MessageId": "m", "Body": "abc',
    "cut within an object": '{"MessageId": "m", "Body": "abc"',
    "not JSON": "Lorem ipsum",
    "wrong JSON": '{"MessageId": }',
    "something else": '{"level": "info"}',
    "a body that is no text": '{"Body": 7}',
    "a visit without a valid address": '{"IpAddress": "nowhere", "VisitedAt": "2026-11-23T07:09:24+00:00"}',
    "a body that is no visit": '{"Body": "Lorem ipsum"}',
    "a wrong checksum": json.dumps(sqs(messages()[0])).replace(messages()[0].attributes["Crc32"], "00000000"),
    "a checksum of none in an event": json.dumps({"detail": [sqs(messages()[0])]}).replace(
        messages()[0].attributes["Crc32"], "00000000"
    ),
    "of another publisher": '{"Body": "{}", "MessageAttributes": {"Type": {"StringValue": "Order"}}}',
    "a confirmation": '{"Type": "SubscriptionConfirmation", "Token": "t", "TopicArn": "a", "Message": "Visit the URL"}',
    "no start": json.dumps(sqs(messages()[0])).replace('"Start"', '"Stop"'),
    "too deep": '{"a":' * 5_000 + "1" + "}" * 5_000,
    "binary": "\x00\x01\xff{",
}


@pytest.mark.parametrize("broken", BROKEN.values(), ids=BROKEN.keys())
@pytest.mark.parametrize("at", [0, 4, 8])
async def test_what_is_no_message_is_named_with_its_line_and_the_rest_comes_back(
    broken: str, at: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = [json.dumps(sqs(each)) for each in messages()]
    (tmp_path / "kept").write_text("\n".join([*lines[:at], broken, *lines[at:]]) + "\n")
    done, accepted = await imported(tmp_path / "kept")
    assert accepted == messages()
    assert (done.exit_status, done.unusable) == (1, 1)
    assert capsys.readouterr().err.startswith(f"{tmp_path}/kept:{at + 1}: ")


@pytest.mark.parametrize("number", [0, 1, 3], ids=["compressed", "a single visit", "an end marker"])
async def test_a_body_of_ours_without_its_attributes_is_named_and_gets_no_journal(
    number: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    body = messages()[number].body
    (tmp_path / "kept").write_text(
        as_lines([{"MessageId": "m", "Body": body}, {"Type": "Notification", "Message": body}])
    )
    done, accepted = await imported(tmp_path / "kept")
    assert (done.unusable, accepted) == (2, [])
    assert capsys.readouterr().err.count("--message-attribute-names All") == 2


async def test_a_wrong_message_within_an_object_leaves_the_others_in_it(tmp_path: Path) -> None:
    them = [event(each) for each in messages()]
    them[2]["body"] = "Lorem ipsum"
    (tmp_path / "kept").write_text(json.dumps({"detail": {"Records": them}}))
    done, accepted = await imported(tmp_path / "kept")
    assert accepted == [each for each in messages() if each != messages()[2]]
    assert (done.exit_status, done.unusable) == (1, 1)


@pytest.mark.parametrize("cut", ['{"a": {"b": 1}, "c": 2', "{", '{"MessageId": "m", "Body": "b"'])
async def test_many_lines_that_were_cut_off_take_no_long_time(cut: str, tmp_path: Path) -> None:
    (tmp_path / "kept").write_text(f"{cut}\n" * 30_000 + as_lines([sqs(each) for each in messages()]))
    before = time.process_time()
    done, accepted = await imported(tmp_path / "kept")
    assert (done.unusable, accepted) == (30_000, messages())
    assert time.process_time() - before < 60  # hours, if each line were searched for its end in all that follow


async def test_a_gzip_file_that_was_cut_off_gives_what_it_has(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    noise = [
        pack(JOURNALS[0], 0, line(0, random.Random(each).randbytes(900).hex()), compress=False) for each in range(99)
    ]
    data = gzip.compress(as_lines([sqs(each) for each in noise]).encode())
    (tmp_path / "kept.gz").write_bytes(data[: len(data) * 2 // 3])
    done, accepted = await imported(tmp_path / "kept.gz")
    assert 60 <= len(accepted) < 70
    assert accepted == noise[: len(accepted)]
    assert done.exit_status == 1
    assert "its compressed data ends too early" in capsys.readouterr().err


async def test_few_problems_of_a_file_are_shown_and_all_are_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "kept").write_text("{}\n" * 1_000)
    done, _ = await imported(tmp_path / "kept")
    assert done.unusable == 1_000
    assert len(capsys.readouterr().err.splitlines()) == 11


def snapshot(folder: Path) -> dict[str, object]:
    found: dict[str, object] = {}
    for path in [folder, *folder.rglob("*")]:
        status = path.stat()
        found[str(path)] = (
            path.is_file() and path.read_bytes(),
            status.st_mtime_ns,
            status.st_ctime_ns,
            status.st_mode,
        )
    return found


async def test_an_outbox_is_read_from_where_sns_had_accepted_it_and_is_not_changed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    outbox = tmp_path / "outbox"
    outbox.mkdir()
    lines = [line(each) for each in range(40)]
    path = journal_with(outbox, *lines, segment_bytes=1_024).path
    outbox_files.write_committed_offset(path, len(b"".join(lines[:10])))
    last = outbox_files.segment_path(path, outbox_files.segments(path)[-1])
    last.write_bytes(last.read_bytes() + b'{"Referer":"never answered')
    damaged = journal_with(outbox, line(100), b"\0" * 40 + b"\n", line(101))
    damaged.close()
    set_aside = journal_with(outbox, line(200))
    set_aside.close()
    set_aside.path.rename(outbox_files.bad_path(set_aside.path))
    outbox_files.publisher_lock(outbox).touch()
    before = snapshot(outbox)

    done, accepted = await imported(outbox)

    assert snapshot(outbox) == before
    pages = Counter(int(text.split(b'"')[0]) for each in accepted for text in _body(each).split(b"example.org/")[1:])
    assert pages == Counter([*range(10, 40), 100, 101, 200])
    assert {each.journal for each in accepted} == {path.name, damaged.path.name, set_aside.path.name}
    assert sorted(each.end for each in accepted if "Closed" in each.attributes) == sorted(
        [len(b"".join(lines)), len(line(100) + line(101)) + 41, len(line(200))]
    )
    assert (done.exit_status, done.unusable) == (1, 1)
    assert "1 damaged lines" in capsys.readouterr().err


def _body(message: Message) -> bytes:
    content = unpack(message.attributes, message.body)
    return content.data if isinstance(content, StoredSpan) else b""


def without(segment: int) -> Callable[[Path], None]:
    return lambda journal: outbox_files.segment_path(journal, outbox_files.segments(journal)[segment]).unlink()


def cut_off(journal: Path) -> None:
    os.truncate(outbox_files.segment_path(journal, outbox_files.segments(journal)[1]), 500)


def zeroed(segment: int) -> Callable[[Path], None]:
    def change(journal: Path) -> None:
        path = outbox_files.segment_path(journal, outbox_files.segments(journal)[segment])
        path.write_bytes(bytes(200_000 if segment == -1 else path.stat().st_size))

    return change


def compressed(journal: Path) -> None:
    for start in outbox_files.segments(journal):
        path = outbox_files.segment_path(journal, start)
        path.with_name(path.name + ".gz").write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()


INCOMPLETE: dict[str, tuple[Callable[[Path], None], str]] = {
    "without its first segment": (without(0), "the bytes [0, "),
    "without a segment in the middle": (without(2), "are not there"),
    "with a segment that was cut": (cut_off, "are not there"),
    "with zeros for a segment": (zeroed(1), "are not there"),
    "with zeros at the end": (zeroed(-1), "are not there"),
    "with compressed segments": (compressed, ".gz: no file of a journal"),
}


@pytest.mark.parametrize(("change", "said"), INCOMPLETE.values(), ids=INCOMPLETE.keys())
async def test_an_incomplete_copy_of_an_outbox_is_said_to_be_one(
    change: Callable[[Path], None], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    journal = journal_with(tmp_path, *(line(each) for each in range(40)), segment_bytes=1_024)
    journal.close()
    change(journal.path)
    done, accepted = await imported(tmp_path)
    assert done.exit_status == 3
    assert said in capsys.readouterr().err
    assert {each.journal for each in accepted} <= {journal.path.name}


async def test_segments_in_a_folder_of_another_name_get_no_other_journal(tmp_path: Path) -> None:
    journal = journal_with(tmp_path, line(1))
    journal.close()
    journal.path.rename(tmp_path / "copy")
    done, accepted = await imported(tmp_path)
    assert (done.exit_status, accepted) == (1, [])


async def test_the_outbox_of_a_running_pixel_is_left_to_it_and_the_rest_comes_back(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    running = Outbox(tmp_path / "outbox")
    running.open()
    journal_with(tmp_path / "outbox", line(1)).close()
    for name in ("before", "zafter"):
        (tmp_path / name).write_text(as_lines([sqs(each) for each in messages()]))
    done, accepted = await imported(tmp_path)
    assert (done.exit_status, accepted) == (3, messages() * 2)
    assert f"{tmp_path}/outbox: a running pixel uses this outbox" in capsys.readouterr().err
    running.close()
    assert (await imported(tmp_path / "outbox"))[0].exit_status == 0


async def test_a_journal_keeps_its_id_however_it_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    outbox = tmp_path / "disk/outbox"
    outbox.mkdir(parents=True)
    journal = journal_with(outbox, line(1), line(2))
    journal.close()
    for path in (tmp_path, outbox, journal.path):
        done, accepted = await imported(path)
        assert [(each.journal, each.start, each.visits) for each in accepted] == [
            (journal.path.name, 0, 2),
            (journal.path.name, len(line(1) + line(2)), 0),
        ]
        assert done.exit_status == 0
    done, accepted = await imported(outbox_files.segment_path(journal.path, 0))
    assert (done.exit_status, accepted) == (1, [])
    assert "a file of a journal: name the journal's folder" in capsys.readouterr().err


async def test_a_folder_holds_nothing_up_that_is_no_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "round").symlink_to(tmp_path)
    (tmp_path / "kept").write_text(as_lines([sqs(each) for each in messages()]))
    done, accepted = await imported(tmp_path)
    assert (done.exit_status, done.unusable, accepted) == (1, 2, messages())
    assert f"{tmp_path}/pipe: a link to a folder, a pipe or a device" in capsys.readouterr().err


async def test_a_folder_is_read_with_its_folders(tmp_path: Path) -> None:
    below = tmp_path / "2026/11"
    below.mkdir(parents=True)
    for number, each in enumerate(messages()):
        ((tmp_path, below)[number % 2] / f"{number}.json").write_text(json.dumps(sns(each)))
    done, accepted = await imported(tmp_path)
    assert Counter(map(repr, accepted)) == Counter(map(repr, messages()))
    assert done.exit_status == 0


async def test_it_waits_for_as_long_as_sns_throttles() -> None:
    answers = chain(repeat(PublishThrottled("Throttling: Rate exceeded"), 100), repeat(None))
    topic = FakeTopic(lambda message: next(answers))
    done = Import()
    publisher = Publisher(topic, done, give_up=0.01, backoff=Backoff(0.001, 0.002))
    await publisher.publish([("kept", Kept(messages()[0], "kept:1"))])  # 100 pauses take longer than `give_up`
    assert (done.published, done.exit_status, topic.accepted) == (1, 0, messages()[:1])


class Whole(FakeTopic):
    """Refuses all messages of a request for one of them."""

    async def publish(self, messages: Sequence[Message]) -> list[PublishFailed | None]:
        outcomes = await super().publish(messages) if len(messages) == 1 else [*map(self.outcome, messages)]
        return next(([each] * len(messages) for each in outcomes if each), outcomes)


@pytest.mark.parametrize("kind", [FakeTopic, Whole])
async def test_what_sns_refuses_is_named_and_the_rest_comes_back(
    kind: type[FakeTopic], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "kept").write_text(as_lines([sqs(each) for each in messages()]))
    third = messages()[2]
    topic = kind(lambda message: PublishRefused("InvalidParameter: no") if message == third else None)
    done, accepted = await imported(tmp_path / "kept", topic=topic)
    assert accepted == [each for each in messages() if each != third]
    assert (done.exit_status, done.published, done.refused) == (1, 7, 1)
    assert f"{tmp_path}/kept:3: SNS refuses this message: InvalidParameter: no" in capsys.readouterr().err


@pytest.mark.parametrize(("count", "said"), [(8, "SNS refuses every message"), (100, "SNS has refused 20 messages")])
async def test_a_topic_that_refuses_everything_ends_the_import(count: int, said: str, tmp_path: Path) -> None:
    (tmp_path / "kept").write_text(as_lines([sqs(messages()[0])] * count))
    topic = FakeTopic(lambda message: PublishRefused("AuthorizationError: no"))
    with pytest.raises(TrackerError, match=f"{said}.*: check the topic and the permission"):
        await imported(tmp_path / "kept", topic=topic)


class Endless(io.RawIOBase):
    """Messages of 200 KB, `count` of them, in one list."""

    def __init__(self, count: int) -> None:
        one = (json.dumps(sqs(pack("0a" * 16, 0, line(1, "x" * 200_000), compress=False))) + ",\n").encode()
        self._parts: Iterator[bytes] = chain([b'{"Messages": ['], repeat(one, count), [b"]}"])
        self._left = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        self._left = self._left or next(self._parts, b"")
        part = self._left[: len(buffer)]
        buffer[: len(part)] = part
        self._left = self._left[len(part) :]
        return len(part)


def test_memory_does_not_grow_with_the_file() -> None:
    tracemalloc.start()
    try:
        found = sum(isinstance(each, JsonObject) for each in json_objects(io.BufferedReader(Endless(300))))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert found == 300  # 60 MB
    assert peak < 20 << 20


# -- the command


def command(fake: FakeAws, *arguments: object) -> int:
    arn = fake.world.create_topic("tracking").arn
    return cli.main(["import", "--topic-arn", arn, "--endpoint-url", fake.sns.url, *map(str, arguments)])


@pytest.fixture
def fake() -> Iterator[FakeAws]:
    made = FakeAws()
    yield made
    made.close()


def published(fake: FakeAws) -> list[str]:
    [topic] = fake.world.topics.values()
    return [each.body for each in topic.accepted]


async def test_the_command_publishes_and_says_what_it_did(
    fake: FakeAws, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "kept").write_text(as_lines([sqs(each) for each in messages()] + [{"MessageId": "m", "Body": LEGACY}]))
    assert await asyncio.to_thread(command, fake, "--dry-run", tmp_path / "kept") == 0
    said = capsys.readouterr().out
    assert said.startswith("found: 10 messages with 163 visits\n1 visits had no journal.")
    assert published(fake) == []
    fake.sns.faults.inject("partial", "PublishBatch", times=3)
    assert await asyncio.to_thread(command, fake, tmp_path / "kept") == 0
    assert "published: 10 messages with 163 visits" in capsys.readouterr().out
    assert {each.body for each in messages()} < set(published(fake))


async def test_visits_that_the_ledger_may_have_forgotten_are_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old = pack("0a" * 16, 0, line(1).replace(b"2026-", b"2025-"), compress=False)
    (tmp_path / "kept").write_text(as_lines([sqs(old)]))
    assert await asyncio.to_thread(cli.main, ["import", "--dry-run", str(tmp_path / "kept")]) == 0
    assert "1 messages have visits older than 180 days" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["nowhere"], 3, "nowhere does not exist"),
        (["nothing*.json"], 3, "nothing*.json does not exist"),
        (["--topic-arn", "tracking", "."], 2, "--topic-arn"),
        (["--topic-arn", "arn:aws:sns:eu-west-1:000000000000:t", "--config", "x", "."], 2, "not both"),
        (["--endpoint-url", "http://127.0.0.1:9", "."], 2, "--endpoint-url"),
        (["--config", "nowhere.yaml", "."], 78, "nowhere.yaml"),
    ],
)
def test_a_wrong_command_line_publishes_nothing(
    arguments: list[str], status: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["import", *arguments]) == status
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("name", ["", "s3://bucket/visits"])
def test_what_is_no_file_of_this_machine_is_refused(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["import", "--dry-run", name])
    assert ended.value.code == 2
    assert f"expected a file or a folder on this machine, got {name!r}" in capsys.readouterr().err


def importing(fake: FakeAws, home: Path, *arguments: str, **launch: Any) -> Launched:
    arn = fake.world.create_topic("tracking").arn
    command = ["-m", "tracker.cli", "import", "--topic-arn", arn, "--endpoint-url", fake.sns.url, *arguments]
    return Launched([sys.executable, *command], output_file=home / "import.txt", home=home, **launch)


def test_standard_input_is_read(fake: FakeAws, tmp_path: Path) -> None:
    reading, writing = os.pipe()
    os.write(writing, as_lines([sqs(each) for each in messages()]).encode())
    os.close(writing)
    with importing(fake, tmp_path, "-", stdin=reading) as running:
        assert running.wait() == 0
    os.close(reading)
    assert len(published(fake)) == 8


def test_ctrl_c_ends_it_with_a_summary(fake: FakeAws, tmp_path: Path) -> None:
    (tmp_path / "kept").write_text(as_lines([sqs(each) for each in messages()] * 5_000))
    with importing(fake, tmp_path, "kept") as running:
        running.wait_alive(lambda: len(published(fake)) >= 80, "80 messages")
        fake.sns.faults.inject("throttle", "Publish", "PublishBatch")
        running.wait_alive(lambda: fake.sns.faults.injected["throttle"], "a throttle")
        running.signal(signal.SIGINT)
        assert running.wait() == 130
        said = running.output
    assert "interrupted; begin the same import again" in said
    counted = re.search(r"^published: (\d+) messages", said, re.MULTILINE)
    assert counted is not None
    assert 0 < int(counted[1]) <= len(published(fake))  # SNS may have accepted some whose replies were not awaited


async def test_a_file_that_cannot_be_read_is_named_and_the_others_come_back(
    fake: FakeAws, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "kept").write_text(as_lines([sqs(each) for each in messages()]))
    (tmp_path / "loop").symlink_to(tmp_path / "loop2")
    (tmp_path / "loop2").symlink_to(tmp_path / "loop")
    assert await asyncio.to_thread(command, fake, tmp_path) == 3
    assert len(published(fake)) == 8
    assert f"{tmp_path}/loop: it cannot be read" in capsys.readouterr().err


async def test_an_endpoint_that_fails_for_long_ends_the_import_with_what_was_done(tmp_path: Path) -> None:
    topic = FakeTopic(lambda message: PublishFailed("no answer"))
    publisher = Publisher(topic, Import(), give_up=0.01, backoff=FAST)
    with pytest.raises(TrackerError, match="SNS does not accept messages: no answer"):
        await publisher.publish([("kept", Kept(messages()[0], "kept:1"))])


def test_the_commands_of_the_guide_are_as_written(
    fake: FakeAws, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "dead-letters.json").write_text(FORMS["what boto3 returns"](messages()))
    (tmp_path / "backup").mkdir()
    (tmp_path / "backup/1.gz").write_bytes(gzip.compress(as_lines([sns(each) for each in messages()]).encode()))
    outbox = tmp_path / "outbox-of-the-lost-host"
    outbox.mkdir()
    journal_with(outbox, line(1), line(2)).close()
    sns_config = {"topic_arn": fake.world.create_topic("tracking").arn, "endpoint_url": fake.sns.url}
    (tmp_path / "pixel.yaml").write_text(json.dumps({"sns": sns_config}))
    for command in commands("operations.md", "tracker import"):
        words = command.replace("/etc/tracker/pixel.yaml", "pixel.yaml").split()
        assert cli.main(words[1:]) == 0, capsys.readouterr().err
        assert "found: 18 messages with 326 visits" in capsys.readouterr().out
    assert len(published(fake)) == 18
